//! What the gates say of a batch before it is sealed, and batches that they held.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::super::Pipeline;
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::gate::{Audit, BatchDraft, DraftRow, GateContext};
use crate::retrain::RunId;
use crate::sample::{Annotation, Reason, Sample, SampleState};
use crate::stage::isolate;

/// A batch that a gate held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldBatch {
    /// The gate.
    pub gate: String,
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Its rows and their labels.
    pub rows: Vec<(PredictionId, Label)>,
    /// Does the gate ask for a signature, rather than for better data?
    pub needs_signature: bool,
    /// Who signed exactly these rows off, for which gate, and when; then the next run has them and nothing else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signed: BTreeMap<String, (String, DateTime<Utc>)>,
}

impl Pipeline {
    /// Leaves the newest auto-labels for a later batch where they would be more of a label's rows than the router allows.
    fn cap_auto_labels(&self, samples: &mut Vec<(Sample, Annotation)>) {
        let Some(router) = &self.router else { return };
        let share = isolate(|| Ok(router.stage.auto_share())).unwrap_or(0.0).clamp(0.0, 1.0);
        let is_auto = |annotation: &Annotation| !annotation.annotator.is_independent();
        if share >= 1.0 {
            return;
        }
        // Per label: how many may come from a model, so that they are at most `share` of all.
        let mut allowed: BTreeMap<u64, f64> = BTreeMap::new();
        let key = |annotation: &Annotation| annotation.label.map_or(u64::MAX, |label| label.number().to_bits());
        for (_, annotation) in samples.iter().filter(|(_, annotation)| !is_auto(annotation)) {
            *allowed.entry(key(annotation)).or_default() += share / (1.0 - share);
        }
        samples.retain(|(_, annotation)| {
            if !is_auto(annotation) {
                return true;
            }
            let left = allowed.entry(key(annotation)).or_default();
            let fits = *left >= 1.0 - 1e-9;
            *left -= if fits { 1.0 } else { 0.0 };
            fits
        });
    }

    /// Asks every gate about the batch. Rows that a gate refuses or doubts are taken out, and it is asked about the rest;
    /// `Err` holds the batch.
    #[allow(clippy::type_complexity)]
    pub(super) fn audit(
        &mut self,
        samples: &mut Vec<(Sample, Annotation)>,
        held: Option<&HeldBatch>,
    ) -> Result<Result<BTreeMap<String, Vec<Reason>>, (String, Reason)>, Error> {
        let (mut notes, mut taken) = (BTreeMap::new(), BTreeMap::<String, Vec<Reason>>::new());
        let mut index = 0;
        self.cap_auto_labels(samples);
        while index < self.gates.len() {
            let rows: Vec<DraftRow<'_>> = samples
                .iter()
                .filter_map(|(sample, annotation)| Some(DraftRow { sample, label: annotation.label?, weight: 1.0 }))
                .collect();
            let context = GateContext { schema: &self.schema, references: &self.references, now: self.now };
            let gate = &mut self.gates[index];
            let verdict = gate.run(&self.references, |stage| stage.audit(&BatchDraft { rows: &rows }, &context));
            let name = gate.name.clone();
            match verdict {
                Some(Audit::Pass(said)) => {
                    notes.insert(name, said);
                    index += 1;
                }
                Some(Audit::Hold(reason)) => {
                    self.hold(&name, &reason, samples, BTreeMap::new(), false);
                    return Ok(Err((name, reason)));
                }
                Some(Audit::SignOff(reason)) => {
                    let same = held.filter(|held| held.rows == labelled_rows(samples));
                    let signed = same.map(|held| held.signed.clone()).unwrap_or_default();
                    let Some((who, when)) = signed.get(&name) else {
                        self.hold(&name, &reason, samples, signed, true);
                        return Ok(Err((name, reason)));
                    };
                    let text = format!("{reason}; signed off by {who} at {when}");
                    notes.insert(name, vec![Reason::new("signed_off", text)]);
                    index += 1;
                }
                Some(Audit::Quarantine(refused)) => {
                    let out = self.take_out(samples, refused, &name, false)?;
                    taken.entry(name).or_default().extend((out > 0).then(|| rows_out("quarantined", out)));
                    index = if out > 0 { 0 } else { index + 1 };
                }
                Some(Audit::Adjudicate(doubted)) => {
                    let out = self.take_out(samples, doubted, &name, true)?;
                    taken.entry(name).or_default().extend((out > 0).then(|| rows_out("adjudicated", out)));
                    index = if out > 0 { 0 } else { index + 1 };
                }
                None => return Ok(Err((name, Reason::new("gate_failed", "the gate cannot work; see its status")))),
            }
            if index == 0 {
                // The others may judge what is left differently: shares have changed.
                self.cap_auto_labels(samples);
            }
        }
        for (gate, said) in taken {
            notes.entry(gate).or_default().splice(0..0, said);
        }
        Ok(Ok(notes))
    }

