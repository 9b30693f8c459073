//! A disk that outlives the process: it fails when told to, and a process that uses it can be killed in any commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use feedloop::chrono::{DateTime, Utc};
use feedloop::{BoxError, Committed, Fence, Kind, Record, Scan, Store, Write};

/// Where in a commit the process dies. Commits are counted from the moment of the plan.
#[derive(Debug, Clone, Copy)]
pub enum Kill {
    /// Nothing of it is applied.
    Before,
    /// So many of its units are applied, or all, if there are fewer.
    Within(usize),
    /// All of it is applied, and the process never hears of it.
    After,
}

/// What unwinds out of a process that is killed: no error that anybody could handle.
pub struct Killed;

#[derive(Default)]
struct Plan {
    commits_fail: bool,
    reads_fail: bool,
    /// The n-th read from now on fails, once; 0 is none.
    fail_read: u64,
    /// In the n-th commit from now on (1 is the next) the process dies.
    kill: Option<(u64, Kill)>,
    /// In the next commit with a record of this kind the process dies.
    kill_at: Option<(Kind, Kill)>,
    commits: u64,
    reads_failed: u64,
    /// Bytes of the records that were read since they were last asked for.
    bytes_read: BTreeMap<Kind, usize>,
    /// What was about to be written when the process died, kill by kill.
    killed: Vec<(Kill, BTreeSet<Kind>)>,
    /// Units that were applied since they were last asked for.
    applied: Vec<Vec<Write>>,
}

/// Clones share the content and the plan.
pub struct Disk<S> {
    content: Arc<S>,
    plan: Arc<Mutex<Plan>>,
}

impl<S> Clone for Disk<S> {
    fn clone(&self) -> Self {
        Disk { content: self.content.clone(), plan: self.plan.clone() }
    }
}

impl<S: Store> Disk<S> {
    pub fn new(content: S) -> Self {
        Disk { content: Arc::new(content), plan: Arc::default() }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on the disk, without its faults.
    pub fn content(&self) -> &S {
        &self.content
    }

    pub fn commits_fail(&self) {
        self.plan().commits_fail = true;
    }

    pub fn reads_fail(&self) {
        self.plan().reads_fail = true;
    }

    pub fn fail_read(&self, n: u64) {
        self.plan().fail_read = n;
    }

    pub fn kill(&self, commit: u64, place: Kill) {
        self.plan().kill = Some((commit, place));
    }

    pub fn kill_at(&self, kind: Kind, place: Kill) {
        self.plan().kill_at = Some((kind, place));
    }

    /// Nothing fails any more; a kill that is planned stays planned.
    pub fn mend(&self) {
        let mut plan = self.plan();
        (plan.commits_fail, plan.reads_fail, plan.fail_read) = (false, false, 0);
    }

    pub fn heal(&self) {
        self.mend();
        let mut plan = self.plan();
        (plan.kill, plan.kill_at) = (None, None);
    }

    /// Commits so far.
    pub fn commits(&self) -> u64 {
        self.plan().commits
    }

    pub fn reads_failed(&self) -> u64 {
        self.plan().reads_failed
    }

    /// Bytes of the records that were read since the last call.
    pub fn bytes_read(&self) -> BTreeMap<Kind, usize> {
        std::mem::take(&mut self.plan().bytes_read)
    }

    /// Where the process died, and what kinds of records were in that commit.
    pub fn killed(&self) -> Vec<(Kill, BTreeSet<Kind>)> {
        self.plan().killed.clone()
    }

    /// The units that were applied since the last call, in their order.
    pub fn applied(&self) -> Vec<Vec<Write>> {
        std::mem::take(&mut self.plan().applied)
    }

    fn apply(&self, units: &[&[Write]], fence: &Fence, out: &mut Vec<Committed>) -> Result<(), BoxError> {
        self.content.commit(units, fence, out)?;
        let made = units.iter().zip(out.iter()).filter(|(_, verdict)| **verdict == Committed::Applied);
        let made: Vec<Vec<Write>> = made.map(|(unit, _)| unit.to_vec()).collect();
        self.plan().applied.extend(made);
        Ok(())
    }

    fn check_read(&self) -> Result<(), BoxError> {
        let mut plan = self.plan();
        let fails = plan.reads_fail || plan.fail_read == 1;
        plan.fail_read = plan.fail_read.saturating_sub(1);
        plan.reads_failed += u64::from(fails);
        if fails { Err("the disk cannot be read".into()) } else { Ok(()) }
    }

    fn count_read<'a>(&self, records: impl IntoIterator<Item = &'a Record>) {
        let mut plan = self.plan();
        for record in records {
            *plan.bytes_read.entry(record.kind).or_default() += record.body.len();
        }
    }

    fn check_write(&self) -> Result<(), BoxError> {
        if self.plan().commits_fail { Err("the disk is full".into()) } else { Ok(()) }
    }
}

impl<S: Store> Store for Disk<S> {
    fn commit(&self, units: &[&[Write]], fence: &Fence, out: &mut Vec<Committed>) -> Result<(), BoxError> {
        self.check_write()?;
        let mut plan = self.plan();
        plan.commits += 1;
        if let Some((left, _)) = &mut plan.kill {
            *left -= 1;
        }
        let kinds: BTreeSet<Kind> = units.iter().flat_map(|unit| unit.iter().map(|write| write.kind)).collect();
        let here = plan.kill.filter(|(left, _)| *left == 0).map(|(_, place)| place);
        let place = here.or(plan.kill_at.filter(|(kind, _)| kinds.contains(kind)).map(|(_, place)| place));
        drop(plan);
        let Some(place) = place else { return self.apply(units, fence, out) };
        let applied = match place {
            Kill::Before => 0,
            Kill::Within(applied) => applied.min(units.len()),
            Kill::After => units.len(),
        };
        self.apply(&units[..applied], fence, out)?;
        let mut plan = self.plan();
        match here {
            Some(_) => plan.kill = None,
            None => plan.kill_at = None,
        }
        plan.killed.push((place, kinds));
        drop(plan);
        std::panic::resume_unwind(Box::new(Killed));
    }

    fn take_over(&self, pipeline: &str) -> Result<u64, BoxError> {
        self.check_write()?;
        self.content.take_over(pipeline)
    }

    fn claim(
        &self,
        pipeline: &str,
        kind: Kind,
        n: usize,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
        holder: &str,
        except: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Record>, BoxError> {
        self.check_write()?;
        self.content.claim(pipeline, kind, n, now, lease_until, holder, except)
    }

    fn get(&self, pipeline: &str, kind: Kind, id: &str) -> Result<Option<Record>, BoxError> {
        self.check_read()?;
        let record = self.content.get(pipeline, kind, id)?;
        self.count_read(&record);
        Ok(record)
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Record>, BoxError> {
        self.check_read()?;
        let page = self.content.scan(scan)?;
        self.count_read(&page);
        Ok(page)
    }

    fn count(&self, pipeline: &str, kind: Kind, state: Option<&str>) -> Result<u64, BoxError> {
        self.check_read()?;
        self.content.count(pipeline, kind, state)
    }

    fn scrub(&self) -> Result<bool, BoxError> {
        self.check_write()?;
        self.content.scrub()
    }
}
