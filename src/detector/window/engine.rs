//! When a window is tested, at which level, and what follows.

use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::super::{Alarm, Findings, Reading};
use super::rows::{Rows, RowsState};
use super::settings::{FEWEST, Passed, Settings};
use super::source::{Answer, Baseline, Question, Source, Tests};
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::stage::Blind;
use crate::stats::multiple::adjust;

/// A window over some columns, tested each time it is full.
#[derive(Debug, Clone)]
pub(super) struct Window<T> {
    settings: Settings,
    columns: Vec<String>,
    tests: T,
    /// What the tests cannot compare, whatever the level is.
    blind: Vec<Blind>,
    rows: Rows,
    stream: Stream,
    /// Answers of the newest test.
    answers: Vec<Answer>,
}

/// Where in the stream the window is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Stream {
    /// Time and position of the newest observation; the time only moves forward.
    latest: Option<DateTime<Utc>>,
    sequence: u64,
    /// Time of the last test, at first that of the first observation.
    tested_at: Option<DateTime<Utc>>,
    /// Observations since the last test.
    observations: u64,
    /// Number of the time window since the epoch, and whether the last one had too few observations.
    slot: Option<i64>,
    extended: bool,
    /// Level of the last test, if it was above 0.
    level: Option<f64>,
}

/// What the stream left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WindowState {
    columns: Vec<String>,
    rows: RowsState,
    stream: Stream,
}

impl<T: Tests> Window<T> {
    pub(super) fn new(settings: &Settings, baseline: Baseline) -> Self {
        let (numbers, levels) = (baseline.numbers.len(), baseline.levels.len());
        let names = baseline.numbers.iter().map(|column| &column.name);
        let columns = names.chain(baseline.levels.iter().map(|column| &column.name)).cloned().collect();
        let mut blind = baseline.blind.clone();
        let (tests, reasons) = T::new(baseline, settings);
        blind.extend(reasons);
        let answers = Vec::with_capacity(tests.count());
        let rows = Rows::new(numbers, levels);
        Window { settings: settings.clone(), columns, tests, blind, rows, stream: Stream::default(), answers }
    }

    pub(super) fn blind(&self) -> Vec<Blind> {
        let mut blind = Vec::new();
        if self.tests.count() == 0 {
            blind.push(Blind::all("the reference has no column that can be compared"));
        }
        blind.extend(self.blind.iter().cloned());
        if let Some(level) = self.stream.level.or_else(|| self.settings.fixed_level()) {
            blind.extend(self.tests.starved(level));
        }
        if self.stream.extended {
            let text = format!("the last time window had fewer than {FEWEST} observations: it goes on");
            blind.push(Blind::all(text));
        }
        blind
    }

    /// All answers of the newest test.
    pub(super) fn readings(&self) -> Vec<Reading> {
        self.answers.iter().map(|answer| self.tests.reading(answer)).collect()
    }

    /// Adds the rows of a chunk from row `from` on, testing as often as the window ends.
    pub(super) fn push<S: Source>(&mut self, source: &S, chunk: &Chunk<'_>, from: usize, findings: &mut Findings) {
        if self.tests.count() == 0 || from >= chunk.len() {
            return;
        }
        let first = chunk.times()[from];
        self.stream.tested_at.get_or_insert(first);
        match self.settings.time {
            None => self.push_counted(source, chunk, from, findings),
            Some(time) => {
                let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
                self.push_timed(source, chunk, from, milliseconds, findings);
            }
        }
    }

    fn push_counted<S: Source>(&mut self, source: &S, chunk: &Chunk<'_>, from: usize, findings: &mut Findings) {
        let mut at = from;
        while at < chunk.len() {
            let end = chunk.len().min(at + self.settings.window - self.rows.len());
            self.rows.extend(source, chunk, at..end);
            self.stream.pass(chunk, at..end);
            if self.rows.len() == self.settings.window {
                self.test(findings);
                self.rows.forget(self.settings.every.unwrap_or(self.settings.window));
            }
            at = end;
        }
    }

    fn push_timed<S: Source>(
        &mut self,
        source: &S,
        chunk: &Chunk<'_>,
        from: usize,
        milliseconds: i64,
        findings: &mut Findings,
    ) {
        let mut at = from;
        while at < chunk.len() {
            let slot = self.stream.forward(chunk.times()[at]).timestamp_millis().div_euclid(milliseconds);
            let rest = chunk.times()[at..].iter();
            let stays = |time: &&DateTime<Utc>| time.timestamp_millis().div_euclid(milliseconds) <= slot;
            let end = at + rest.take_while(stays).count().max(1);
            if self.stream.slot.is_some_and(|open| slot > open) {
                self.stream.extended = self.rows.len() < FEWEST;
                if !self.stream.extended {
                    self.test(findings);
                    self.rows.forget(self.rows.len());
                }
            }
            self.stream.slot = Some(slot);
            self.rows.sample(source, chunk, at..end, self.settings.window);
            self.stream.pass(chunk, at..end);
            at = end;
        }
    }

