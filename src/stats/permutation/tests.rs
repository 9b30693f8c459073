use super::*;
use crate::stats::binomial;
use rand::rngs::StdRng;

#[test]
fn every_level_holds_for_discrete_and_continuous_statistics() {
    // the observed statistic is one more draw of the null
    for (name, cells) in [("continuous", f64::INFINITY), ("discrete", 5.0)] {
        let mut random = StdRng::seed_from_u64(cells.to_bits());
        let mut draw = move || {
            let x: f64 = random.random();
            if cells.is_finite() { (x * cells).floor() } else { x }
        };
        let runs = 20_000;
        for level in [0.01, 0.05, 0.2] {
            let plan = MonteCarlo::for_level(level);
            let hits = (0..runs).filter(|_| plan.p_value(draw(), &mut draw) <= level).count() as u64;
            assert!(binomial::lower(hits, runs, 0.999) <= level, "{name}: {hits} of {runs} at {level}");
            // a continuous statistic loses nothing
            let full = binomial::upper(hits, runs, 0.999) >= level;
            assert!(full || cells.is_finite(), "{name}: {hits} of {runs} at {level}");
        }
    }
}

#[test]
fn the_smallest_p_has_the_plus_one() {
    let plan = MonteCarlo::for_level(0.05);
    assert_eq!(plan.p_value(1.0, || 0.0), 1.0 / 100.0);
    assert_eq!(plan.smallest(), 1.0 / 100.0);
    assert_eq!(MonteCarlo::for_level(0.0), MonteCarlo::for_level(f64::NAN));
    assert_eq!(MonteCarlo::for_level(1e-9).smallest(), 1.0 / 30_000.0);
}

#[test]
fn stops_after_ten_exceedances() {
    let mut draws = 0;
    let p = MonteCarlo::for_level(1e-4).p_value(0.5, || {
        draws += 1;
        f64::from(draws % 2)
    });
    assert_eq!((draws, p), (19, 10.0 / 19.0));
    assert_eq!(MonteCarlo::for_level(0.05).p_value(f64::NAN, || 0.0), 1.0);
    assert_eq!(MonteCarlo::for_level(0.05).p_value(0.0, || f64::NAN), 1.0);
}

/// Mean and variance of each cell against the multivariate hypergeometric's.
fn check(pooled: &[u32], size: u64, cell_by_cell: bool) {
    let mut arrangements = Arrangements::new(pooled.to_vec(), size, 5).unwrap();
    assert_eq!(matches!(arrangements.way, Way::Cells), cell_by_cell);
    let total: f64 = pooled.iter().map(|&c| f64::from(c)).sum();
    let draws = 20_000;
    let mut sums = vec![(0.0, 0.0); pooled.len()];
    for _ in 0..draws {
        let drawn = arrangements.draw();
        assert_eq!(drawn.iter().map(|&c| u64::from(c)).sum::<u64>(), size);
        for (sum, (&count, &most)) in sums.iter_mut().zip(drawn.iter().zip(pooled)) {
            assert!(count <= most);
            *sum = (sum.0 + f64::from(count), sum.1 + f64::from(count) * f64::from(count));
        }
    }
    let draws = f64::from(draws);
    for ((sum, squares), &most) in sums.into_iter().zip(pooled) {
        let share = f64::from(most) / total;
        let mean = size as f64 * share;
        let variance = mean * (1.0 - share) * (total - size as f64) / (total - 1.0);
        assert!((sum / draws - mean).abs() <= 5.0 * (variance / draws).sqrt(), "mean {} {mean}", sum / draws);
        let found = squares / draws - (sum / draws).powi(2);
        assert!((found / variance.max(1e-9) - 1.0).abs() < 0.1 || most == 0, "variance {found} {variance}");
    }
}

#[test]
fn both_ways_draw_the_multivariate_hypergeometric() {
    check(&[500, 0, 300, 150, 50], 400, true);
    check(&[500, 0, 300, 150, 50], 700, true);
    check(&[5, 0, 3, 1, 1], 4, false);
    check(&[2, 3, 1, 1, 2, 4], 9, false);
}

#[test]
fn impossible_sizes_are_refused() {
    assert!(Arrangements::new(vec![3, 4], 8, 0).is_none());
    assert!(Arrangements::new(vec![u32::MAX, 1], 8, 0).is_none());
    assert_eq!(Arrangements::new(vec![3, 4], 7, 0).unwrap().draw(), [3, 4]);
    assert_eq!(Arrangements::new(vec![], 0, 0).unwrap().draw(), [] as [u32; 0]);
}
