//! What stages need to know of the data that a model was trained on, or that it served: small, mergeable, on one file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::error::{Error, message};
use crate::event::{Label, ModelVersion};
use crate::schema::{Row, Schema, SchemaError, row_floats};
use crate::stats::moments::Moments;
use crate::stats::sampling::{Reservoir, keyed};

const FORMAT: u32 = 1;
const SEED: u64 = 0x7265_6665_7265_6e63;

/// Most rows of the sample that a reference keeps.
pub const REFERENCE_ROWS: usize = 4096;

/// Which half of the reference: detectors are fitted on one and calibrated on the other (split conformal prediction,
/// Papadopoulos et al. 2002).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Half {
    /// Rows to fit on.
    Fit,
    /// Rows to calibrate on.
    Calibration,
}

/// One row of a reference's sample: encoded values only; no text, no id, no time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceRow {
    /// Numeric values in the order of [`Schema::value_columns`].
    #[serde(with = "row_floats")]
    pub values: Vec<f64>,
    /// Category codes in the order of [`Schema::code_columns`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u32>,
    /// The model's out-of-sample output for this row; empty if unknown.
    #[serde(default, with = "row_floats", skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<f64>,
    /// Its label, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// The half that it belongs to.
    pub half: Half,
}

/// What stages need to know of a set of rows: exact counts, means and covariances of each half, and a uniform sample
/// of at most [`REFERENCE_ROWS`] encoded rows.
///
/// Every row belongs to the fit half or the calibration half by a hash of its content and place. References of parts merge to
/// the reference of the whole: counts exactly, moments to rounding; the merged sample is a uniform sample of the whole
/// ([`ReferenceBuilder::starting_at`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reference {
    format: u32,
    schema: Arc<Schema>,
    model: ModelVersion,
    fit: Moments,
    calibration: Moments,
    codes: Vec<BTreeMap<u32, u64>>,
    sample: Reservoir<ReferenceRow>,
}

/// Builds a [`Reference`] row by row.
#[derive(Debug, Clone)]
pub struct ReferenceBuilder {
    reference: Reference,
    first: u64,
}

impl ReferenceBuilder {
    /// The place of this part's first row in the whole. Parts that are told their places merge to the reference of the whole;
    /// otherwise to one with other halves and another sample, in which equal rows at the same place of two parts count once.
    /// 0 unless told.
    pub fn starting_at(mut self, row: u64) -> Self {
        self.first = row;
        self
    }

    /// The model whose data this is.
    pub fn model(mut self, model: ModelVersion) -> Self {
        self.reference.model = model;
        self
    }

    /// Adds a row, with the model's out-of-sample output and the label where known.
    ///
    /// # Errors
    /// Row or output have another width than the schema (an empty output is an unknown one).
    pub fn push(&mut self, row: &Row, output: Option<&[f64]>, label: Option<Label>) -> Result<(), SchemaError> {
        let reference = &mut self.reference;
        let expected = reference.schema.value_columns().len();
        if row.values().len() != expected {
            return Err(SchemaError::Width { found: row.values().len(), expected });
        }
        let expected = reference.schema.target().output_width();
        if let Some(found) = output.map(<[f64]>::len).filter(|found| ![0, expected].contains(found)) {
            return Err(SchemaError::Width { found, expected });
        }
        let place = self.first.wrapping_add(reference.sample.seen());
        // equal rows go to both halves: with the content alone, each value of a discrete column would be in one of them only
        let key = keyed(SEED, &[&row.content_hash().to_le_bytes()[..], &place.to_le_bytes()[..]].concat());
        let half = if key & 1 == 0 { Half::Fit } else { Half::Calibration };
        match half {
            Half::Fit => reference.fit.push(row.values()),
            Half::Calibration => reference.calibration.push(row.values()),
        }
        for (counts, code) in reference.codes.iter_mut().zip(row.codes()) {
            *counts.entry(*code).or_default() += 1;
        }
        reference.sample.push(key, || ReferenceRow {
            values: row.values().to_vec(),
            codes: row.codes().to_vec(),
            output: output.map(<[f64]>::to_vec).unwrap_or_default(),
            label,
            half,
        });
        Ok(())
    }

    /// Takes one equal row out of the sample.
    pub(crate) fn forget(&mut self, row: &Row) {
        self.reference.forget(row);
    }

