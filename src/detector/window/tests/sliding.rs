//! A window that slides row by row answers as one that is new.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::super::testing::Plain;
use super::super::*;
use crate::KsDrift;
use crate::conformance::Noise;
use crate::detector::Alarm;

/// What a stream is made of.
#[derive(Clone, Copy, Debug)]
struct Mix {
    rounded: bool,
    missing: f64,
    shift: f64,
}

impl Mix {
    /// A value; one in fifty is beyond everything in the reference, or not finite.
    fn draw(self, noise: &mut Noise, shift: f64) -> f64 {
        if noise.chance(self.missing) {
            return f64::NAN;
        }
        if noise.chance(0.02) {
            return if noise.chance(0.5) { 1e9 } else { f64::NEG_INFINITY };
        }
        let value = noise.normal() + shift;
        if self.rounded { (4.0 * value).round() } else { value }
    }
}

fn mix() -> impl Strategy<Value = Mix> {
    (any::<bool>(), prop::sample::select(vec![0.0, 0.05, 0.5]), 0.0..1.0_f64)
        .prop_map(|(rounded, missing, shift)| Mix { rounded, missing, shift })
}

fn bits(readings: &[Reading]) -> Vec<(String, u64, Option<u64>, u64)> {
    let bits = |reading: &Reading| {
        let p_value = reading.p_value.map(f64::to_bits);
        (reading.column.clone(), reading.statistic.to_bits(), p_value, reading.effect.to_bits())
    };
    readings.iter().map(bits).collect()
}

fn told(alarms: &[Alarm]) -> Vec<(String, crate::Level)> {
    alarms.iter().map(|alarm| (alarm.text.clone(), alarm.level)).collect()
}

#[test]
fn a_sliding_window_is_counted_as_if_it_were_new() {
    let mut plain = Plain::new("sliding counts", 1);
    let references = plain.references(300, Noise::normal);
    let observations = plain.observations(170, |noise| if noise.chance(0.1) { f64::NAN } else { noise.normal() });
    let mut sliding = KsDrift::default().window(100).sliding(35).minimum_effect(0.0);
    sliding.rebase(&references).unwrap();
    plain.show(&mut sliding, &observations);
    let mut once = KsDrift::default().window(100).minimum_effect(0.0);
    once.rebase(&references).unwrap();
    plain.show(&mut once, &observations[70..]);
    assert_eq!(sliding.last_readings(), once.last_readings());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_window_that_slides_row_by_row_answers_as_one_that_is_new(
        seed in any::<u32>(),
        mix in mix(),
        // the distance is kept change by change from 128 distinct values on; the p-value is exact up to 20,000 pairs
        rows in prop::sample::select(vec![40_usize, 200, 700]),
        window in prop::sample::select(vec![20_usize, 60, 130]),
        every in 1..4_usize,
        minimum_effect in prop::sample::select(vec![0.0, 0.1, 0.2]),
        correction in prop::sample::select(vec![
            Correction::Bonferroni, Correction::Holm, Correction::BenjaminiHochberg, Correction::BenjaminiYekutieli,
        ]),
        restored_at in 0..60_usize,
    ) {
        let mut plain = Plain::new(&format!("sliding {seed}"), 2);
        let references = plain.references(rows, |noise| mix.draw(noise, 0.0));
        let steps = 60;
        let (quiet, late) = (window + every * steps / 2, every * steps / 2);
        let mut observations = plain.observations(quiet, |noise| mix.draw(noise, 0.0));
        observations.extend(plain.observations(late, |noise| mix.draw(noise, mix.shift)));
        let ready = |drift: KsDrift| {
            let rates = drift.false_alarm_rate(0.02).warnings(3.0).minimum_effect(minimum_effect);
            let mut drift = rates.window(window).correction(correction);
            drift.rebase(&references).unwrap();
            drift
        };
        let fresh = ready(KsDrift::default());
        let mut sliding = ready(KsDrift::default().sliding(every));
        for step in 0..steps {
            let end = window + every * step;
            let before = if step == 0 { 0 } else { end - every };
            let alarms = plain.show(&mut sliding, &observations[before..end]);
            let mut once = fresh.clone();
            let expected = plain.show(&mut once, &observations[end - window..end]);
            prop_assert_eq!(bits(&sliding.last_readings()), bits(&once.last_readings()));
            prop_assert_eq!(told(&alarms), told(&expected));
            if step == restored_at {
                let saved = sliding.snapshot().unwrap();
                sliding = ready(KsDrift::default().sliding(every));
                sliding.restore(&saved).unwrap();
            }
        }
    }
}
