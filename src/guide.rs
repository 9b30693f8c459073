//! The guide: the loop chapter by chapter, with examples that run. It holds no code.
//!
//! 1. [`recording`]: schema, predictions, outcomes, feedback; threads or none.
//! 2. [`flags`]: what detectors point at, and what they can promise.
//! 3. [`gates`]: what may enter training, and what becomes of the rest.
//! 4. [`labels`]: lanes, people, auto-labels.
//! 5. [`triggers`]: when to retrain.
//! 6. [`retraining`]: batches, trainers, the two profiles, the watch, the modes.
//! 7. [`lineage`]: where a prediction went, and how the loop is doing.
//! 8. [`storage`]: what is kept, and what a crash costs.
//! 9. [`custom`]: stages of your own.
//! 10. [`light`]: detectors, a schedule and a directory for a cron job.
//!
//! # How the crate is built
//!
//! ```text
//! host threads                       one worker: a thread of ours, or the host calling `ingest` and `poll`
//!
//! record(prediction) ┐               ┌ ledger ──── joins outcomes and feedback: late, corrected, retracted
//! outcome(id, truth) ├ bounded inbox ┤ detectors ─ flag samples, raise alarms
//! feedback(id, …)    ┘               │ gates ───── admit or quarantine each sample; audit each batch
//!                                    │ router ──── auto-label, ask people, skip
//!                                    │ trigger ─── fire or wait, with the reason
//!                                    └ retraining: seal → train → judge → promote → watch → keep or roll back
//! ```
//!
//! - One engine: [`Pipeline::ingest`](crate::Pipeline::ingest) applies events,
//!   [`Pipeline::poll`](crate::Pipeline::poll) does what is due. [`spawn`](crate::Pipeline::spawn) is a thin thread around them.
//! - The loop reads no wall clock and owns no hidden randomness: time comes from [`Clock`](crate::Clock), draws are a keyed
//!   hash of the prediction's id and the seed. The same events, clock readings and seed give the same run, as long as
//!   trainer, evaluator and deployer work inline.
//! - A verdict is never an error. Bad data is flagged or quarantined with a [`Reason`](crate::Reason); an `Err` means that a
//!   stage itself cannot work. A stage that errs or panics is isolated: what it found in that call is dropped and it is set
//!   back to its last good state; after three failures in a row it is down, which the status shows, until
//!   [`Pipeline::revive`](crate::Pipeline::revive). With `panic = "abort"` a panic ends the process instead.
//! - In the source, `x.rs` holds a contract (trait, value types, closure adapter) and `x/` one default per file: `detector`,
//!   `gate`, `router`, `trigger`, `retrain`, `store`. `pipeline.rs` holds the order of the stages and nothing else;
//!   `stats/` is mathematics that knows no stage. Imports point that way only.

pub mod recording {
    //! Schema, predictions, outcomes and feedback.
    //!
    //! A [`Schema`](crate::Schema) names the fields, their kinds and rules, and what the model predicts; it can be written
    //! or [inferred](crate::Schema::infer). Rows come from the host's own `#[derive(Serialize)]` type, without JSON in
    //! between, or from a slice of numbers (NaN is missing). What does not fit becomes a
    //! [`Violation`](crate::Violation) on the row; the prediction is recorded all the same.
    //!
    //! ```
    //! use feedloop::{BoxError, Dataset, Field, Label, Output, Pipeline, Row, Schema, Target};
    //! use serde::Serialize;
    //! use std::{sync::Arc, time::Duration};
    //!
    //! #[derive(Serialize)]
    //! struct Payment {
    //!     amount: f64,
    //!     country: &'static str,
    //! }
    //!
    //! # fn main() -> Result<(), BoxError> {
    //! let schema = Arc::new(Schema::new(
    //!     [Field::number("amount").range(0.0, 1e6), Field::category("country", ["DE", "FR"])],
    //!     Target::classes(["good", "fraud"]),
    //! )?);
    //! let mut training = Dataset::new(schema.clone());
    //! for i in 0..200_u32 {
    //!     let mut row = Row::new(&schema);
    //!     row.encode(&schema, &Payment { amount: f64::from(i), country: if i % 2 == 0 { "DE" } else { "FR" } });
    //!     training.push(row, Label::Class(0), 1.0)?;
    //! }
    //! let pipeline = Pipeline::builder("fraud", schema).training_data(training).build()?;
    //! let (recorder, control, worker) = pipeline.spawn()?;
    //!
    //! let output = Output::Probabilities(&[0.9, 0.1]);
    //! let id = recorder.record(Default::default(), output, &Payment { amount: 12.5, country: "DE" })?;
    //! recorder.truth(id, Label::Class(1))?; // a second truth would correct this one
    //!
    //! control.flush()?;
    //! assert_eq!(control.status()?.counters.outcomes, 1);
    //! worker.stop(Duration::from_secs(10))?;
    //! # Ok(())
    //! # }
    //! ```
    //!
    //! [`Recorder`](crate::Recorder) is cheap to clone and never waits: slots are allocated at the start, and when the
    //! worker is behind, a prediction is [refused](crate::Refused) and counted. The last 512 slots (see
    //! [`inbox`](crate::PipelineBuilder::inbox)) are kept for predictions that a [guard](crate::Pipeline::guard) flagged.
    //! What was accepted is applied or counted.
    //!
    //! Outcomes join whenever they come, also before their prediction: they are kept aside in the store until it does. The
    //! ledger remembers the newest 65,536 predictions, the newest 4,096 of them with their whole row
    //! ([`remember`](crate::PipelineBuilder::remember)). A truth that comes later than that counts in the error
    //! statistics only, or nowhere; the [counters](crate::Counters) say how many.
}

