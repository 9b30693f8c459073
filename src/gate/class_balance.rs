//! The gate that reports how the classes of a batch compare with those of the training data.

use std::sync::Arc;

use crate::error::{BoxError, message};
use crate::event::Label;
use crate::gate::{Audit, BatchDraft, GateContext, QualityGate};
use crate::reference::{Reference, References};
use crate::sample::Reason;
use crate::schema::Target;
use crate::stage::{Blind, Stage};

/// A share that moved at least by this is noted unless told.
const MOVED: f64 = 0.1;
/// Longest list of classes in a note.
const MOST_CLASSES: usize = 20;

/// Notes the classes of a batch beside those of the training data; holds a batch only if it is asked to.
///
/// The note `class_balance` gives count and share of each class, and its share among the labels of the training reference
/// (a uniform sample of at most 4,096 rows) if it has any. The note `class_shift` lists the classes that do not occur in
/// the batch, and those whose share differs by at least 10 points ([`ClassBalance::moved`]), the furthest first. Labels are
/// not drawn uniformly (detectors point at some classes more than at others), so a shift is no proof of drift: it says what
/// the next model will see.
///
/// Rows count as one each, whatever they weigh. Values have no classes: then nothing is noted and the gate says that it is
/// blind. The order of the rows does not matter.
///
/// Memory: one count per class; nothing is kept from batch to batch.
///
/// # Examples
/// ```
/// use feedloop::ClassBalance;
/// let gate = ClassBalance::default().moved(0.05).hold_below(5);
/// ```
#[derive(Debug, Clone)]
pub struct ClassBalance {
    moved: f64,
    least: usize,
    known: Option<Known>,
}

#[derive(Debug, Clone)]
struct Known {
    reference: Arc<Reference>,
    /// Labelled rows per class; empty for values.
    counts: Vec<u64>,
}

impl Default for ClassBalance {
    fn default() -> Self {
        ClassBalance { moved: MOVED, least: 0, known: None }
    }
}

impl ClassBalance {
    /// Notes a class whose share differs from that of the training data by at least so much, from 0 to 1; 0.1 unless told.
    pub fn moved(mut self, share: f64) -> Self {
        self.moved = share;
        self
    }

    /// Holds a batch, with the reason `class_too_small`, of which a class has fewer rows; 0 unless told, which holds none.
    pub fn hold_below(mut self, rows: usize) -> Self {
        self.least = rows;
        self
    }

    fn learn(&mut self, reference: &Arc<Reference>) -> &Known {
        if !self.known.as_ref().is_some_and(|known| Arc::ptr_eq(&known.reference, reference)) {
            self.known = None;
        }
        self.known.get_or_insert_with(|| {
            let labels = reference.sample().filter_map(|row| row.label);
            Known { reference: reference.clone(), counts: counts(reference.schema().classes(), labels) }
        })
    }
}

fn counts(classes: usize, labels: impl Iterator<Item = Label>) -> Vec<u64> {
    let mut counts = vec![0; classes];
    for label in labels {
        if let Label::Class(class) = label
            && let Some(count) = counts.get_mut(class as usize)
        {
            *count += 1;
        }
    }
    counts
}

impl Stage for ClassBalance {
    fn name(&self) -> &str {
        "class_balance"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        if !(0.0..=1.0).contains(&self.moved) {
            return Err(message(format!("moved is {}, a share from 0 to 1 is expected", self.moved)));
        }
        self.learn(&references.training);
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        match &self.known {
            Some(known) if known.counts.is_empty() => vec![Blind::all("the target is a value, which has no classes")],
            _ => Vec::new(),
        }
    }
}

impl QualityGate for ClassBalance {
    fn audit(&mut self, batch: &BatchDraft<'_>, context: &GateContext<'_>) -> Result<Audit, BoxError> {
        let (moved, least) = (self.moved, self.least);
        let known = self.learn(&context.references.training);
        let Target::Classes(names) = context.schema.target() else { return Ok(Audit::Pass(Vec::new())) };
        let found = counts(names.len(), batch.rows.iter().map(|row| row.label));
        let rows: u64 = found.iter().sum();
        if rows == 0 {
            return Ok(Audit::Pass(Vec::new()));
        }
        let small: Vec<String> = (found.iter().zip(names))
            .filter(|(count, _)| **count < least as u64)
            .map(|(count, name)| format!("`{name}` {count}"))
            .collect();
        if !small.is_empty() {
            let text = format!("fewer than {least} rows: {}", listed(small));
            return Ok(Audit::Hold(Reason::new("class_too_small", text)));
        }
        let trained: u64 = known.counts.iter().sum();
        let before = |class: usize| (trained > 0).then(|| known.counts[class] as f64 / trained as f64);
        let share = |class: usize| found[class] as f64 / rows as f64;
        let shift = |class: usize| before(class).map_or(0.0, |before| share(class) - before);
        let all = (0..names.len()).map(|class| {
            let training = before(class).map_or(String::new(), |before| format!(", training {before:.3}"));
            format!("`{}` {} ({:.3}{training})", names[class], found[class], share(class))
        });
        let mut notes = vec![Reason::new("class_balance", format!("of {rows} rows: {}", listed(all.collect())))];
        let mut far: Vec<usize> =
            (0..names.len()).filter(|&class| found[class] == 0 || shift(class).abs() >= moved).collect();
        far.sort_by(|a, b| shift(*b).abs().total_cmp(&shift(*a).abs()));
        if !far.is_empty() {
            let list = far.iter().map(|&class| match found[class] {
                0 => format!("`{}` does not occur ({:+.1} points)", names[class], shift(class) * 100.0),
                _ => format!("`{}` {:+.1} points", names[class], shift(class) * 100.0),
            });
            notes.push(Reason::new("class_shift", listed(list.collect())));
        }
        Ok(Audit::Pass(notes))
    }
}

