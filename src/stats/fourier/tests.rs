use super::*;
use crate::stats::binomial;
use rand::rngs::StdRng;

fn rows(n: usize, d: usize, missing: f64, random: &mut Xoshiro256PlusPlus) -> Array2<f64> {
    Array2::from_shape_fn((n, d), |_| if random.random::<f64>() < missing { f64::NAN } else { normal(random) })
}

fn mean(features: &FourierFeatures, rows: &Array2<f64>) -> Vec<f64> {
    let mut out = vec![0.0; features.width()];
    let mut sum = out.clone();
    for row in rows.rows() {
        features.embed(&row.to_vec(), &mut out);
        sum.iter_mut().zip(&out).for_each(|(sum, x)| *sum += x / rows.nrows() as f64);
    }
    sum
}

#[test]
fn inner_products_approach_the_gaussian_kernel() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    let reference = rows(400, 3, 0.0, &mut random);
    let features = FourierFeatures::fit(reference.view(), 20_000, 1).unwrap();
    // the median distance of pairs of standard normal rows: √(2·median of chi-square with 3 degrees of freedom)
    let bandwidth = (2.0 * 2.366_f64).sqrt();
    let mut embedded = [vec![0.0; features.width()], vec![0.0; features.width()]];
    for (a, b) in [([0.0; 3], [0.5, -0.2, 0.1]), ([1.0, 2.0, 0.0], [0.0; 3]), ([2.0; 3], [-2.0; 3])] {
        features.embed(&a, &mut embedded[0]);
        features.embed(&b, &mut embedded[1]);
        let found: f64 = embedded[0].iter().zip(&embedded[1]).map(|(x, y)| x * y).sum();
        let square: f64 = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum();
        let expected = (-0.5 * square / bandwidth.powi(2)).exp();
        assert!((found - expected).abs() < 0.06, "{found} {expected}");
        let norm: f64 = embedded[0].iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-12);
    }
}

#[test]
fn location_and_scale_of_a_column_do_not_matter() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    let (reference, window) = (rows(200, 2, 0.1, &mut random), rows(50, 2, 0.1, &mut random));
    let test = |move_by: &dyn Fn(f64) -> f64| {
        let reference = reference.mapv(move_by);
        let features = FourierFeatures::fit(reference.view(), 32, 1).unwrap();
        let fitted = MeanEmbedding::fit(&features, reference.view()).unwrap();
        fitted.test(&mean(&features, &window.mapv(move_by)), 50).unwrap()
    };
    let (plain, moved) = (test(&|v| v), test(&|v| v * 1000.0 + 5e4));
    assert!((plain.p_value - moved.p_value).abs() < 1e-6, "{plain:?} {moved:?}");
}

#[test]
fn degenerate_references_are_refused() {
    assert_eq!(FourierFeatures::fit(Array2::zeros((1, 3)).view(), 8, 1), None);
    assert_eq!(FourierFeatures::fit(Array2::zeros((5, 0)).view(), 8, 1), None);
    let constant = Array2::from_elem((20, 2), 0.1);
    let features = FourierFeatures::fit(constant.view(), 8, 1).unwrap();
    assert_eq!(MeanEmbedding::fit(&features, constant.view()), None);
}

#[test]
fn wild_cells_do_not_poison() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    let reference = rows(100, 3, 0.0, &mut random);
    let features = FourierFeatures::fit(reference.view(), 16, 1).unwrap();
    let mut out = vec![0.0; features.width()];
    for wild in [f64::NAN, f64::INFINITY, f64::MAX, -f64::MAX] {
        features.embed(&[wild, 0.0, wild], &mut out);
        assert!(out.iter().all(|x| x.is_finite()));
    }
    let fitted = MeanEmbedding::fit(&features, reference.view()).unwrap();
    assert_eq!(fitted.test(&out, 0), None);
    // a share of missing cells is a change
    let window = rows(100, 3, 0.3, &mut random);
    assert!(fitted.test(&mean(&features, &window), 100).unwrap().p_value < 1e-3);
}

fn calibrated(sizes: &[(usize, usize)], dimensions: &[usize], runs: u64) {
    for (case, &(n, m)) in sizes.iter().enumerate() {
        for &d in dimensions {
            for (name, missing, rounded) in [("complete", 0.0, false), ("missing and rounded", 0.2, true)] {
                let seed: u64 = StdRng::seed_from_u64((case * 100 + d) as u64).random();
                let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
                let mut sample = |size: usize, shift: f64| {
                    let mut sample = rows(size, d, missing, &mut random);
                    sample.column_mut(0).mapv_inplace(|v| v + shift);
                    if rounded { sample.mapv(f64::round) } else { sample }
                };
                let mut p_values = |runs: u64, shift: f64| -> Vec<f64> {
                    (0..runs)
                        .map(|run| {
                            let (reference, window) = (sample(n, 0.0), sample(m, shift));
                            let features = FourierFeatures::fit(reference.view(), 16, run).unwrap();
                            let fitted = MeanEmbedding::fit(&features, reference.view()).unwrap();
                            fitted.test(&mean(&features, &window), m as u64).unwrap().p_value
                        })
                        .collect()
                };
                let null = p_values(runs, 0.0);
                for level in [0.05, 0.01] {
                    let hits = null.iter().filter(|&&p| p <= level).count() as u64;
                    let what = format!("{name} {n} {m} d = {d}: {hits} of {runs} at {level}");
                    assert!(binomial::lower(hits, runs, 0.9999) <= level, "{what}");
                    assert!(binomial::upper(hits, runs, 0.9999) >= 0.5 * level, "{what}: blind");
                }
                let shift = 6.0 * (1.0 / n as f64 + 1.0 / m as f64).sqrt() * (d as f64).sqrt().sqrt();
                let found = p_values(50, shift).iter().filter(|&&p| p <= 0.05).count();
                assert!(found >= 30, "{name} {n} {m} d = {d}: power {found} of 50");
            }
        }
    }
}

#[test]
fn holds_its_level_and_has_power() {
    calibrated(&[(400, 100)], &[1, 8], 600);
}

#[test]
#[ignore = "heavy simulation"]
fn holds_its_level_and_has_power_at_all_sizes() {
    calibrated(&[(50, 50), (2_000, 50), (200, 200), (2_000, 500)], &[1, 8, 64], 2_000);
}
