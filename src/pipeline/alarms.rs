//! Alarms: raised by a detector, acknowledged by somebody, cleared when the baseline that they speak of has moved.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Pipeline;
use super::outbox::parse;
use crate::detector::{Alarm, AlarmKind, Level};
use crate::error::Error;
use crate::event::{ModelVersion, Observation};
use crate::gate::GateContext;
use crate::sample::Reason;
use crate::stage::isolate;
use crate::store::{Expect, Indexed, Kind, Scan, Store, Write};

/// Most alarms of one page.
const MOST_LISTED: usize = 1_000;
/// Alarms that the status shows.
const MOST_SHOWN: usize = 20;

/// Where an alarm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmState {
    /// Only a warning: it is shown, and nothing follows from it.
    Warning,
    /// A gate found the feed broken when it was raised: it speaks of the feed, not of the world, and nothing follows from it.
    Suppressed,
    /// Nobody has taken note of it: the drift trigger fires, and nothing is auto-labelled.
    Open,
    /// Somebody, or a run, has taken note of it; the stream is still compared with the same baseline.
    Acknowledged,
    /// The serving baseline has moved since: it speaks of the past.
    Cleared,
}

/// The states of alarms about the baseline of today.
const STANDING: [AlarmState; 4] =
    [AlarmState::Warning, AlarmState::Suppressed, AlarmState::Open, AlarmState::Acknowledged];
/// Live rows by which the gates judge the feed.
const FEED_ROWS: usize = 500;

impl AlarmState {
    /// The name as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            AlarmState::Warning => "warning",
            AlarmState::Suppressed => "suppressed",
            AlarmState::Open => "open",
            AlarmState::Acknowledged => "acknowledged",
            AlarmState::Cleared => "cleared",
        }
    }
}

/// Who has taken note of an alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// A person, or the run that was started.
    pub who: String,
    /// When.
    pub when: DateTime<Utc>,
}

/// Why an alarm speaks of the past.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cleared {
    /// When.
    pub when: DateTime<Utc>,
    /// The version that was kept, and whose traffic is the serving baseline since.
    pub version: ModelVersion,
    /// Why.
    pub reason: Reason,
}

/// An alarm and what became of it. What is written here is added to, never changed or taken away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlarmRecord {
    /// Number of the alarm, from 1, without gaps.
    pub number: u64,
    /// What the detector said.
    #[serde(flatten)]
    pub alarm: Alarm,
    /// What it is about.
    #[serde(default)]
    pub kind: AlarmKind,
    /// When it was raised.
    pub raised: DateTime<Utc>,
    /// What was wrong with the feed when it was raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<Reason>,
    /// Who has taken note of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledged>,
    /// Why it speaks of the past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleared: Option<Cleared>,
}

impl AlarmRecord {
    /// Where it stands.
    pub fn state(&self) -> AlarmState {
        match (&self.acknowledged, &self.cleared) {
            (_, Some(_)) => AlarmState::Cleared,
            (Some(_), None) => AlarmState::Acknowledged,
            (None, None) if self.alarm.level == Level::Warning => AlarmState::Warning,
            (None, None) if self.suppressed.is_some() => AlarmState::Suppressed,
            (None, None) => AlarmState::Open,
        }
    }

    fn id(number: u64) -> String {
        format!("{number:012}")
    }

    /// The newest come first in the order of the store.
    fn indexed(&self) -> Indexed {
        Indexed { state: self.state().as_str(), rank: -(self.number as i64), due: None }
    }
}

impl Pipeline {
    pub(super) fn raise(&mut self, alarm: Alarm) -> Result<(), Error> {
        self.counters.alarms += 1;
        self.flow.alarms_raised += 1;
        let kind = self.detectors.iter().find(|stage| stage.name == alarm.detector);
        let kind = kind.and_then(|stage| isolate(|| Ok(stage.stage.alarm_kind())).ok()).unwrap_or_default();
        let suppressed = if alarm.level == Level::Drift { self.broken_feed(alarm.sequence) } else { None };
        if suppressed.is_some() {
            self.counters.suppressed_alarms += 1;
        } else if alarm.level == Level::Drift {
            self.flow.open_alarms += 1;
            self.flow.last_alarm = Some(self.now);
            self.flow.standing_alarm = true;
            if kind == AlarmKind::Harm {
                self.flow.open_harm_alarms += 1;
                self.flow.last_harm_alarm = Some(self.now);
            }
        }
        let number = self.flow.alarms_raised;
        let raised = self.now;
        let record = AlarmRecord { number, alarm, kind, raised, suppressed, acknowledged: None, cleared: None };
        let write = self.outbox.json(Kind::Alarm, &AlarmRecord::id(number), record.indexed(), &record)?;
        self.outbox.push(vec![Write { expect: Expect::Absent, ..write }]);
        Ok(())
    }

    /// What a gate finds wrong with the feed, up to this position in the stream.
    fn broken_feed(&mut self, sequence: u64) -> Option<Reason> {
        let mut newest: Vec<&Observation> = self.ledger.recent_up_to(sequence).take(FEED_ROWS).collect();
        newest.reverse();
        let context = GateContext { schema: &self.schema, references: &self.references, now: self.now };
        self.gates.iter_mut().find_map(|gate| {
            let reason = gate.run(&self.references, |stage| stage.feed(&newest, &context)).flatten()?;
            Some(Reason::new(reason.code, format!("{}: {}", gate.name, reason.detail)))
        })
    }

