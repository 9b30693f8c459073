//! Correction of served probabilities for class shares that have changed, without a label.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::{LabelShift, Weights};
use crate::event::top_class;
use crate::stats::categorical::homogeneity;

/// Predictions of a window unless told otherwise.
const WINDOW: u64 = 1_000;
/// A window is corrected for only if its predicted classes differ from the reference's at this level.
const LEVEL: f64 = 0.001;

/// Corrects the class probabilities of one model for shares of the classes that have changed, without labels: black-box
/// shift estimation (Lipton, Wang and Smola 2018) over windows of live predictions, and re-weighting (Saerens, Latinne and
/// Decaestecker 2002).
///
/// A window is corrected for only if the classes that the model predicts in it differ from those that it predicts on the
/// reference (chi-square test of homogeneity, level .001); otherwise outputs stay as they are, so that without a shift
/// nothing is lost. The weights of a window hold for the next one.
///
/// **Assumes** label shift, as [`LabelShift`] does: what each class looks like has not changed. Under another drift it makes
/// predictions worse and cannot tell; therefore it is the host's choice, and no part of the loop. It belongs to the one
/// model whose outputs the reference holds: keep it beside the model in a [`ModelSlot`](crate::ModelSlot), and
/// [record](crate::Recorder) what is served.
///
/// Shared by threads: it waits for nobody, and one prediction per window solves the equations. An output that is unusable or of
/// another width is not counted and stays as it is. Memory: one number per class.
///
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use feedloop::{Label, LabelShift, PriorCorrection, Reference, Row, Schema, Target};
/// # fn main() -> Result<(), feedloop::BoxError> {
/// # let schema = Arc::new(Schema::numeric(1, Target::classes(["good", "fraud"]))?);
/// # let mut builder = Reference::builder(schema.clone());
/// # for i in 0..1_000_u32 {
/// #     let (class, right) = (u32::from(i % 10 == 0), i / 10 % 10 != 0);
/// #     let p = if (class == 1) == right { 0.9 } else { 0.1 };
/// #     builder.push(&Row::from_values(&schema, &[f64::from(i)])?, Some(&[1.0 - p, p]), Some(Label::Class(class)))?;
/// # }
/// # let held_out = builder.finish();
/// let priors = PriorCorrection::new(LabelShift::fit(&held_out)?);
/// let mut output = [0.4, 0.6]; // what the model says
/// priors.apply(&mut output); // what is served
/// assert_eq!(output, [0.4, 0.6]); // no shift was seen yet
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PriorCorrection {
    shift: LabelShift,
    window: u64,
    seen: AtomicU64,
    counts: Vec<AtomicU64>,
    weights: ArcSwapOption<Weights>,
}

impl PriorCorrection {
    /// Corrects by windows of 1,000 predictions.
    pub fn new(shift: LabelShift) -> Self {
        let counts = shift.predicted.iter().map(|_| AtomicU64::new(0)).collect();
        PriorCorrection { shift, window: WINDOW, seen: AtomicU64::new(0), counts, weights: ArcSwapOption::empty() }
    }

    /// Corrects by windows of so many predictions: a longer one is surer, a shorter one follows faster.
    pub fn window(mut self, predictions: NonZeroU64) -> Self {
        self.window = predictions.get();
        self
    }

    /// Counts what the model says, then corrects it for the shift seen in the last whole window.
    pub fn apply(&self, output: &mut [f64]) {
        if output.len() != self.counts.len() {
            return;
        }
        let Some((class, _)) = top_class(output) else { return };
        self.counts[class as usize].fetch_add(1, Ordering::Relaxed);
        // Of several threads that end a window together, one reads it; the counts of the others open the next one.
        if self.seen.fetch_add(1, Ordering::Relaxed) + 1 == self.window {
            let counts: Vec<u64> = self.counts.iter().map(|count| count.swap(0, Ordering::Relaxed)).collect();
            self.seen.store(0, Ordering::Relaxed);
            self.weights.store(self.look(&counts));
        }
        if let Some(weights) = &*self.weights.load() {
            weights.correct(output);
        }
    }

    /// What the last whole window is corrected for; `None` if its classes are those of the reference.
    pub fn weights(&self) -> Option<Arc<Weights>> {
        self.weights.load_full()
    }

