//! What every router promises.

use std::sync::Arc;

use super::World;
use crate::event::{Label, Observation, predicted_label, top_class};
use crate::reference::{Reference, References};
use crate::router::{Audited, Drawn, LabelRouter, Route, RouteContext};
use crate::sample::{Annotator, Lane, Sample};
use crate::schema::{Schema, Target};
use crate::stage::Snapshot;

/// Checks that the routers which `make` makes keep the promises of [`LabelRouter`], as they are and boxed.
///
/// Checked for classes and for values: a name that does not change; `rebase` may be repeated, also on references without
/// rows; no row panics or fails, whether its values are missing, infinite, unseen or of another schema; an auto-label
/// fits the target and has a confidence from 0 to 1, a question asks at least one person and its priority is a number, a
/// skip has a reason; routes and verdicts do not depend on a snapshot and restore in between, nor on what an instance
/// saw before rebase and restore; a foreign state is refused.
///
/// # Panics
/// A promise is broken; the message says which.
pub fn router<R: LabelRouter>(make: impl Fn() -> R) {
    suite(&make);
    suite(&|| Box::new(make()) as Box<dyn LabelRouter>);
}

const SAMPLES: usize = 600;

fn suite<R: LabelRouter>(make: &impl Fn() -> R) {
    let name = make().name().to_owned();
    assert!(!name.is_empty(), "a router has a name");
    assert_eq!(name, make().name(), "every instance has the same name");
    for world in [World::classification("router"), World::regression("router")] {
        let references = world.clone().references(400);
        let empty = References::starting_with(Arc::new(Reference::builder(world.schema().clone()).finish()));
        let case = Case { make, name: &name, schema: world.schema().clone() };
        let samples = super::samples(world, SAMPLES);
        case.broken_rows(&references);
        case.broken_rows(&empty);
        case.play(&mut case.fitted(&empty), &samples, &empty);
        case.survives_restarts(&samples, &references);
    }
}

struct Case<'a, F> {
    make: &'a F,
    name: &'a str,
    schema: Arc<Schema>,
}