pub mod flags {
    //! What detectors point at.
    //!
    //! A [`Detector`](crate::Detector) **flags** predictions, which become samples, or raises **alarms** about the stream.
    //!
    //! | detector | finds | what it promises |
    //! |---|---|---|
    //! | [`LowConfidence`](crate::LowConfidence) | outputs that the model is not sure of; unusable outputs | nothing: calibrate the model |
    //! | [`Mahalanobis`](crate::Mahalanobis) | inputs unlike the training data, with the columns behind it | a false-alarm rate, for rows exchangeable with the calibration half |
    //! | [`NearestNeighbours`](crate::NearestNeighbours), [`IsolationForest`](crate::IsolationForest), [`Ecod`](crate::Ecod) | the same by other scores: for many clouds, for a reference with anomalies in it, for extreme values | the same |
    //! | [`UnusualOutput`](crate::UnusualOutput), [`Energy`](crate::Energy) | outputs that are unusually unsure | the same |
    //! | [`KsDrift`](crate::KsDrift) | drift of the inputs, column by column | a rate per test, per day or per number of rows, for independent rows |
    //! | [`MmdDrift`](crate::MmdDrift) | drift of the numeric inputs together | the same |
    //! | [`OutputDrift`](crate::OutputDrift) | drift of what the model says | the same |
    //! | [`StreamDrift`](crate::StreamDrift) of [`EDetector`](crate::EDetector), [`ConformalMartingale`](crate::ConformalMartingale) | change of one signal (errors, confidence, a column), value by value | an average run length between false alarms |
    //! | [`StreamDrift`](crate::StreamDrift) of [`Adwin`](crate::Adwin), [`PageHinkley`](crate::PageHinkley), [`Ddm`](crate::Ddm), [`Eddm`](crate::Eddm), [`HddmA`](crate::HddmA), [`HddmW`](crate::HddmW), [`Kswin`](crate::Kswin), [`Cusum`](crate::Cusum) | the same, by the classical rules as published | nothing |
    //! | [`PredictionError`](crate::PredictionError) | predictions that the truth proved wrong; a harmful error rate | 1 % per look, for independent truths |
    //! | [`EstimatedPerformance`](crate::EstimatedPerformance) | a fall of the accuracy that the outputs themselves promise, without labels; blind to concept drift | a rate per window, for outputs exchangeable with the reference's |
    //! | [`LivePerformance`](crate::LivePerformance) | nothing: it reports metrics at equal label maturity | nothing: it raises no alarm |
    //! | [`HarmMonitor`](crate::HarmMonitor) | a true rise of the live error beyond a tolerance, on the random lane | the chance of ever raising a false alarm |
    //! | [`UserFeedback`](crate::UserFeedback) | what users corrected, rejected or rated badly | nothing: it takes users at their word |
    //!
    //! **Rows.** Any [`NoveltyScore`](crate::NoveltyScore), ours or yours, becomes a detector by
    //! [`ConformalDetector`](crate::ConformalDetector): the held-out half of the reference makes the threshold and the p-value that a
    //! flag carries. Use [`Mahalanobis`](crate::Mahalanobis) first, [`NearestNeighbours`](crate::NearestNeighbours) beside it.
    //!
    //! When the shares of the classes have changed, [`LabelShift`](crate::LabelShift) estimates how, and re-weights outputs.
    //!
    //! The drift detectors share one set of settings ([`WindowDrift`](crate::WindowDrift)): windows of a number of rows or of time,
    //! the test of a column ([`NumericTest`](crate::NumericTest), [`CategoryTest`](crate::CategoryTest)), how the columns share
    //! the rate ([`Correction`](crate::Correction)), warnings, the smallest effect worth an alarm. Their
    //! [`last_readings`](crate::WindowDrift::last_readings) are statistic, p-value and effect of every column at every test.
    //!
    //! You say how many false alarms are acceptable, and the detector derives its threshold. Where the data does not
    //! suffice it is [`Blind`](crate::Blind) and says what it needs: with 99 calibration rows no rate below 1 % can be held.
    //!
    //! ```
    //! use feedloop::{BoxError, Dataset, Label, Mahalanobis, Pipeline, Schema, Target};
    //! use std::sync::Arc;
    //! # fn main() -> Result<(), BoxError> {
    //! let schema = Arc::new(Schema::numeric(2, Target::classes(["no", "yes"]))?);
    //! let rows = (0..300_u32).map(|i| ([f64::from(i % 17), f64::from(i % 23)], Label::Class(i % 2)));
    //! let training = Dataset::from_values(schema.clone(), rows)?;
    //! let pipeline = Pipeline::builder("guide", schema)
    //!     .training_data(training)
    //!     .detect(Mahalanobis::default().false_alarm_rate(0.0001))
    //!     .build()?;
    //! // About half of 300 rows calibrate: too few for one in ten thousand.
    //! println!("{}", pipeline.status()?.stages[0].blind[0].reason);
    //! # Ok(())
    //! # }
    //! ```
    //!
    //! [`false_alarms_per_day`](crate::PipelineBuilder::false_alarms_per_day) states one budget for the whole pipeline: it is
    //! divided evenly over the detectors that can hold a share and were told no rate of their own.
    //!
    //! ```
    //! # use feedloop::{BoxError, Dataset, KsDrift, Label, OutputDrift, Pipeline, Schema, Target};
    //! # use std::sync::Arc;
    //! # fn main() -> Result<(), BoxError> {
    //! # let schema = Arc::new(Schema::numeric(2, Target::classes(["no", "yes"]))?);
    //! # let rows = (0..300_u32).map(|i| ([f64::from(i % 17), f64::from(i % 23)], Label::Class(i % 2)));
    //! # let training = Dataset::from_values(schema.clone(), rows)?;
    //! let pipeline = Pipeline::builder("guide", schema)
    //!     .training_data(training)
    //!     .detect(KsDrift::default()) // half of the budget
    //!     .detect(OutputDrift::default()) // the other half
    //!     .false_alarms_per_day(0.1) // one in ten days
    //!     .build()?;
    //! # let _ = pipeline;
    //! # Ok(())
    //! # }
    //! ```
    //!
    //! **What is true**: an outcome; and what people agree on about a row of the random lane. Detectors hear each
    //! [`Truth`](crate::Truth) once, with the lane that drew its row, so that a rate over the random lane is fair. What people say of
    //! flagged rows, and what users say, labels samples but is no truth for detectors.
    //!
    //! Flags are [limited per detector and minute](crate::PipelineBuilder::flags_per_minute), so that a broken feed cannot
    //! flood the store; what exceeds the limit is counted.
    //!
    //! **Three references** stand behind the detectors ([`References`](crate::References)): the *training* data of the served
    //! model; the *serving* baseline, which moves only when a promoted model was kept; and the *anchor*, the first one, which
    //! never moves, so that slow drift shows in [`Status::cumulative_drift`](crate::Status::cumulative_drift).
    //! A [`Reference`](crate::Reference) is small and mergeable, and holds a sample of at most 4,096 encoded rows.
    //!
    //! **Alarms** are *open* until somebody, or the run that they set off, [acknowledges](crate::Control::acknowledge_alarms) them:
    //! then the drift trigger is quiet and auto-labelling goes on. They stay in the [status](crate::Status::alarms), because
    //! the stream still differs from the baseline, until the baseline moves: that alone *clears* them. A rollback brings
    //! the baseline back and leaves alarms as they are. [`Control::alarms`](crate::Control::alarms) lists all that ever were.
}

