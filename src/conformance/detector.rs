//! What every detector promises.

use std::sync::Arc;

use hashbrown::HashSet;

use super::World;
use crate::chunk::{ChunkBuffer, Heard, Truth};
use crate::detector::{Alarm, Detector, Findings, GuardVerdict};
use crate::event::{
    Feedback, Label, ModelVersion, Observation, Opinion, PredictionId, predicted_label, predicted_probability,
};
use crate::reference::{Reference, References};
use crate::sample::{Flag, Lane};
use crate::stage::Snapshot;

/// Checks that the detectors which `make` makes keep the promises of [`Detector`], as they are and boxed.
///
/// Observations have numeric columns (one of them constant), a category column, and outputs of both kinds of target; a
/// detector may refuse one kind in `rebase`, not both. Checked: a name that does not change; `rebase` may be repeated, and
/// with `restore` makes a used detector as good as new; broken data (missing, infinite, constant, no reference rows)
/// neither panics nor fails; the findings do not depend on how the stream was cut, nor on a snapshot and restore in between;
/// a foreign state is refused; findings are finite and name predictions that exist; a guard agrees with the flags to
/// the bit.
///
/// # Panics
/// A promise is broken; the message says which.
pub fn detector<D: Detector>(make: impl Fn() -> D) {
    suite(&make);
    suite(&|| Box::new(make()) as Box<dyn Detector>);
}

const EVENTS: usize = 2_600;

fn suite<D: Detector>(make: &impl Fn() -> D) {
    let name = make().name().to_owned();
    assert!(!name.is_empty(), "a detector has a name");
    assert_eq!(name, make().name(), "every instance has the same name");
    let mut refusals = Vec::new();
    for world in [World::classification("conformance"), World::regression("conformance")] {
        let mut ordinary = world.clone();
        match make().rebase(&ordinary.references(400)) {
            Ok(()) => Case { make, name: &name, world }.check(),
            Err(refusal) => refusals.push(refusal.to_string()),
        }
    }
    assert!(refusals.len() < 2, "`{name}` can be rebased neither for classes nor for values: {refusals:?}");
    assert!(refusals.iter().all(|text| !text.is_empty()), "`{name}` refuses a target without saying why");
}

/// One thing that happens.
enum Event {
    Observed(Box<Observation>),
    Known(Truth),
    Heard(Heard),
}

/// Findings in an order that does not depend on the cut: flags by prediction, alarms as they came.
#[derive(Debug, PartialEq)]
struct Sorted {
    flags: Vec<Flag>,
    alarms: Vec<Alarm>,
}

impl Sorted {
    fn new(findings: &Findings) -> Self {
        let mut flags = findings.flags().to_vec();
        flags.sort_by(|a, b| a.prediction.cmp(&b.prediction).then(a.score.total_cmp(&b.score)));
        Sorted { flags, alarms: findings.alarms().to_vec() }
    }
}

struct Case<'a, F> {
    make: &'a F,
    name: &'a str,
    world: World,
}

