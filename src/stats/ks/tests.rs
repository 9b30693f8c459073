use super::*;
use crate::stats::binomial;
use crate::stats::golden::{assert_close, cases, number, numbers};
use crate::stats::pooled::sorted;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// |F − G| at one value.
fn distance(x: &[f64], y: &[f64], at: f64) -> f64 {
    let share = |s: &[f64]| s.iter().filter(|&&v| v <= at).count() as f64 / s.len() as f64;
    (share(x) - share(y)).abs()
}

#[test]
fn golden_two_sample_matches_scipy() {
    let mut checked = 0;
    for case in cases("ks_2samp") {
        if case.inputs["alternative"].as_str() != Some("two-sided") {
            continue;
        }
        let mut x = numbers(&case.inputs["x"]);
        let mut y = numbers(&case.inputs["y"]);
        x.sort_unstable_by(f64::total_cmp);
        y.sort_unstable_by(f64::total_cmp);
        let found = statistic(&x, &y);
        for (key, method) in [("exact", Method::Exact), ("asymp", Method::Asymptotic)] {
            let what = format!("{} {key}", case.name);
            let expected = &case.outputs[key];
            assert_close(found.d, number(&expected["statistic"]), 1e-13, 1e-15, &what);
            assert!((distance(&x, &y, found.location) - found.d).abs() < 1e-12, "{what}");
            let p = p_value(x.len() as u64, y.len() as u64, found.d, method);
            if !expected["pvalue"].is_null() {
                assert_close(p, number(&expected["pvalue"]), 1e-9, 1e-300, &what);
            }
            checked += 1;
        }
    }
    assert!(checked > 0);
}

#[test]
fn golden_p_values_match_scipy() {
    for case in cases("ks_2samp_pvalues") {
        let (n, m) = (case.inputs["n"].as_u64().unwrap(), case.inputs["m"].as_u64().unwrap());
        let d = number(&case.inputs["d"]);
        if case.outputs["exact_ok"].as_bool() != Some(false) {
            let p = p_value(n, m, d, Method::Exact);
            assert_close(p, number(&case.outputs["exact"]), 1e-9, 0.0, &case.name);
        }
        if !case.outputs["asymp"].is_null() {
            let p = p_value(n, m, d, Method::Asymptotic);
            assert_close(p, number(&case.outputs["asymp"]), 1e-9, 1e-300, &case.name);
        }
    }
}

#[test]
fn exact_matches_the_count_of_all_orderings() {
    for (n, m) in [(1_u32, 1_u32), (2, 3), (4, 4), (5, 2), (6, 4)] {
        // every ordering of n + m values is a bit pattern with n ones
        let patterns: Vec<f64> = (0_u32..1 << (n + m))
            .filter(|bits| bits.count_ones() == n)
            .map(|bits| {
                let split = |one: bool| -> Vec<f64> {
                    (0..n + m).filter(|i| (bits >> i & 1 == 1) == one).map(f64::from).collect()
                };
                statistic(&split(true), &split(false)).d
            })
            .collect();
        for &d in &patterns {
            let share = patterns.iter().filter(|&&e| e >= d - 1e-12).count() as f64;
            let p = p_value(n.into(), m.into(), d, Method::Exact);
            assert_close(p, share / patterns.len() as f64, 1e-13, 0.0, &format!("{n} {m} {d}"));
        }
    }
}

#[test]
fn never_leaves_the_unit_interval() {
    for method in [Method::Auto, Method::Exact, Method::Asymptotic] {
        for (n, m) in [(0, 5), (1, 1), (1, 1000), (997, 1009), (3000, 10)] {
            for d in [f64::NAN, -1.0, 0.0, 1e-300, 0.01, 0.5, 1.0, 7.0, f64::INFINITY] {
                let p = p_value(n, m, d, method);
                assert!((0.0..=1.0).contains(&p), "{method:?} {n} {m} {d}: {p}");
                assert!(d > 0.0 || p == 1.0);
            }
        }
    }
    assert!((0.0..=1.0).contains(&p_value(1 << 40, 1 << 40, 1e-7, Method::Auto)));
}

#[test]
fn unexpected_nan_does_not_hang() {
    let nan = [f64::NAN, f64::NAN];
    assert_eq!(statistic(&nan, &nan).d, 0.0);
    assert!(statistic(&[1.0, 2.0, f64::NAN], &[1.5, f64::NAN]).d <= 1.0);
}

#[test]
fn empty_samples_do_not_differ() {
    assert_eq!(statistic(&[], &[1.0]).d, 0.0);
    assert!(statistic(&[], &[]).location.is_nan());
}

