#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::*;
use crate::conformance::{self, Noise, World};
use crate::detector::testing;
use crate::event::ModelVersion;
use crate::reference::Reference;
use crate::schema::{Field, Row, Schema};
use crate::stage::Stage;

const MAKERS: [fn() -> UnusualOutput; 3] = [UnusualOutput::probability, UnusualOutput::margin, UnusualOutput::entropy];

#[test]
fn every_score_passes_the_suite() {
    for make in MAKERS {
        conformance::detector(|| make().false_alarm_rate(0.05));
    }
    conformance::detector(|| Energy::of("a").false_alarm_rate(0.05));
}

#[test]
fn the_false_alarm_rate_holds_over_calibration_draws() {
    for make in MAKERS {
        testing::the_rate_holds(make().name(), make);
    }
    testing::the_rate_holds("energy", || Energy::of("b"));
}

fn score<S: NoveltyScore>(detector: &ConformalDetector<S>, values: &[f64], output: &[f64]) -> Option<f64> {
    detector.score(RowView { values, output, ..RowView::default() })
}

#[test]
fn scores_are_those_of_the_definitions() {
    let references = World::classification("definitions").references(200);
    let fitted = MAKERS.map(|make| {
        let mut detector = make();
        detector.rebase(&references).unwrap();
        detector
    });
    for (output, expected) in [
        ([0.5, 0.25, 0.25], [0.5, 0.75, 1.5 * 2_f64.ln() / 3_f64.ln()]),
        ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([0.5, 0.5, 0.0], [0.5, 1.0, 2_f64.ln() / 3_f64.ln()]),
    ] {
        for (detector, expected) in fitted.iter().zip(expected) {
            let found = score(detector, &[], &output).unwrap();
            assert!((found - expected).abs() < 1e-15, "{} of {output:?}: {found}", detector.name());
        }
    }
    for output in [[f64::NAN, 0.5, 0.5], [-0.5, 1.0, 0.5], [0.9, 0.9, 0.9], [f64::INFINITY, 0.0, 0.0]] {
        assert!(fitted.iter().all(|detector| score(detector, &[], &output).is_none()), "{output:?}");
    }
    assert!(fitted.iter().all(|detector| score(detector, &[], &[]).is_none()));
}

#[test]
fn unsure_predictions_are_flagged() {
    for make in MAKERS {
        let mut noise = Noise::new("sure training data");
        let schema = Arc::new(Schema::numeric(1, Target::classes(["no", "yes"])).unwrap());
        let mut builder = Reference::builder(schema.clone());
        for _ in 0..1_000 {
            let p = 0.02 + 0.1 * noise.uniform();
            builder.push(&Row::from_values(&schema, &[noise.normal()]).unwrap(), Some(&[p, 1.0 - p]), None).unwrap();
        }
        let mut detector = make().false_alarm_rate(0.01);
        detector.rebase(&References::starting_with(Arc::new(builder.finish()))).unwrap();
        for output in [[0.5, 0.5], [0.7, 0.3]] {
            let score = score(&detector, &[0.0], &output).unwrap();
            assert!(detector.p_value(score).unwrap() < 0.01, "{}", detector.name());
        }
    }
}

#[test]
fn without_outputs_of_this_model_it_is_blind() {
    let mut world = World::classification("without outputs");
    let none = References::starting_with(Arc::new(world.reference_without_outputs(300)));
    let mut foreign = world.references(300);
    foreign.model = ModelVersion(7);
    for (references, reason) in [(none, "no outputs"), (foreign, "of the model that is served")] {
        let mut detector = UnusualOutput::margin().false_alarm_rate(0.05);
        detector.rebase(&references).unwrap();
        assert!(detector.blind()[0].reason.contains(reason), "{:?}", detector.blind());
        assert!(world.run(&mut detector, 200).flags().is_empty());
    }
    assert!(UnusualOutput::entropy().rebase(&World::regression("values").references(50)).is_err());
}

#[test]
fn energy_is_that_of_the_logits() {
    let fields = [Field::number("other"), Field::embedding("logits", 3), Field::category("kind", ["x"])];
    let schema = Arc::new(Schema::new(fields, Target::classes(["a", "b", "c"])).unwrap());
    let mut builder = Reference::builder(schema.clone());
    let mut noise = Noise::new("logits");
    for _ in 0..1_000 {
        let row = [noise.normal(), 8.0 + noise.normal(), noise.normal(), noise.normal()];
        builder.push(&Row::from_values(&schema, &row).unwrap(), None, None).unwrap();
    }
    let references = References::starting_with(Arc::new(builder.finish()));
    let mut energy = Energy::of("logits").false_alarm_rate(0.01);
    energy.rebase(&references).unwrap();
    let found = score(&energy, &[9.0, 1.0, 2.0, 3.0], &[]).unwrap();
    assert!((found + (1_f64.exp() + 2_f64.exp() + 3_f64.exp()).ln()).abs() < 1e-12, "{found}");
    // far from overflow
    assert_eq!(score(&energy, &[0.0, 1e300, 0.0, -1e300], &[]), Some(-1e300));
    assert_eq!(score(&energy, &[0.0, 1.0, f64::NAN, 0.0], &[]), None);
    assert_eq!(score(&energy, &[0.0, 1.0, f64::NEG_INFINITY, 0.0], &[]), None);
    let flat = score(&energy, &[0.0, 1.0, 1.0, 1.0], &[]).unwrap();
    assert!(energy.p_value(flat).unwrap() < 0.01, "small logits are unusual");
    for (field, reason) in [("logit", "no field"), ("kind", "holds no numbers")] {
        let refusal = Energy::of(field).rebase(&references).unwrap_err().to_string();
        assert!(refusal.contains(reason), "{refusal}");
    }
}