impl<D: Detector, F: Fn() -> D> Case<'_, F> {
    fn check(&self) {
        let mut world = self.world.clone();
        let references = world.references(400);
        let events = stream(&mut world);
        self.empty_chunk(&references);
        self.broken_data(&references);
        self.odd_references(&events);
        let mut used = self.fitted(&references);
        let whole = self.play(&mut used, &events, 256);
        self.findings_are_sound(&whole, &events);
        let (whole, metrics) = (Sorted::new(&whole), used.metrics());
        for metric in &metrics {
            assert!(metric.value.is_finite() && !metric.name.is_empty(), "`{}` measures {metric:?}", self.name);
        }
        for cut in [1, 7] {
            let mut other = self.fitted(&references);
            let found = Sorted::new(&self.play(&mut other, &events, cut));
            assert_eq!(found, whole, "`{}` finds other things in chunks of {cut} than in whole ones", self.name);
            assert_eq!(other.metrics(), metrics, "`{}` measures otherwise in chunks of {cut}", self.name);
        }
        self.survives_restarts(&references, &events, &whole);
        self.starts_afresh(&references, &events, &whole);
        self.guard_agrees(&references, &events);
    }

    fn fitted(&self, references: &References) -> D {
        let mut detector = (self.make)();
        for time in ["once", "twice"] {
            let done = detector.rebase(references);
            assert!(done.is_ok(), "`{}` cannot be rebased {time}: {done:?}", self.name);
            assert_eq!(detector.name(), self.name, "the name does not change");
        }
        detector
    }

    fn snapshot(&self, detector: &D) -> Snapshot {
        let saved = detector.snapshot();
        assert!(saved.is_ok(), "`{}` gives no snapshot: {saved:?}", self.name);
        let snapshot = saved.unwrap_or(Snapshot::Stateless);
        // as a store does it
        let text = serde_json::to_string(&snapshot).unwrap_or_default();
        let read = serde_json::from_str(&text);
        assert!(read.is_ok(), "the snapshot of `{}` does not survive JSON: {read:?}", self.name);
        read.unwrap_or(Snapshot::Stateless)
    }

    fn restore(&self, detector: &mut D, snapshot: &Snapshot) {
        let done = detector.restore(snapshot);
        assert!(done.is_ok(), "`{}` refuses its own snapshot: {done:?}", self.name);
    }

    fn play(&self, detector: &mut D, events: &[Event], cut: usize) -> Findings {
        self.play_from(detector, events, 0, cut)
    }

    /// Shows `events`, whose first has sequence number `from`, `cut` at a time.
    fn play_from(&self, detector: &mut D, events: &[Event], from: usize, cut: usize) -> Findings {
        let (mut findings, mut buffer) = (Findings::new(), ChunkBuffer::new(self.world.schema()));
        for (chunk, events) in events.chunks(cut).enumerate() {
            buffer.clear();
            for (offset, event) in events.iter().enumerate() {
                match event {
                    Event::Observed(observation) => buffer.push((from + chunk * cut + offset) as u64, observation),
                    Event::Known(truth) => buffer.push_truth(*truth),
                    Event::Heard(heard) => buffer.push_feedback(heard.clone()),
                }
            }
            let done = detector.inspect(&buffer.view(self.world.schema()), &mut findings);
            assert!(done.is_ok(), "`{}` failed to inspect: {done:?}", self.name);
        }
        findings
    }

    fn empty_chunk(&self, references: &References) {
        let mut findings = Findings::new();
        let buffer = ChunkBuffer::new(self.world.schema());
        let done = self.fitted(references).inspect(&buffer.view(self.world.schema()), &mut findings);
        assert!(done.is_ok(), "`{}` fails on an empty chunk: {done:?}", self.name);
        assert!(
            findings.flags().is_empty() && findings.alarms().is_empty(),
            "`{}` found something in nothing",
            self.name
        );
    }

    fn broken_data(&self, references: &References) {
        let mut world = self.world.clone();
        let mut detector = self.fitted(references);
        for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE] {
            let events: Vec<_> = (0..300)
                .map(|_| {
                    let mut observation = world.observation();
                    observation.row.values.fill(poison);
                    observation.row.codes.fill(u32::MAX - 2);
                    observation.output.fill(poison);
                    Event::Observed(Box::new(observation))
                })
                .collect();
            let findings = self.play(&mut detector, &events, 256);
            self.findings_are_sound(&findings, &events);
        }
        self.snapshot(&detector);
    }

    /// References without rows, of one row, constant or empty in every column: refused with a reason, or worked with.
    fn odd_references(&self, events: &[Event]) {
        let mut world = self.world.clone();
        let mut odd = vec![world.reference(0), world.reference(1), world.reference_without_outputs(300)];
        for value in [7.0, f64::NAN] {
            let mut builder = Reference::builder(world.schema().clone());
            for _ in 0..300 {
                let mut observation = world.observation();
                observation.row.values.fill(value);
                let pushed = builder.push(&observation.row, Some(observation.output()), None);
                assert!(pushed.is_ok(), "a row of this schema: {pushed:?}");
            }
            odd.push(builder.finish());
        }
        for reference in odd {
            let mut detector = (self.make)();
            let rows = reference.rows();
            match detector.rebase(&References::starting_with(Arc::new(reference))) {
                Ok(()) => {
                    let findings = self.play(&mut detector, events, 256);
                    self.findings_are_sound(&findings, events);
                    detector
                        .blind()
                        .iter()
                        .for_each(|blind| assert!(!blind.reason.is_empty(), "blind without a reason"));
                }
                Err(refusal) => assert!(rows < 2, "`{}` refuses a degenerate reference: {refusal}", self.name),
            }
        }
    }

    fn findings_are_sound(&self, findings: &Findings, events: &[Event]) {
        let known: HashSet<PredictionId> = events
            .iter()
            .map(|event| match event {
                Event::Observed(observation) => observation.id,
                Event::Known(truth) => truth.prediction,
                Event::Heard(heard) => heard.feedback.prediction,
            })
            .collect();
        for flag in findings.flags() {
            assert!(known.contains(&flag.prediction), "`{}` flags a prediction that nobody made", self.name);
            let mut numbers =
                [flag.score, flag.threshold].into_iter().chain(flag.causes.iter().map(|cause| cause.share));
            assert!(numbers.all(f64::is_finite), "`{}` gives numbers that JSON does not know: {flag:?}", self.name);
        }
        for alarm in findings.alarms() {
            assert!(
                alarm.sequence < EVENTS as u64,
                "`{}` alarms at an event that has not happened: {alarm:?}",
                self.name
            );
            assert!(!alarm.text.is_empty(), "`{}` alarms without a word", self.name);
            let numbers = |r: &crate::Reading| [r.statistic, r.effect, r.p_value.unwrap_or(0.0)];
            let finite = alarm.readings.iter().flat_map(numbers).all(f64::is_finite);
            assert!(finite, "`{}` gives numbers that JSON does not know: {alarm:?}", self.name);
        }
    }

    fn survives_restarts(&self, references: &References, events: &[Event], whole: &Sorted) {
        for at in [1, 700, 1_201, EVENTS - 1] {
            let mut first = self.fitted(references);
            let mut found = self.play(&mut first, &events[..at], 100);
            let snapshot = self.snapshot(&first);
            let mut second = self.fitted(references);
            self.restore(&mut second, &snapshot);
            assert_eq!(self.snapshot(&second), snapshot, "`{}` has another state after a restart", self.name);
            assert_eq!(second.metrics(), first.metrics(), "`{}` measures otherwise after a restart", self.name);
            let rest = self.play_from(&mut second, &events[at..], at, 100);
            found.flags.extend(rest.flags);
            found.alarms.extend(rest.alarms);
            let found = Sorted::new(&found);
            assert_eq!(&found, whole, "`{}` finds other things after a restart at event {at}", self.name);
        }
        for format in [0, u32::MAX] {
            let foreign = Snapshot::State { format, state: serde_json::json!({ "foreign": true }) };
            let refused = self.fitted(references).restore(&foreign).is_err();
            assert!(refused, "`{}` takes over a state of a format that it cannot know", self.name);
        }
    }

    /// A detector that failed is rebased and restored: it must then be as good as new.
    fn starts_afresh(&self, references: &References, events: &[Event], whole: &Sorted) {
        let mut detector = self.fitted(references);
        let new = self.snapshot(&detector);
        self.play(&mut detector, events, 256);
        let done = detector.rebase(references);
        assert!(done.is_ok(), "`{}` cannot be rebased in use: {done:?}", self.name);
        self.restore(&mut detector, &new);
        let again = Sorted::new(&self.play(&mut detector, events, 256));
        assert_eq!(&again, whole, "`{}` keeps something from before rebase and restore", self.name);
    }

    fn guard_agrees(&self, references: &References, events: &[Event]) {
        let mut detector = self.fitted(references);
        for event in &events[..600] {
            let (Event::Observed(observation), Some(guard)) = (event, detector.guard()) else { continue };
            let verdict = guard.check(observation);
            let findings = self.play(&mut detector, std::slice::from_ref(event), 1);
            let flagged = findings.flags().first().map_or(GuardVerdict::Pass, |flag| {
                let (score, threshold) = (flag.score, flag.threshold);
                GuardVerdict::Flag { score, threshold }
            });
            assert_eq!(verdict, flagged, "the guard of `{}` disagrees with it", self.name);
        }
    }
}