    fn test(&mut self, findings: &mut Findings) {
        let passed = self.stream.tested();
        let strict = self.settings.level(passed);
        if strict > 0.0 {
            self.stream.level = Some(strict);
        }
        let loose = self.settings.levels(passed).map(|(_, level)| level).fold(strict, f64::max);
        self.answers.clear();
        let question = Question { strict, loose, seed: self.stream.sequence };
        self.tests.compare(&self.rows, question, &mut self.answers);
        let decided = self.settings.levels(passed).map(|(level, chance)| (level, self.behind(chance)));
        let Some((level, found)) = decided.into_iter().find(|(_, found)| !found.is_empty()) else { return };
        let named: Vec<_> = found.iter().take(3).map(|answer| self.tests.text(answer)).collect();
        let text = format!(
            "{} the reference in {} observations: {}{}",
            self.tests.summary(found.len()),
            if self.settings.time.is_some() { passed.observations as usize } else { self.rows.len() },
            named.join(", "),
            if found.len() > named.len() { ", …" } else { "" },
        );
        let readings = found.iter().map(|answer| self.tests.reading(answer)).collect();
        findings.alarm(Alarm { detector: String::new(), level, sequence: self.stream.sequence, text, readings });
    }

    /// The answers behind an alarm at `level`, one per column, the largest effect first.
    fn behind(&self, level: f64) -> Vec<&Answer> {
        // what does not matter counts as p = 1, which only makes the correction stricter
        let p_value = |answer: &Answer| match answer.p_value {
            Some(p) if answer.effect >= self.settings.minimum_effect => p,
            _ => 1.0,
        };
        if !(level > 0.0 && self.answers.iter().any(|answer| p_value(answer) <= level)) {
            return Vec::new();
        }
        let mut p_values: Vec<f64> = self.answers.iter().map(p_value).collect();
        p_values.resize(self.tests.count(), 1.0);
        let adjusted = adjust(&p_values, self.settings.correction.adjustment());
        let significant = self.answers.iter().zip(adjusted).filter(|&(_, p)| p <= level);
        let mut found: Vec<_> = significant.map(|(answer, _)| answer).collect();
        found.sort_by(|a, b| b.effect.total_cmp(&a.effect).then(p_value(a).total_cmp(&p_value(b))));
        let mut named = hashbrown::HashSet::new();
        found.retain(|answer| named.insert(self.tests.column(answer)));
        found
    }

    pub(super) fn save(&self) -> WindowState {
        WindowState { columns: self.columns.clone(), rows: self.rows.save(), stream: self.stream.clone() }
    }

    pub(super) fn load(&mut self, state: WindowState) -> Result<(), BoxError> {
        if state.columns != self.columns {
            return Err(message("the saved window has other columns than the reference"));
        }
        let (timed, window) = (self.settings.time.is_some(), self.settings.window);
        if state.rows.len() > window || (state.rows.len() == window && !timed) {
            let found = state.rows.len();
            return Err(message(format!(
                "the saved window holds {found} observations, fewer than {window} are expected"
            )));
        }
        self.rows.load(state.rows, timed)?;
        self.stream = state.stream;
        self.answers.clear();
        Ok(())
    }
}

impl Stream {
    /// The time of the window when an observation made at `time` arrives.
    fn forward(&self, time: DateTime<Utc>) -> DateTime<Utc> {
        self.latest.map_or(time, |latest| latest.max(time))
    }

    /// Goes on by rows of a chunk.
    fn pass(&mut self, chunk: &Chunk<'_>, rows: Range<usize>) {
        self.observations += rows.len() as u64;
        if let (Some(&sequence), Some(&time)) =
            (chunk.sequence()[rows.clone()].last(), chunk.times()[rows].iter().max())
        {
            (self.sequence, self.latest) = (sequence, Some(self.forward(time)));
        }
    }

    /// What has passed since the last test; a test takes place now.
    fn tested(&mut self) -> Passed {
        let now = self.latest.unwrap_or_default();
        let before = self.tested_at.replace(now).unwrap_or(now);
        let days = (now - before).num_milliseconds().max(0) as f64 / 86_400_000.0;
        Passed { days, observations: std::mem::take(&mut self.observations) }
    }
}