pub mod gates {
    //! What may enter training.
    //!
    //! Every sample is [admitted](crate::QualityGate::admit) before it is labelled, and every batch is
    //! [audited](crate::QualityGate::audit) before it is sealed. Gates are asked in their order, until one refuses. What is
    //! refused is **quarantined**: kept with the reason, never trained on, and taken back by
    //! [`Pipeline::readmit`](crate::Pipeline::readmit) once somebody has looked at it.
    //!
    //! | gate | admits a sample unless | audits a batch |
    //! |---|---|---|
    //! | [`SchemaGate`](crate::SchemaGate) | its row breaks a rule of the schema or one across fields, or its output cannot be used | |
    //! | [`Completeness`](crate::Completeness) | | holds a batch in which too many values are missing |
    //! | [`Deduplicate`](crate::Deduplicate) | the same input came before, or nearly; how often it came becomes its weight | |
    //! | [`LabelConsistency`](crate::LabelConsistency) | | sends equal inputs with different labels back to people |
    //! | [`Relevance`](crate::Relevance) | | holds a batch of a broken feed; new data passes, with its share as a note |
    //! | [`Leakage`](crate::Leakage) | it is in the frozen audit set | takes out what has yet to judge a model |
    //! | [`SourceCap`](crate::SourceCap) | | asks for a signature when one source gave too much of it |
    //! | [`ClassBalance`](crate::ClassBalance) | | notes the share of every class |
    //!
    //! An audit may pass with notes for the manifest, hold the batch, quarantine rows, send doubtful labels back to people
    //! ([`Audit::Adjudicate`](crate::Audit::Adjudicate): one more person is asked, and a majority decides, five people at
    //! most), or ask for a signature ([`Audit::SignOff`](crate::Audit::SignOff); the status shows the batch, and
    //! [`Control::sign_off`](crate::Control::sign_off) lets exactly its rows go, [`Control::refuse_batch`](crate::Control::refuse_batch)
    //! quarantines them). A gate that finds the
    //! [feed](crate::QualityGate::feed) broken when a drift alarm is raised suppresses the alarm: a wrong unit is no drift.
    //!
    //! A label that is **corrected or taken back after its batch was sealed** changes no batch. The next one says which label counts
    //! ([`Manifest::corrected`](crate::Manifest::corrected)), and models are trained on that from then on; corrections count as
    //! new labels for [`new_labels`](crate::new_labels), and are reason enough for a run. Where people disagree about a sealed row,
    //! one more is asked, likewise; nothing counts of it until a majority or the world has decided.
    //!
    //! A [`Schema`](crate::Schema) may [grow](crate::Schema::evolve) over a store that is there: new nullable fields, wider
    //! ranges, more categories; [`Pipeline::schema_history`](crate::Pipeline::schema_history) lists its versions. Anything
    //! else is refused with both fingerprints. It reads and writes [JSON Schema](crate::Schema::from_json_schema).
    //!
    //! ```
    //! use feedloop::*;
    //! use std::sync::Arc;
    //! # fn main() -> Result<(), BoxError> {
    //! let schema = Arc::new(Schema::new([Field::number("age").range(0.0, 130.0)], Target::classes(["no", "yes"]))?);
    //! let training = Dataset::from_values(schema.clone(), (0..100_u32).map(|i| ([f64::from(i)], Label::Class(i % 2))))?;
    //! let mut pipeline = Pipeline::builder("guide", schema.clone())
    //!     .training_data(training)
    //!     .detect(LowConfidence::below(0.6))
    //!     .gate(SchemaGate::default())
    //!     .build()?;
    //! let mut observation = pipeline.observation();
    //! observation.id = PredictionId::from_uuid(uuid::Uuid::from_u128(1));
    //! observation.row.copy_values(&[-4.0])?; // nobody is minus four years old
    //! observation.set_output(Output::Probabilities(&[0.5, 0.5]));
    //! pipeline.ingest([Event::Prediction(observation)])?;
    //! assert_eq!(pipeline.status()?.samples[&SampleState::Quarantined], 1);
    //! # Ok(())
    //! # }
    //! ```
}