    /// Takes note of every open alarm in the name of `who`: the router may auto-label again, and the drift trigger waits for
    /// the next one. The alarms stay in the [status](crate::Status::alarms) until the serving baseline has moved, which
    /// only a version that was kept moves. A run that seals a batch does the same. Returns how many there were.
    ///
    /// # Errors
    /// The store fails.
    pub fn acknowledge_alarms(&mut self, who: &str) -> Result<usize, Error> {
        let writes = self.acknowledging(who)?;
        let open = writes.len();
        if open > 0 {
            self.note("alarms_acknowledged", "alarms", Some(who), None);
        }
        self.put_alarms(writes);
        self.outbox.commit()?;
        Ok(open)
    }

    /// Alarms of any state, newest first, at most `limit` and 1,000: the newest ones, or those before number `before`. What
    /// waits for a store that fails is not among them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn alarms(&self, before: Option<u64>, limit: usize) -> Result<Vec<AlarmRecord>, Error> {
        page(&**self.store(), self.name(), before, limit)
    }

    /// The newest alarms that are not cleared, newest first.
    pub(super) fn standing_alarms(&self) -> Result<Vec<AlarmRecord>, Error> {
        let mut found: Vec<AlarmRecord> = Vec::new();
        for state in STANDING {
            for record in self.outbox.page(Kind::Alarm, state.as_str(), None, MOST_SHOWN)? {
                found.push(parse(&record)?);
            }
        }
        found.sort_by_key(|alarm| std::cmp::Reverse(alarm.number));
        found.truncate(MOST_SHOWN);
        Ok(found)
    }

    /// The writes that acknowledge every open alarm. Nothing has changed before [`Pipeline::put_alarms`].
    pub(super) fn acknowledging(&mut self, who: &str) -> Result<Vec<Write>, Error> {
        let acknowledged = Acknowledged { who: who.to_owned(), when: self.now };
        self.change_alarms(&[AlarmState::Open], |alarm| alarm.acknowledged = Some(acknowledged.clone()))
    }

    /// The writes that clear every alarm, because `version` was kept and its traffic becomes the serving baseline.
    pub(super) fn clearing(&mut self, version: ModelVersion) -> Result<Vec<Write>, Error> {
        let text = format!("{version} was kept: the serving baseline is its traffic from now on");
        let cleared = Cleared { when: self.now, version, reason: Reason::new("baseline_moved", text) };
        self.change_alarms(&STANDING, |alarm| alarm.cleared = Some(cleared.clone()))
    }

    fn change_alarms(&mut self, states: &[AlarmState], change: impl Fn(&mut AlarmRecord)) -> Result<Vec<Write>, Error> {
        // Each write expects the revision that it changes: none of them may wait to be written.
        self.outbox.commit()?;
        let mut writes = Vec::new();
        for state in states {
            self.outbox.each(Kind::Alarm, state.as_str(), |record| {
                let mut alarm: AlarmRecord = parse(&record)?;
                change(&mut alarm);
                let write = self.outbox.json(Kind::Alarm, &record.key.id, alarm.indexed(), &alarm)?;
                writes.push(Write { expect: Expect::Rev(record.rev), ..write });
                Ok(())
            })?;
        }
        Ok(writes)
    }

    /// Takes the writes that leave no alarm open.
    pub(super) fn put_alarms(&mut self, writes: Vec<Write>) {
        for write in writes {
            self.outbox.push(vec![write]);
        }
        (self.flow.open_alarms, self.flow.last_alarm) = (0, None);
        (self.flow.open_harm_alarms, self.flow.last_harm_alarm) = (0, None);
    }

    /// How many alarms there are, and which of them are open.
    pub(super) fn reopen_alarms(&mut self) -> Result<(), Error> {
        self.flow.alarms_raised = self.outbox.count(Kind::Alarm, None)?;
        let (mut open, mut harm) = (Open::default(), Open::default());
        self.outbox.each(Kind::Alarm, AlarmState::Open.as_str(), |record| {
            let alarm: AlarmRecord = parse(&record)?;
            open.add(alarm.raised);
            if alarm.kind == AlarmKind::Harm {
                harm.add(alarm.raised);
            }
            Ok(())
        })?;
        (self.flow.open_alarms, self.flow.last_alarm) = (open.count, open.newest);
        (self.flow.open_harm_alarms, self.flow.last_harm_alarm) = (harm.count, harm.newest);
        let acknowledged = self.outbox.count(Kind::Alarm, Some(AlarmState::Acknowledged.as_str()))?;
        self.flow.standing_alarm = open.count + acknowledged > 0;
        Ok(())
    }
}

/// Alarms that are open.
#[derive(Default)]
struct Open {
    count: u64,
    newest: Option<DateTime<Utc>>,
}

impl Open {
    fn add(&mut self, raised: DateTime<Utc>) {
        (self.count, self.newest) = (self.count + 1, self.newest.max(Some(raised)));
    }
}

/// A page of alarms, newest first; see [`Pipeline::alarms`].
pub(super) fn page(
    store: &dyn Store,
    pipeline: &str,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<AlarmRecord>, Error> {
    let newest = store.count(pipeline, Kind::Alarm, None).map_err(Error::store("count alarms"))?;
    // Numbers have no gaps: the page is (behind, last].
    let last = before.map_or(newest, |before| before.saturating_sub(1).min(newest));
    let behind = last.saturating_sub(limit.min(MOST_LISTED) as u64);
    if last == behind {
        return Ok(Vec::new());
    }
    let id = AlarmRecord::id(behind);
    let limit = (last - behind) as usize;
    let scan = Scan { pipeline, kind: Kind::Alarm, state: None, after: Some((i64::MIN, &id)), limit };
    let found = store.scan(&scan).map_err(Error::store("read alarms"))?;
    found.iter().rev().map(parse).collect()
}
