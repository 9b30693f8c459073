//! The gate that keeps copies of one input from being labelled and trained on twice.

mod saved;
mod texts;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use self::texts::TextRows;
use super::near::{NearRows, Space, levels};
use super::recent::Recent;
use crate::error::{BoxError, message};
use crate::event::PredictionId;
use crate::gate::{Admission, GateContext, QualityGate};
use crate::reference::{Reference, References};
use crate::sample::{Reason, Sample};
use crate::schema::{Row, Schema, Slot};
use crate::stage::{Blind, Snapshot, Stage};
use crate::stats::minhash::{Bands, MinHash, Signature, similarity};

const CAPACITY: usize = 100_000;
const NEAR_CAPACITY: usize = 10_000;
/// With weights from 1 to 5 the effective sample size of a batch (Kish 1965) is at least 4·5/6² = 56 % of its rows.
const MOST_WEIGHT: u32 = 5;

/// Quarantines a sample whose input equals that of an earlier one, or nearly; how often it came is kept as its weight.
///
/// Equal means equal in [`Row::content_hash`](crate::Row::content_hash): every number, category, text and timestamp. The
/// first sample passes, later ones are quarantined with the reason `duplicate` and the first one's id. The same id
/// offered again passes if it passed before. With [`Deduplicate::near`] and [`Deduplicate::text`] near copies are
/// quarantined as `near_duplicate`, naming the nearest remembered sample. Rows of lanes that judge models
/// ([`Lane::judges`](crate::Lane::judges)) always pass, as dropping them would bias the estimates; flagged copies of them
/// do not.
///
/// Guarantee: of the last `capacity` different inputs (within `window`, counted from the first of its kind) no second
/// copy passes, and no other input is taken for a copy, up to a collision of 128-bit hashes (xxh3): with n inputs
/// remembered, a new one collides with probability n/2¹²⁸, and n of them hold a collision with about n²/2¹²⁹; for a million
/// inputs 10⁻²⁷. It does not hold beyond the capacity, nor against somebody who forges collisions: xxh3 is no
/// cryptographic hash. Where few columns with few values make equal inputs natural, set a
/// [`window`](Deduplicate::window) or leave this gate out: equal inputs may have different labels.
///
/// A field that a later version of the schema [adds](crate::Schema::evolve) and that has no value changes nothing: older
/// inputs are still known.
///
/// # After a crash
/// What is remembered is saved with the [checkpoints](crate::PipelineBuilder::checkpoint) of the pipeline and when it stops.
/// A process that ends otherwise goes back to the last checkpoint, unless told otherwise at most a minute or 100,000
/// predictions before: one copy of each input that first came since passes again, and the copies that were counted since
/// weigh nothing.
///
/// # Frequency
/// In training the first sample weighs as much as it came: 1 and one for each copy that was quarantined while it was
/// remembered, at most 5 ([`Deduplicate::weigh`]). A copy of a judging lane is trained on itself and is not counted. Copies
/// that come after the first was sealed are not counted any more, nor those of a first that is forgotten. If the
/// first never enters a batch, because another gate refuses it or nobody labels it, its copies are lost with it until it is
/// forgotten: put this gate behind those that look at more than the input, and set a window where labels may fail to come.
///
/// # Memory
/// 54 to 61 bytes per input (MB per million), 100,000 inputs unless told; a snapshot takes 59 per input. With
/// `near` also 8 bytes per numeric column and about 150 for each of the last 10,000 rows
/// ([`Deduplicate::near_capacity`]), with `text` 512 for the signature and about 8 per band.
///
/// # Examples
/// ```
/// use feedloop::Deduplicate;
/// let exact = Deduplicate::exact();
/// let also_near = Deduplicate::exact().near(0.05).text("note", 0.9);
/// ```
#[derive(Debug, Clone)]
pub struct Deduplicate {
    window: Option<TimeDelta>,
    capacity: usize,
    near_capacity: usize,
    weight: u32,
    distance: Option<f64>,
    text: Option<(String, f64)>,
    seen: Recent<First>,
    near: Near,
    known: Option<Known>,
}

