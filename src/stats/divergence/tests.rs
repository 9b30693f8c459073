use super::*;
use crate::stats::binomial;
use crate::stats::bins::Bins;
use crate::stats::golden::{assert_close, cases, number, numbers};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

fn shares(counts: &[u64]) -> Vec<f64> {
    let all: u64 = counts.iter().sum();
    counts.iter().map(|&count| count as f64 / all as f64).collect()
}

/// Counts of both text columns over the sorted levels of either.
fn levels(inputs: &Value) -> (Vec<f64>, Vec<f64>) {
    let column = |key: &str| -> Vec<String> {
        inputs[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let (reference, window) = (column("ref"), column("cur"));
    let mut all: Vec<&String> = reference.iter().chain(&window).collect();
    all.sort();
    all.dedup();
    let count = |values: &[String]| -> Vec<u64> {
        all.iter().map(|level| values.iter().filter(|v| v == level).count() as u64).collect()
    };
    (shares(&count(&reference)), shares(&count(&window)))
}

/// numpy.histogram over ascending edges (the last bin is closed), as shares of all values.
fn histogram(values: &[f64], edges: &[f64]) -> Vec<f64> {
    let mut counts = vec![0.0; edges.len() - 1];
    for &value in values.iter().filter(|&&v| v >= edges[0] && v <= edges[edges.len() - 1]) {
        let cell = edges.partition_point(|&edge| edge <= value).clamp(1, counts.len()) - 1;
        counts[cell] += 1.0;
    }
    counts.iter().map(|count| count / values.len() as f64).collect()
}

/// numpy.histogram_bin_edges over the pooled range.
fn pooled_edges(x: &[f64], y: &[f64], bins: usize) -> Vec<f64> {
    let all = || x.iter().chain(y).copied();
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    (0..=bins).map(|i| if i == bins { high } else { low + i as f64 * ((high - low) / bins as f64) }).collect()
}

fn floored(shares: &[f64], least: f64) -> Vec<f64> {
    shares.iter().map(|&share| if share < least { least } else { share }).collect()
}

#[test]
fn golden_distances_match_scipy() {
    let mut checked = 0;
    for case in cases("divergences").iter().filter(|case| case.inputs["p"].is_array()) {
        let normal = |key: &str| -> Vec<f64> {
            let raw = numbers(&case.inputs[key]);
            let total: f64 = raw.iter().sum();
            raw.iter().map(|v| v / total).collect()
        };
        let (p, q) = (normal("p"), normal("q"));
        let check = |found: f64, key: &str| assert_close(found, number(&case.outputs[key]), 1e-12, 1e-15, key);
        check(jensen_shannon(&p, &q), "js_distance_base2");
        check(jensen_shannon(&p, &q) * LN_2.sqrt(), "js_distance_e");
        check(kullback_leibler(&p, &q), "kl_p_q");
        check(kullback_leibler(&q, &p), "kl_q_p");
        // one minus a sum of shares leaves 1e-16 in their bin for the rest, and its root 1e-8
        assert_close(hellinger(&p, &q), number(&case.outputs["hellinger"]), 1e-7, 0.0, &case.name);
        check(total_variation(&p, &q), "total_variation");
        checked += 1;
    }
    assert!(checked > 3);
}

#[test]
fn golden_psi_matches_numpy() {
    for case in cases("psi") {
        let (reference, window) = (numbers(&case.inputs["ref"]), numbers(&case.inputs["cur"]));
        for bins in [5, 10, 20] {
            for least in ["0.0001", "1e-06"] {
                let what = format!("{} {bins} {least}", case.name);
                // their outer edges are dropped even where the first or the last quantile repeats
                let mut sorted = reference.clone();
                sorted.sort_unstable_by(f64::total_cmp);
                let mut edges: Vec<f64> = (0..=bins)
                    .map(|i| crate::stats::quantile::quantile(&sorted, f64::from(i) / f64::from(bins)))
                    .collect();
                edges.dedup();
                let inner = edges[1..edges.len() - 1].to_vec();
                let own = Bins::new(&reference, bins as usize).unwrap();
                if case.name != "ties" {
                    assert_eq!(own.edges(), inner, "{what}");
                }
                let cells = Bins::with_edges(inner);
                let share = |values: &[f64]| floored(&shares(&cells.count(values)), least.parse().unwrap());
                // the cell of not finite values is empty in both and floored alike
                let found = psi(&share(&reference), &share(&window));
                let expected = &case.outputs[&format!("quantile_{bins}_{least}")];
                assert_close(found, number(&expected["psi"]), 1e-12, 1e-15, &what);
            }
        }
    }
}

#[test]
fn golden_evidently_distances_on_its_bins() {
    // Evidently bins over the pooled range (Sturges), so that an outlier hides a shift: ours bins by the reference; its
    // Jensen-Shannon distance is in nats, and its total variation is a permutation p without the plus one
    for case in cases("evidently_stattests") {
        let score = |test: &str| number(&case.outputs[test]["score"]);
        let (p, q) = if case.inputs["feature"] == "cat" {
            levels(&case.inputs)
        } else {
            let (x, y) = (numbers(&case.inputs["ref"]), numbers(&case.inputs["cur"]));
            let bins = ((x.len() + y.len()) as f64).log2() + 1.0;
            let edges = pooled_edges(&x, &y, bins.ceil() as usize);
            (histogram(&x, &edges), histogram(&y, &edges))
        };
        assert_close(jensen_shannon(&p, &q) * LN_2.sqrt(), score("jensenshannon"), 1e-12, 0.0, &case.name);
        assert_close(hellinger(&p, &q), score("hellinger"), 1e-12, 0.0, &case.name);
        let (p, q) = (floored(&p, 1e-4), floored(&q, 1e-4));
        assert_close(psi(&p, &q), score("psi"), 1e-12, 0.0, &case.name);
        // its divergence is of shares that are normalised after the floor
        let normal = |shares: &[f64]| -> Vec<f64> { shares.iter().map(|s| s / shares.iter().sum::<f64>()).collect() };
        assert_close(kullback_leibler(&normal(&p), &normal(&q)), score("kl_div"), 1e-12, 0.0, &case.name);
    }
}

#[test]
fn golden_nannyml_distances_on_its_bins() {
    for case in cases("nannyml_univariate") {
        let (p, q) = match case.outputs.get("jensen_shannon_edges") {
            Some(edges) => {
                let edges = numbers(edges);
                let share = |key: &str| {
                    let mut shares = histogram(&numbers(&case.inputs[key]), &edges);
                    // one more bin for what lies outside the reference's range
                    shares.push((1.0 - shares.iter().sum::<f64>()).max(0.0));
                    shares
                };
                (share("ref"), share("cur"))
            }
            None => levels(&case.inputs),
        };
        let check = |found: f64, key: &str| assert_close(found, number(&case.outputs[key]), 1e-12, 0.0, &case.name);
        check(jensen_shannon(&p, &q), "jensen_shannon");
        if !case.outputs["l_infinity"].is_null() {
            let largest = p.iter().zip(&q).map(|(p, q)| (p - q).abs()).fold(0.0, f64::max);
            check(largest, "l_infinity");
        }
        // one minus a sum of shares leaves 1e-16 in their bin for the rest, and its root 1e-8
        assert_close(hellinger(&p, &q), number(&case.outputs["hellinger"]), 1e-7, 0.0, &case.name);
    }
}

#[test]
fn golden_frouros_distances_on_its_bins() {
    let case = cases("frouros_data").into_iter().find(|case| case.name == "distances").unwrap();
    let (x, y) = (numbers(&case.inputs["ref"]), numbers(&case.inputs["cur"]));
    let edges = pooled_edges(&x, &y, 10);
    let (p, q) = (histogram(&x, &edges), histogram(&y, &edges));
    let check = |found: f64, key: &str| assert_close(found, number(&case.outputs[key]), 1e-12, 0.0, key);
    check(hellinger(&p, &q), "Hellinger");
    // its Jensen-Shannon and energy distances go over something else than these bins and are left out;
    // an empty bin is floored at the smallest positive number there: one empty bin makes a PSI of 22
    check(psi(&floored(&p, f64::MIN_POSITIVE), &floored(&q, f64::MIN_POSITIVE)), "PSI");
}

const ALL: [Distance; 5] =
    [Distance::Psi, Distance::JensenShannon, Distance::KullbackLeibler, Distance::Hellinger, Distance::TotalVariation];

#[test]
fn counts_give_the_distance_of_their_shares() {
    let (a, b) = ([10, 0, 30, 7, 0], [3, 4, 9, 20]);
    let (p, q) = (shares(&[10, 0, 30, 7]), shares(&b));
    let close = |distance: Distance, expected: f64| {
        assert_close(distance.between(&a, &b).unwrap(), expected, 1e-13, 0.0, "counts");
    };
    close(Distance::JensenShannon, jensen_shannon(&p, &q));
    close(Distance::Hellinger, hellinger(&p, &q));
    close(Distance::TotalVariation, total_variation(&p, &q));
    let smooth = |counts: [f64; 4]| counts.map(|c| (c + 0.5) / (counts.iter().sum::<f64>() + 2.0));
    let (p, q) = (smooth([10.0, 0.0, 30.0, 7.0]), smooth([3.0, 4.0, 9.0, 20.0]));
    close(Distance::Psi, psi(&p, &q));
    close(Distance::KullbackLeibler, kullback_leibler(&q, &p));
}

#[test]
fn an_empty_sample_is_not_compared() {
    for distance in ALL {
        assert_eq!(distance.between(&[0, 0], &[1, 2]), None);
        assert_eq!(binned_p_value(distance, &[3, 1], &[], 0.05, 1), None);
        assert_eq!(binned_p_value(distance, &[u64::from(u32::MAX), 1], &[1], 0.05, 1), None);
        let same = binned_p_value(distance, &[5, 0], &[7], 0.05, 1).unwrap();
        assert_eq!(same.p_value, 1.0);
    }
}

#[test]
fn small_tables_match_the_sum_over_all_tables() {
    let (reference, window) = ([6_u64, 3, 1], [1_u64, 4, 3]);
    let choose = |n: u64, k: u64| (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product::<f64>();
    for distance in ALL {
        let observed = distance.between(&reference, &window).unwrap();
        let mut p = 0.0;
        for x in 0..=7 {
            for y in 0..=7 {
                let Some(z) = 8_u64.checked_sub(x + y).filter(|&z| z <= 4) else { continue };
                let statistic = distance.between(&[7 - x, 7 - y, 4 - z], &[x, y, z]).unwrap();
                if statistic >= observed * (1.0 - 1e-12) {
                    p += choose(7, x) * choose(7, y) * choose(4, z) / choose(18, 8);
                }
            }
        }
        // ten exceedances give p with a relative error of about a third: average over seeds of 1/p, which is unbiased
        let inverse: f64 = (0..400)
            .map(|seed| 1.0 / binned_p_value(distance, &reference, &window, 0.01, seed).unwrap().p_value)
            .sum::<f64>()
            / 400.0;
        assert_close(1.0 / inverse, p, 0.06, 0.0, &format!("{distance:?}"));
    }
}

/// Share of `runs` in which the test rejects at `level`, two samples of `draw(shift)` over 10 bins of the first.
fn rejections(
    distance: Distance,
    (n, m): (usize, usize),
    level: f64,
    runs: u64,
    draw: impl Fn(&mut StdRng, bool) -> f64,
) -> u64 {
    let mut random = StdRng::seed_from_u64((n * 31 + m) as u64);
    (0..runs)
        .filter(|&run| {
            let reference: Vec<f64> = (0..n).map(|_| draw(&mut random, false)).collect();
            let window: Vec<f64> = (0..m).map(|_| draw(&mut random, true)).collect();
            let (bins, counts) = Bins::split(&reference, 10, run).unwrap();
            let found = binned_p_value(distance, &counts, &bins.count(&window), level, run).unwrap();
            assert!((0.0..=1.0).contains(&found.p_value));
            found.p_value <= level
        })
        .count() as u64
}

fn calibrated(sizes: &[(usize, usize)], runs: u64) {
    for distance in [Distance::Psi, Distance::JensenShannon, Distance::Hellinger] {
        for &size in sizes {
            for level in [0.05, 0.01] {
                for (name, rounding) in [("continuous", 0.0), ("rounded", 0.3)] {
                    let draw = |random: &mut StdRng, _| {
                        let x: f64 = random.random::<f64>();
                        if rounding > 0.0 { (x / rounding).round() } else { x }
                    };
                    let hits = rejections(distance, size, level, runs, draw);
                    let what = format!("{distance:?} {size:?} {name}: {hits} of {runs} at {level}");
                    assert!(binomial::lower(hits, runs, 0.9999) <= level, "{what}");
                }
            }
            let shifted = |random: &mut StdRng, window: bool| {
                random.random::<f64>() + random.random::<f64>() + if window { 0.8 } else { 0.0 }
            };
            let hits = rejections(distance, size, 0.05, 100, shifted);
            assert!(hits >= 80, "{distance:?} {size:?}: power {hits} %");
        }
    }
}

#[test]
fn holds_its_level_and_has_power() {
    calibrated(&[(20, 20), (300, 60)], 600);
}

#[test]
#[ignore = "heavy simulation"]
fn holds_its_level_and_has_power_at_all_sizes() {
    calibrated(&[(20, 20), (20, 2_000), (200, 200), (2_000, 100), (2_000, 2_000)], 10_000);
    calibrated(&[(20_000, 20_000)], 1_000);
}

proptest! {
    #[test]
    fn laws(
        a in prop::collection::vec(0..40_u64, 2..12),
        b in prop::collection::vec(0..40_u64, 2..12),
    ) {
        prop_assume!(a.iter().sum::<u64>() > 0 && b.iter().sum::<u64>() > 0);
        for distance in ALL {
            let found = distance.between(&a, &b).unwrap();
            prop_assert!(found >= 0.0 && found.is_finite());
            if distance != Distance::KullbackLeibler {
                prop_assert!((distance.between(&b, &a).unwrap() - found).abs() < 1e-12);
            }
            let twin: Vec<u64> = a.iter().map(|count| count * 3).collect();
            if !matches!(distance, Distance::Psi | Distance::KullbackLeibler) {
                prop_assert!(found <= 1.0);
                prop_assert!(distance.between(&a, &twin).unwrap() < 1e-7);
            }
            let test = binned_p_value(distance, &a, &b, 0.05, 3).unwrap();
            prop_assert!(test.p_value > 0.0 && test.p_value <= 1.0);
            prop_assert_eq!(test, binned_p_value(distance, &a, &b, 0.05, 3).unwrap());
        }
    }
}
