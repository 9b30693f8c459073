//! Stages that err and panic now and then.

use feedloop::References;
use feedloop::{
    Admission, Ask, Audit, Audited, BatchDraft, BoxError, Chunk, CohortVerdict, ConfidenceRouter, Decision,
    Deduplicate, Detector, Findings, GateContext, KsDrift, LabelRouter, LoopStatus, LowConfidence, Mahalanobis, Memory,
    OutputDrift, PipelineBuilder, PredictionError, QualityGate, Reason, RetrainTrigger, Route, RouteContext, Sample,
    SchemaGate, Snapshot, Stage, UserFeedback, predicted_label,
};

use super::checker::Marks;
use super::outside::{Shared, lock};

/// The crate's own detectors, and the gates that decide row by row.
pub fn watchful(builder: PipelineBuilder) -> PipelineBuilder {
    builder
        .detect(LowConfidence::below(0.8))
        .detect(Mahalanobis::default().false_alarm_rate(0.02))
        .detect(KsDrift::default().window(60))
        .detect(OutputDrift::default().window(60))
        .detect(PredictionError::default())
        .detect(UserFeedback::default())
        .gate(SchemaGate::default())
        .gate(Deduplicate::exact())
}

/// Beyond this the second number of a row is a mark.
pub const MARKED: f64 = 5.0;
/// Largest share of automatic labels among the rows of one label in a batch.
pub const AUTO_SHARE: f64 = 0.4;

/// Flags every marked row; remembers which, because those must come into the store.
pub struct Marker {
    pub outside: Shared,
    pub flagged: Marks,
}

impl Stage for Marker {
    fn name(&self) -> &str {
        "marker"
    }
}

impl Detector for Marker {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        let marked = |row: &usize| chunk.values(1)[*row] > MARKED;
        let marked: Vec<_> =
            (0..chunk.len()).filter(marked).map(|row| (chunk.ids()[row], chunk.sequence()[row])).collect();
        marked.iter().for_each(|(id, _)| findings.flag(*id, 1.0, 0.5));
        lock(&self.outside).trouble("detector fails", 0.01)?;
        self.flagged.lock().map_err(|_| "poisoned")?.extend(marked);
        Ok(())
    }
}

/// A gate that fails, holds, doubts and refuses at its pleasure.
pub struct Moody(pub Shared);

impl Stage for Moody {
    fn name(&self) -> &str {
        "moody"
    }
}

impl QualityGate for Moody {
    fn admit(&mut self, _: &Sample, _: &GateContext<'_>) -> Result<Admission, BoxError> {
        let mut outside = lock(&self.0);
        outside.trouble("gate fails to admit", 0.01)?;
        let refuses = outside.mishap("gate refuses", 0.02);
        Ok(if refuses { Admission::Quarantine(Reason::new("mood", "not today")) } else { Admission::Pass })
    }

    fn audit(&mut self, batch: &BatchDraft<'_>, _: &GateContext<'_>) -> Result<Audit, BoxError> {
        let mut outside = lock(&self.0);
        outside.trouble("gate fails to audit", 0.05)?;
        let reason = || Reason::new("mood", "it looks odd");
        if outside.mishap("gate holds", 0.05) {
            return Ok(Audit::Hold(reason()));
        }
        if outside.mishap("gate wants a signature", 0.08) {
            return Ok(Audit::SignOff(reason()));
        }
        let some = batch.rows.iter().step_by(7).filter(|row| !row.sample.is_adjudicated());
        let some: Vec<_> = some.map(|row| (row.sample.id(), reason())).collect();
        if outside.mishap("gate doubts", 0.08) {
            return Ok(Audit::Adjudicate(some));
        }
        if outside.mishap("gate takes out", 0.05) {
            return Ok(Audit::Quarantine(some.into_iter().take(2).collect()));
        }
        Ok(Audit::Pass(Vec::new()))
    }
}

/// Samples of one cohort of a generous router.
const COHORT: u64 = 40;

/// The crate's router, which fails now and then; or, if it is generous, one that lets the model label every other sample
/// and releases and rejects its cohorts at random.
pub struct Shaky {
    pub inner: ConfidenceRouter,
    pub generous: bool,
    pub newest: u64,
    pub outside: Shared,
}

impl Stage for Shaky {
    fn name(&self) -> &str {
        "shaky"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        self.inner.rebase(references)
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        self.inner.snapshot()
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        self.inner.restore(snapshot)
    }
}

impl LabelRouter for Shaky {
    fn route(&mut self, sample: &Sample, context: &RouteContext<'_>) -> Result<Route, BoxError> {
        self.newest = self.newest.max(sample.sequence / COHORT);
        let label = predicted_label(context.schema.target(), sample.observation.output());
        let mut route = self.inner.route(sample, context)?;
        if let Some(label) = label.filter(|_| self.generous && lock(&self.outside).happens("auto-label", 0.5)) {
            let audit = Some(Ask { priority: 2.0, overlap: 1, blind: true });
            let audit = audit.filter(|_| lock(&self.outside).happens("audit of an auto-label", 0.3));
            let (cohort, why) = (sample.sequence / COHORT, Reason::new("generous", "every other one"));
            route = Route::Auto { label, confidence: 0.9, audit, cohort, why };
        }
        // After the work, so that half of it must be undone.
        lock(&self.outside).trouble("router fails", 0.01)?;
        Ok(route)
    }

    fn learn(&mut self, audited: &Audited<'_>) -> Result<(), BoxError> {
        lock(&self.outside).trouble("router does not learn", 0.005)?;
        self.inner.learn(audited)
    }

    fn cohorts(
        &mut self,
        now: feedloop::chrono::DateTime<feedloop::chrono::Utc>,
        alarm: bool,
    ) -> Vec<(u64, CohortVerdict)> {
        if !self.generous {
            return self.inner.cohorts(now, alarm);
        }
        let mut outside = lock(&self.outside);
        let decided: Vec<_> = (0..=self.newest).filter(|_| outside.happens("cohort is decided", 0.1)).collect();
        let verdict = |rejected| if rejected { CohortVerdict::Reject } else { CohortVerdict::Release };
        decided.into_iter().map(|cohort| (cohort, verdict(outside.happens("cohort is rejected", 0.2)))).collect()
    }

    fn auto_share(&self) -> f64 {
        AUTO_SHARE
    }
}

/// A trigger that fails now and then.
pub struct Moods<T> {
    pub inner: T,
    pub outside: Shared,
}

impl<T: RetrainTrigger> RetrainTrigger for Moods<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn evaluate(&self, status: &LoopStatus, memory: &mut Memory) -> Result<Decision, BoxError> {
        lock(&self.outside).trouble("trigger fails", 0.02)?;
        self.inner.evaluate(status, memory)
    }
}