/// The first sample with some content.
#[derive(Debug, Clone, Copy, PartialEq)]
struct First {
    id: PredictionId,
    /// Microseconds since the Unix epoch.
    time: i64,
    /// Copies that were quarantined since.
    copies: u32,
}

/// A sample that later ones are compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Kept {
    content: u128,
    id: PredictionId,
    time: i64,
}

/// What is remembered for comparisons that are not exact.
#[derive(Debug, Clone)]
enum Near {
    Off,
    Rows(NearRows<(Kept, Option<Signature>)>),
    Texts(TextRows<Kept>),
}

/// What follows from the training reference.
#[derive(Debug, Clone)]
struct Known {
    reference: Arc<Reference>,
    /// Place of the text that is compared.
    text: Option<(usize, MinHash)>,
}

/// What of a row is compared.
struct Probe {
    levels: u64,
    signature: Option<Signature>,
}

impl Deduplicate {
    /// Compares whole inputs, exactly.
    pub fn exact() -> Self {
        Deduplicate {
            window: None,
            capacity: CAPACITY,
            near_capacity: NEAR_CAPACITY,
            weight: MOST_WEIGHT,
            distance: None,
            text: None,
            seen: Recent::new(CAPACITY),
            near: Near::Off,
            known: None,
        }
    }

    /// Also compares numbers: an input is a near copy of another if their Euclidean distance is at most `distance`, each
    /// numeric column (embeddings included) in units of its standard deviation in the training data. With d columns
    /// that each differ by x units the distance is x·√d. Categories and texts must be equal, missing cells must be
    /// missing in both, and a column that does not vary in the training data must be equal; timestamps do not count.
    ///
    /// The search is exact: nothing within the distance is missed among the last
    /// [10,000](Deduplicate::near_capacity) inputs that passed as the first of their kind. When the schema gets another
    /// numeric column, those remembered until then are forgotten.
    pub fn near(mut self, distance: f64) -> Self {
        self.distance = Some(distance);
        self
    }

    /// Also compares the text field `field`: a text is a near copy of another if the Jaccard similarity of their sets of five
    /// characters in a row (in lower case, spaces of all kinds as one) is estimated at `similarity` or more. On its own it
    /// looks at nothing but the text; with [`Deduplicate::near`] everything else must be near as well. A missing or
    /// empty text is no copy of any.
    ///
    /// The estimate is the share of equal values of two MinHash signatures of 128 values (Broder 1997): with true similarity
    /// J it has the standard deviation √(J(1 − J)/128), at 0.8 ± 0.035. Candidates share one of b bands of r values, which a
    /// pair does with probability 1 − (1 − Jʳ)ᵇ; the longest bands are taken that miss at most 1 % of pairs of the asked
    /// similarity (21 bands of 6 values at 0.8, of which a pair of 0.4 shares one in 8 % of cases; it is then refused by its
    /// estimate).
    pub fn text(mut self, field: impl Into<String>, similarity: f64) -> Self {
        self.text = Some((field.into(), similarity));
        self
    }

    /// Remembers at most so many different inputs; 100,000 unless told.
    pub fn capacity(mut self, inputs: usize) -> Self {
        self.capacity = inputs;
        self.seen.resize(inputs);
        self
    }

    /// Remembers at most so many inputs for comparisons that are not exact; 10,000 unless told.
    pub fn near_capacity(mut self, inputs: usize) -> Self {
        self.near_capacity = inputs;
        self
    }

    /// Forgets an input so long after it came first; never unless told.
    pub fn window(mut self, window: TimeDelta) -> Self {
        self.window = Some(window);
        self
    }

    /// The most that a sample may weigh for its copies; 5 unless told, at which the effective sample size of a batch (Kish
    /// 1965) is at least 4·5/(1 + 5)² = 56 % of its rows, whatever is repeated. 1 leaves frequency out.
    pub fn weigh(mut self, most: u32) -> Self {
        self.weight = most;
        self
    }

