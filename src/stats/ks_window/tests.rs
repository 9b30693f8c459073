use super::*;
use crate::stats::ks::statistic;
use proptest::prelude::*;

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut kept: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    kept.sort_unstable_by(f64::total_cmp);
    kept
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-8..8_i32).prop_map(|v| f64::from(v) / 2.0),
        3 => -5.0..5.0_f64,
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0]),
    ]
}

#[test]
fn the_grid_finds_what_a_search_over_all_values_finds() {
    let tailed: Vec<f64> = (0..2_000).map(|i| (f64::from(i * 7919 % 2_000) / 250.0).exp2().exp2()).collect();
    let even: Vec<f64> = (0..500).map(|i| f64::from(i % 300) * 0.1 - 7.0).collect();
    let wild = vec![-f64::MAX, -1.0, 0.0, f64::MIN_POSITIVE, 1.0, f64::MAX];
    let close = vec![5e-324, 1e-323, 1.5e-323, -0.0, 0.0];
    for reference in [tailed, even, wild, close, vec![3.0], vec![]] {
        let window = KsWindow::new(&reference, 10);
        let near = reference.iter().flat_map(|v| [v.next_down(), *v, v.next_up()]);
        for value in near.chain([-f64::MAX, f64::MAX, 0.0, -0.0, 2.5]).filter(|v| v.is_finite()) {
            let below = window.distinct.iter().filter(|&&v| v < value).count();
            let on = usize::from(window.distinct[below] == value);
            assert_eq!(window.bucket(value) as usize, 2 * below + on, "{value} among {}", reference.len());
        }
    }
}

#[test]
fn ties_are_those_of_both_samples() {
    let mut window = KsWindow::new(&[1.0, 1.0, 2.0, 4.0], 10);
    window.extend([0.5, 1.0, 3.0, 3.5, 4.0, 9.0, f64::NAN].into_iter());
    // 0.5 | 1 | 2 | 3, 3.5 | 4 | 9
    assert_eq!(window.ties(), [1, 3, 1, 1, 1, 2, 1]);
    assert_eq!(window.middle_share(), 0.5);
    assert_eq!(KsWindow::new(&[], 3).ties(), [0; 0]);
}

proptest! {
    #[test]
    fn equals_the_statistic_of_sorted_copies(
        reference in prop::collection::vec(value(), 0..60),
        stream in prop::collection::vec(value(), 0..80),
        capacity in 1..30_usize,
    ) {
        let mut window = KsWindow::new(&reference, capacity);
        let (x, mut last) = (sorted(reference.iter().copied()), Vec::new());
        for (i, &v) in stream.iter().enumerate() {
            window.push(v);
            last = stream[(i + 1).saturating_sub(capacity)..=i].to_vec();
            let y = sorted(last.iter().copied());
            prop_assert_eq!(window.distance().to_bits(), statistic(&x, &y).d.to_bits());
            prop_assert_eq!(window.compared(), y.len());
            prop_assert_eq!(window.missing(), last.len() - y.len());
        }
        let mut restored = KsWindow::new(&reference, capacity);
        restored.replace(&last);
        prop_assert_eq!(restored.counts, window.counts.clone());
        window.clear();
        prop_assert!(window.is_empty() && window.missing() == 0);
        prop_assert_eq!(window.distance(), 0.0);
    }
    #[test]
    fn a_distance_kept_change_by_change_equals_the_statistic_of_sorted_copies(
        reference in prop::collection::vec(prop_oneof![1 => value(), 9 => -5.0..5.0_f64], 60..700),
        pieces in prop::collection::vec(prop::collection::vec(value(), 1..6), 1..40),
        capacity in 1..30_usize,
        cleared_at in 0..40_usize,
    ) {
        let mut window = KsWindow::new(&reference, capacity);
        let (x, mut seen) = (sorted(reference.iter().copied()), Vec::new());
        for (step, piece) in pieces.iter().enumerate() {
            if step == cleared_at {
                window.clear();
                seen.clear();
            }
            window.extend(piece.iter().copied());
            seen.extend(piece);
            let y = sorted(seen[seen.len().saturating_sub(capacity)..].iter().copied());
            let few = CHANGE * piece.len() <= window.cumulative.len();
            prop_assert!(y.is_empty() || window.leads.whole(y.len() as u64).is_some() == few);
            prop_assert_eq!(window.distance().to_bits(), statistic(&x, &y).d.to_bits());
        }
    }
}