    /// Takes rows out of a batch, into quarantine or back to people. Returns how many of them were in it.
    fn take_out(
        &mut self,
        samples: &mut Vec<(Sample, Annotation)>,
        named: Vec<(PredictionId, Reason)>,
        gate: &str,
        doubted: bool,
    ) -> Result<usize, Error> {
        let before = samples.len();
        for (id, reason) in named {
            let Some(at) = samples.iter().position(|(sample, _)| sample.id() == id) else { continue };
            samples.remove(at);
            if doubted {
                self.adjudicate(id, gate, reason)?;
            } else {
                self.advance(id, SampleState::Quarantined, gate, reason)?;
                if let Some(sample) = self.outbox.sample(id)?.cloned() {
                    self.retraining.labelled(&sample);
                }
            }
        }
        Ok(before - samples.len())
    }

    /// Remembers the batch that a gate held.
    fn hold(
        &mut self,
        gate: &str,
        reason: &Reason,
        samples: &[(Sample, Annotation)],
        signed: BTreeMap<String, (String, DateTime<Utc>)>,
        needs_signature: bool,
    ) {
        let (gate, reason, since, rows) = (gate.to_owned(), reason.clone(), self.now, labelled_rows(samples));
        self.retraining.state.held = Some(HeldBatch { gate, reason, since, rows, needs_signature, signed });
    }

    /// Lets the batch that waits for a signature go on, in the name of `who`: a run begins with exactly the rows of `held`,
    /// those of them whose labels still are what they were. `held` is what the [status](crate::Status::held) showed, so
    /// that nobody signs what they have not seen.
    ///
    /// # Errors
    /// Another batch or none waits for a signature, a run is in flight, the loop is frozen, or the store fails.
    pub fn sign_off(&mut self, held: &HeldBatch, who: &str) -> Result<RunId, Error> {
        let mut signed = self.same_held(held)?;
        if !signed.needs_signature || signed.signed.contains_key(&signed.gate) {
            return Err(Error::Refused(format!("`{}` does not wait for a signature", signed.gate)));
        }
        let gate = signed.gate.clone();
        signed.signed.insert(gate.clone(), (who.to_owned(), self.now));
        let before = self.retraining.state.held.replace(signed);
        self.can_retrain().inspect_err(|_| self.retraining.state.held = before)?;
        self.note("signed_off", gate, Some(who), Some(&held.reason.to_string()));
        self.retrain_now(who)
    }

    /// Quarantines every row of a batch that a gate held, in the name of `who`: a broken feed, or a source that is not to be
    /// trusted. [`Pipeline::readmit`] takes single rows back. Returns how many rows there were.
    ///
    /// # Errors
    /// Another batch or none is held, a run is in flight, or the store fails.
    pub fn refuse_batch(&mut self, held: &HeldBatch, who: &str) -> Result<usize, Error> {
        let held = self.same_held(held)?;
        if let Some(run) = &self.retraining.state.run {
            return Err(Error::Refused(format!("{} is in flight ({})", run.id, run.state.as_str())));
        }
        let mut refused = 0;
        for (id, _) in &held.rows {
            let Some(sample) = self.outbox.sample(*id)?.filter(|sample| sample.state == SampleState::Labelled) else {
                continue;
            };
            sample.advance(SampleState::Quarantined, who, Reason::new("refused", held.reason.to_string()), self.now);
            let sample = sample.clone();
            self.outbox.touch(*id);
            self.retraining.labelled(&sample);
            refused += 1;
        }
        self.retraining.state.held = None;
        self.note("refused", held.gate, Some(who), Some(&held.reason.to_string()));
        self.save_loop(Vec::new())?;
        self.outbox.commit()?;
        Ok(refused)
    }

    fn same_held(&self, shown: &HeldBatch) -> Result<HeldBatch, Error> {
        match &self.retraining.state.held {
            Some(held) if held == shown => Ok(held.clone()),
            Some(_) => Err(Error::Refused("another batch is held by now: look at the status again".into())),
            None => Err(Error::Refused("no batch is held".into())),
        }
    }
}

/// Rows and labels of a batch.
fn labelled_rows(samples: &[(Sample, Annotation)]) -> Vec<(PredictionId, Label)> {
    samples.iter().filter_map(|(sample, annotation)| Some((sample.id(), annotation.label?))).collect()
}

fn rows_out(code: &str, rows: usize) -> Reason {
    Reason::new(code, format!("{rows} rows were taken out"))
}
