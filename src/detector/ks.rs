//! Drift of the inputs: column by column, window against reference.

use std::borrow::Cow;

use super::window::{Columns, Correction, Levels, Numbers, Settings, Window, WindowState};
use super::{Detector, Findings};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::reference::References;
use crate::schema::FieldKind;
use crate::stage::{Blind, Snapshot, Stage};

const FORMAT: u32 = 1;

/// Drift of the inputs: every column of a window of observations against the serving reference.
///
/// Numeric columns by the two-sample Kolmogorov–Smirnov test (Kolmogorov 1933, Smirnov 1939), exact where the samples are
/// small; category columns by a test of homogeneity (Pearson's chi-square 1900 over common levels, Fisher's exact test 1922
/// for each level). One alarm per test at most; its readings are the columns behind it, largest effect first. The effect is
/// the distance D, the total variation of the shares, or the change of the missing share, each from 0 to 1.
///
/// **Windows** do not overlap by default: one test per [`window`](KsDrift::window) observations;
/// [`sliding`](KsDrift::sliding) tests more often. A moved reference starts the window afresh.
///
/// **Missing** and non-finite values are a mass of their own, with an exact test per column; in a category column, missing and
/// unseen are levels of their own. A numeric column that is constant or empty in the reference is blind ("not computed")
/// except for its missing share. Texts and timestamps are not looked at.
///
/// **Guarantee**: if observations are independent and distributed as the reference's, a test alarms with a probability
/// of at most the stated rate, on average over references; heavy ties make it smaller. It does not hold for dependent
/// observations (sessions, seasons, one noisy client): those *are* a change of the window. The chi-square part is an
/// approximation, kept to levels with 20 expected observations.
///
/// **Memory**: per numeric column 24 bytes per observation of the window and up to 130 KB for the reference's sample; 4 bytes per
/// observation and category column. A snapshot holds the observations since the last test (of a sliding window: the window).
///
/// # Examples
/// ```
/// use feedloop::KsDrift;
/// let drift = KsDrift::default().window(2_000).false_alarms_per_day(0.1);
/// # let _ = drift;
/// ```
#[derive(Debug, Clone)]
pub struct KsDrift {
    name: Cow<'static, str>,
    settings: Settings,
    window: Option<Window>,
    blind: Vec<Blind>,
}

impl Default for KsDrift {
    /// Windows of 1,000, a false-alarm rate of 0.01 per test, effects of at least 0.05.
    fn default() -> Self {
        KsDrift { name: "ks_drift".into(), settings: Settings::default(), window: None, blind: Vec::new() }
    }
}

impl KsDrift {
    /// Another name, for a second one in the same pipeline.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Cow::Owned(name.into());
        self
    }

    /// Observations per window, at least 2; 1,000 unless told.
    pub fn window(mut self, observations: usize) -> Self {
        self.settings.window = observations;
        self
    }

    /// Tests the last window each time `every` observations have come (1 to the window), instead of once per window.
    pub fn sliding(mut self, every: usize) -> Self {
        self.settings.sliding(every);
        self
    }

    /// Chance of a false alarm per test of the window, over all columns: above 0, at most 0.5.
    pub fn false_alarm_rate(mut self, per_test: f64) -> Self {
        self.settings.per_test(per_test);
        self
    }

    /// Expected false alarms per day: a test gets this rate times the days since the last one (at most 0.05), so
    /// that the budget holds whatever the traffic is. Observations without passing time give no level: no alarm.
    ///
    /// Several detectors share one budget by
    /// [`PipelineBuilder::false_alarms_per_day`](crate::PipelineBuilder::false_alarms_per_day); a rate stated here goes before.
    pub fn false_alarms_per_day(mut self, rate: f64) -> Self {
        self.settings.per_day(rate);
        self
    }

    /// How the columns share the rate of a test.
    pub fn correction(mut self, correction: Correction) -> Self {
        self.settings.correction = correction;
        self
    }

    /// Smallest effect worth an alarm, from 0 to below 1; 0.05 unless told.
    ///
    /// 0.05 is a shift of an eighth of a standard deviation, or 5 points of missing values. In windows of 1,000 only larger
    /// distances D are significant; in large windows it keeps significant trifles away.
    pub fn minimum_effect(mut self, effect: f64) -> Self {
        self.settings.minimum_effect = effect;
        self
    }
}

impl Stage for KsDrift {
    fn name(&self) -> &str {
        &self.name
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        self.settings.check()?;
        let reference = &references.serving;
        let (schema, rows) = (reference.schema(), reference.rows());
        let (mut numbers, mut levels, mut blind) = (Vec::new(), Vec::new(), Vec::new());
        for (column, name) in schema.value_columns().iter().enumerate() {
            let missing = (reference.missing_share(column) * rows as f64).round() as u64;
            let (column, reason) = Numbers::new(name, self.settings.window, reference.column(column), missing, rows);
            numbers.push(column);
            blind.extend(reason.map(|reason| Blind::column(name, reason)));
        }
        for (column, name) in schema.code_columns().iter().enumerate() {
            let counts = reference.code_counts(column);
            if counts.is_empty() {
                blind.push(Blind::column(name, "not computed: no value in the reference"));
            }
            let allowed = schema.category_values(column).len();
            levels.push(Levels::new(name, allowed, counts.iter().map(|(&code, &count)| (code, count))));
        }
        let unseen = |kind: &FieldKind| matches!(kind, FieldKind::Text { .. } | FieldKind::Timestamp);
        for field in schema.fields().iter().filter(|field| unseen(field.kind())) {
            blind.push(Blind::column(field.name(), "not computed: texts and timestamps are not compared"));
        }
        let window = Window::new(self.settings.clone(), numbers, levels);
        if window.tests() == 0 {
            blind.insert(0, Blind::all("the reference has no column that can be compared"));
        }
        self.window = Some(window);
        self.blind = blind;
        Ok(())
    }

    fn blind(&self) -> Vec<Blind> {
        self.blind.clone()
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        let window = self.window.as_ref().ok_or_else(|| message("rebase comes before snapshot"))?;
        Snapshot::save(FORMAT, &window.save())
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        let window = self.window.as_mut().ok_or_else(|| message("rebase comes before restore"))?;
        window.load(snapshot.load::<WindowState>(FORMAT)?)
    }
}

impl Detector for KsDrift {
    fn inspect(&mut self, chunk: &Chunk<'_>, findings: &mut Findings) -> Result<(), BoxError> {
        let window = self.window.as_mut().ok_or_else(|| message("rebase comes before inspect"))?;
        let columns = Columns {
            values: |column| chunk.values(column),
            codes: |column| chunk.codes(column),
            times: chunk.times(),
            sequence: chunk.sequence(),
        };
        window.push(0, &columns, findings);
        Ok(())
    }

    fn alarm_budget(&mut self, false_alarms_per_day: f64) -> bool {
        self.settings.budget(false_alarms_per_day)
    }
}

#[cfg(test)]
mod tests;
