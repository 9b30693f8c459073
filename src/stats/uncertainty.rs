//! How unsure class probabilities are (Settles 2009).

/// Largest distance of the sum of probabilities from 1.
const SUM_TOLERANCE: f64 = 1e-3;

/// How unsure class probabilities are: each from 0 (sure) up to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uncertainty {
    /// 1 − the largest probability.
    Probability,
    /// 1 − the difference of the two largest probabilities.
    Margin,
    /// The entropy in units of ln K.
    Entropy,
}

impl Uncertainty {
    /// Of `probabilities`; `None` if one of them is negative or not finite, or if they do not sum to 1.
    pub(crate) fn of(self, probabilities: &[f64]) -> Option<f64> {
        let usable = probabilities.iter().all(|p| p.is_finite() && *p >= 0.0);
        if !usable || (probabilities.iter().sum::<f64>() - 1.0).abs() > SUM_TOLERANCE {
            return None;
        }
        let (mut first, mut second) = (0.0_f64, 0.0_f64);
        for &p in probabilities {
            if p > first {
                (first, second) = (p, first);
            } else {
                second = second.max(p);
            }
        }
        Some(match self {
            Uncertainty::Probability => 1.0 - first,
            Uncertainty::Margin => 1.0 - (first - second),
            Uncertainty::Entropy => {
                let nats: f64 = probabilities.iter().filter(|&&p| p > 0.0).map(|&p| -p * p.ln()).sum();
                nats / (probabilities.len() as f64).ln()
            }
        })
    }
}
