//! What a model is measured by.

use serde::{Deserialize, Serialize};

use crate::error::{BoxError, message};
use crate::schema::Target;

/// A figure of how good a model's outputs are, given the labels.
///
/// Rows count by their weight. Of two classes the second is the positive one where a metric needs one. An output that is no
/// usable output (NaN) is of no class: wrong in every count; the metrics of probabilities and values are undefined then.
/// What the rows do not determine is undefined, with the reason, and never NaN. Definitions are those of scikit-learn where
/// it has them; the golden test holds us to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Metric {
    /// Share of rows whose class is predicted.
    Accuracy,
    /// Mean, over the classes that occur, of the share of their rows that are predicted.
    BalancedAccuracy,
    /// Mean of −ln of the probability given to the true class, which is taken as at least 2⁻⁵².
    LogLoss,
    /// Mean squared distance of the probabilities from the truth (Brier 1950): of the second class's if there are two, the
    /// sum over all classes if there are more.
    Brier,
    /// Mean, over the classes that occur or are predicted, of the harmonic mean of precision and recall.
    F1,
    /// The same of one class, by its index.
    F1Of(u32),
    /// Area under the ROC curve of the second class; of more classes the mean, over those that occur, of each against the
    /// others. Ties count one half.
    Auroc,
    /// Expected calibration error in ten bins of equal width (Naeini, Cooper and Hauskrecht 2015): of the second class's
    /// probability if there are two classes, of the predicted class's (Guo et al. 2017) if there are more. It is above 0
    /// on few rows even of a calibrated model.
    CalibrationError,
    /// Mean cost of the decisions, by the [`CostMatrix`]. A row without a usable output costs the most that its class may.
    Cost,
    /// Mean absolute error of a value.
    MeanAbsoluteError,
    /// Root of the mean squared error of a value.
    RootMeanSquaredError,
    /// Share of the labels' variance that a value explains: 1 − Σ(y − ŷ)² / Σ(y − ȳ)².
    RSquared,
}

impl Metric {
    /// What is measured if nobody says otherwise: everything that fits the target; the cost only if there are `costs`, the
    /// AUROC up to 50 classes.
    pub fn all(target: &Target, costs: Option<&CostMatrix>) -> Vec<Metric> {
        use Metric::*;
        match target {
            Target::Classes(names) => {
                let auroc = (names.len() <= 50).then_some(Auroc);
                let always = [Accuracy, BalancedAccuracy, F1, LogLoss, Brier, CalibrationError];
                always.into_iter().chain(auroc).chain(costs.map(|_| Cost)).collect()
            }
            Target::Value => vec![MeanAbsoluteError, RootMeanSquaredError, RSquared],
        }
    }

    /// Is more of it better? Of losses, errors and costs less is.
    pub fn larger_is_better(self) -> bool {
        use Metric::*;
        matches!(self, Accuracy | BalancedAccuracy | F1 | F1Of(_) | Auroc | RSquared)
    }

    /// Can it be measured?
    ///
    /// # Errors
    /// It is of another kind of target, of a class that there is not, or needs costs that are not there or do not fit.
    pub fn check(self, target: &Target, costs: Option<&CostMatrix>) -> Result<(), BoxError> {
        use Metric::*;
        let of_value = matches!(self, MeanAbsoluteError | RootMeanSquaredError | RSquared);
        match (self, target) {
            (_, Target::Classes(_)) if of_value => {
                Err(message(format!("{self} is of a value, the target has classes")))
            }
            (_, Target::Value) if !of_value => Err(message(format!("{self} is of classes, the target is a value"))),
            (F1Of(class), Target::Classes(names)) if class as usize >= names.len() => {
                Err(message(format!("{self}: there are {} classes", names.len())))
            }
            (Cost, Target::Classes(names)) => match costs {
                None => Err(message("the cost needs a cost matrix")),
                Some(costs) if costs.classes() != names.len() => {
                    let (found, expected) = (costs.classes(), names.len());
                    Err(message(format!("the cost matrix is of {found} classes, the target has {expected}")))
                }
                Some(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Why the rows do not determine it.
    pub(super) fn undefined(self, rows: usize, unusable: usize) -> String {
        match self {
            _ if rows == 0 => "there are no rows".into(),
            Metric::LogLoss | Metric::Brier | Metric::Auroc | Metric::CalibrationError if unusable > 0 => {
                format!("{unusable} of {rows} outputs are unusable")
            }
            Metric::MeanAbsoluteError | Metric::RootMeanSquaredError | Metric::RSquared if unusable > 0 => {
                format!("{unusable} of {rows} outputs are unusable")
            }
            Metric::F1Of(class) => format!("class {class} neither occurs nor is predicted"),
            Metric::Auroc => "only one class occurs".into(),
            Metric::RSquared => "the labels do not vary".into(),
            _ => "the rows weigh nothing".into(),
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Metric::Accuracy => "accuracy",
            Metric::BalancedAccuracy => "balanced accuracy",
            Metric::LogLoss => "log loss",
            Metric::Brier => "Brier score",
            Metric::F1 => "F1",
            Metric::F1Of(class) => return write!(f, "F1 of class {class}"),
            Metric::Auroc => "AUROC",
            Metric::CalibrationError => "calibration error",
            Metric::Cost => "cost",
            Metric::MeanAbsoluteError => "mean absolute error",
            Metric::RootMeanSquaredError => "root mean squared error",
            Metric::RSquared => "R²",
        };
        f.pad(name)
    }
}

/// What each decision costs: rows are true classes, columns predicted ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<f64>>", into = "Vec<Vec<f64>>")]
pub struct CostMatrix {
    classes: usize,
    costs: Vec<f64>,
}

impl CostMatrix {
    /// One row per true class, one column per predicted class; a gain is a negative cost.
    ///
    /// # Errors
    /// It is not square, smaller than 2 × 2, or holds a number that is not finite.
    pub fn new(rows: Vec<Vec<f64>>) -> Result<Self, BoxError> {
        let classes = rows.len();
        if classes < 2 || rows.iter().any(|row| row.len() != classes) {
            return Err(message(format!("a cost matrix is square, for 2 classes or more; found {classes} rows")));
        }
        let costs = rows.concat();
        match costs.iter().find(|cost| !cost.is_finite()) {
            Some(cost) => Err(message(format!("a cost is {cost}, a finite number is expected"))),
            None => Ok(CostMatrix { classes, costs }),
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Cost of a decision; the largest of the true class's costs if nothing usable was predicted.
    pub(super) fn of(&self, truth: usize, predicted: Option<usize>) -> f64 {
        let row = &self.costs[truth * self.classes..(truth + 1) * self.classes];
        match predicted {
            Some(predicted) => row[predicted],
            None => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

impl TryFrom<Vec<Vec<f64>>> for CostMatrix {
    type Error = BoxError;

    fn try_from(rows: Vec<Vec<f64>>) -> Result<Self, BoxError> {
        CostMatrix::new(rows)
    }
}

impl From<CostMatrix> for Vec<Vec<f64>> {
    fn from(matrix: CostMatrix) -> Self {
        matrix.costs.chunks_exact(matrix.classes).map(<[f64]>::to_vec).collect()
    }
}
