//! How far a window leads or lags behind its reference, all over again or change by change.

/// Distinct reference values per leaf of [`Leads`].
const LEAF: usize = 16;

/// What a stretch of the line adds to the lead, n·m·(window share − reference share).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stretch {
    /// The lead at the end; it is 0 at the start.
    end: i64,
    /// The highest lead, and the lowest.
    pub(super) lead: i64,
    pub(super) lag: i64,
}

impl Stretch {
    /// Counts through window values in pairs (below a distinct reference value, on it), and the reference values up to and
    /// including each; `before` of these lie before the stretch.
    ///
    /// The window leads most at the end of a gap, the reference most on one of its values; a pass for the two extremes alone is
    /// faster than one that keeps its place.
    pub(super) fn count(pairs: &[[u32; 2]], cumulative: &[u32], before: u32, n: u64, m: u64) -> Self {
        let (n, m) = (n as i64, m as i64);
        let mut reference = i64::from(before) * m;
        let mut window = reference;
        let mut whole = Stretch::default();
        for (&[gap, on], &up_to) in pairs.iter().zip(cumulative) {
            window += i64::from(gap) * n;
            whole.lead = whole.lead.max(window - reference);
            window += i64::from(on) * n;
            reference = i64::from(up_to) * m;
            whole.lag = whole.lag.min(window - reference);
        }
        whole.end = window - reference;
        whole
    }

    /// Both stretches, one after the other.
    fn then(self, next: Self) -> Self {
        Stretch {
            end: self.end + next.end,
            lead: self.lead.max(self.end + next.lead),
            lag: self.lag.min(self.end + next.lag),
        }
    }
}

/// The extremes of the lead while single values come and go: a change costs a leaf and the way up to the root.
///
/// They hold for one number m of window values; if that changes, every lead does.
#[derive(Clone, Debug, Default)]
pub(super) struct Leads {
    /// Stretch 1 is the whole line, stretch i the sum of 2i and 2i + 1, the last half are the leaves; empty until they are kept.
    stretches: Vec<Stretch>,
    /// The m they hold for; 0 while they are not kept.
    compared: u64,
}

impl Leads {
    /// The whole line with `m` window values, if it is kept.
    pub(super) fn whole(&self, m: u64) -> Option<Stretch> {
        self.stretches.get(1).copied().filter(|_| self.compared == m)
    }

    /// Does not follow the counts any more.
    pub(super) fn stop(&mut self) {
        self.compared = 0;
    }

    /// Follows the counts from now on, as those of `m` window values.
    pub(super) fn keep(&mut self, counts: &[u32], cumulative: &[u32], m: u64) {
        if m == self.compared {
            return;
        }
        self.compared = m;
        let leaves = cumulative.len().div_ceil(LEAF).next_power_of_two();
        self.stretches.resize(2 * leaves, Stretch::default());
        for leaf in 0..cumulative.len().div_ceil(LEAF) {
            self.stretches[leaves + leaf] = leaf_of(counts, cumulative, m, leaf);
        }
        for place in (1..leaves).rev() {
            self.stretches[place] = self.stretches[2 * place].then(self.stretches[2 * place + 1]);
        }
    }

    /// The counts of two buckets have changed; one that does not exist stands for none.
    pub(super) fn change(&mut self, counts: &[u32], cumulative: &[u32], buckets: [u32; 2]) {
        if self.compared == 0 {
            return;
        }
        let leaves = self.stretches.len() / 2;
        // no lead is asked for above all reference values
        let [first, second] = buckets.map(|bucket| Some(bucket as usize / 2).filter(|&at| at < cumulative.len()));
        let Some((first, second)) = first.or(second).zip(second.or(first)) else { return };
        let mut places = [leaves + first / LEAF, leaves + second / LEAF];
        for place in places {
            self.stretches[place] = leaf_of(counts, cumulative, self.compared, place - leaves);
        }
        // both ways up side by side, as each step waits for the one before
        for _ in 0..leaves.ilog2() {
            for place in &mut places {
                *place /= 2;
                self.stretches[*place] = self.stretches[2 * *place].then(self.stretches[2 * *place + 1]);
            }
        }
    }
}

fn leaf_of(counts: &[u32], cumulative: &[u32], m: u64, leaf: usize) -> Stretch {
    let first = leaf * LEAF;
    let last = cumulative.len().min(first + LEAF);
    let (pairs, _) = counts[2 * first..2 * last].as_chunks::<2>();
    let before = first.checked_sub(1).map_or(0, |at| cumulative[at]);
    let n = cumulative.last().copied().map_or(0, u64::from);
    Stretch::count(pairs, &cumulative[first..last], before, n, m)
}