pub mod labels {
    //! Lanes, people and auto-labels.
    //!
    //! Every sample knows the **[`Lane`](crate::Lane)** that chose it and with which probability:
    //!
    //! - *Random*: a share of live traffic ([`explore`](crate::PipelineBuilder::explore)), drawn by a keyed hash of the id.
    //!   Labelled blind, never by a model. Models are judged on it, because it is a fair sample.
    //! - *Comparison*: while a candidate is judged, rows on which it and the models it is compared with do not all agree: a
    //!   difference shows there with a fraction of the labels. Blind, never by a model.
    //! - *Uncertain* and *Diverse*: what the router drew because the model is unsure of it, or because it is unlike what
    //!   people were asked so far ([`QueryStrategy`](crate::QueryStrategy)); with the probability of the draw.
    //! - *Flagged*: what detectors pointed at. For learning, not for judging.
    //! - *Outcome*: truths that came by themselves, or corrections by users, flagged or not
    //!   ([`learn_from_outcomes`](crate::PipelineBuilder::learn_from_outcomes)).
    //!
    //! **People** answer in the [`ReviewQueue`](crate::ReviewQueue), in this process or another on the same store: claim with
    //! a lease, annotate, skip, release, correct, retract. Every answer is an [`Annotation`](crate::Annotation) that is never
    //! overwritten. What counts is the truth before people, people (by majority) before users, users before the model.
    //! Tasks age: a point of priority is worth a day of waiting. One ticket in twenty is a gold question once you have
    //! [put](crate::ReviewQueue::put_gold) some; [`annotators`](crate::ReviewQueue::annotators) then says how good each person
    //! is, with the limits that the number of questions allows, [`agreement`](crate::ReviewQueue::agreement) how far people
    //! agree, and [`pooled_labels`](crate::ReviewQueue::pooled_labels) what all answers say together (Dawid and Skene). People
    //! may also answer elsewhere: [export](crate::ReviewQueue::export_tasks) the tasks as JSON Lines or for Label Studio,
    //! [import](crate::ReviewQueue::import_annotations) what they said. The same file twice changes nothing, a cut-off file
    //! gives what is whole and says where it ends, and an edit there is a correction here.
    //!
    //! ```
    //! use feedloop::*;
    //! use feedloop::chrono::TimeDelta;
    //! use std::sync::Arc;
    //! # fn main() -> Result<(), BoxError> {
    //! # let schema = Arc::new(Schema::numeric(1, Target::classes(["no", "yes"]))?);
    //! # let training = Dataset::from_values(schema.clone(), (0..100_u32).map(|i| ([f64::from(i)], Label::Class(i % 2))))?;
    //! let store = Arc::new(MemoryStore::new());
    //! let mut pipeline = Pipeline::builder("guide", schema.clone())
    //!     .training_data(training)
    //!     .detect(LowConfidence::below(0.6))
    //!     .store(store.clone())
    //!     .build()?;
    //! let mut observation = pipeline.observation();
    //! observation.id = PredictionId::from_uuid(uuid::Uuid::from_u128(1));
    //! observation.row.copy_values(&[4.0])?;
    //! observation.set_output(Output::Probabilities(&[0.5, 0.5]));
    //! pipeline.ingest([Event::Prediction(observation)])?;
    //!
    //! let queue = ReviewQueue::open(store, "guide", schema.target().clone(), Arc::new(SystemClock));
    //! for ticket in queue.claim("ada", 10, TimeDelta::minutes(10))? {
    //!     queue.annotate(ticket.task.sample, "ada", Label::Class(1), 0.9, Some(4.0))?;
    //! }
    //! assert_eq!(pipeline.poll()?.annotations, 1); // the loop takes the answers up when it is polled
    //! # Ok(())
    //! # }
    //! ```
    //!
    //! **Auto-labels** ([`ConfidenceRouter`](crate::ConfidenceRouter)) are off until audits certify a threshold of confidence, and
    //! provisional until the audits of their cohort say that the error of all released labels is at most the promised one;
    //! an error of at most 2 % at 95 % takes 263 audits without an error before the first auto-label. When audits say
    //! that the error is larger, what waits goes to people and the router calibrates anew;
    //! [`plan`](crate::ConfidenceRouter::plan) says by when a budget shows what. The promise needs people who are right; while an
    //! alarm is open, nothing is auto-labelled or released. A share `cap` of each class bounds them at every moment and in
    //! every batch. Values (regression) are never auto-labelled.
    //!
    //! **Which questions** people get within a [`Budget`](crate::Budget) a [`QueryStrategy`](crate::QueryStrategy) decides, in
    //! [`HumanRouter`](crate::HumanRouter) or behind the auto-labels: where the model is unsure and where nothing like it has been
    //! asked before, evenly over the day, with a reserve for alarms. Every drawn question carries its probability, so that
    //! weighted estimates over both lanes stay unbiased.
}

