//! What the comparison of two models can find, in words for the status.

use super::Retraining;
use crate::retrain::Profile;
use crate::stats::evidence::median_decisive;

/// The difference that the status speaks of.
const POINTS: f64 = 0.05;
/// Share of rows on which two models disagree, as long as none was measured.
const DISAGREEMENT: f64 = 0.1;
/// Decisive labels that are foreseen at most.
const MOST: u64 = 500;

impl Retraining {
    /// How many labels a difference takes by the rule of the profile, at the measured disagreement if there is one. Without
    /// an evaluator nothing is compared.
    pub(super) fn power(&self) -> Option<String> {
        let evaluator = self.parts.evaluator.as_ref()?;
        let bound = match evaluator.profile() {
            Profile::Confirm(rules) => rules.confirm_at,
            Profile::Adaptive(_) => crate::retrain::watch::ROLL_BACK_AT,
        };
        let measured = self.state.evidence.as_ref().and_then(|evidence| evidence.disagreement);
        let share = measured.unwrap_or(DISAGREEMENT);
        let origin = if measured.is_some() { "as measured" } else { "assumed" };
        Some(sentence(share, bound, origin))
    }
}

fn sentence(share: f64, bound: f64, origin: &str) -> String {
    let percent = 100.0 * share;
    if share <= POINTS {
        return format!(
            "the models disagree on {percent:.1} % of the rows ({origin}): the difference is at most {percent:.1} points"
        );
    }
    // Of the decisive rows, so many more are won than lost; on two classes every disagreement is decisive.
    let win = 0.5 + POINTS / (2.0 * share);
    let takes = match median_decisive(win, bound, MOST) {
        Some(rows) => format!("a median of {rows}"),
        None => format!("more than {MOST}"),
    };
    format!(
        "{:.0} points at {percent:.0} % disagreement ({origin}) take {takes} decisive labels (e-value {bound})",
        100.0 * POINTS
    )
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn the_power_is_told_in_labels() {
        let assumed = sentence(0.1, 20.0, "assumed");
        assert_eq!(assumed, "5 points at 10 % disagreement (assumed) take a median of 23 decisive labels (e-value 20)");
        let small = sentence(0.03, 20.0, "as measured");
        assert!(small.contains("at most 3.0 points"), "{small}");
        let wide = sentence(1.0, 20.0, "as measured");
        assert!(wide.contains("more than 500"), "{wide}");
    }
}
