//! The window that [`KsDrift`](super::KsDrift) and [`OutputDrift`](super::OutputDrift) compare with their reference.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::homogeneity::{fisher, levels};
use super::{Alarm, Findings, Level, Reading};
use crate::error::{BoxError, message};
use crate::schema::{MISSING_CODE, row_floats};
use crate::stats::ks::{Method, p_value};
use crate::stats::ks_window::KsWindow;

/// How the tests of one window share its false-alarm rate. Both bound the chance of *any* false alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Correction {
    /// Every test gets the same part (Bonferroni 1936).
    #[default]
    Bonferroni,
    /// Step by step (Holm 1979): as strict for the first, more readings behind the same alarm.
    Holm,
}

/// The chance of a false alarm that the user accepts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rate {
    PerTest(f64),
    PerDay(f64),
}

/// Most false alarms per test, however long the last test is ago.
const HIGHEST_LEVEL: f64 = 0.05;

/// Up to this product of two sample sizes the exact p-value costs little.
const SMALL: u64 = 20_000;

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) window: usize,
    every: Option<usize>,
    rate: Rate,
    /// Did the user state the rate?
    own_rate: bool,
    pub(super) correction: Correction,
    pub(super) minimum_effect: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            window: 1000,
            every: None,
            rate: Rate::PerTest(0.01),
            own_rate: false,
            correction: Correction::Bonferroni,
            minimum_effect: 0.05,
        }
    }
}

impl Settings {
    pub(super) fn sliding(&mut self, every: usize) {
        self.every = Some(every);
    }

    pub(super) fn per_test(&mut self, rate: f64) {
        (self.rate, self.own_rate) = (Rate::PerTest(rate), true);
    }

    pub(super) fn per_day(&mut self, rate: f64) {
        (self.rate, self.own_rate) = (Rate::PerDay(rate), true);
    }

    /// Takes over a share of the pipeline's budget, unless the user stated a rate.
    pub(super) fn budget(&mut self, per_day: f64) -> bool {
        if !self.own_rate {
            self.rate = Rate::PerDay(per_day);
        }
        !self.own_rate
    }

    pub(super) fn check(&self) -> Result<(), BoxError> {
        if self.window < 2 {
            return Err(message(format!("the window is {}, at least 2 observations are needed", self.window)));
        }
        if let Some(every) = self.every.filter(|every| !(1..=self.window).contains(every)) {
            return Err(message(format!(
                "sliding by {every} was asked, from 1 to the window ({}) is allowed",
                self.window
            )));
        }
        match self.rate {
            Rate::PerTest(rate) if !(rate > 0.0 && rate <= 0.5) => {
                return Err(message(format!("the false-alarm rate is {rate}, above 0 and at most 0.5 is allowed")));
            }
            Rate::PerDay(rate) if !(rate > 0.0 && rate.is_finite()) => {
                return Err(message(format!("{rate} false alarms per day were asked, more than 0 is allowed")));
            }
            _ => {}
        }
        if !(0.0..1.0).contains(&self.minimum_effect) {
            let text = format!("the minimum effect is {}, from 0 to below 1 is allowed", self.minimum_effect);
            return Err(message(text));
        }
        Ok(())
    }
}

/// A numeric column: its window against its reference.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    name: String,
    /// Without reference values if the distribution cannot be compared.
    window: KsWindow,
    /// What came since the last test: counted in one go, while the counts of the column are at hand.
    fresh: Vec<f64>,
    /// Rows of the reference without a finite value, and all rows; no rows = the missing share is not tested.
    missing: u64,
    rows: u64,
}

impl Numbers {
    /// A window of `capacity` against `values` (not finite = missing) with `missing` of `rows` rows missing; the reason if
    /// their distribution cannot be compared.
    pub(super) fn new(
        name: &str,
        capacity: usize,
        mut values: Vec<f64>,
        missing: u64,
        rows: u64,
    ) -> (Self, Option<&'static str>) {
        values.retain(|value| value.is_finite());
        let reason = match values.first() {
            None => Some("not computed: no value in the reference"),
            Some(first) if values.iter().all(|value| value == first) => Some("not computed: constant in the reference"),
            _ => None,
        };
        if reason.is_some() {
            values.clear();
        }
        let window = KsWindow::new(&values, capacity);
        (Numbers { name: name.into(), window, fresh: Vec::new(), missing, rows }, reason)
    }

    fn latest(&self, count: usize) -> Vec<f64> {
        let all = self.window.len() + self.fresh.len();
        self.window.values().chain(self.fresh.iter().copied()).skip(all.saturating_sub(count)).collect()
    }

    /// Counts what came since the last test; it pushes out what is older than a window.
    fn count(&mut self, capacity: usize) {
        if self.fresh.len() >= capacity {
            self.window.clear();
        }
        self.window.extend(self.fresh.drain(..));
    }
}