pub mod triggers {
    //! When to retrain.
    //!
    //! A [`RetrainTrigger`](crate::RetrainTrigger) fires or waits, and always says why. It keeps nothing: its memory is handed
    //! in and committed with the decision.
    //!
    //! ```
    //! use feedloop::{BoxError, Coverage, TriggerExt, any, drift, hours, new_labels, schedule};
    //! # fn main() -> Result<(), BoxError> {
    //! let trigger = any([
    //!     new_labels(500),           // enough labels wait
    //!     Coverage::at(0.7).boxed(), // the labels speak for what was flagged
    //!     drift(),                   // an alarm is open
    //!     schedule("0 3 * * *")?,    // every night at three, UTC
    //! ])
    //! .cooldown(hours(6));
    //! # let _ = trigger;
    //! # Ok(())
    //! # }
    //! ```
    //!
    //! [`any`](crate::any) and [`all`](crate::all) ask every part, so that the explanation in
    //! [`Status::decision`](crate::Status::decision) is complete. No trigger starts a run while one is in flight, while the
    //! loop is frozen, or before there is a label to train on. [`Control::retrain_now`](crate::Control::retrain_now) does
    //! not ask the trigger.
}

pub mod retraining {
    //! Batches, trainers, profiles, watch, modes.
    //!
    //! A run goes: seal the labels as a **batch** (its id is the digest of its content; it never changes) → **train** →
    //! **smoke test** → **judge** → **promote** → **watch**. Every state is written down before the outside is called, with
    //! a key that makes the call idempotent, so a restarted process goes on where it was.
    //!
    //! Trainers run away from the worker: [`FnTrainer`](crate::FnTrainer) on a thread,
    //! [`CommandTrainer`](crate::CommandTrainer) as a process with a timeout and a log (`examples/train.py` reads the
    //! batches as Parquet and fits scikit-learn), `HttpTrainer` (feature `http`) by a service. A [`Recipe`](crate::Recipe) chooses rows
    //! and weights. Labels of the judging lanes **judge, then train**: they score every model that was trained before they
    //! came, and only then may they be trained on. So no holdout starves the training. Every row weighs the same, unless
    //! [`inclusion_weights`](crate::PipelineBuilder::inclusion_weights) are asked for: then the training data stands for the live
    //! traffic rather than for what was chosen.
    //!
    //! # The two profiles
    //!
    //! **[`confirm`](crate::Profile::confirm)**, the default. The candidate is frozen while it is judged. Only rows count on
    //! which exactly one of the two models is right. It is promoted when the e-value for "better" reaches 20, against the served
    //! model and the last kept one: looked at after every label batch, a candidate that is not better than the served model gets
    //! there with a probability of at most 1 in 20. It fails when the mirrored e-value reaches 10, and is inconclusive (not
    //! promoted) after 5 label batches. No verdict rests on a single label batch or a single annotator, and a slice
    //! ([`segment_by`](crate::PipelineBuilder::segment_by)) of at least 30 rows in which it is probably worse holds it back.
    //!
    //! If the trigger asks for a run while a candidate is judged, and a label batch has judged it without a verdict, a fresh
    //! candidate takes its place: the run before is *superseded*, and its [evidence](crate::Evidence) goes on, unless an e-value has
    //! fallen below 1. So the trigger bounds how old a candidate is, and few labels still add up. The promise is for the line then:
    //! if none of its candidates is better than the served model, one of them is promoted with a probability of at most 1 in 20;
    //! and the one that is must win more rows than it loses itself. With a
    //! [`Requirement`](crate::Requirement) on live rows candidates are not superseded: those rows are their own.
    //! [`ConfirmRules::likely`](crate::ConfirmRules::likely) also promotes what is only likely better; that promises nothing.
    //! With [`ConfirmRules::race`](crate::ConfirmRules::race) the recipes race as below, and the candidate is a model of their
    //! blend: it follows a drift sooner where a model is cheap to train.
    //!
    //! **[`adaptive`](crate::Profile::adaptive)**, for fast drift and few labels. The evidence belongs to the recipes, not to one
    //! model: six of them, and "keep the first model", race by discounted prequential score. Labels of the judging lanes take
    //! part, and those that people gave without seeing what the model said, unless the row was pointed at because of its
    //! truth or a user's opinion; watch and `confirm` judge by the judging lanes alone. What is promoted is a model of the
    //! [blend](crate::Recipe::Blend), trained on rows weighted by what each recipe has earned: with few labels
    //! it stands between all recipes, with many it follows the best. A run therefore trains seven models, the blend last. Where the
    //! models are trees, let the trainer average [those of the recipes](crate::TrainJob::members) instead: a fully grown tree fits every
    //! row, however little it weighs (`examples/common/model/forest.rs`). Refits are promoted
    //! without evidence of their own, unless they change less than 1 % of the predictions or fail the smoke test.
    //! **No harm is excluded** below about 25 labels on which
    //! the recipes differ, and nothing is promised about a single refit. The watch is the safety net, but a thin one:
    //! it ends when the next refit is promoted, so with few labels and frequent runs a bad refit is mostly replaced, not rolled back.
    //!
    //! No rule that we tried follows drift fastest *and* never harms; hence two profiles, and the choice is yours.
    //!
    //! ```
    //! use feedloop::{Artifact, BoxError, ModelRecord, PairedEvaluator, Profile, Row};
    //! let evaluator = PairedEvaluator::new(|record: &ModelRecord| {
    //!     let Artifact::Inline(bytes) = &record.artifact else { return Err(BoxError::from("not inline")) };
    //!     let limit: f64 = String::from_utf8(bytes.clone())?.parse()?;
    //!     Ok(move |row: &Row, output: &mut [f64]| {
    //!         output.copy_from_slice(if row.values()[0] > limit { &[0.1, 0.9] } else { &[0.9, 0.1] });
    //!         Ok(())
    //!     })
    //! })
    //! .profile(Profile::adaptive());
    //! # let _ = evaluator;
    //! ```
    //!
    //! # The watch
    //!
    //! After a promotion the previous model is scored on the same labelled rows, so that a worse world is not mistaken for a
    //! worse model. An e-value of 20 for the previous model, or an output that is not finite, rolls back; in `adaptive`, and
    //! with `likely`, also 6 decisive rows with a probability of .95. At 30 decisive rows without alarm the model is *kept*;
    //! after 8 label batches, or when the next promotion comes first, *kept unproven*. Two rollbacks in ten promotions, or one pair swapped to and
    //! fro twice, freeze the loop.
    //! A version that failed is quarantined and never promoted again
    //! (the first model excepted, which may be all there is).
    //!
    //! # The modes
    //!
    //! [`Mode::Advisory`](crate::Mode::Advisory) trains and judges and says what it would promote;
    //! [`Mode::Approval`](crate::Mode::Approval) waits for [`Control::approve`](crate::Control::approve);
    //! [`Mode::Unattended`](crate::Mode::Unattended), the default, promotes by itself. A rollback by the watch waits for
    //! nobody. [`Control::freeze`](crate::Control::freeze) stops training, promotion and rollback at once, and auto-labels; recording,
    //! flagging and people's labels go on. [`Control::kill`](crate::Control::kill) also ends the run in flight.
    //!
    //! # Before and after the switch
    //!
    //! [`Control::evaluation`](crate::Control::evaluation) shows every metric of a run's candidate with its interval, per slice, why the
    //! verdict is what it is and how many labels are missing for one; [`require`](crate::PipelineBuilder::require) sets bounds.
    //! [`Control::explain`](crate::Control::explain) says what retraining waits for, and [`simulate`](crate::simulate) when another policy
    //! would have fired in the last two weeks. While a candidate is judged the host may predict with it
    //! [in the shadow](crate::ModelSlot::shadow) or let it serve a [canary](crate::PipelineBuilder::canary) share.
    //!
    //! Wrong labels pass every judge that believes them. When new labels stop agreeing with the model, the loop asks other people about a
    //! few of the rows; that takes at least two people who label. [`label_faults`](crate::PipelineBuilder::label_faults) changes the rules,
    //! [`without_label_faults`](crate::PipelineBuilder::without_label_faults) turns it off.
}

