//! A label that is corrected or taken back after its batch was sealed: the batch stays as it is, the next one says so, and
//! models are trained on what counts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use feedloop::chrono::TimeDelta;
use feedloop::{
    Annotator, BatchCheck, BoxError, Error, Event, FnTrainer, JobStatus, Label, LineageEdge, LineageLink, LineageStart,
    Manifest, ModelRecord, Outcome, PipelineBuilder, PredictionId, Profile, Recipe, Run, RunState, Sample, SampleState,
    TrainJob, Trained, Trainer, new_labels, verify_batch,
};
use support::host::Host;
use support::{World, base, check, evaluator, fit};

/// The labels of the rows beside the base data that a run was given, by the bits of the first number of the row.
type Lesson = BTreeMap<u64, Label>;
/// What each run was given.
type Lessons = Arc<Mutex<Vec<Lesson>>>;

fn lesson(job: &TrainJob) -> Lesson {
    assert_eq!((job.recipe, job.dataset.digest.clone()), (Recipe::All, job.data.digest()));
    let labelled = job.data.rows().iter().zip(job.data.labels()).skip(base().len());
    labelled.map(|(row, label)| (row.values()[0].to_bits(), *label)).collect()
}

fn looped(builder: PipelineBuilder, lessons: &Lessons, directory: &Path) -> PipelineBuilder {
    let lessons = lessons.clone();
    let train = FnTrainer::inline(move |job: &TrainJob| {
        lessons.lock().unwrap().push(lesson(job));
        Ok(fit(job))
    });
    let builder = builder.trigger(new_labels(40)).train(train).evaluate(evaluator(Profile::confirm()));
    builder.export(directory.join("batches")).directory(directory.join("jobs"))
}

/// A host that has trained on one batch, and the lessons.
fn taught(directory: &Path) -> (Host, Lessons) {
    let lessons = Lessons::default();
    let mut host = Host::new(|builder| looped(builder, &lessons, directory));
    host.turn(40, 0.5);
    let _ = host.pipeline.cancel_run("test");
    assert_eq!(lessons.lock().unwrap().len(), 1);
    (host, lessons)
}

fn world(host: &Host) -> World {
    check(&*host.store, "closed")
}

/// The samples in batches, in the order of the stream.
fn batched(host: &Host) -> Vec<Sample> {
    let mut samples: Vec<Sample> =
        world(host).samples.into_values().filter(|sample| sample.state == SampleState::Batched).collect();
    samples.sort_by_key(|sample| sample.sequence);
    samples
}

fn other(label: Label) -> Label {
    Label::Class(u32::from(label == Label::Class(0)))
}

/// The world says something of a sample, or takes back what it said.
fn say(host: &mut Host, sample: PredictionId, label: Option<Label>) {
    host.pipeline.ingest([Event::Outcome(Outcome { prediction: sample, label })]).unwrap();
    host.pipeline.poll().unwrap();
}

/// Who labelled a sample takes it back.
fn retract(host: &mut Host, sample: &Sample) {
    let who = sample.annotations.iter().find_map(|annotation| match &annotation.annotator {
        Annotator::Human(name) => Some(name.clone()),
        _ => None,
    });
    host.queue.retract(sample.id(), &who.expect("a person labelled it")).unwrap();
    host.pipeline.poll().unwrap();
}

fn key(sample: &Sample) -> u64 {
    sample.observation.row.values()[0].to_bits()
}

fn newest(host: &Host) -> Manifest {
    world(host).batches.into_values().max_by_key(|batch| batch.run).unwrap()
}

fn newest_run(host: &Host) -> Run {
    world(host).runs.into_values().next_back().unwrap()
}

/// Every model's training data is made again, from the store and from the files.
fn made_again(host: &Host) {
    let models: Vec<ModelRecord> = world(host).models.into_values().filter(|model| model.dataset.is_some()).collect();
    assert!(!models.is_empty());
    for model in models {
        let expected = model.digest.unwrap();
        assert_eq!(host.pipeline.trained_on(model.version).unwrap().digest(), expected, "{}", model.version);
        assert_eq!(model.dataset.unwrap().compose().unwrap().digest(), expected, "{}", model.version);
    }
}

