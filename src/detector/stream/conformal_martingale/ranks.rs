//! Ranks among all earlier values, in bounded memory.

/// Distinct values that are kept.
const POINTS: usize = 1_000;

/// Counts of the values so far: at each point, and in each gap between two.
///
/// The points are values of the baseline. Given that a new value lies in a gap, its rank among the values there is
/// uniform, as they are exchangeable; at a point it ties. So a range of ranks, each as likely as the other, is all that a
/// bet needs, and the order inside a gap need not be kept.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ranks {
    points: Vec<f64>,
    /// Gap, point, gap, …, point, gap.
    counts: Vec<u64>,
    /// Sums of the counts (Fenwick 1994).
    tree: Vec<u64>,
    all: u64,
}

impl Ranks {
    /// From a baseline of usable values in an order that says nothing.
    pub(super) fn new(baseline: &[f64]) -> Self {
        let mut points = baseline[..baseline.len().min(POINTS)].to_vec();
        points.sort_by(f64::total_cmp);
        points.dedup();
        let empty = vec![0; 2 * points.len() + 1];
        let mut ranks = Ranks { points, tree: vec![0; empty.len() + 1], counts: empty, all: 0 };
        for &value in baseline {
            let place = ranks.place(value);
            ranks.add(place, 1);
        }
        ranks
    }

    /// From what [`points`](Ranks::points) and [`counts`](Ranks::counts) gave, if they fit.
    pub(super) fn restore(points: Vec<f64>, counts: &[u64]) -> Option<Self> {
        let rising = points.windows(2).all(|pair| pair[0] < pair[1]);
        let sum = counts.iter().try_fold(0_u64, |sum, &count| sum.checked_add(count))?;
        if !rising || points.len() > POINTS || counts.len() != 2 * points.len() + 1 || sum > 1 << 52 {
            return None;
        }
        let (tree, empty) = (vec![0; counts.len() + 1], vec![0; counts.len()]);
        let mut ranks = Ranks { points, tree, counts: empty, all: 0 };
        for (place, &count) in counts.iter().enumerate() {
            ranks.add(place, count);
        }
        Some(ranks)
    }

    pub(super) fn points(&self) -> &[f64] {
        &self.points
    }

    pub(super) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The range of p-values of the next value, from few smaller ones (0) to many (1); then the value is one of the earlier ones.
    pub(super) fn rank(&mut self, value: f64) -> (f64, f64) {
        let place = self.place(value);
        let (less, equal) = (self.before(place), self.counts[place]);
        self.add(place, 1);
        let all = self.all as f64;
        (less as f64 / all, (less + equal + 1) as f64 / all)
    }

    fn place(&self, value: f64) -> usize {
        let below = self.points.partition_point(|&point| point < value);
        let at = self.points.get(below).is_some_and(|&point| point == value);
        2 * below + usize::from(at)
    }

    fn add(&mut self, place: usize, count: u64) {
        self.counts[place] += count;
        self.all += count;
        let mut node = place + 1;
        while node < self.tree.len() {
            self.tree[node] += count;
            node += node & node.wrapping_neg();
        }
    }

    fn before(&self, place: usize) -> u64 {
        let (mut sum, mut node) = (0, place);
        while node > 0 {
            sum += self.tree[node];
            node &= node - 1;
        }
        sum
    }
}
