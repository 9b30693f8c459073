//! What is to be made durable: collected while events are applied, committed together, kept and tried again on failure.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::event::PredictionId;
use crate::journal::{self, Act, JournalHead};
use crate::sample::{Sample, SampleState};
use crate::schema::Schema;
use crate::store::{Committed, Expect, Fence, Indexed, Key, Kind, Record, Scan, Store, Write};

/// Samples that stay in memory after they were committed, so that a label that follows soon needs no read.
const CACHED_SAMPLES: usize = 4_096;

/// The one way from the pipeline to its store.
pub(super) struct Outbox {
    store: Arc<dyn Store>,
    pipeline: Arc<str>,
    /// What the rows of stored samples are made to fit.
    schema: Arc<Schema>,
    fence: Fence,
    units: Vec<Vec<Write>>,
    /// Writes that belong to the next unit.
    joined: Vec<Write>,
    /// So many of the units, the first, have their entry in the journal.
    entered: usize,
    /// Changes that are not durable yet.
    waiting: usize,
    /// The end of the journal once the units are committed.
    head: JournalHead,
    /// What people did, for the next entry.
    acts: Vec<Act>,
    samples: HashMap<PredictionId, Cached>,
    dirty: Vec<PredictionId>,
    /// Tasks of the review queue as they will be once the pending units are committed.
    tasks: HashMap<PredictionId, Question>,
    verdicts: Vec<Committed>,
    /// Tasks that somebody else changed at the same moment, so that a unit with them was not applied.
    pub(super) refused_tasks: Vec<PredictionId>,
    /// Position in the stream up to which samples were kept; committed with them.
    pub(super) position: u64,
    /// The loop's time; committed with the position, so that it does not go back over a restart either.
    pub(super) now: DateTime<Utc>,
    committed: (u64, DateTime<Utc>),
    /// Commits that failed since the last success.
    pub(super) failures: u64,
    pub(super) last_error: Option<String>,
}

/// A task of the review queue, in the store or on its way there.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) state: String,
    pub(super) rank: i64,
    pub(super) due: Option<DateTime<Utc>>,
    pub(super) body: Arc<[u8]>,
    /// What a write that changes it expects to find.
    pub(super) expect: Expect,
}

struct Cached {
    sample: Sample,
    dirty: bool,
}