pub mod lineage {
    //! Where a prediction went, and how the loop is doing.
    //!
    //! [`Control::lineage`](crate::Control::lineage) walks from a prediction, a batch, a run or a model to all that it came from and all
    //! that came of it: a graph of samples, labels, batches, runs, evaluations, models and promotions, as text, DOT or JSON.
    //!
    //! Whatever changes the loop is entered into a journal, a chain of digests that is committed with the change;
    //! [`Control::verify_journal`](crate::Control::verify_journal) compares it with what is stored. The content of one sample is taken out
    //! by [`Control::erase`](crate::Control::erase), which names the batches and models that were made with it; the chain still verifies.
    //! [`retain`](crate::PipelineBuilder::retain) bounds what is kept, models that nobody needs any more included; [`redact`](crate::PipelineBuilder::redact) changes it before it is stored.
    //!
    //! [`Status`](crate::Status) tells what was counted, the samples by state, what each stage cannot see, what the trigger waits for,
    //! the run in flight, the watch, and why the loop is frozen, if it is. It is plain serde: serve it as JSON.
    //!
    //! ```
    //! use feedloop::*;
    //! use std::sync::Arc;
    //! # fn main() -> Result<(), BoxError> {
    //! # let schema = Arc::new(Schema::numeric(1, Target::classes(["no", "yes"]))?);
    //! # let training = Dataset::from_values(schema.clone(), (0..100_u32).map(|i| ([f64::from(i)], Label::Class(i % 2))))?;
    //! let mut pipeline =
    //!     Pipeline::builder("guide", schema).training_data(training).trigger(new_labels(500)).build()?;
    //! pipeline.poll()?;
    //! let decision = pipeline.status()?.decision.ok_or("the trigger was not asked")?;
    //! assert_eq!(decision.why().to_string(), "new_labels: 0 of 500 labels");
    //! # Ok(())
    //! # }
    //! ```
}