#[test]
fn the_next_batch_corrects_those_before_it_and_models_are_trained_on_what_counts() {
    let directory = tempfile::tempdir().unwrap();
    let (mut host, lessons) = taught(directory.path());
    let samples = batched(&host);
    let [corrected, retracted, undone] = [&samples[3], &samples[7], &samples[11]];
    let sealed = |sample: &Sample| sample.sealed.unwrap();
    say(&mut host, corrected.id(), Some(other(sealed(corrected))));
    retract(&mut host, retracted);
    say(&mut host, undone.id(), Some(other(sealed(undone))));
    say(&mut host, undone.id(), None);
    host.restart(|builder| looped(builder, &lessons, directory.path()));
    host.pipeline.retrain_now("test").unwrap();
    host.pipeline.poll().unwrap();

    let given = lessons.lock().unwrap().clone();
    let mut expected = given[0].clone();
    expected.insert(key(corrected), other(sealed(corrected)));
    expected.remove(&key(retracted));
    assert_eq!(given[1..], [expected]);
    let manifest = newest(&host);
    let which: Vec<PredictionId> = manifest.corrected.keys().copied().collect();
    assert_eq!(which.len(), 2, "{which:?}");
    let annotation = manifest.corrected[&corrected.id()].unwrap() as usize;
    let annotations = &world(&host).samples[&corrected.id()].annotations;
    assert_eq!(annotations[annotation].label, Some(other(sealed(corrected))));
    assert_eq!(manifest.corrected[&retracted.id()], None);

    for start in [LineageStart::Prediction(corrected.id()), LineageStart::Batch(manifest.batch.clone())] {
        let lineage = host.pipeline.lineage(start).unwrap();
        let place = |id: String| lineage.nodes.iter().position(|node| node.id() == id).unwrap();
        let (from, to) = (place(format!("sample/{}", corrected.id())), place(format!("batch/{}", manifest.batch)));
        assert!(lineage.edges.contains(&LineageEdge { from, to, link: LineageLink::CorrectedIn }));
    }

    // The batches are what they were, and everything is made again of them.
    for batch in world(&host).batches.into_values() {
        let found = host.pipeline.verify_batch(&batch.batch).unwrap();
        assert_eq!(found, BatchCheck { rows: batch.rows, erased: 0, intact: true });
        let path = directory.path().join("batches").join(&batch.batch.0);
        assert_eq!(verify_batch(path).unwrap().corrected.len(), batch.corrected.len());
    }
    made_again(&host);

    // A label that comes back, since somebody else is asked, and one that changes a second time.
    say(&mut host, corrected.id(), None);
    host.restart(|builder| looped(builder, &lessons, directory.path()));
    let _ = host.pipeline.cancel_run("test");
    host.turn(40, 0.5);
    let third = lessons.lock().unwrap().last().unwrap().clone();
    assert!(third.len() > given[0].len() && given[0].iter().all(|(row, label)| third[row] == *label));
    assert_eq!(newest(&host).corrected.len(), 2);
    made_again(&host);
}

/// Whom the queue would ask about `sample`: the ticket goes back.
fn is_asked(host: &Host, who: &str, sample: PredictionId) -> bool {
    let tickets = host.queue.claim(who, 1_000, TimeDelta::minutes(1)).unwrap();
    tickets.iter().for_each(|ticket| host.queue.release(ticket.task.sample, who).unwrap());
    tickets.iter().any(|ticket| ticket.task.sample == sample)
}

#[test]
fn of_people_who_disagree_about_a_sealed_row_another_one_decides() {
    let directory = tempfile::tempdir().unwrap();
    let (mut host, lessons) = taught(directory.path());
    let samples = batched(&host);
    let [settled, told, open] = [3, 7, 11].map(|which| (samples[which].id(), samples[which].sealed.unwrap()));
    let annotate = |host: &mut Host, (sample, label): (PredictionId, Label), who: &str| {
        host.queue.annotate(sample, who, label, 1.0, None).unwrap();
        host.pipeline.poll().unwrap();
    };
    for (sample, sealed) in [settled, told, open] {
        assert!(!is_asked(&host, "third", sample), "nobody disagrees yet");
        annotate(&mut host, (sample, other(sealed)), "second");
        let sample = &world(&host).samples[&sample];
        assert_eq!((sample.state, sample.label.is_some()), (SampleState::Batched, false), "nothing counts of it");
    }
    host.restart(|builder| looped(builder, &lessons, directory.path()));
    assert!([settled, told, open].iter().all(|(sample, _)| is_asked(&host, "third", *sample)));
    assert!(!is_asked(&host, "second", open.0), "who has answered is not asked again");

    say(&mut host, told.0, Some(told.1));
    assert!(!is_asked(&host, "third", told.0), "the world has said it");
    annotate(&mut host, (settled.0, other(settled.1)), "third");
    assert!(!is_asked(&host, "fourth", settled.0), "two of three agree");
    assert!(is_asked(&host, "third", open.0), "one against one");

    host.pipeline.retrain_now("test").unwrap();
    host.pipeline.poll().unwrap();
    let mut expected = lessons.lock().unwrap()[0].clone();
    expected.insert(key(&samples[3]), other(settled.1));
    expected.remove(&key(&samples[11]));
    assert_eq!(lessons.lock().unwrap()[1], expected);
    made_again(&host);
}