    /// Number of inputs that are remembered.
    pub fn remembered(&self) -> usize {
        self.seen.len()
    }

    fn forget_older(&mut self, now: DateTime<Utc>) {
        let Some(window) = self.window.and_then(|window| window.num_microseconds()) else { return };
        let old = |time: i64| now.timestamp_micros().saturating_sub(time) > window;
        while self.seen.oldest().is_some_and(|first| old(first.time)) {
            self.seen.forget_oldest();
        }
        while self.near.oldest().is_some_and(|kept| old(kept.time)) {
            self.near.forget_oldest();
        }
    }

    /// Takes over the units of a reference.
    fn learn(&mut self, reference: &Arc<Reference>) -> Result<(), BoxError> {
        if self.known.as_ref().is_some_and(|known| Arc::ptr_eq(&known.reference, reference)) {
            return Ok(());
        }
        let text = match &self.text {
            None => None,
            Some((field, _)) => match reference.schema().field_index(field).map(|index| reference.schema().slot(index))
            {
                Some(Slot::Text { at }) => Some((at, MinHash::new())),
                _ => return Err(message(format!("text: the schema has no text field `{field}`"))),
            },
        };
        match (&mut self.near, self.distance, &self.text) {
            (Near::Rows(rows), ..) => rows.rescale(Space::new(reference)),
            (Near::Off, Some(_), _) => self.near = Near::Rows(NearRows::new(Space::new(reference))),
            (Near::Off, None, Some((_, least))) => {
                self.near = Near::Texts(TextRows::new(Bands::for_similarity(*least)));
            }
            _ => {}
        }
        self.known = Some(Known { reference: reference.clone(), text });
        Ok(())
    }

    /// What of a row is compared; `None` if nothing can be.
    fn probe(&self, row: &Row, schema: &Schema) -> Option<Probe> {
        let known = self.known.as_ref().filter(|_| schema.has_shape_of(row))?;
        let text = known.text.as_ref();
        let signature = text.and_then(|(at, minhash)| minhash.text(row.texts.get(*at)?.as_deref()?));
        match self.near {
            Near::Off => None,
            Near::Rows(_) => Some(Probe { levels: levels(row, text.map(|(at, _)| *at)), signature }),
            Near::Texts(_) => Some(Probe { levels: 0, signature: Some(signature?) }),
        }
    }

    /// The remembered sample that this row nearly equals, and how nearly.
    fn nearest(&self, probe: &Probe, row: &Row) -> Option<(Kept, String)> {
        let least = self.text.as_ref().map_or(0.0, |(_, least)| *least);
        match (&self.near, self.distance, &probe.signature) {
            (Near::Rows(rows), Some(distance), signature) => {
                let fits = |(_, other): &(Kept, Option<Signature>)| match (signature, other) {
                    (Some(a), Some(b)) => similarity(a, b) >= least,
                    (a, b) => a.is_none() && b.is_none(),
                };
                let (found, (kept, _)) = rows.nearest(probe.levels, row.values(), distance, fits)?;
                Some((*kept, format!("at distance {found:.4} from sample {}", kept.id)))
            }
            (Near::Texts(texts), _, Some(signature)) => {
                let (found, kept) = texts.most_similar(signature, least)?;
                Some((*kept, format!("its text has similarity {found:.2} to that of sample {}", kept.id)))
            }
            _ => None,
        }
    }

    fn remember(&mut self, kept: Kept, probe: Probe, row: &Row) {
        self.near.push(kept, probe.levels, row.values(), probe.signature);
        while self.near.len() > self.near_capacity {
            self.near.forget_oldest();
        }
    }

    fn count_copy(&mut self, content: u128) {
        if let Some(first) = self.seen.get_mut(content) {
            first.copies = first.copies.saturating_add(1);
        }
    }
}

impl Near {
    fn push(&mut self, kept: Kept, levels: u64, values: &[f64], signature: Option<Signature>) {
        match (self, signature) {
            (Near::Rows(rows), signature) => rows.push(levels, values, (kept, signature)),
            (Near::Texts(texts), Some(signature)) => texts.push(signature, kept),
            _ => {}
        }
    }