#[test]
fn exact_under_ties_matches_all_arrangements() {
    let tied: [&[u32]; 7] =
        [&[3, 1, 4, 2], &[1, 1, 1, 1, 1, 1], &[9], &[5, 5], &[1, 8, 1], &[2, 2, 2, 2, 2, 2], &[7, 1, 1, 3]];
    for counts in tied {
        let total: u32 = counts.iter().sum();
        let cell_of: Vec<usize> = counts.iter().enumerate().flat_map(|(i, &c)| vec![i; c as usize]).collect();
        for m in 1..total {
            let leads: Vec<u64> = (0_u32..1 << total)
                .filter(|bits| bits.count_ones() == m)
                .map(|bits| {
                    let mut window = vec![0; counts.len()];
                    cell_of.iter().enumerate().filter(|&(i, _)| bits >> i & 1 == 1).for_each(|(_, &c)| window[c] += 1);
                    largest_lead(counts, &window, u64::from(total - m), u64::from(m))
                })
                .collect();
            let (n, m) = (u64::from(total - m), u64::from(m));
            for &lead in &leads {
                let share = leads.iter().filter(|&&other| other >= lead).count() as f64 / leads.len() as f64;
                let d = lead as f64 / (n * m) as f64;
                let what = format!("{counts:?} {n} {m} {d}");
                assert_close(p_value_with_ties(counts, n, m, d, 0.05, 1), share, 1e-12, 0.0, &what);
            }
        }
    }
}

#[test]
fn permutation_agrees_with_the_exact_walk() {
    let counts = [40, 10, 25, 60, 5, 30];
    for d in [0.12, 0.18, 0.22] {
        let exact = p_value_with_ties(&counts, 100, 70, d, 0.05, 1);
        // the inverse of a sequential p is unbiased
        let inverse = (0..400).map(|seed| 1.0 / permutation_p(&counts, 100, 70, d, 1e-3, seed)).sum::<f64>() / 400.0;
        // d is no multiple of 1/(n·m) everywhere: at least the next one
        assert_close(1.0 / inverse, exact, 0.06, 0.0, &format!("{d}"));
    }
}

#[test]
fn without_ties_nothing_changes() {
    for (n, m, d) in [(10, 7, 0.5), (500, 300, 0.08), (4_096, 1_000, 0.05)] {
        let blocks = vec![1; (n + m) as usize];
        assert_eq!(p_value_with_ties(&blocks, n, m, d, 0.05, 1), p_value(n, m, d, Method::Auto));
    }
    assert_eq!(p_value_with_ties(&[3, 4], 5, 3, 0.5, 0.05, 1), 1.0, "counts that do not fit");
    assert_eq!(p_value_with_ties(&[8], 5, 3, f64::NAN, 0.05, 1), 1.0);
}

/// Rejections at `level` among `runs`, with ties taken into account and without; normal values, rounded if told.
fn rejections(n: u64, m: u64, rounded: bool, shift: f64, level: f64, runs: u64) -> (u64, u64) {
    let mut random = StdRng::seed_from_u64(n * 31 + m + u64::from(rounded));
    let mut sample = |size: u64, shift: f64| -> Vec<f64> {
        let mut one = || {
            (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt() * (std::f64::consts::TAU * random.random::<f64>()).cos()
        };
        let all: Vec<f64> = (0..size).map(|_| one() + shift).collect();
        sorted(&if rounded { all.into_iter().map(f64::round).collect() } else { all })
    };
    let (mut hits, mut plain) = (0, 0);
    for run in 0..runs {
        let pooled = Pooled::new(&sample(n, 0.0), &sample(m, shift)).unwrap();
        let found = test(&pooled, level, run);
        hits += u64::from(found.p_value <= level);
        plain += u64::from(p_value(n, m, found.statistic, Method::Auto) <= level);
    }
    (hits, plain)
}

#[test]
fn rounded_data_keep_the_level_and_are_not_blind() {
    // integers of a normal with standard deviation 1: about six values
    for (n, m) in [(300, 200), (60, 40)] {
        let (hits, plain) = rejections(n, m, true, 0.0, 0.05, 2_000);
        assert!(binomial::lower(hits, 2_000, 0.9999) <= 0.05, "{hits} of 2,000");
        assert!(hits > 60 && hits > 2 * plain, "{hits} of 2,000, without the ties {plain}");
        let shift = 3.6 * (1.0 / n as f64 + 1.0 / m as f64).sqrt();
        assert!(rejections(n, m, true, shift, 0.05, 100).0 >= 75);
    }
}

#[test]
#[ignore = "heavy simulation"]
fn holds_its_level_and_has_power_at_all_sizes() {
    for (n, m, runs) in
        [(20, 20, 10_000), (20, 2_000, 10_000), (200, 200, 10_000), (2_000, 2_000, 2_000), (20_000, 20_000, 300)]
    {
        for rounded in [false, true] {
            for level in [0.05, 0.01] {
                let (hits, _) = rejections(n, m, rounded, 0.0, level, runs);
                assert!(binomial::lower(hits, runs, 0.9999) <= level, "{n} {m} {rounded}: {hits} of {runs} at {level}");
            }
            let shift = 4.2 * (1.0 / n as f64 + 1.0 / m as f64).sqrt();
            let (found, _) = rejections(n, m, rounded, shift, 0.05, 100);
            assert!(found >= 70, "{n} {m} {rounded}: power {found} %");
        }
    }
}
