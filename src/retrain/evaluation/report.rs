//! The report on a candidate.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::requirement::Check;
use super::table::{Measured, MetricTable, SliceFigures};
use crate::event::ModelVersion;
use crate::retrain::{Evidence, Judgement, Paired, Race, RunId, Verdict};
use crate::sample::Reason;

/// Everything that is known of a run's candidate when it is judged: stored, and linked from its [`Run`](crate::Run).
///
/// Only what comes after the candidate's training can speak for it: the paired evidence of both judging lanes, the live rows
/// of the random lane, and the frozen audit set. The training rows are there for diagnosis and for requirements that name
/// them. It serialises to JSON; `Display` gives a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// The run.
    pub run: RunId,
    /// When the evaluation was made.
    pub time: DateTime<Utc>,
    /// Name of the profile by which it was judged.
    pub profile: String,
    /// The model that is judged.
    pub candidate: ModelVersion,
    /// The served model.
    pub champion: ModelVersion,
    /// The last kept model, if it is a third one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<ModelVersion>,
    /// The verdict; `None` as long as there is none.
    pub verdict: Option<Verdict>,
    /// Why, or what is missing.
    pub reasons: Vec<Reason>,
    /// Labels still missing for a Pass if things go on as they are; `None` if nobody can foresee it or none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_labels: Option<u64>,
    /// Estimated difference in accuracy to the served model (for values: in the share of rows on which it is nearer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_gain: Option<f64>,
    /// Paired evidence, in the profile `confirm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// The race of the recipes, if they race.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub race: Option<Race>,
    /// Metrics on live rows: the random lane since the candidate was trained, at most 2,000 of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<MetricTable>,
    /// Metrics on the audit set, at most 10,000 rows of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<MetricTable>,
    /// Metrics on base data and all batches, 2,000 rows of them: seen in training, no verdict speaks for the candidate there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<MetricTable>,
    /// How each requirement stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// What could not be evaluated, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Reason>,
}

impl Evaluation {
    pub(crate) fn new(
        run: RunId,
        time: DateTime<Utc>,
        profile: &str,
        candidate: ModelVersion,
        champion: ModelVersion,
    ) -> Self {
        Evaluation {
            run,
            time,
            profile: profile.to_owned(),
            candidate,
            champion,
            kept: None,
            verdict: None,
            reasons: Vec::new(),
            missing_labels: None,
            estimated_gain: None,
            evidence: None,
            race: None,
            live: None,
            audit: None,
            training: None,
            checks: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn judged(&mut self, evidence: Evidence, judgement: Judgement) {
        (self.verdict, self.reasons) = (judgement.verdict, judgement.reasons);
        (self.missing_labels, self.estimated_gain) = (judgement.missing_labels, Some(judgement.estimated_gain));
        self.evidence = Some(evidence);
    }

    fn write_table(&self, f: &mut std::fmt::Formatter<'_>, title: &str, table: &MetricTable) -> std::fmt::Result {
        self.write_part(f, title, &table.all)?;
        for (name, slice) in &table.slices {
            self.write_part(f, &format!("  `{name}`"), slice)?;
        }
        match table.slices_left_out {
            0 => Ok(()),
            some => writeln!(f, "  {some} slices with too few rows are left out"),
        }
    }

    fn write_part(&self, f: &mut std::fmt::Formatter<'_>, title: &str, part: &SliceFigures) -> std::fmt::Result {
        let title = format!("{title}: {} rows", part.rows);
        write!(f, "{title:<36}")?;
        let candidate = part.models.first().map_or(self.candidate, |model| model.model);
        for model in &part.models {
            write!(f, " {:>24}", model.model.to_string())?;
        }
        for other in &part.differences {
            write!(f, " {:>26}", format!("{candidate} - {}", other.model))?;
        }
        writeln!(f)?;
        let metrics = part.models.first().map_or(0, |model| model.figures.len());
        for slot in 0..metrics {
            write!(f, "    {:<32}", part.models[0].figures[slot].metric)?;
            for model in &part.models {
                write!(f, " {:>24}", cell(&model.figures[slot], false))?;
            }
            for other in &part.differences {
                write!(f, " {:>26}", cell(&other.figures[slot], true))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A figure with its interval; a difference with its sign.
fn cell(measured: &Measured, signed: bool) -> String {
    let number = |x: f64| if signed { format!("{x:+.4}") } else { format!("{x:.4}") };
    match (measured.value, measured.interval) {
        (None, _) => "undefined".into(),
        (Some(value), None) => number(value),
        (Some(value), Some((low, high))) => format!("{} [{}, {}]", number(value), number(low), number(high)),
    }
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = self.verdict.map_or("no verdict yet", Verdict::as_str);
        let Evaluation { run, candidate, champion, profile, .. } = self;
        writeln!(f, "{run}: {candidate} against {champion}, profile {profile}: {verdict}")?;
        for reason in &self.reasons {
            writeln!(f, "  {reason}")?;
        }
        if let Some(missing) = self.missing_labels {
            writeln!(f, "  labels still missing, if things go on as they are: {missing}")?;
        }
        if let Some(evidence) = &self.evidence {
            let against =
                [("the served model", Some(evidence.against_current)), ("the kept model", evidence.against_kept)];
            for (name, paired) in against.into_iter().filter_map(|(name, paired)| Some((name, paired?))) {
                writeln!(
                    f,
                    "paired against {name}: {} : {} on {} rows, e-value {:.2}, exact McNemar p {:.4}",
                    paired.wins,
                    paired.losses,
                    evidence.rows,
                    paired.e_value(),
                    paired.p_value()
                )?;
            }
        }
        if let Some(before) = self.evidence.as_ref().map(|evidence| evidence.taken_over).filter(|it| it.candidates > 0)
        {
            let (Paired { wins, losses }, n) = (before.against_current, before.candidates);
            writeln!(f, "of it taken over from {n} before it: {wins} : {losses} on {} rows", before.rows)?;
        }
        if let Some(gain) = self.estimated_gain {
            writeln!(f, "estimated gain: {:+.2} points", 100.0 * gain)?;
        }
        for check in &self.checks {
            writeln!(f, "{check}")?;
        }
        let tables = [
            ("live rows", &self.live),
            ("audit set", &self.audit),
            ("training rows, seen by the candidate", &self.training),
        ];
        for (title, table) in tables {
            if let Some(table) = table {
                self.write_table(f, title, table)?;
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}
