//! Rules of a field beside those of its kind.

use serde::{Deserialize, Deserializer, Serialize};

use super::FieldKind;

/// Rules of a field beside those of its kind.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pattern: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unique: bool,
    /// Largest age in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fresh: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) increasing: bool,
}

impl Rules {
    pub(super) fn is_empty(&self) -> bool {
        *self == Rules::default()
    }

    /// Can a field of this kind have these rules?
    pub(super) fn check(&self, kind: &FieldKind) -> Result<(), String> {
        let ordered = matches!(kind, FieldKind::Number { .. } | FieldKind::Integer { .. } | FieldKind::Timestamp);
        match self {
            Rules { pattern: Some(_), .. } if !matches!(kind, FieldKind::Text { .. }) => {
                Err("a pattern belongs to texts only".into())
            }
            Rules { fresh: Some(_), .. } if !matches!(kind, FieldKind::Timestamp) => {
                Err("a largest age belongs to timestamps only".into())
            }
            Rules { fresh: Some(age), .. } if *age < 0 => Err("its largest age is negative".into()),
            Rules { increasing: true, .. } if !ordered => {
                Err("only numbers, whole numbers and timestamps can increase".into())
            }
            _ => Ok(()),
        }
    }
}

/// JSON has no infinities: an open end of a range is `null`.
pub(super) fn open_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<(f64, f64)>, D::Error> {
    let ends = Option::<(Option<f64>, Option<f64>)>::deserialize(deserializer)?;
    Ok(ends.map(|(low, high)| (low.unwrap_or(f64::NEG_INFINITY), high.unwrap_or(f64::INFINITY))))
}