pub mod storage {
    //! What is kept, and what a crash costs.
    //!
    //! Everything goes through the [`Store`](crate::Store): [`MemoryStore`](crate::MemoryStore), or `SqliteStore`, one file
    //! with a write-ahead log that is flushed at every commit. Bodies are JSON text: `sqlite3 feedloop.db "SELECT id, state, body FROM
    //! records WHERE kind = 'run'"` shows them. Another process may open the same file, for review or reading.
    //!
    //! - When [`Pipeline::ingest`](crate::Pipeline::ingest) returns with 0 [`pending`](crate::Ingested::pending), every sample it
    //!   kept is on disk. If the store fails, changes stay pending and are tried again; beyond 100,000 nothing more is
    //!   taken, so that memory stays bounded. A [`Recorder`](crate::Recorder) hands over to the worker's memory:
    //!   [`Control::flush`](crate::Control::flush) says when it is on disk.
    //! - Detector windows, the ledger and the counters are saved every 100,000 observations or 60 seconds
    //!   ([`checkpoint`](crate::PipelineBuilder::checkpoint)). A crash loses what came since: a truth about such a prediction
    //!   that was not kept as a sample is parked, and counters go back. Samples, labels, batches, runs and promotions
    //!   are not affected.
    //! - After a restart the host serves its first model until the first `poll` has loaded the champion again.
    //! - One worker per pipeline name. A second one that opens the same name takes over, and the store refuses the first from
    //!   then on ([`Fenced`](crate::Fenced)).
    //!
    //! ```
    //! # #[cfg(feature = "sqlite")] {
    //! use feedloop::{Kind, SqliteStore, Store};
    //! # let directory = tempfile::tempdir()?;
    //! # let path = directory.path().join("feedloop.db");
    //! let store = SqliteStore::open(&path)?;
    //! assert_eq!(store.count("fraud", Kind::Sample, None)?, 0);
    //! # }
    //! # Ok::<(), feedloop::BoxError>(())
    //! ```
}