impl<R: LabelRouter, F: Fn() -> R> Case<'_, F> {
    fn fitted(&self, references: &References) -> R {
        let mut router = (self.make)();
        for time in ["once", "twice"] {
            let done = router.rebase(references);
            assert!(done.is_ok(), "`{}` cannot be rebased {time}: {done:?}", self.name);
            assert_eq!(router.name(), self.name, "the name does not change");
        }
        router
    }

    fn route(&self, router: &mut R, sample: &Sample, references: &References) -> Route {
        let (now, alarm) = (sample.observation.time, sample.sequence % 300 > 285);
        let standing = sample.sequence % 300 > 270;
        let waiting = sample.sequence % 9;
        let context = RouteContext { schema: &self.schema, references, now, waiting, alarm, standing };
        let route = router.route(sample, &context);
        assert!(route.is_ok(), "`{}` failed on {:?}: {route:?}", self.name, sample.observation);
        let route = route.unwrap_or(Route::Skip(crate::Reason::new("failed", "failed")));
        let asked = match &route {
            Route::Auto { label, confidence, audit, why, .. } => {
                assert!(!why.code.is_empty(), "`{}` labels without saying why", self.name);
                assert!(label.fits(self.schema.target()), "`{}` gives {label:?}, which does not fit", self.name);
                assert!((0.0..=1.0).contains(confidence), "`{}` is {confidence} sure", self.name);
                audit.as_ref()
            }
            Route::Ask { ask, drawn, why } => {
                assert!(!why.code.is_empty(), "`{}` asks without saying why", self.name);
                if let Some(Drawn { lane, inclusion }) = drawn {
                    assert!(matches!(lane, Lane::Uncertain | Lane::Diverse), "`{}` draws into {lane:?}", self.name);
                    assert!(*inclusion > 0.0 && *inclusion <= 1.0, "`{}` draws with {inclusion}", self.name);
                }
                Some(ask)
            }
            Route::Skip(reason) => {
                assert!(!reason.code.is_empty() && !reason.detail.is_empty(), "`{}` skips without a reason", self.name);
                None
            }
        };
        if let Some(ask) = asked {
            assert!(ask.priority.is_finite() && ask.overlap > 0, "`{}` asks {ask:?}", self.name);
        }
        route
    }

    /// Routes every sample; most of them are judged soon after, and cohorts are asked for.
    fn play(&self, router: &mut R, samples: &[Sample], references: &References) -> Vec<String> {
        let mut said = Vec::new();
        for sample in samples {
            said.push(format!("{:?}", self.route(router, sample, references)));
            let human = sample.label.as_ref().and_then(|annotation| annotation.label);
            let auto = predicted_label(self.schema.target(), sample.observation.output());
            if let (Some(auto), Some(human), true) = (auto, human, sample.sequence % 3 != 0) {
                let confidence = match self.schema.target() {
                    Target::Classes(_) => top_class(sample.observation.output()).map_or(0.0, |(_, p)| p),
                    Target::Value => 0.0,
                };
                // Nearly always right, so that there is something to trust.
                let human = if sample.sequence % 40 == 7 { human } else { auto };
                let audited = Audited { sample, auto, confidence, human, time: sample.observation.time };
                let learned = router.learn(&audited);
                assert!(learned.is_ok(), "`{}` failed to learn: {learned:?}", self.name);
            }
            if sample.sequence % 20 == 19 {
                said.push(format!("{:?}", router.cohorts(sample.observation.time, false)));
            }
        }
        said
    }

    fn broken_rows(&self, references: &References) {
        let mut router = self.fitted(references);
        let outputs = [[f64::NAN; 3], [f64::INFINITY, 0.0, 0.0], [-3.0, 4.0, 0.0], [0.2, 0.3, 0.5], [0.0; 3]];
        for (number, row) in super::broken_rows(&self.schema).into_iter().enumerate() {
            for output in outputs {
                let mut observation = Observation::new(&self.schema);
                observation.row = row.clone();
                observation.id = crate::PredictionId::from_uuid(uuid::Uuid::from_u64_pair(7, number as u64));
                observation.output.copy_from_slice(&output);
                let mut sample = Sample::new(observation, number as u64, Lane::Flagged, 1.0);
                self.route(&mut router, &sample, references);
                let label = super::some_label(&self.schema);
                sample.label = Some(super::annotation(&sample, Annotator::GroundTruth, label));
                let (sample, time) = (&sample, sample.observation.time);
                for (auto, confidence) in [(label, f64::NAN), (Label::Class(9), 2.0), (Label::Value(f64::NAN), -1.0)] {
                    let learned = router.learn(&Audited { sample, auto, confidence, human: label, time });
                    assert!(learned.is_ok(), "`{}` failed to learn: {learned:?}", self.name);
                }
            }
        }
    }

    fn survives_restarts(&self, samples: &[Sample], references: &References) {
        let whole = self.play(&mut self.fitted(references), samples, references);
        for at in [0, 100, 500] {
            let mut first = self.fitted(references);
            let mut said = self.play(&mut first, &samples[..at], references);
            let snapshot = super::saved(&first, self.name);
            let mut second = self.fitted(references);
            super::restored(&mut second, &snapshot, self.name);
            assert_eq!(super::saved(&second, self.name), snapshot, "`{}` has another state after a restart", self.name);
            said.extend(self.play(&mut second, &samples[at..], references));
            assert_eq!(said, whole, "`{}` decides otherwise after a restart at {at}", self.name);
        }
        let mut used = self.fitted(references);
        let new = super::saved(&used, self.name);
        self.play(&mut used, samples, references);
        let done = used.rebase(references);
        assert!(done.is_ok(), "`{}` cannot be rebased in use: {done:?}", self.name);
        super::restored(&mut used, &new, self.name);
        if new != Snapshot::Stateless {
            assert_eq!(self.play(&mut used, samples, references), whole, "`{}` keeps something", self.name);
        }
        super::refuses_foreign_states(&mut self.fitted(references), self.name);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::sample::Reason;
    use crate::{Ask, Budget, ConfidenceRouter, HumanRouter, QueryStrategy, router_fn};

    #[test]
    fn our_routers_keep_their_promises() {
        router(|| ConfidenceRouter::max_error(0.05));
        router(|| ConfidenceRouter::max_error(0.2).audit(0.5).budget(Budget::per_day(50_000)).cap(0.9).overlap(2));
        router(|| ConfidenceRouter::max_error(0.1).budget(Budget::per_day(5)).max_exposure(3));
        router(|| HumanRouter::new(Budget::unlimited()));
        router(|| HumanRouter::new(Budget::per_day(20_000)).strategy(QueryStrategy::entropy().agreement(0.3)));
        router(|| {
            let strategy = QueryStrategy::least_confidence().diverse(0.0).floor(1.0).flagged(0.5);
            ConfidenceRouter::max_error(0.2).audit(0.5).budget(Budget::per_day(20_000)).overlap(2).strategy(strategy)
        });
        router(|| {
            router_fn("mine", |_, _| {
                Ok(Route::ask(Ask { priority: 1.0, overlap: 1, blind: true }, Reason::new("mine", "")))
            })
        });
    }

    #[test]
    fn the_suite_sees_auto_labels() {
        let world = World::classification("router");
        let references = world.clone().references(400);
        let make = || ConfidenceRouter::max_error(0.2).audit(0.5).cap(0.9);
        let case = Case { make: &make, name: "confidence", schema: world.schema().clone() };
        let said = case.play(&mut case.fitted(&references), &super::super::samples(world, SAMPLES), &references);
        assert!(said.iter().any(|route| route.starts_with("Auto")));
    }

    fn broken<R: LabelRouter>(make: impl Fn() -> R) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| router(make))).is_err()
    }

    #[test]
    fn a_router_that_forgets_or_asks_nobody_is_found_out() {
        assert!(broken(|| {
            let mut seen = 0.0;
            router_fn("forgets", move |_, _| {
                seen += 1.0;
                Ok(Route::ask(Ask { priority: seen, overlap: 1, blind: true }, Reason::new("mine", "")))
            })
        }));
        assert!(broken(|| router_fn("nobody", |_, _| Ok(Route::ask(
            Ask { priority: 1.0, overlap: 0, blind: true },
            Reason::new("mine", "")
        )))));
        assert!(broken(|| {
            router_fn("blunt", |sample, _| {
                let label = Label::Class(sample.observation.row.codes()[0]);
                Ok(Route::Auto { label, confidence: 0.5, audit: None, cohort: 0, why: Reason::new("mine", "") })
            })
        }));
    }
}