    fn oldest(&self) -> Option<&Kept> {
        match self {
            Near::Off => None,
            Near::Rows(rows) => rows.oldest().map(|(kept, _)| kept),
            Near::Texts(texts) => texts.oldest(),
        }
    }

    fn forget_oldest(&mut self) {
        match self {
            Near::Off => {}
            Near::Rows(rows) => rows.forget_oldest(),
            Near::Texts(texts) => texts.forget_oldest(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Near::Off => 0,
            Near::Rows(rows) => rows.len(),
            Near::Texts(texts) => texts.len(),
        }
    }

    /// The same kind, empty.
    fn emptied(&self) -> Near {
        match self {
            Near::Off => Near::Off,
            Near::Rows(rows) => Near::Rows(NearRows::new(rows.space().clone())),
            Near::Texts(texts) => Near::Texts(TextRows::new(texts.bands())),
        }
    }
}

impl Stage for Deduplicate {
    fn name(&self) -> &str {
        "deduplicate"
    }

    fn rebase(&mut self, references: &References) -> Result<(), BoxError> {
        if self.capacity == 0 || self.near_capacity == 0 {
            return Err(message("capacity is 0, at least 1 input must be remembered"));
        }
        if self.weight == 0 {
            return Err(message("weigh is 0, a sample weighs at least 1"));
        }
        if let Some(window) = self.window.filter(|window| *window <= TimeDelta::zero()) {
            return Err(message(format!("window is {window}, not positive")));
        }
        if let Some(distance) = self.distance.filter(|distance| !(distance.is_finite() && *distance >= 0.0)) {
            return Err(message(format!("near is {distance}, a finite distance of at least 0 is expected")));
        }
        if let Some((_, least)) = self.text.as_ref().filter(|(_, least)| !(*least > 0.0 && *least <= 1.0)) {
            return Err(message(format!("text has similarity {least}, more than 0 and at most 1 is expected")));
        }
        self.learn(&references.training)
    }

    fn blind(&self) -> Vec<Blind> {
        match &self.near {
            Near::Rows(rows) => rows.space().blind().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn snapshot(&self) -> Result<Snapshot, BoxError> {
        Ok(saved::save(self))
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), BoxError> {
        saved::restore(self, snapshot)
    }

    fn forget(&mut self, sample: &Sample) {
        if let Near::Rows(rows) = &mut self.near {
            rows.retain(|(kept, _)| kept.id != sample.id());
        }
    }
}

impl QualityGate for Deduplicate {
    fn admit(&mut self, sample: &Sample, context: &GateContext<'_>) -> Result<Admission, BoxError> {
        self.learn(&context.references.training)?;
        self.forget_older(context.now);
        let (row, id, judges) = (&sample.observation.row, sample.id(), sample.lane.judges());
        let (content, time) = (row.content_hash(), context.now.timestamp_micros());
        if let Some(first) = self.seen.get(content).copied() {
            if first.id == id || judges {
                return Ok(Admission::Pass);
            }
            self.count_copy(content);
            return Ok(Admission::Quarantine(Reason::new(
                "duplicate",
                format!("the same input as sample {}", first.id),
            )));
        }
        if let Some(probe) = self.probe(row, context.schema) {
            match self.nearest(&probe, row) {
                Some((kept, text)) if kept.id != id && !judges => {
                    self.count_copy(kept.content);
                    return Ok(Admission::Quarantine(Reason::new("near_duplicate", text)));
                }
                Some(_) => {}
                None => self.remember(Kept { content, id, time }, probe, row),
            }
        }
        self.seen.entry(content, || First { id, time, copies: 0 });
        Ok(Admission::Pass)
    }

    fn weight(&self, sample: &Sample) -> f64 {
        let first = self.seen.get(sample.observation.row.content_hash());
        let copies = first.filter(|first| first.id == sample.id()).map_or(0, |first| first.copies);
        f64::from(copies.saturating_add(1).min(self.weight))
    }
}

#[cfg(test)]
mod tests;