    /// The reference.
    pub fn finish(self) -> Reference {
        self.reference
    }
}

impl Reference {
    /// Starts a reference of rows of `schema`.
    pub fn builder(schema: Arc<Schema>) -> ReferenceBuilder {
        let width = schema.value_columns().len();
        let codes = vec![BTreeMap::new(); schema.code_columns().len()];
        ReferenceBuilder {
            reference: Reference {
                format: FORMAT,
                schema,
                model: ModelVersion::FIRST,
                fit: Moments::new(width),
                calibration: Moments::new(width),
                codes,
                sample: Reservoir::new(REFERENCE_ROWS),
            },
            first: 0,
        }
    }

    /// The reference of labelled rows, without outputs.
    ///
    /// # Errors
    /// None at present: a [`Dataset`] fits its schema. Kept for later checks.
    pub fn fit(dataset: &Dataset) -> Result<Reference, SchemaError> {
        let mut builder = Reference::builder(dataset.schema().clone());
        for (row, label) in dataset.rows().iter().zip(dataset.labels()) {
            builder.push(row, None, Some(*label))?;
        }
        Ok(builder.finish())
    }

    /// Merges `other` into this reference.
    ///
    /// # Errors
    /// The two have different schemas.
    pub fn merge(&mut self, other: &Reference) -> Result<(), SchemaError> {
        let differ = || SchemaError::Fingerprint {
            found: other.schema.fingerprint().into(),
            expected: self.schema.fingerprint().into(),
        };
        if self.schema != other.schema {
            return Err(differ());
        }
        self.fit.merge(&other.fit).map_err(|_| differ())?;
        self.calibration.merge(&other.calibration).map_err(|_| differ())?;
        for (counts, more) in self.codes.iter_mut().zip(&other.codes) {
            for (code, count) in more {
                *counts.entry(*code).or_default() += count;
            }
        }
        self.sample.merge(other.sample.clone());
        Ok(())
    }

    /// This reference as one of a later version of its schema; `None` unless that can take over and has the same columns.
    pub(crate) fn carried(&self, schema: &Arc<Schema>) -> Option<Reference> {
        let fits = self.schema.same_columns(schema) && self.schema.evolve(schema).is_ok();
        fits.then(|| Reference { schema: schema.clone(), ..self.clone() })
    }

    /// Takes one row with these values and categories out of the sample, if there is one; counts and moments stay, but hold no
    /// single rows any more. Is anything different now?
    pub(crate) fn forget(&mut self, row: &Row) -> bool {
        let same = |a: &f64, b: &f64| a == b || (a.is_nan() && b.is_nan());
        let equal = |known: &ReferenceRow| {
            known.codes == row.codes() && known.values.iter().zip(row.values()).all(|(a, b)| same(a, b))
        };
        let before = (self.fit.rows_gathered(), self.calibration.rows_gathered());
        self.fit.flush();
        self.calibration.flush();
        self.sample.remove(equal) || before != (0, 0)
    }

    /// Schema of the rows.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The model whose data this is.
    pub fn model(&self) -> ModelVersion {
        self.model
    }

    /// Number of rows, both halves.
    pub fn rows(&self) -> u64 {
        self.fit.rows() + self.calibration.rows()
    }

    /// The sample, in an order that says nothing.
    pub fn sample(&self) -> impl Iterator<Item = &ReferenceRow> {
        self.sample.iter().map(|(_, row)| row)
    }

    /// The rows of one half of the sample.
    pub fn half(&self, half: Half) -> impl Iterator<Item = &ReferenceRow> {
        self.sample().filter(move |row| row.half == half)
    }

    /// Values of numeric column `column` in the sample, missing ones (NaN) included.
    pub fn column(&self, column: usize) -> Vec<f64> {
        self.sample().map(|row| row.values[column]).collect()
    }

    /// Share of rows in which numeric column `column` is missing; 0 without rows.
    pub fn missing_share(&self, column: usize) -> f64 {
        let rows = self.rows();
        if rows == 0 {
            return 0.0;
        }
        1.0 - (self.fit.present(column) + self.calibration.present(column)) as f64 / rows as f64
    }