#[test]
fn corrections_alone_start_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let (mut host, lessons) = taught(directory.path());
    let samples = batched(&host);
    let rows = samples.len();
    assert!(rows >= 40);
    assert!(host.pipeline.retrain_now("test").is_ok());
    host.pipeline.poll().unwrap();
    assert_eq!(newest_run(&host).state, RunState::Failed, "nothing is new");
    host.clock.advance(TimeDelta::hours(3));
    for sample in &samples[..40] {
        host.pipeline
            .ingest([Event::Outcome(Outcome { prediction: sample.id(), label: sample.sealed.map(other) })])
            .unwrap();
    }
    host.pipeline.poll().unwrap();
    let (run, manifest) = (newest_run(&host), newest(&host));
    assert!(run.why.to_string().contains("40 of 40 labels, 40 of them corrected"), "{}", run.why);
    assert_eq!((run.batch, manifest.rows, manifest.corrected.len()), (Some(manifest.batch.clone()), 0, 40));
    let lessons = lessons.lock().unwrap();
    assert_eq!(lessons.len(), 2);
    assert!(samples[..40].iter().all(|sample| lessons[1][&key(sample)] == other(sample.sealed.unwrap())));
    assert_eq!(lessons[1].len(), rows);
    made_again(&host);
}

#[test]
fn what_was_erased_is_not_corrected_and_the_file_that_corrected_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (mut host, lessons) = taught(directory.path());
    let samples = batched(&host);
    let (before, after) = (&samples[3], &samples[7]);
    for sample in [before, after] {
        say(&mut host, sample.id(), sample.sealed.map(other));
    }
    host.pipeline.erase(before.id(), "test", "asked for").unwrap();
    host.turn(40, 0.5);
    let manifest = newest(&host);
    assert_eq!(manifest.corrected.keys().copied().collect::<Vec<_>>(), [after.id()]);
    let erased = host.pipeline.erase(after.id(), "test", "asked for").unwrap();
    let file = directory.path().join("batches").join(&manifest.batch.0).join("corrected.jsonl");
    assert!(erased.files.contains(&file), "{:?}", erased.files);
    for batch in world(&host).batches.into_values() {
        assert!(host.pipeline.verify_batch(&batch.batch).unwrap().intact);
    }
    let trained = newest_run(&host).models[0];
    assert!(matches!(host.pipeline.trained_on(trained), Err(Error::Corrupt(_))), "a row is gone");
    host.restart(|builder| looped(builder, &lessons, directory.path()));
    let _ = host.pipeline.cancel_run("test");
    host.turn(40, 0.5);
    let last = lessons.lock().unwrap().last().unwrap().clone();
    assert!([before, after].iter().all(|sample| !last.contains_key(&key(sample))));
    let trained = newest_run(&host).models[0];
    assert!(host.pipeline.trained_on(trained).is_ok());
}

/// Works until it is told that its work is done, and forgets everything with its process.
struct Slow {
    lessons: Lessons,
    done: Arc<Mutex<bool>>,
    job: Option<TrainJob>,
}

impl Trainer for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn cancel(&mut self, _: &str) -> Result<(), BoxError> {
        Ok(())
    }

    fn start(&mut self, job: TrainJob) -> Result<(), BoxError> {
        self.lessons.lock().unwrap().push(lesson(&job));
        self.job = Some(job);
        Ok(())
    }

    fn poll(&mut self, _: &str) -> Result<JobStatus<Trained>, BoxError> {
        let Some(job) = &self.job else { return Ok(JobStatus::Unknown) };
        if !*self.done.lock().unwrap() {
            return Ok(JobStatus::Running);
        }
        Ok(JobStatus::Done(Trained { artifact: fit(job), log: String::new() }))
    }
}

#[test]
fn a_run_in_flight_keeps_its_data_whatever_is_corrected_meanwhile_also_after_a_crash() {
    let (lessons, done) = (Lessons::default(), Arc::new(Mutex::new(false)));
    let build = |builder: PipelineBuilder| {
        let slow = Slow { lessons: lessons.clone(), done: done.clone(), job: None };
        builder.trigger(new_labels(40)).train(slow).evaluate(evaluator(Profile::confirm()))
    };
    let mut host = Host::new(build);
    host.turn(40, 0.5);
    let first = lessons.lock().unwrap()[0].clone();
    let samples = check(&*host.store, "closed").samples;
    let sealed = samples.values().filter_map(|sample| Some((sample.id(), sample.sealed?)));
    for (prediction, label) in sealed {
        host.pipeline.ingest([Event::Outcome(Outcome { prediction, label: Some(other(label)) })]).unwrap();
    }
    host.pipeline.poll().unwrap();
    host.restart(build);
    *done.lock().unwrap() = true;
    host.pipeline.poll().unwrap();
    {
        let lessons = lessons.lock().unwrap();
        assert_eq!((lessons.len(), &lessons[1]), (2, &first), "it began anew with the same data");
    }
    let world = check(&*host.store, "closed");
    let model = world.models.values().next_back().unwrap();
    assert_eq!(host.pipeline.trained_on(model.version).unwrap().digest(), model.digest.clone().unwrap());
}