    fn look(&self, counts: &[u64]) -> Option<Arc<Weights>> {
        let shifted = homogeneity(&self.shift.predicted, counts).is_some_and(|test| test.p_value < LEVEL);
        if shifted { self.shift.weights(counts).ok().map(Arc::new) } else { None }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::conformance::Noise;
    use crate::event::{Label, predicted_label};
    use crate::reference::Reference;
    use crate::schema::{Row, Schema, Target};

    /// x is normal around -1 (class 0) or 1 (class 1). With equal shares the posterior of class 1 is 1 / (1 + exp(-2x)).
    fn draw(noise: &mut Noise, share: f64) -> (f64, usize) {
        let class = usize::from(noise.chance(share));
        (noise.normal() + if class == 1 { 1.0 } else { -1.0 }, class)
    }

    fn model(x: f64) -> [f64; 2] {
        let p = 1.0 / (1.0 + (-2.0 * x).exp());
        [1.0 - p, p]
    }

    fn correction(noise: &mut Noise) -> PriorCorrection {
        let schema = Arc::new(Schema::numeric(1, Target::classes(["a", "b"])).unwrap());
        let mut builder = Reference::builder(schema.clone());
        for _ in 0..2_000 {
            let (x, class) = draw(noise, 0.5);
            let row = Row::from_values(&schema, &[x]).unwrap();
            builder.push(&row, Some(&model(x)), Some(Label::Class(class as u32))).unwrap();
        }
        PriorCorrection::new(LabelShift::fit(&builder.finish()).unwrap())
    }

    /// Right answers without and with the correction, of `rows` after the first window.
    fn right(noise: &mut Noise, share: f64, rows: u64) -> (u64, u64) {
        let correction = correction(noise);
        let target = Target::classes(["a", "b"]);
        let (mut plain, mut corrected) = (0, 0);
        for row in 0..WINDOW + rows {
            let (x, class) = draw(noise, share);
            let truth = Some(Label::Class(class as u32));
            let mut output = model(x);
            let before = predicted_label(&target, &output) == truth;
            correction.apply(&mut output);
            if row >= WINDOW {
                plain += u64::from(before);
                corrected += u64::from(predicted_label(&target, &output) == truth);
            }
        }
        (plain, corrected)
    }

    #[test]
    fn a_prior_shift_is_corrected_and_without_one_nothing_is_lost() {
        let mut noise = Noise::new("priors");
        // With shares .1 and .9 the best rule is right on 93.0 % of the rows (x > -1.1), that of equal shares on 84.1 %.
        let (plain, corrected) = right(&mut noise, 0.9, 20_000);
        let (plain, corrected) = (plain as f64 / 20_000.0, corrected as f64 / 20_000.0);
        assert!((plain - 0.841).abs() < 0.015, "{plain}");
        assert!(corrected > plain + 0.07, "{corrected} with the correction, {plain} without");
        let mut lost = 0.0;
        for _ in 0..20 {
            let (plain, corrected) = right(&mut noise, 0.5, 5_000);
            lost += (plain as f64 - corrected as f64) / 100_000.0;
        }
        assert!(lost.abs() < 0.002, "{lost} of the accuracy over 100 windows without a shift");
    }

    #[test]
    fn the_correction_ends_with_the_shift() {
        let mut noise = Noise::new("ends");
        let correction = correction(&mut noise).window(NonZeroU64::new(500).unwrap());
        let mut serve = |share, rows| {
            for _ in 0..rows {
                correction.apply(&mut model(draw(&mut noise, share).0));
            }
            correction.weights().map(|weights| weights.shares()[1])
        };
        assert_eq!(serve(0.9, 499), None, "the window is not whole");
        // One standard error of the estimated share is about √(.25/500 + .5/1,000) / .68 = .05; four of them.
        assert!((serve(0.9, 1).unwrap() - 0.9).abs() < 0.19);
        assert_eq!(serve(0.5, 500), None);
    }

    #[test]
    fn what_is_unusable_is_neither_counted_nor_changed() {
        let correction = correction(&mut Noise::new("unusable")).window(NonZeroU64::MIN);
        let mut odd = [f64::NAN, 0.5];
        correction.apply(&mut odd);
        assert!(odd[0].is_nan() && odd[1] == 0.5);
        let mut wide = [0.2, 0.3, 0.5];
        correction.apply(&mut wide);
        assert_eq!((wide, correction.seen.load(Ordering::Relaxed)), ([0.2, 0.3, 0.5], 0));
    }

    #[test]
    fn threads_share_it() {
        let correction = correction(&mut Noise::new("threads"));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let correction = &correction;
                scope.spawn(move || {
                    let mut noise = Noise::new(&format!("thread {thread}"));
                    (0..10_000).for_each(|_| correction.apply(&mut model(draw(&mut noise, 0.9).0)));
                });
            }
        });
        let shares = correction.weights().expect("a shift").shares().to_vec();
        assert!((shares[1] - 0.9).abs() < 0.15, "{shares:?}");
    }
}