    /// How often each code of category column `column` occurred, missing and unseen included.
    pub fn code_counts(&self, column: usize) -> &BTreeMap<u32, u64> {
        &self.codes[column]
    }

    /// Means and covariance (mean imputation, divided by the number of rows) of the numeric columns of one half, and its
    /// number of rows. The mean of a column without values is NaN.
    pub fn moments(&self, half: Half) -> (Vec<f64>, Array2<f64>, u64) {
        let moments = match half {
            Half::Fit => &self.fit,
            Half::Calibration => &self.calibration,
        };
        (moments.mean(), moments.covariance(), moments.rows())
    }

    /// Writes the reference to a file (a new one first, then a rename).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let failed = || format!("cannot write the reference to {}", path.display());
        let bytes = serde_json::to_vec(self).map_err(Error::file(failed()))?;
        crate::files::write_atomically(path, &bytes).map_err(Error::file(failed()))
    }

    /// Reads a reference from a file.
    ///
    /// # Errors
    /// The file cannot be read, does not parse, or has a format that this release does not know.
    pub fn load(path: impl AsRef<Path>) -> Result<Reference, Error> {
        let path = path.as_ref();
        let failed = || format!("cannot read a reference from {}", path.display());
        let bytes = std::fs::read(path).map_err(Error::file(failed()))?;
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        let header: Header = serde_json::from_slice(&bytes).map_err(Error::file(failed()))?;
        if header.format != FORMAT {
            let text = format!("it has format {}, this release reads format {FORMAT}", header.format);
            return Err(Error::file(failed())(message(text)));
        }
        serde_json::from_slice(&bytes).map_err(Error::file(failed()))
    }
}

/// The three references of a pipeline.
#[derive(Debug, Clone)]
pub struct References {
    /// The model that is served. Outputs in a reference of another model are not to be compared with its own.
    pub model: ModelVersion,
    /// What the served model was trained on: for out-of-distribution inputs and relevance.
    pub training: Arc<Reference>,
    /// A window of live traffic since the last kept promotion (the training data until there is one): for change
    /// detection.
    pub serving: Arc<Reference>,
    /// The first training reference, never moved: so that slow drift cannot hide.
    pub anchor: Arc<Reference>,
}

impl References {
    /// Rows with an output of the served model and a label: of the serving reference or, if it has none, of the training
    /// reference.
    pub(crate) fn judged(&self) -> Vec<&ReferenceRow> {
        let target = self.serving.schema().target();
        let judged = |row: &&ReferenceRow| {
            row.output.len() == target.output_width() && row.label.is_some_and(|label| label.fits(target))
        };
        let of = |reference: &'_ Arc<Reference>| reference.model() == self.model;
        let mut rows: Vec<_> = Vec::new();
        for reference in [&self.serving, &self.training].into_iter().filter(|reference| of(reference)) {
            if rows.is_empty() {
                rows.extend(reference.sample().filter(judged));
            }
        }
        rows
    }

    /// All three the same: the state at the start.
    pub fn starting_with(reference: Arc<Reference>) -> Self {
        References {
            model: reference.model(),
            training: reference.clone(),
            serving: reference.clone(),
            anchor: reference,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::schema::Target;

    #[test]
    fn a_row_that_is_forgotten_is_nowhere_in_what_is_stored_and_means_stay() {
        let schema = Arc::new(Schema::numeric(2, Target::Value).unwrap());
        let mut builder = Reference::builder(schema.clone());
        for n in 0..40 {
            let values = [f64::from(n) + 0.123_456, f64::from(n)];
            builder.push(&Row::from_values(&schema, &values).unwrap(), None, None).unwrap();
        }
        let mut reference = builder.finish();
        let before = reference.moments(Half::Fit);
        let row = Row::from_values(&schema, &[7.123_456, 7.0]).unwrap();
        let stored = |reference: &Reference| serde_json::to_string(reference).unwrap();
        assert!(stored(&reference).contains("7.123456"));
        assert!(reference.forget(&row));
        assert!(!stored(&reference).contains("[7.123456") && !stored(&reference).contains(",7.123456"));
        let after = reference.moments(Half::Fit);
        assert_eq!((before.0, before.2, reference.rows()), (after.0, after.2, 40));
        assert_eq!(reference.sample().count(), 39);
        assert!(!reference.forget(&row), "it is there once");
    }
}
