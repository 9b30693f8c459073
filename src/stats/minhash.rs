//! Similarity of texts: MinHash signatures (Broder 1997), and bands of them to find similar ones (Indyk and Motwani 1998;
//! Leskovec, Rajaraman and Ullman 2014, chapter 3).

use super::sampling::keyed;

/// Values of a signature.
pub(crate) const VALUES: usize = 128;
/// Characters of a shingle.
const CHARACTERS: usize = 5;
/// A pair that is as similar as asked for is missed by the bands at most so often.
const MISSED: f64 = 0.01;
const SEED: u64 = 0x6d69_6e68_6173_6800;

/// The smallest hash values of a set under 128 hash functions. The share of equal values of two signatures is an
/// estimate of the Jaccard similarity J of the sets, with standard deviation √(J(1 − J)/128): at most 0.044.
pub(crate) type Signature = Box<[u32]>;

/// Makes signatures.
#[derive(Clone, Debug)]
pub(crate) struct MinHash {
    /// Odd factor and summand of each hash function: the upper half of a·x + b modulo 2⁶⁴ (Dietzfelbinger 1996), of an x
    /// that is a hash already.
    functions: Vec<(u64, u64)>,
}

impl MinHash {
    /// The same in every process and release.
    pub(crate) fn new() -> Self {
        let functions = (0..VALUES as u64)
            .map(|i| (keyed(SEED, &(2 * i).to_le_bytes()) | 1, keyed(SEED, &(2 * i + 1).to_le_bytes())));
        MinHash { functions: functions.collect() }
    }

    /// Of a set of hashed members, in any order and as often as you like; `None` without members.
    pub(crate) fn signature(&self, members: impl Iterator<Item = u64>) -> Option<Signature> {
        let mut smallest = vec![u32::MAX; VALUES].into_boxed_slice();
        let mut empty = true;
        for member in members {
            empty = false;
            for (value, (factor, summand)) in smallest.iter_mut().zip(&self.functions) {
                *value = (*value).min((factor.wrapping_mul(member).wrapping_add(*summand) >> 32) as u32);
            }
        }
        (!empty).then_some(smallest)
    }

    /// Of the shingles of a text: every 5 characters in a row, in lower case, spaces of all kinds as one. A text of fewer
    /// characters is one shingle; `None` if there are none but spaces.
    pub(crate) fn text(&self, text: &str) -> Option<Signature> {
        let mut plain = String::with_capacity(text.len());
        for word in text.split_whitespace() {
            if !plain.is_empty() {
                plain.push(' ');
            }
            plain.extend(word.chars().flat_map(char::to_lowercase));
        }
        if plain.is_empty() {
            return None;
        }
        let mut starts: Vec<usize> = plain.char_indices().map(|(at, _)| at).collect();
        starts.push(plain.len());
        let length = CHARACTERS.min(starts.len() - 1);
        let shingles = starts.windows(length + 1).map(|ends| &plain[ends[0]..ends[length]]);
        self.signature(shingles.map(|shingle| keyed(SEED, shingle.as_bytes())))
    }
}

/// Share of equal values.
pub(crate) fn similarity(a: &[u32], b: &[u32]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / a.len().max(b.len()).max(1) as f64
}

/// A signature cut into bands of `rows` values each: two sets of Jaccard similarity s share at least one whole band with
/// probability 1 − (1 − sʳ)ᵇ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bands {
    /// Number of bands, b.
    pub(crate) bands: usize,
    /// Values of a band, r.
    pub(crate) rows: usize,
}

impl Bands {
    /// The longest bands that miss a pair of this similarity in at most 1 % of cases (one value each if none does): the
    /// longer they are, the fewer pairs below it share one.
    pub(crate) fn for_similarity(similarity: f64) -> Self {
        let of = |rows| Bands { bands: VALUES / rows, rows };
        (1..=VALUES).rev().map(of).find(|bands| 1.0 - bands.found(similarity) <= MISSED).unwrap_or(of(1))
    }

