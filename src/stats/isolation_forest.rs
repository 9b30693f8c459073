//! Isolation forest (Liu, Ting and Zhou 2008).

use super::scale::Scale;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Trees of a forest.
const TREES: usize = 100;

/// Rows that a tree is grown from, at most.
const SUBSAMPLE: usize = 256;

/// Trees, or rows, that are walked side by side: their steps do not wait for each other.
const ABREAST: usize = 4;

/// Rows whose cells are gathered at a time.
const TILE: usize = 32;

/// 100 random trees, each grown from 256 rows of a sample; rows that few cuts set apart score high.
///
/// The score is 2^(−h/c): h is the mean length of a row's path, c that of a search among as many rows. A node cuts a
/// column drawn among those that vary in it at a point drawn between its ends, down to a depth of log₂ of the
/// number of rows; where several rows remain, the expected rest of the path is added.
///
/// A missing cell (NaN or infinite) goes to the side to which more rows went when the tree was grown; a row without
/// any cell has no score. Columns that do not vary are blind.
///
/// Trees are filled up to full depth and lie flat: a walk has no branches. The larger side is always the first child,
/// which a comparison with NaN chooses too; where it is the right one, the column is cut as its negative.
#[derive(Clone, Debug)]
pub(crate) struct IsolationForest {
    kept: Vec<usize>,
    blind: Vec<usize>,
    depth: u32,
    /// 2^depth a tree, in heap order from place 1 on.
    nodes: Vec<Node>,
    /// 2^depth a tree.
    lengths: Vec<f64>,
    /// Expected length of a search among the rows of a tree.
    typical: f64,
}

/// Goes to the second child if cell `cell` exceeds `cut`. Cell d + j is the negative of cell j.
#[derive(Clone, Copy, Debug)]
struct Node {
    cut: f64,
    cell: u32,
}

impl IsolationForest {
    /// Of a sample of `rows` with `columns` cells each; everything random follows from the seed.
    pub(crate) fn new(rows: &[&[f64]], columns: usize, seed: u64) -> Self {
        let scale = Scale::new(rows, columns);
        let subsample = rows.len().min(SUBSAMPLE);
        let depth = subsample.max(2).next_power_of_two().ilog2();
        let mut forest = IsolationForest {
            kept: scale.kept().to_vec(),
            blind: scale.blind().to_vec(),
            depth,
            nodes: vec![Node { cut: f64::INFINITY, cell: 0 }; TREES << depth],
            lengths: vec![0.0; TREES << depth],
            typical: expected_length(subsample),
        };
        if forest.kept.is_empty() {
            return forest;
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        for tree in 0..TREES {
            for place in 0..subsample {
                let other = rng.random_range(place..order.len());
                order.swap(place, other);
            }
            forest.grow(rows, &mut order[..subsample], tree, (1, 0), &mut rng);
        }
        forest
    }

    /// Grows the node at `place` and `level` of a tree.
    fn grow(&mut self, rows: &[&[f64]], here: &mut [usize], tree: usize, at: (usize, u32), rng: &mut StdRng) {
        let (place, level) = at;
        let cut = if level < self.depth && here.len() > 1 { self.draw(rows, here, rng) } else { None };
        let Some((position, cut)) = cut else {
            // the nodes below send every row to their first child
            let leaf = (place << (self.depth - level)) - (1 << self.depth);
            self.lengths[(tree << self.depth) + leaf] = f64::from(level) + expected_length(here.len());
            return;
        };
        let column = self.kept[position];
        let count =
            |test: fn(&f64, &f64) -> bool| here.iter().filter(|&&row| test(&cell(rows[row], column), &cut)).count();
        let mirrored = count(f64::gt) > count(f64::le);
        let node = if mirrored {
            // −x > −(the next number after the cut) means x ≤ cut
            Node { cut: -cut.next_up(), cell: (self.kept.len() + position) as u32 }
        } else {
            Node { cut, cell: position as u32 }
        };
        self.nodes[(tree << self.depth) + place] = node;
        let second = |row: usize| if mirrored { cell(rows[row], column) <= cut } else { cell(rows[row], column) > cut };
        let mut first = 0;
        for i in 0..here.len() {
            if !second(here[i]) {
                here.swap(first, i);
                first += 1;
            }
        }
        let (left, right) = here.split_at_mut(first);
        self.grow(rows, left, tree, (2 * place, level + 1), rng);
        self.grow(rows, right, tree, (2 * place + 1, level + 1), rng);
    }

    /// A column that varies among the rows and a cut inside it.
    fn draw(&self, rows: &[&[f64]], here: &[usize], rng: &mut StdRng) -> Option<(usize, f64)> {
        let mut candidates: Vec<usize> = (0..self.kept.len()).collect();
        while !candidates.is_empty() {
            let position = candidates.swap_remove(rng.random_range(0..candidates.len()));
            let cells = here.iter().map(|&row| cell(rows[row], self.kept[position])).filter(|x| !x.is_nan());
            let (low, high) =
                cells.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
            if low < high {
                let part = rng.random::<f64>();
                let cut = low * (1.0 - part) + high * part;
                return Some((position, if cut < high { cut.max(low) } else { low }));
            }
        }
        None
    }

    /// Columns left out, ascending.
    pub(crate) fn blind(&self) -> &[usize] {
        &self.blind
    }

    /// Number of columns that count.
    pub(crate) fn dimension(&self) -> usize {
        self.kept.len()
    }

    /// The score of `row`, between 0 and 1; NaN if no cell that counts is there. Allocates only while `scratch` grows.
    pub(crate) fn score(&self, row: &[f64], scratch: &mut Vec<f64>) -> f64 {
        scratch.clear();
        scratch.resize(2 * self.kept.len(), f64::NAN);
        if !self.gather(|column| cell(row, column), scratch) {
            return f64::NAN;
        }
        self.scored(self.total_length(scratch))
    }

    /// The scores of a chunk, bit-identical to [`score`](Self::score): `columns(j)[i]` is value j of row i.
    pub(crate) fn scores<'a>(&self, columns: impl Fn(usize) -> &'a [f64], scratch: &mut Vec<f64>, out: &mut [f64]) {
        let width = 2 * self.kept.len();
        scratch.clear();
        scratch.resize(TILE * width, f64::NAN);
        for (tile, out) in out.chunks_mut(TILE).enumerate() {
            let (mut seen, mut totals) = ([false; TILE], [0.0; TILE]);
            for (i, seen) in seen.iter_mut().enumerate().take(out.len()) {
                let cell = |column| columns(column).get(tile * TILE + i).copied().filter(|x| x.is_finite());
                *seen = self.gather(|column| cell(column).unwrap_or(f64::NAN), &mut scratch[i * width..][..width]);
            }
            for tree in 0..TREES {
                for start in (0..out.len()).step_by(ABREAST) {
                    let cells = &scratch[start * width..];
                    let lengths = self.walk([tree; ABREAST], |i, cell| cells[i * width + cell]);
                    for (total, length) in totals[start..].iter_mut().zip(lengths) {
                        *total += length;
                    }
                }
            }
            for ((out, seen), total) in out.iter_mut().zip(seen).zip(totals) {
                *out = if seen { self.scored(total) } else { f64::NAN };
            }
        }
    }

