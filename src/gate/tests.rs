//! Laws of several gates.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::conformance::World;
use crate::dataset::Dataset;
use crate::event::ModelVersion;
use crate::gate::testing::annotation;
use crate::sample::{Annotator, Lane};
use proptest::prelude::*;

const ROWS: usize = 60;

/// Labelled samples of many lanes and sources; `what` breaks some of them.
fn samples(world: &mut World, what: u8) -> Vec<Sample> {
    (0..ROWS)
        .map(|n| {
            let mut observation = world.observation();
            match what {
                1 => observation.row.values[0] *= 1_000.0,
                2 if n % 2 == 0 => observation.row.values[1] = f64::NAN,
                3 => observation.row.codes[0] = 2,
                _ => {}
            }
            let lane = [Lane::Flagged, Lane::Random, Lane::Outcome, Lane::Comparison][n % 4];
            let mut sample = Sample::new(observation, n as u64, lane, 1.0);
            sample.judged = n % 5 > 0;
            let annotator = match n % 6 {
                0 | 1 => Annotator::User("eve".into()),
                2 => Annotator::Model(ModelVersion::FIRST),
                3 => Annotator::GroundTruth,
                _ => Annotator::Human(format!("ann{}", n % 2)),
            };
            sample.label = Some(annotation(n as u128, annotator, world.label()));
            sample
        })
        .collect()
}

/// What a gate says of the rows in this order, as a set.
fn said(mut gate: Box<dyn QualityGate>, references: &References, samples: &[Sample], order: &[usize]) -> String {
    gate.rebase(references).unwrap();
    let schema = references.training.schema();
    let rows: Vec<DraftRow<'_>> = order
        .iter()
        .map(|at| &samples[*at])
        .map(|sample| DraftRow { sample, label: sample.label.as_ref().unwrap().label.unwrap(), weight: 1.0 })
        .collect();
    let context = GateContext { schema, references, now: DateTime::UNIX_EPOCH };
    let mut verdict = gate.audit(&BatchDraft { rows: &rows }, &context).unwrap();
    if let Audit::Quarantine(refused) = &mut verdict {
        refused.sort_by_key(|(id, _)| *id);
    }
    format!("{verdict:?}")
}

/// Makes a gate that may keep these rows out.
type Make = fn(&Dataset) -> Box<dyn QualityGate>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_of_a_batch_does_not_matter_to_gates_that_say_so(
        order in Just((0..ROWS).collect::<Vec<_>>()).prop_shuffle(),
        seed in 0..1_000_u32,
        what in 0..4_u8,
        classes in any::<bool>(),
    ) {
        let name = format!("order {seed}");
        let mut world = if classes { World::classification(&name) } else { World::regression(&name) };
        let references = world.references(200);
        (world.missing, world.shift) = (0.1, f64::from(seed % 3));
        let samples = samples(&mut world, what);
        let mut audit = Dataset::new(world.schema().clone());
        for sample in samples.iter().take(3) {
            audit.push(sample.observation.row.clone(), world.label(), 1.0).unwrap();
        }
        let gates: [Make; 8] = [
            |_| Box::new(Relevance::default()),
            |_| Box::new(Leakage::default().reserve(0.2)),
            |_| Box::new(Leakage::default().expects_judging()),
            |audit| Box::new(Leakage::default().audit_set_within(audit, 0.5)),
            |_| Box::new(SourceCap::default()),
            |_| Box::new(SourceCap::default().annotators(0.1).segment("kind", 0.3)),
            |_| Box::new(ClassBalance::default()),
            |_| Box::new(ClassBalance::default().hold_below(20)),
        ];
        let sorted: Vec<usize> = (0..ROWS).collect();
        for gate in gates {
            let whole = said(gate(&audit), &references, &samples, &sorted);
            prop_assert_eq!(said(gate(&audit), &references, &samples, &order), whole);
        }
    }
}
