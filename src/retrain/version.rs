//! What a model was trained on, by reference.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::recipe::compose;
use super::taught::{Taught, TaughtRow};
use super::{BatchId, Recipe, Verified, verify_batch};
use crate::dataset::Dataset;
use crate::error::Error;

/// Base data or a batch, by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRef {
    /// Name of the batch; of base data, its content digest.
    pub id: BatchId,
    /// Number of rows.
    pub rows: u64,
    /// The directory with manifest and data, if it is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// A version of the training data: the base data, the batches after it, and what a recipe takes of them.
///
/// It is small and never changes, and the digest says whether what is made of it again is the same. Rows that were taken
/// out of the store since, or a base that the host has replaced, make it another one: that is found, not hidden.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetVersion {
    /// Fingerprint of the schema.
    pub schema: String,
    /// The data that the first model was trained on.
    pub base: Option<DataRef>,
    /// Batches, oldest first: all that the newest `most_rows` labelled rows come from. Where one [corrects](crate::Manifest::corrected)
    /// a row of those before it, the corrected label counts.
    pub batches: Vec<DataRef>,
    /// What is taken of them, and with which weights.
    pub recipe: Recipe,
    /// The proportions of the recipes in a [blend](Recipe::Blend).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shares: BTreeMap<String, f64>,
    /// Most rows that are taken, the newest.
    pub most_rows: u64,
    /// Rows that were taken.
    pub rows: u64,
    /// Content digest of the rows that were taken.
    pub digest: String,
}

impl DatasetVersion {
    pub(crate) fn of(
        data: &Dataset,
        (recipe, shares): (Recipe, &BTreeMap<String, f64>),
        most_rows: usize,
        base: Option<DataRef>,
        batches: Vec<DataRef>,
    ) -> Self {
        DatasetVersion {
            schema: data.schema().fingerprint().to_owned(),
            base,
            batches,
            recipe,
            shares: if recipe == Recipe::Blend { shares.clone() } else { BTreeMap::new() },
            most_rows: most_rows as u64,
            rows: data.len() as u64,
            digest: data.digest(),
        }
    }

    /// Makes the training data from the directories of base and batches, each of which is [verified](verify_batch).
    ///
    /// # Errors
    /// A part is not on disk or damaged, no part has the schema of this version, or the result is not what it was.
    pub fn compose(&self) -> Result<Dataset, Error> {
        let read = |part: &DataRef| -> Result<(Dataset, Verified), Error> {
            let Some(path) = &part.path else {
                return Err(Error::Refused(format!("{} is not on disk: read it from the store instead", part.id)));
            };
            let mut found = verify_batch(path)?;
            if found.manifest.batch != part.id {
                let text = format!("{} holds {}, {} was expected", path.display(), found.manifest.batch, part.id);
                return Err(Error::Corrupt(text));
            }
            let data = found.data.take();
            let data =
                data.ok_or_else(|| Error::Refused(format!("{} lacks the schema of its rows", path.display())))?;
            Ok((data, found))
        };
        let base = self.base.as_ref().map(read).transpose()?.map(|(data, _)| data);
        let batches = self.batches.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let parts = base.iter().chain(batches.iter().map(|(data, _)| data));
        let schema = parts.map(Dataset::schema).find(|schema| schema.fingerprint() == self.schema);
        let Some(schema) = schema.cloned() else {
            return Err(Error::Corrupt(format!("no part has schema {}", self.schema)));
        };
        let mut taught = Taught::new(schema.clone());
        for (part, (rows, batch)) in self.batches.iter().zip(batches) {
            let mut data = Dataset::new(schema.clone());
            data.extend_older(&rows)?;
            taught.push(part.clone(), TaughtRow::read(&batch.manifest.samples, &data), &batch.corrected);
        }
        self.take(base.as_ref(), &taught)
    }

    /// Takes the rows of the base data and of the batches, and checks that they are what they were.
    pub(crate) fn take(&self, base: Option<&Dataset>, taught: &Taught) -> Result<Dataset, Error> {
        let most_rows = self.most_rows as usize;
        let data = compose(self.recipe, base, &taught.newest(most_rows)?, most_rows, &self.shares)?;
        let found = data.digest();
        if found != self.digest {
            let text = format!(
                "the training data is not what it was: {} rows of digest {found} were found, {} of {} were expected",
                data.len(),
                self.rows,
                self.digest
            );
            return Err(Error::Corrupt(text));
        }
        Ok(data)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