    /// How much longer the paths of `row` would be without each of its cells: the part of its score that the column is
    /// behind, given the others. With the column's index, in column order; not positive if the column made it more
    /// ordinary. Columns that say the same share nothing: each alone could be spared.
    pub(crate) fn contributions(&self, row: &[f64]) -> Vec<(usize, f64)> {
        let d = self.kept.len();
        let mut cells = vec![f64::NAN; 2 * d];
        self.gather(|column| cell(row, column), &mut cells);
        let whole = self.total_length(&cells);
        let mut without = |position: usize| {
            let kept = (cells[position], cells[d + position]);
            (cells[position], cells[d + position]) = (f64::NAN, f64::NAN);
            let length = self.total_length(&cells);
            (cells[position], cells[d + position]) = kept;
            length - whole
        };
        self.kept.iter().enumerate().map(|(position, &column)| (column, without(position))).collect()
    }

    /// The cells of one row and their negatives; whether any is there.
    fn gather(&self, cell: impl Fn(usize) -> f64, out: &mut [f64]) -> bool {
        let (plain, negative) = out.split_at_mut(self.kept.len());
        let mut any = false;
        for ((plain, negative), &column) in plain.iter_mut().zip(negative).zip(&self.kept) {
            let x = cell(column);
            (*plain, *negative) = (x, -x);
            any |= !x.is_nan();
        }
        any
    }

    fn total_length(&self, cells: &[f64]) -> f64 {
        let mut total = 0.0;
        for tree in (0..TREES).step_by(ABREAST) {
            let trees = std::array::from_fn(|i| tree + i);
            for length in self.walk(trees, |_, cell| cells[cell]) {
                total += length;
            }
        }
        total
    }

    /// Four walks side by side, each through its tree.
    #[inline(always)]
    fn walk(&self, trees: [usize; ABREAST], cell: impl Fn(usize, usize) -> f64) -> [f64; ABREAST] {
        let size = 1 << self.depth;
        // no `trees.map`: whether the compiler inlines it moves with code elsewhere in the crate
        let mut nodes = [self.nodes.as_slice(); ABREAST];
        for (nodes, tree) in nodes.iter_mut().zip(trees) {
            *nodes = &nodes[tree * size..][..size];
        }
        let mut places = [1_usize; ABREAST];
        for _ in 0..self.depth {
            for (i, (place, nodes)) in places.iter_mut().zip(nodes).enumerate() {
                let node = nodes[*place];
                *place = 2 * *place + usize::from(cell(i, node.cell as usize) > node.cut);
            }
        }
        std::array::from_fn(|i| self.lengths[trees[i] * size + places[i] - size])
    }

    fn scored(&self, total: f64) -> f64 {
        (-total / TREES as f64 / self.typical).exp2()
    }
}

const _: () = assert!(TREES.is_multiple_of(ABREAST) && TILE.is_multiple_of(ABREAST));

/// A cell; NaN if missing or infinite.
fn cell(row: &[f64], column: usize) -> f64 {
    row.get(column).copied().filter(|x| x.is_finite()).unwrap_or(f64::NAN)
}

/// Mean length of an unsuccessful search in a binary search tree of n items (Preiss 1999).
fn expected_length(n: usize) -> f64 {
    match n {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => {
            let n = n as f64;
            2.0 * ((n - 1.0).ln() + std::f64::consts::EULER_GAMMA) - 2.0 * (n - 1.0) / n
        }
    }
}

#[cfg(test)]
mod tests;