pub mod custom {
    //! Stages of your own.
    //!
    //! A closure is enough for a stage without state: [`detector_fn`](crate::detector_fn), [`gate_fn`](crate::gate_fn),
    //! [`router_fn`](crate::router_fn), [`trigger_fn`](crate::trigger_fn).
    //!
    //! ```
    //! use feedloop::{Admission, Chunk, Findings, LoopStatus, Memory, Reason, detector_fn, gate_fn, trigger_fn};
    //!
    //! let negative = detector_fn("negative", |chunk: &Chunk<'_>, findings: &mut Findings| {
    //!     for (id, &value) in chunk.ids().iter().zip(chunk.values(0)) {
    //!         if value < 0.0 {
    //!             findings.flag(*id, -value, 0.0);
    //!         }
    //!     }
    //!     Ok(())
    //! });
    //! let no_tests = gate_fn("no-tests", |sample, _| {
    //!     let test = sample.observation.row.values()[0] == 42.0;
    //!     Ok(if test { Admission::Quarantine(Reason::new("test", "a test payment")) } else { Admission::Pass })
    //! });
    //! let two = trigger_fn("two", |status: &LoopStatus, _: &mut Memory| {
    //!     Ok((status.labels >= 2, format!("{} of 2 labels", status.labels)))
    //! });
    //! # let _ = (negative, no_tests, two);
    //! ```
    //!
    //! A stage with state implements [`Stage`](crate::Stage) with [`snapshot`](crate::Stage::snapshot) and
    //! [`restore`](crate::Stage::restore), and its own trait; `examples/custom_stages.rs` has one. What follows from the reference
    //! belongs into [`rebase`](crate::Stage::rebase), which may be repeated; what the stream left belongs into the
    //! snapshot. A detector's findings must not depend on where the stream was cut into chunks. With the feature `conformance`,
    //! `feedloop::conformance::detector(|| MyDetector::new())` checks that and more; there are suites for
    //! gates, routers, triggers and stores too.
}

pub mod light {
    //! Detectors, a schedule and a directory.
    //!
    //! The light version of the loop is the same builder with fewer lines: no trainer, no server. Once a night, what was flagged
    //! and labelled is checked, sealed and exported as `DIRECTORY/<batch>/data.jsonl`, one `{"row", "label", "weight", "sample",
    //! "annotator"}` per line, with `manifest.json` beside it. Data is written first, the manifest last: a directory with
    //! a manifest is complete. Where labels of earlier batches were corrected since, `corrected.jsonl` has one `{"sample",
    //! "annotation", "label"}` per line, with null for a row that is not to be trained on any more. A cron job trains from there.
    //! `examples/light.rs` runs it.
    //!
    //! ```
    //! use feedloop::*;
    //! use std::sync::Arc;
    //! # fn main() -> Result<(), BoxError> {
    //! # let directory = tempfile::tempdir()?;
    //! # let schema = Arc::new(Schema::numeric(1, Target::classes(["no", "yes"]))?);
    //! # let mut reference = Reference::builder(schema.clone());
    //! # for i in 0..100_u32 {
    //! #     reference.push(&Row::from_values(&schema, &[f64::from(i)])?, None, None)?;
    //! # }
    //! let pipeline = Pipeline::builder("guide", schema)
    //!     .reference(reference.finish())
    //!     .detect(LowConfidence::below(0.6))
    //!     .gate(SchemaGate::default())
    //!     .trigger(schedule("0 3 * * *")?)
    //!     .export(directory.path().join("batches"))
    //!     .build()?;
    //! # let _ = pipeline;
    //! # Ok(())
    //! # }
    //! ```
}