/// Reference of a category column: counts by code, then unseen, then missing.
#[derive(Debug, Clone, Default)]
pub(super) struct Levels {
    pub(super) name: String,
    pub(super) counts: Vec<u64>,
}

impl Levels {
    pub(super) fn new(name: &str, allowed: usize, codes: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let mut counts = vec![0; allowed + 2];
        for (code, count) in codes {
            let level = level_of(code, counts.len());
            counts[level] += count;
        }
        Levels { name: name.into(), counts }
    }

    fn tested(&self) -> bool {
        self.counts.iter().any(|&count| count > 0)
    }
}

fn level_of(code: u32, levels: usize) -> usize {
    if code == MISSING_CODE { levels - 1 } else { (code as usize).min(levels - 2) }
}

/// One result that matters.
struct Found {
    reading: Reading,
    p_value: f64,
    text: String,
}

/// A window over some columns, tested each time it is full.
#[derive(Debug, Clone)]
pub(super) struct Window {
    settings: Settings,
    numbers: Vec<Numbers>,
    levels: Vec<Levels>,
    codes: Vec<Vec<u32>>,
    /// Room to count the codes of a column in.
    counts: Vec<u64>,
    /// Observations towards the next test; the columns may remember older ones, which fall out before it.
    filled: usize,
    tested_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Floats(#[serde(with = "row_floats")] pub(super) Vec<f64>);

/// What the stream left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WindowState {
    columns: Vec<String>,
    filled: usize,
    values: Vec<Floats>,
    codes: Vec<Vec<u32>>,
    tested_at: Option<DateTime<Utc>>,
}

/// The columns of a chunk as the window wants them.
pub(super) struct Columns<'a, V, C> {
    pub(super) values: V,
    pub(super) codes: C,
    pub(super) times: &'a [DateTime<Utc>],
    pub(super) sequence: &'a [u64],
}

impl Window {
    pub(super) fn new(settings: Settings, numbers: Vec<Numbers>, levels: Vec<Levels>) -> Self {
        let codes = vec![Vec::new(); levels.len()];
        Window { settings, numbers, levels, codes, counts: Vec::new(), filled: 0, tested_at: None }
    }

    /// Number of tests that share the level of a window.
    pub(super) fn tests(&self) -> usize {
        let distributions = self.numbers.iter().filter(|column| column.window.reference_len() > 0).count();
        let missing = self.numbers.iter().filter(|column| column.rows > 0).count();
        distributions + missing + self.levels.iter().filter(|column| column.tested()).count()
    }