impl Outbox {
    pub(super) fn new(store: Arc<dyn Store>, pipeline: Arc<str>, schema: Arc<Schema>) -> Result<Self, Error> {
        let token = store.take_over(&pipeline).map_err(Error::store("take over the pipeline"))?;
        let (head, _) = JournalHead::read(&*store, &pipeline, journal::LOOP)?;
        let begun = if head.sequence == 0 { vec![journal::begun(&*store, &pipeline)?] } else { Vec::new() };
        Ok(Outbox {
            store,
            head,
            acts: begun,
            entered: 0,
            waiting: 0,
            fence: Fence::Worker { pipeline: pipeline.clone(), token },
            pipeline,
            schema,
            units: Vec::new(),
            joined: Vec::new(),
            samples: HashMap::new(),
            dirty: Vec::new(),
            tasks: HashMap::new(),
            verdicts: Vec::new(),
            refused_tasks: Vec::new(),
            position: 0,
            now: DateTime::UNIX_EPOCH,
            committed: (0, DateTime::UNIX_EPOCH),
            failures: 0,
            last_error: None,
        })
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(super) fn pipeline(&self) -> &Arc<str> {
        &self.pipeline
    }

    /// A write of `body` as JSON.
    pub(super) fn json<T: Serialize>(&self, kind: Kind, id: &str, indexed: Indexed, body: &T) -> Result<Write, Error> {
        let body = serde_json::to_vec(body)
            .map_err(|e| Error::Corrupt(format!("{} `{id}` cannot be written as JSON: {e}", kind.as_str())))?;
        Ok(self.raw(kind, id, indexed, body))
    }

    pub(super) fn raw(&self, kind: Kind, id: &str, indexed: Indexed, body: Vec<u8>) -> Write {
        Write { kind, key: Key::new(&self.pipeline, id), expect: Expect::Any, indexed, body: body.into() }
    }

    /// Adds a unit: all of its writes or none.
    pub(super) fn push(&mut self, unit: Vec<Write>) {
        if !unit.is_empty() {
            self.waiting += 1;
            self.units.push(unit);
        }
    }

    /// Adds writes to the unit that [`push_with_samples`](Self::push_with_samples) makes next: a crash between two units
    /// must not part what is one change.
    pub(super) fn join(&mut self, writes: Vec<Write>) {
        self.joined.extend(writes);
    }

    /// Puts what somebody did into the journal, with the changes that follow and are committed at once.
    pub(super) fn note(&mut self, act: Act) {
        self.acts.push(act);
    }

    /// Units and samples that are not durable yet.
    pub(super) fn pending(&self) -> usize {
        self.waiting + self.dirty.len() + usize::from(!self.joined.is_empty())
    }

    /// The sample as it is now, from memory or the store.
    pub(super) fn sample(&mut self, id: PredictionId) -> Result<Option<&mut Sample>, Error> {
        if !self.samples.contains_key(&id) {
            let Some(sample) = self.stored_sample(id)? else { return Ok(None) };
            self.samples.insert(id, Cached { sample, dirty: false });
        }
        Ok(self.samples.get_mut(&id).map(|cached| &mut cached.sample))
    }

    /// The sample as the store has it.
    pub(super) fn stored_sample(&self, id: PredictionId) -> Result<Option<Sample>, Error> {
        let record =
            self.store.get(&self.pipeline, Kind::Sample, &id.to_string()).map_err(Error::store("read a record"))?;
        record.map(|record| self.parse_sample(&record)).transpose()
    }

    /// The sample of a record; its row may be of an earlier version of the schema.
    pub(super) fn parse_sample(&self, record: &Record) -> Result<Sample, Error> {
        let mut sample: Sample = parse(record)?;
        sample.observation.row.fit(&self.schema);
        Ok(sample)
    }

    /// Puts a sample, new or changed; it is written with the next commit.
    pub(super) fn put(&mut self, sample: Sample) {
        let id = sample.id();
        self.samples.insert(id, Cached { sample, dirty: false });
        self.touch(id);
    }

    /// Marks a sample as changed.
    pub(super) fn touch(&mut self, id: PredictionId) {
        if let Some(cached) = self.samples.get_mut(&id)
            && !cached.dirty
        {
            cached.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Takes every change so far as one atomic unit together with `more`.
    pub(super) fn push_with_samples(&mut self, more: Vec<Write>) -> Result<(), Error> {
        let mut unit = self.drain_samples()?.into_iter().flatten().collect::<Vec<_>>();
        unit.append(&mut self.joined);
        unit.extend(more);
        self.push(unit);
        Ok(())
    }

    fn drain_samples(&mut self) -> Result<Vec<Vec<Write>>, Error> {
        let mut units = Vec::with_capacity(self.dirty.len());
        for id in std::mem::take(&mut self.dirty) {
            let Some(cached) = self.samples.get_mut(&id) else { continue };
            cached.dirty = false;
            let sample = &cached.sample;
            let indexed = Indexed { state: sample.state.as_str(), rank: sample.sequence as i64, due: None };
            let body = serde_json::to_vec(sample)
                .map_err(|e| Error::Corrupt(format!("sample {id} cannot be written as JSON: {e}")))?;
            units.push(vec![self.raw(Kind::Sample, &id.to_string(), indexed, body)]);
        }
        Ok(units)
    }

    /// Makes the new units such that each has its entry in the journal: neighbours that cannot conflict become one.
    ///
    /// What can conflict are questions, of which the journal does not speak, and alarms, which only this worker writes: they
    /// conflict if they are written already. So an entry is written exactly with what it speaks of, and units that wait for
    /// a store that fails keep theirs.
    fn enter(&mut self) {
        let mut units: Vec<Vec<Write>> = Vec::new();
        let cannot_conflict = |unit: &[Write]| unit.iter().all(|write| write.expect == Expect::Any);
        for unit in self.units.drain(self.entered..) {
            match units.last_mut() {
                Some(last) if cannot_conflict(last) && cannot_conflict(&unit) => last.extend(unit),
                _ => units.push(unit),
            }
        }
        let mut acts = std::mem::take(&mut self.acts);
        if !acts.is_empty() && !units.last().is_some_and(|unit| cannot_conflict(unit)) {
            units.push(Vec::new());
        }
        let last = units.len().saturating_sub(1);
        for (index, mut unit) in units.into_iter().enumerate() {
            let mut entry: Vec<Act> = unit.iter().filter_map(Act::of_write).collect();
            if index == last {
                entry.append(&mut acts);
            }
            if !entry.is_empty() {
                unit.extend(self.head.append(&self.pipeline, self.now, entry, Expect::Any));
            }
            self.units.push(unit);
        }
        self.entered = self.units.len();
    }

    /// Makes everything durable. On failure it stays pending and the error is remembered.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        let units = self.drain_samples()?;
        self.waiting += units.len();
        self.units.extend(units);
        let joined = std::mem::take(&mut self.joined);
        self.push(joined);
        self.enter();
        if self.units.is_empty() {
            return Ok(());
        }
        let indexed = Indexed { state: "saved", rank: self.position as i64, due: Some(self.now) };
        let cursor = [self.raw(Kind::Control, "cursor", indexed, self.position.to_string().into_bytes())];
        let here = (self.position, self.now);
        // In front: a crash behind it leaves a gap in the positions, one before it would have them given out twice.
        let mut refs: Vec<&[Write]> = Vec::with_capacity(self.units.len() + 1);
        refs.extend((here != self.committed).then_some(&cursor[..]));
        let first = refs.len();
        refs.extend(self.units.iter().map(Vec::as_slice));
        match self.store.commit(&refs, &self.fence, &mut self.verdicts) {
            Ok(()) => {
                for (unit, verdict) in self.units.iter().zip(self.verdicts.iter().skip(first)) {
                    if let Committed::Conflict { .. } = verdict {
                        let tasks = unit.iter().filter(|write| write.kind == Kind::Task);
                        self.refused_tasks.extend(tasks.filter_map(|write| write.key.id.parse::<PredictionId>().ok()));
                    }
                }
                self.units.clear();
                (self.entered, self.waiting) = (0, 0);
                self.tasks.clear();
                self.committed = here;
                (self.failures, self.last_error) = (0, None);
                if self.samples.len() > CACHED_SAMPLES {
                    self.samples.clear();
                }
                Ok(())
            }
            Err(source) => {
                self.failures += 1;
                self.last_error = Some(source.to_string());
                Err(Error::Store { doing: "commit", source })
            }
        }
    }

    /// Is this still the worker of the pipeline? Asked before anything outside is touched.
    ///
    /// # Errors
    /// Another process has taken over, or the store fails.
    pub(super) fn check_place(&mut self) -> Result<(), Error> {
        self.store.commit(&[], &self.fence, &mut self.verdicts).map_err(Error::store("hold the pipeline"))
    }

    /// Makes one write at once, if it finds what it expects.
    pub(super) fn compare_and_set(&mut self, write: Write) -> Result<bool, Error> {
        self.store.commit(&[&[write]], &self.fence, &mut self.verdicts).map_err(Error::store("compare and set"))?;
        Ok(self.verdicts == [Committed::Applied])
    }

    /// The task of a sample, if it has one.
    pub(super) fn task(&self, id: PredictionId) -> Result<Option<Question>, Error> {
        if let Some(question) = self.tasks.get(&id) {
            return Ok(Some(question.clone()));
        }
        let record =
            self.store.get(&self.pipeline, Kind::Task, &id.to_string()).map_err(Error::store("read a task"))?;
        Ok(record.map(|record| Question {
            state: record.state,
            rank: record.rank,
            due: record.due,
            body: record.body,
            expect: Expect::Rev(record.rev),
        }))
    }

    /// Remembers a task that was put into a unit, until it is committed.
    pub(super) fn expect_task(&mut self, id: PredictionId, write: &Write) {
        let indexed = &write.indexed;
        let (state, rank, due, body) = (indexed.state.to_owned(), indexed.rank, indexed.due, write.body.clone());
        self.tasks.insert(id, Question { state, rank, due, body, expect: Expect::Any });
    }

    /// The records of the annotations of a sample.
    pub(super) fn annotations_of(&self, id: PredictionId) -> Result<Vec<Record>, Error> {
        let prefix = format!("{id}/");
        let (mut found, mut last) = (Vec::new(), prefix.clone());
        loop {
            let after = Some((i64::MIN, last.as_str()));
            let scan = Scan { pipeline: &self.pipeline, kind: Kind::Annotation, state: None, after, limit: 16 };
            let page = self.store.scan(&scan).map_err(Error::store("read annotations"))?;
            let more = page.len() == 16;
            for record in page {
                if !record.key.id.starts_with(&prefix) {
                    return Ok(found);
                }
                last.clone_from(&record.key.id);
                found.push(record);
            }
            if !more {
                return Ok(found);
            }
        }
    }

    /// Reads a JSON record.
    pub(super) fn read<T: DeserializeOwned>(&self, kind: Kind, id: &str) -> Result<Option<T>, Error> {
        let record = self.store.get(&self.pipeline, kind, id).map_err(Error::store("read a record"))?;
        record.map(|record| parse(&record)).transpose()
    }

    pub(super) fn record(&self, kind: Kind, id: &str) -> Result<Option<Record>, Error> {
        self.store.get(&self.pipeline, kind, id).map_err(Error::store("read a record"))
    }

    pub(super) fn read_raw(&self, kind: Kind, id: &str) -> Result<Option<Arc<[u8]>>, Error> {
        let record = self.store.get(&self.pipeline, kind, id).map_err(Error::store("read a record"))?;
        Ok(record.map(|record| record.body))
    }

    /// Every record of `kind` in `state`, page by page.
    pub(super) fn each(
        &self,
        kind: Kind,
        state: &str,
        mut each: impl FnMut(Record) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut after: Option<(i64, String)> = None;
        loop {
            let page = self.page(kind, state, after.as_ref().map(|(rank, id)| (*rank, id.as_str())), 512)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some((last.rank, last.key.id.clone()));
            for record in page {
                each(record)?;
            }
        }
    }

    pub(super) fn page(
        &self,
        kind: Kind,
        state: &str,
        after: Option<(i64, &str)>,
        limit: usize,
    ) -> Result<Vec<Record>, Error> {
        let scan = Scan { pipeline: &self.pipeline, kind, state: Some(state), after, limit };
        self.store.scan(&scan).map_err(Error::store("read records"))
    }

    pub(super) fn count(&self, kind: Kind, state: Option<&str>) -> Result<u64, Error> {
        self.store.count(&self.pipeline, kind, state).map_err(Error::store("count records"))
    }

    /// Position in the stream up to which samples were committed, and the loop's time then.
    pub(super) fn cursor(&self) -> Result<(u64, Option<DateTime<Utc>>), Error> {
        let record =
            self.store.get(&self.pipeline, Kind::Control, "cursor").map_err(Error::store("read the cursor"))?;
        Ok(record.map_or((0, None), |record| (record.rank as u64, record.due)))
    }

    /// How many samples are in each state, those that wait to be committed not included.
    pub(super) fn census(&self) -> Result<Vec<(SampleState, u64)>, Error> {
        SampleState::ALL.iter().map(|&state| Ok((state, self.count(Kind::Sample, Some(state.as_str()))?))).collect()
    }
}

/// The JSON body of a record.
pub(super) fn parse<T: DeserializeOwned>(record: &Record) -> Result<T, Error> {
    serde_json::from_slice(&record.body).map_err(|e: serde_json::Error| {
        Error::Corrupt(format!("the stored {} `{}` cannot be read: {e}", record.kind.as_str(), record.key.id))
    })
}

/// Rank by time: microseconds since the epoch.
pub(super) fn at(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}
