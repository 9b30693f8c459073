//! Random forests by smartcore.

use std::thread;

use serde::{Deserialize, Serialize};
use smartcore::ensemble::random_forest_classifier::{RandomForestClassifier, RandomForestClassifierParameters};
use smartcore::linalg::basic::matrix::DenseMatrix;

use super::{Constant, Exact, Scaler, normalise};

/// Trees in a forest.
const TREES: u64 = 25;
/// Trees that one thread grows. A constant, so that the same forest grows on any number of cores.
const TREES_PER_THREAD: u64 = 5;
/// A member that has a smaller share of a blend does not vote.
const LEAST_SHARE: f64 = 0.01;

/// A random forest, or several that vote together: the probability of a class is its share of the votes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forest {
    scaler: Scaler,
    classes: usize,
    trees: Vec<Tree>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Tree {
    /// What its vote weighs.
    vote: Exact,
    /// The root first, children after their parent.
    nodes: Vec<Node>,
}

/// A node of a tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Node {
    /// Votes for this class.
    #[serde(rename = "l")]
    Leaf(usize),
    /// Compares a feature with a threshold: feature, threshold, node if not above, node if above.
    #[serde(rename = "s")]
    Split(usize, Exact, usize, usize),
}

impl Forest {
    pub(super) fn fit(scaler: Scaler, rows: &[&[f64]], labels: &[usize], shares: &Constant, seed: u64) -> Option<Self> {
        let seen = shares.seen();
        // A split draws a few columns and gives up if none of them can split, so constant ones must not be drawn.
        let mut columns = Vec::new();
        let mut values = Vec::with_capacity(rows.len() * scaler.width());
        for column in 0..scaler.width() {
            let start = values.len();
            values.extend(rows.iter().map(|row| {
                let value = row.get(column).copied().unwrap_or(f64::NAN);
                scaler.imputed(column, value)
            }));
            if values[start..].iter().all(|value| *value == values[start]) {
                values.truncate(start);
            } else {
                columns.push(column);
            }
        }
        let records = DenseMatrix::new(rows.len(), columns.len(), values, true).ok()?;
        let targets = labels.to_vec();
        let drawn = scaler.width().isqrt().clamp(1, columns.len().max(1));
        let grow = |group: u64| {
            let seed = seed.wrapping_mul(TREES).wrapping_add(group * TREES_PER_THREAD);
            grow(&records, &targets, drawn, seed)
        };
        let groups: Vec<Option<Vec<StoredTree>>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..TREES / TREES_PER_THREAD).map(|group| scope.spawn(move || grow(group))).collect();
            // A thread that panicked counts as one that could not train.
            threads.into_iter().map(|thread| thread.join().ok().flatten()).collect()
        });
        let mut trees = Vec::new();
        for tree in groups.into_iter().collect::<Option<Vec<_>>>()?.concat() {
            let nodes = tree.nodes.iter().map(|node| node.convert(&columns, &seen)).collect::<Option<Vec<_>>>()?;
            trees.push(Tree { vote: Exact(1.0), nodes });
        }
        let forest = Self { scaler, classes: shares.classes(), trees };
        forest.is_sound().then_some(forest)
    }

    /// All trees of all `members`, whose votes weigh as the member's share says; missing features take the mean that
    /// `rows` have. `None` without a member that has a share.
    pub(super) fn together(members: &[(f64, &Forest)], rows: &[&[f64]]) -> Option<Self> {
        let classes = members.first()?.1.classes;
        let mut trees = Vec::new();
        for (share, forest) in members.iter().filter(|(share, _)| *share >= LEAST_SHARE) {
            trees.extend(forest.trees.iter().cloned().map(|tree| Tree { vote: Exact(share * tree.vote.0), ..tree }));
        }
        let forest = Self { scaler: Scaler::fit(rows), classes, trees };
        forest.is_sound().then_some(forest)
    }

    pub(super) fn probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
        out.clear();
        out.resize(self.classes, 0.0);
        for tree in &self.trees {
            let mut at = 0;
            loop {
                match tree.nodes[at] {
                    Node::Leaf(class) => {
                        out[class] += tree.vote.0;
                        break;
                    }
                    Node::Split(feature, threshold, not_above, above) => {
                        let value = row.get(feature).copied().unwrap_or(f64::NAN);
                        let value = self.scaler.imputed(feature, value);
                        at = if value <= threshold.0 { not_above } else { above };
                    }
                }
            }
        }
        normalise(out);
    }

    /// Every walk down a tree stays inside it and ends.
    pub(super) fn is_sound(&self) -> bool {
        let sound = |Tree { vote, nodes }: &Tree| {
            vote.0 > 0.0
                && !nodes.is_empty()
                && nodes.iter().enumerate().all(|(at, node)| match *node {
                    Node::Leaf(class) => class < self.classes,
                    Node::Split(feature, _, not_above, above) => {
                        let child = |next: usize| next > at && next < nodes.len();
                        feature < self.scaler.width() && child(not_above) && child(above)
                    }
                })
        };
        !self.trees.is_empty() && self.trees.iter().all(sound)
    }
}

/// Grows a part of a forest with smartcore; every split draws `drawn` columns. smartcore predicts only the winner of the
/// vote and keeps its trees private, but what it serialises has them.
fn grow(records: &DenseMatrix<f64>, targets: &Vec<usize>, drawn: usize, seed: u64) -> Option<Vec<StoredTree>> {
    let parameters = RandomForestClassifierParameters::default()
        .with_n_trees(TREES_PER_THREAD as u16)
        .with_min_samples_leaf(1)
        .with_m(drawn)
        .with_seed(seed);
    let fitted = RandomForestClassifier::fit(records, targets, parameters).ok()?;
    let stored: StoredForest = serde_json::from_value(serde_json::to_value(&fitted).ok()?).ok()?;
    Some(stored.trees)
}

/// The parts of smartcore's serialised forest that we keep.
#[derive(Deserialize)]
struct StoredForest {
    trees: Vec<StoredTree>,
}

#[derive(Clone, Deserialize)]
struct StoredTree {
    nodes: Vec<StoredNode>,
}

#[derive(Clone, Deserialize)]
struct StoredNode {
    output: usize,
    split_feature: usize,
    split_value: Option<f64>,
    true_child: Option<usize>,
    false_child: Option<usize>,
}

impl StoredNode {
    /// `columns` and `seen` map smartcore's columns and classes to ours.
    fn convert(&self, columns: &[usize], seen: &[usize]) -> Option<Node> {
        match (self.split_value, self.true_child, self.false_child) {
            (Some(threshold), Some(not_above), Some(above)) => {
                Some(Node::Split(*columns.get(self.split_feature)?, Exact(threshold), not_above, above))
            }
            _ => seen.get(self.output).copied().map(Node::Leaf),
        }
    }
}