    /// Adds rows `from..` of the columns, testing as often as the window fills.
    pub(super) fn push<'a, V, C>(&mut self, from: usize, columns: &Columns<'a, V, C>, findings: &mut Findings)
    where
        V: Fn(usize) -> &'a [f64],
        C: Fn(usize) -> &'a [u32],
    {
        let rows = columns.times.len();
        if self.tests() == 0 || from >= rows {
            return;
        }
        let mut at = from;
        self.tested_at.get_or_insert(columns.times[at]);
        while at < rows {
            let end = rows.min(at + self.settings.window - self.filled);
            for (column, numbers) in self.numbers.iter_mut().enumerate() {
                numbers.fresh.extend_from_slice(&(columns.values)(column)[at..end]);
            }
            for (column, codes) in self.codes.iter_mut().enumerate() {
                codes.extend_from_slice(&(columns.codes)(column)[at..end]);
            }
            self.filled += end - at;
            if self.filled == self.settings.window {
                self.test(columns.times[end - 1], columns.sequence[end - 1], findings);
                let step = self.settings.every.unwrap_or(self.settings.window);
                self.codes.iter_mut().for_each(|codes| drop(codes.drain(..step)));
                self.filled -= step;
            }
            at = end;
        }
    }

    /// The level of a test at `now`; the time of the last test never goes back.
    fn level(&mut self, now: DateTime<Utc>) -> f64 {
        let before = self.tested_at.unwrap_or(now);
        self.tested_at = Some(before.max(now));
        match self.settings.rate {
            Rate::PerTest(rate) => rate,
            Rate::PerDay(rate) => {
                let days = (now - before).num_milliseconds().max(0) as f64 / 86_400_000.0;
                (rate * days).min(HIGHEST_LEVEL)
            }
        }
    }

    fn test(&mut self, now: DateTime<Utc>, sequence: u64, findings: &mut Findings) {
        let level = self.level(now);
        let mut found = self.compare(level);
        found.sort_by(|a, b| a.p_value.total_cmp(&b.p_value));
        let tests = self.tests();
        let accepted = |(rank, result): (usize, &Found)| {
            let share = match self.settings.correction {
                Correction::Bonferroni => tests,
                Correction::Holm => tests - rank,
            };
            !(level > 0.0 && result.p_value <= level / share as f64)
        };
        let behind = found.iter().enumerate().position(accepted).unwrap_or(found.len());
        found.truncate(behind);
        found.sort_by(|a, b| b.reading.effect.total_cmp(&a.reading.effect).then(a.p_value.total_cmp(&b.p_value)));
        let mut named = hashbrown::HashSet::new();
        found.retain(|result| named.insert(result.reading.column.clone()));
        if found.is_empty() {
            return;
        }
        let named: Vec<_> = found.iter().take(3).map(|result| result.text.as_str()).collect();
        let text = format!(
            "{} of {} columns differ from the reference in {} observations: {}{}",
            found.len(),
            self.numbers.len() + self.levels.len(),
            self.settings.window,
            named.join(", "),
            if found.len() > named.len() { ", …" } else { "" },
        );
        let readings = found.into_iter().map(|result| result.reading).collect();
        findings.alarm(Alarm { detector: String::new(), level: Level::Drift, sequence, text, readings });
    }

    /// Every test that may reach `level` with enough effect to matter. The others count as p = 1, which only makes the
    /// correction stricter.
    fn compare(&mut self, level: f64) -> Vec<Found> {
        let mut found = Vec::new();
        let least = self.settings.minimum_effect;
        for column in &mut self.numbers {
            column.count(self.settings.window);
            let (n, m) = (column.window.reference_len(), column.window.compared() as u64);
            let d = column.window.distance();
            // the exact p-value may cost milliseconds: not where the approximate one is far above the level
            let hopeless = || n * m > SMALL && p_value(n, m, d, Method::Asymptotic) > 4.0 * level;
            if n > 0 && m > 0 && d >= least && !hopeless() {
                let p = p_value(n, m, d, Method::Auto);
                found.push(Found::new(&column.name, d, d, p, format!("{} (D {d:.3}, p {p:.1e})", column.name)));
            }
            let (rows, missing) = (column.window.len() as u64, column.window.missing() as u64);
            let (before, after) = (column.missing as f64 / column.rows as f64, missing as f64 / rows as f64);
            // a reference without rows gives NaN, which is never enough
            if (after - before).abs() >= least {
                let p = fisher(column.missing, column.rows, missing, rows);
                let shares = format!("{:.1} % → {:.1} %", 100.0 * before, 100.0 * after);
                let text = format!("{} (missing {shares}, p {p:.1e})", column.name);
                found.push(Found::new(&column.name, after - before, (after - before).abs(), p, text));
            }
        }
        for (column, codes) in self.levels.iter().zip(&self.codes) {
            self.counts.clear();
            self.counts.resize(column.counts.len(), 0);
            for &code in codes {
                self.counts[level_of(code, column.counts.len())] += 1;
            }
            if let Some(test) = levels(&column.counts, &self.counts, least).filter(|test| test.total_variation >= least)
            {
                let (effect, p) = (test.total_variation, test.p_value);
                let text = format!("{} (total variation {effect:.3}, p {p:.1e})", column.name);
                found.push(Found::new(&column.name, test.statistic, effect, p, text));
            }
        }
        found
    }

    pub(super) fn save(&self) -> WindowState {
        WindowState {
            columns: self.columns().map(str::to_owned).collect(),
            filled: self.filled,
            values: self.numbers.iter().map(|column| Floats(column.latest(self.filled))).collect(),
            codes: self.codes.clone(),
            tested_at: self.tested_at,
        }
    }

    pub(super) fn load(&mut self, state: WindowState) -> Result<(), BoxError> {
        if !state.columns.iter().map(String::as_str).eq(self.columns()) {
            return Err(message("the saved window has other columns than the reference"));
        }
        let full = state.values.iter().any(|values| values.0.len() != state.filled)
            || state.codes.iter().any(|codes| codes.len() != state.filled);
        if full || state.values.len() != self.numbers.len() || state.codes.len() != self.codes.len() {
            return Err(message("the columns of the saved window have different lengths"));
        }
        if state.filled >= self.settings.window {
            let (found, window) = (state.filled, self.settings.window);
            return Err(message(format!(
                "the saved window holds {found} observations, fewer than {window} are expected"
            )));
        }
        for (column, values) in self.numbers.iter_mut().zip(&state.values) {
            column.window.clear();
            column.fresh.clone_from(&values.0);
        }
        self.codes = state.codes;
        self.filled = state.filled;
        self.tested_at = state.tested_at;
        Ok(())
    }

    fn columns(&self) -> impl Iterator<Item = &str> {
        let numbers = self.numbers.iter().map(|column| column.name.as_str());
        numbers.chain(self.levels.iter().map(|column| column.name.as_str()))
    }
}

impl Found {
    fn new(column: &str, statistic: f64, effect: f64, p_value: f64, text: String) -> Self {
        let reading = Reading { column: column.into(), statistic, p_value: Some(p_value), effect };
        Found { reading, p_value, text }
    }
}