/// A bounded list.
fn listed(mut parts: Vec<String>) -> String {
    let more = parts.len().saturating_sub(MOST_CLASSES);
    parts.truncate(MOST_CLASSES);
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::gate::DraftRow;
    use crate::gate::testing::{context, references, sample};
    use crate::sample::Sample;
    use crate::schema::{Row, Schema};

    fn schema() -> Schema {
        Schema::numeric(1, Target::classes(["a", "b", "c"])).unwrap()
    }

    /// 100 labelled rows of each class so often, and 50 without a label.
    fn training(counts: [u32; 3]) -> References {
        let schema = Arc::new(schema());
        let mut builder = Reference::builder(schema.clone());
        let labels =
            (0..3).flat_map(|class| std::iter::repeat_n(Some(Label::Class(class)), counts[class as usize] as usize));
        for label in labels.chain(std::iter::repeat_n(None, 50)) {
            builder.push(&Row::new(&schema), None, label).unwrap();
        }
        References::starting_with(Arc::new(builder.finish()))
    }

    fn audit(gate: &mut ClassBalance, references: &References, counts: [usize; 3]) -> Audit {
        let schema = schema();
        let labels = (0..3).flat_map(|class| std::iter::repeat_n(Label::Class(class), counts[class as usize]));
        let samples: Vec<(Sample, Label)> =
            labels.zip(0_u128..).map(|(label, n)| (sample(&schema, n), label)).collect();
        let rows: Vec<_> =
            samples.iter().map(|(sample, label)| DraftRow { sample, label: *label, weight: 1.0 }).collect();
        gate.audit(&BatchDraft { rows: &rows }, &context(&schema, references)).unwrap()
    }

    fn notes(gate: &mut ClassBalance, references: &References, counts: [usize; 3]) -> Vec<String> {
        let Audit::Pass(notes) = audit(gate, references, counts) else { panic!() };
        notes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn counts_stand_beside_the_shares_of_the_training_data() {
        let mut gate = ClassBalance::default();
        assert_eq!(
            notes(&mut gate, &training([50, 30, 20]), [55, 25, 20]),
            [
                "class_balance: of 100 rows: `a` 55 (0.550, training 0.500), `b` 25 (0.250, training 0.300), `c` 20 (0.200, training 0.200)"
            ]
        );
        assert_eq!(
            notes(&mut gate, &references(&schema()), [2, 1, 1]),
            ["class_balance: of 4 rows: `a` 2 (0.500), `b` 1 (0.250), `c` 1 (0.250)"]
        );
        assert_eq!(notes(&mut gate, &training([1, 1, 1]), [0, 0, 0]), [""; 0]);
    }

    #[test]
    fn classes_that_are_missing_or_moved_are_listed_furthest_first() {
        let references = training([50, 30, 20]);
        let shift = |gate: &mut ClassBalance, counts| notes(gate, &references, counts).get(1).cloned();
        assert_eq!(shift(&mut ClassBalance::default(), [59, 23, 18]), None);
        assert_eq!(
            shift(&mut ClassBalance::default(), [30, 70, 0]).unwrap(),
            "class_shift: `b` +40.0 points, `a` -20.0 points, `c` does not occur (-20.0 points)"
        );
        assert_eq!(
            shift(&mut ClassBalance::default().moved(0.05), [57, 24, 19]).unwrap(),
            "class_shift: `a` +7.0 points, `b` -6.0 points"
        );
    }

    #[test]
    fn a_batch_is_held_only_when_asked_for() {
        let references = training([50, 30, 20]);
        assert!(matches!(audit(&mut ClassBalance::default(), &references, [100, 0, 0]), Audit::Pass(_)));
        let held = audit(&mut ClassBalance::default().hold_below(5), &references, [90, 5, 4]);
        assert_eq!(held, Audit::Hold(Reason::new("class_too_small", "fewer than 5 rows: `c` 4")));
        assert!(matches!(audit(&mut ClassBalance::default().hold_below(4), &references, [90, 5, 4]), Audit::Pass(_)));
    }

    #[test]
    fn values_have_no_classes_and_a_share_that_is_none_is_reported() {
        let values = references(&Schema::numeric(1, Target::Value).unwrap());
        let mut gate = ClassBalance::default();
        gate.rebase(&values).unwrap();
        assert_eq!(gate.blind().len(), 1);
        gate.rebase(&training([1, 1, 1])).unwrap();
        assert_eq!(gate.blind(), []);
        assert!(ClassBalance::default().moved(-0.1).rebase(&values).is_err());
    }
}