    /// Probability that a pair of this similarity shares a band.
    pub(crate) fn found(self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powi(self.rows as i32)).powi(self.bands as i32)
    }

    /// Hash of each band.
    pub(crate) fn keys(self, signature: &[u32]) -> impl Iterator<Item = u64> {
        (0..self.bands).map(move |band| self.key(signature, band))
    }

    /// Hash of one band.
    pub(crate) fn key(self, signature: &[u32], band: usize) -> u64 {
        let values = signature.iter().skip(band * self.rows).take(self.rows);
        values.fold(SEED, |key, value| keyed(key, &value.to_le_bytes()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stats::binomial::interval;

    /// Two sets of `size` members with exactly `common` in common; `pair` makes them fresh.
    fn signatures(minhash: &MinHash, pair: u64, size: u64, common: u64) -> (Signature, Signature) {
        let member = |n: u64| keyed(pair, &n.to_le_bytes());
        let a = minhash.signature((0..size).map(member)).unwrap();
        let b = minhash.signature((size - common..2 * size - common).map(member)).unwrap();
        (a, b)
    }

    #[test]
    fn the_estimate_is_unbiased_with_the_spread_of_a_binomial() {
        let minhash = MinHash::new();
        for (common, jaccard) in [(20, 20.0 / 80.0), (40, 40.0 / 60.0), (45, 45.0 / 55.0)] {
            let pairs = 2_000;
            let estimates: Vec<f64> = (0..pairs)
                .map(|pair| {
                    let (a, b) = signatures(&minhash, pair, 50, common);
                    similarity(&a, &b)
                })
                .collect();
            let mean = estimates.iter().sum::<f64>() / pairs as f64;
            let variance = estimates.iter().map(|e| (e - jaccard).powi(2)).sum::<f64>() / pairs as f64;
            let expected = jaccard * (1.0 - jaccard) / VALUES as f64;
            // The mean of 2,000: 4 standard errors; its variance: within a quarter, some 8 standard errors.
            assert!((mean - jaccard).abs() < 4.0 * (expected / pairs as f64).sqrt(), "{mean} {jaccard}");
            assert!((variance / expected - 1.0).abs() < 0.25, "{variance} {expected}");
        }
    }

    #[test]
    fn pairs_share_a_band_as_often_as_the_s_curve_says() {
        let (minhash, bands) = (MinHash::new(), Bands::for_similarity(0.8));
        assert_eq!(bands, Bands { bands: 21, rows: 6 });
        let pairs = 3_000;
        for common in [30, 36, 42, 48, 54] {
            let jaccard = common as f64 / (120 - common) as f64;
            let found = (0..pairs)
                .filter(|pair| {
                    let (a, b) = signatures(&minhash, *pair, 60, common);
                    bands.keys(&a).zip(bands.keys(&b)).any(|(a, b)| a == b)
                })
                .count();
            let interval = interval(found as u64, pairs, 0.9999);
            let expected = bands.found(jaccard);
            assert!(interval.low <= expected && expected <= interval.high, "{jaccard}: {found} of {pairs}, {expected}");
        }
    }

    #[test]
    fn the_bands_miss_at_most_one_in_a_hundred_of_what_was_asked_for() {
        for percent in 4..=100 {
            let similarity = f64::from(percent) / 100.0;
            let bands = Bands::for_similarity(similarity);
            assert!(bands.found(similarity) >= 0.99 && bands.bands * bands.rows <= VALUES, "{similarity}: {bands:?}");
        }
        assert_eq!(Bands::for_similarity(1.0), Bands { bands: 1, rows: VALUES });
    }

    #[test]
    fn texts_are_compared_without_case_and_spaces() {
        let minhash = MinHash::new();
        let of = |text: &str| minhash.text(text);
        assert_eq!(of("The  parcel\narrived late "), of("the parcel arrived LATE"));
        assert_eq!((of(""), of(" \t")), (None, None));
        assert_eq!(of("Ja"), of("ja"));
        assert_ne!(of("ja"), of("jau"));
        assert_eq!(similarity(&of("ein grüner Baum").unwrap(), &of("ein grüner Baum").unwrap()), 1.0);
        assert_eq!(similarity(&of("ein grüner Baum").unwrap(), &of("42 other words").unwrap()), 0.0);
    }
}