/// Observations with holes and a shift in the second half; late, corrected and retracted truths; feedback of all kinds.
fn stream(world: &mut World) -> Vec<Event> {
    (world.missing, world.unusable) = (0.05, 0.02);
    let schema = world.schema().clone();
    let mut events = Vec::with_capacity(EVENTS);
    let mut open: Vec<(PredictionId, u64, Option<Label>, Option<f64>)> = Vec::new();
    let mut known: Vec<Truth> = Vec::new();
    for number in 0..EVENTS as u64 {
        world.shift = if number < EVENTS as u64 / 2 { 0.0 } else { 1.0 };
        let (what, which) = (world.noise().uniform(), world.noise().uniform());
        let pick = |length: usize| (which * length as f64) as usize;
        let time = world.time(number);
        if what < 0.6 || open.is_empty() {
            let mut observation = world.observation();
            if world.noise().chance(0.01) {
                observation.row.values[1] = f64::INFINITY;
            }
            let (target, output) = (schema.target(), observation.output());
            let score = predicted_probability(target, output);
            open.push((observation.id, number, predicted_label(target, output), score));
            events.push(Event::Observed(Box::new(observation)));
        } else if what < 0.85 {
            let (prediction, made, predicted, score) = open.swap_remove(pick(open.len()));
            let label = if world.noise().chance(0.7) { predicted } else { None }.unwrap_or_else(|| world.label());
            let model = ModelVersion::FIRST;
            let (sequence, label, predicted_at) = (number, Some(label), world.time(made));
            let lane = [None, Some(Lane::Random), Some(Lane::Flagged), Some(Lane::Outcome)][number as usize % 4];
            let truth = Truth {
                sequence,
                prediction,
                model,
                predicted,
                score,
                lane,
                label,
                replaces: None,
                predicted_at,
                time,
            };
            known.push(truth);
            events.push(Event::Known(truth));
        } else if what < 0.9 && !known.is_empty() {
            let mut truth = known.swap_remove(pick(known.len()));
            let label = world.label();
            (truth.sequence, truth.time, truth.replaces) = (number, time, truth.label);
            truth.label = world.noise().chance(0.5).then_some(label);
            if truth.label.is_some() {
                known.push(truth);
            }
            events.push(Event::Known(truth));
        } else {
            let (prediction, _, predicted, _) = open[pick(open.len())];
            let opinion = match (world.noise().uniform() * 5.0) as u32 {
                0 => Opinion::Correction(world.label()),
                1 => Opinion::Correction(Label::Class(9)),
                2 => Opinion::Rejection,
                3 => Opinion::Rating(f64::NAN),
                _ => Opinion::Rating(world.noise().uniform()),
            };
            let feedback = Feedback { prediction, user: "somebody".into(), opinion };
            events.push(Event::Heard(Heard { sequence: number, feedback, predicted }));
        }
    }
    events
}
