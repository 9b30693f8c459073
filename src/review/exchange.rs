//! Review tasks go out to other tools, and what people answered there comes back.

mod json_lines;
mod label_studio;
mod report;
mod statement;

use std::io::{self, BufRead};

use super::change::Stored;
use super::{ReviewQueue, Task};
use crate::error::Error;
use crate::schema::{Row, Schema, Slot};
use crate::store::{Kind, Record, Scan};

use report::keep;
use statement::Trouble;

pub use label_studio::{LabelStudioOptions, label_studio_config};
pub use report::{ExportReport, ImportReport, Refusal};

/// Tasks read at once.
const PAGE: usize = 256;

/// How review tasks and annotations are written.
///
/// # JSON Lines
/// One object per line. A task, as [`ReviewQueue::export_tasks`] writes it:
///
/// | field | |
/// |---|---|
/// | `key` | the sample; it stays the same, so whoever reads the tasks can tell which they have |
/// | `created` | when it was put into the queue, RFC 3339 |
/// | `priority`, `overlap`, `blind` | see [`Ask`](crate::Ask) |
/// | `row` | the fields by name, as [`Row::to_json`] has them |
/// | `payload` | what an annotator should see beside the row, if there is something |
/// | `output` | the model's probability of each class, or `{"value", "low", "high"}`; missing if the task is blind |
/// | `classes` | names of the classes; missing if the label is a value |
///
/// An annotation, as [`ReviewQueue::import_annotations`] reads it; other fields are ignored:
///
/// | field | | if missing or `null` |
/// |---|---|---|
/// | `key` | the sample | refused |
/// | `annotator` | name of the person | refused |
/// | `label` | name of the class, or the value as a number | refused |
/// | `annotation` | key of the annotation, unique for sample and annotator | refused |
/// | `time` | when it was made, RFC 3339; one of the future counts as made now | now |
/// | `confidence` | from 0 to 1 | 1 |
/// | `seconds` | how long it took | unknown |
///
/// The same `annotation` again, with another label and a later `time`, is a correction; so is another `annotation` of
/// the same person with another label. Names and keys have at most 200 bytes. Lines of more than 1 MiB are refused; empty
/// lines and a byte order mark are passed over.
///
/// # Label Studio
/// The JSON of Label Studio, release 1.23.2, which every word about it here is of.
///
/// *Out* goes an array of tasks for `POST /api/projects/{id}/import`, or the Import button: `data` holds the fields of
/// the row by name (no embeddings: nobody can read them), `_loop_key` (the sample) and `_loop_text` (the payload and the
/// fields as text, for the project of [`label_studio_config`]); `meta` holds `created`, `priority` and `overlap`;
/// `predictions` the model's opinion with its version and probability, if the task is not blind. Label Studio refuses an
/// empty array, and it imports a file twice if it is given twice: then people are asked twice, and nothing else happens,
/// since what comes back counts once per person. `overlap` is a matter of the project there (`maximum_annotations`).
///
/// *In* comes what `GET /api/projects/{id}/export?exportType=JSON` gives, or the Export button ("JSON", not "JSON-MIN").
/// Of each annotation:
///
/// | field | |
/// |---|---|
/// | `unique_id` | key of the annotation |
/// | `completed_by` | the annotator: its `email` where the export has one, else `label-studio-<id>`. An annotation that was imported before keeps the name that it had then |
/// | `result` | the one entry of the control `label`: one choice that is a class, or a number; everything else is refused |
/// | `updated_at` | when the label was given; a later one with another label is a correction |
/// | `was_cancelled` | the person skipped the task; takes back the label that this annotation had |
/// | `ground_truth` | an answer like any other, unless [`LabelStudioOptions::ground_truth`] |
/// | `lead_time` | seconds that it took |
/// | `prediction`, `parent_prediction` | not empty: the annotation was not made blind |
///
/// Drafts are no answers. Tasks without `_loop_key` are refused. An annotation that was deleted there is missing in the
/// export, as is one that was not asked for; it is kept unless [`LabelStudioOptions::tombstones`].
///
/// # Examples
/// ```
/// use feedloop::*;
/// use std::sync::Arc;
/// # fn main() -> Result<(), BoxError> {
/// # let schema = Arc::new(Schema::new([Field::number("amount")], Target::classes(["good", "fraud"]))?);
/// # let training =
/// #     Dataset::from_values(schema.clone(), (0..100_u32).map(|i| ([f64::from(i)], Label::Class(i % 2))))?;
/// # let store = Arc::new(MemoryStore::new());
/// # let mut pipeline = Pipeline::builder("fraud", schema.clone())
/// #     .training_data(training)
/// #     .detect(LowConfidence::below(0.6))
/// #     .store(store.clone())
/// #     .build()?;
/// # let mut observation = pipeline.observation();
/// # let sample = PredictionId::from_uuid(uuid::Uuid::from_u128(1));
/// # observation.id = sample;
/// # observation.row.copy_values(&[4.0])?;
/// # observation.set_output(Output::Probabilities(&[0.5, 0.5]));
/// # pipeline.ingest([Event::Prediction(observation)])?;
/// let queue = ReviewQueue::open(store, "fraud", schema.target().clone(), Arc::new(SystemClock));
/// let mut tasks = Vec::new(); // or a file
/// queue.export_tasks(&schema, &mut tasks, ExchangeFormat::JsonLines)?;
/// assert!(String::from_utf8(tasks)?.starts_with(&format!(r#"{{"key":"{sample}","#)));
///
/// let answers = format!(
///     r#"{{"key":"{sample}","annotator":"ada","label":"fraud","annotation":"a-17","time":"2026-03-01T12:00:00Z"}}"#
/// );
/// let report = queue.import_annotations(&schema, answers.as_bytes(), ExchangeFormat::JsonLines)?;
/// assert_eq!((report.recorded, report.refused), (1, 0));
/// let again = queue.import_annotations(&schema, answers.as_bytes(), ExchangeFormat::JsonLines)?;
/// assert_eq!((again.recorded, again.known), (0, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExchangeFormat {
    /// One JSON object per line.
    JsonLines,
    /// Label Studio's JSON. The options are for the import.
    LabelStudio(LabelStudioOptions),
}

impl ExchangeFormat {
    /// Label Studio's JSON, without options.
    pub fn label_studio() -> Self {
        ExchangeFormat::LabelStudio(LabelStudioOptions::default())
    }
}

impl ReviewQueue {
    /// Writes the tasks that nobody holds and that wait for an answer, the most urgent first, then those whose lease has
    /// ended. They stay in the queue: who answers first here or there does not matter, every answer counts.
    ///
    /// A task that was asked under an earlier version of `schema` is written with the fields that came since missing.
    ///
    /// Each is written once, unless the loop asks it anew with another priority at that moment. Memory: one page of tasks,
    /// however many there are.
    ///
    /// # Errors
    /// `schema` has another target than the queue, or, for Label Studio, a field called `_loop_key` or `_loop_text`; the
    /// store fails; `out` cannot be written. A task that does not suit the schema is refused in the report.
    pub fn export_tasks(
        &self,
        schema: &Schema,
        out: &mut (impl io::Write + ?Sized),
        format: ExchangeFormat,
    ) -> Result<ExportReport, Error> {
        self.must_suit(schema)?;
        let (open, between, close) = match format {
            ExchangeFormat::JsonLines => ("", "", ""),
            ExchangeFormat::LabelStudio(_) => {
                label_studio::must_not_clash(schema)?;
                ("[\n", ",\n", "\n]\n")
            }
        };
        let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(Error::file("the review tasks cannot be written"));
        write(open.as_bytes())?;
        let mut report = ExportReport::default();
        let now = self.clock.now();
        let mut place = 0;
        let mut text = Vec::new();
        for state in ["open", "claimed"] {
            self.each_task(state, |record| {
                place += 1;
                // A lease that began since `now` ends later: what was written as open is not written again.
                if state == "claimed" && record.due.is_none_or(|due| due >= now) {
                    report.held += 1;
                    return Ok(());
                }
                let id = record.key.id.clone();
                text.clear();
                match self.write_task(schema, record, format, &mut text) {
                    Ok(()) => {
                        if report.tasks > 0 {
                            write(between.as_bytes())?;
                        }
                        report.tasks += 1;
                        write(&text)
                    }
                    Err(Trouble::Failed(error)) => Err(error),
                    Err(Trouble::Refused(reason)) => {
                        report.refused += 1;
                        keep(&mut report.refusals, Refusal { place, key: Some(id), reason });
                        Ok(())
                    }
                }
            })?;
        }
        write(close.as_bytes())?;
        out.flush().map_err(Error::file("the review tasks cannot be written"))?;
        Ok(report)
    }

    /// Takes in what people answered elsewhere. A wrong line or annotation is refused with its place and the reason and
    /// does not stop the others.
    ///
    /// The same annotations again change nothing: each is recorded once per key, under which it is stored, also when two
    /// imports run at once. So an import that failed half-way is repeated. An annotation keeps the time at which it was
    /// made; one of the future counts as made now. It counts if the task is done or somebody else holds it. It never
    /// stands before something newer of the same person, in whatever order the files come.
    ///
    /// Memory: one line, or one task of Label Studio with its annotations, beside the report; with
    /// [`LabelStudioOptions::tombstones`] also about 40 bytes for each task and annotation of the file.
    ///
    /// # Errors
    /// `schema` has another target than the queue, or the store fails; what comes before that is recorded. Input that
    /// cannot be read further is no error but [`ImportReport::cut_off`].
    pub fn import_annotations(
        &self,
        schema: &Schema,
        input: impl BufRead,
        format: ExchangeFormat,
    ) -> Result<ImportReport, Error> {
        self.must_suit(schema)?;
        let mut report = ImportReport::default();
        match format {
            ExchangeFormat::JsonLines => json_lines::import(self, schema, input, &mut report)?,
            ExchangeFormat::LabelStudio(options) => label_studio::import(self, schema, input, options, &mut report)?,
        }
        Ok(report)
    }

    fn must_suit(&self, schema: &Schema) -> Result<(), Error> {
        if *schema.target() == self.target {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "the schema predicts {:?}, the queue asks for {:?}: open the queue with the schema's target",
            schema.target(),
            self.target
        )))
    }

    fn each_task(&self, state: &str, mut each: impl FnMut(Record) -> Result<(), Error>) -> Result<(), Error> {
        let mut after: Option<(i64, String)> = None;
        loop {
            let last = after.as_ref().map(|(rank, id)| (*rank, id.as_str()));
            let scan =
                Scan { pipeline: &self.pipeline, kind: Kind::Task, state: Some(state), after: last, limit: PAGE };
            let page = self.store.scan(&scan).map_err(Error::store("read tasks"))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some((last.rank, last.key.id.clone()));
            page.into_iter().try_for_each(&mut each)?;
        }
    }

    fn write_task(
        &self,
        schema: &Schema,
        record: Record,
        format: ExchangeFormat,
        text: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        let mut task = Stored::read(record)?.task;
        if !lacks_required(schema, &task.row) {
            task.row.fit(schema);
        }
        if !suits(schema, &task) {
            let reason = "its row or output has another shape than the schema describes";
            return Err(Trouble::refused("other_schema", reason));
        }
        let written = match format {
            ExchangeFormat::JsonLines => json_lines::write(schema, &task, text),
            ExchangeFormat::LabelStudio(_) => {
                let model = if task.output.is_empty() { None } else { self.model_of(&task)? };
                label_studio::write(schema, &task, model, text)
            }
        };
        written.map_err(|error| Trouble::refused("not_writable", error.to_string()))
    }
}

/// Can the row be read by the schema?
fn suits(schema: &Schema, task: &Task) -> bool {
    schema.has_shape_of(&task.row) && (task.output.is_empty() || task.output.len() == schema.target().output_width())
}

/// Is the row too short for a field that must have a value? Then it is of no earlier version of the schema.
fn lacks_required(schema: &Schema, row: &Row) -> bool {
    schema.fields().iter().enumerate().any(|(field, description)| {
        let is_cut = match schema.slot(field) {
            Slot::Values { at, .. } => at >= row.values.len(),
            Slot::Time { at } => at >= row.integers.len(),
            Slot::Code { at } => at >= row.codes.len(),
            Slot::Text { at } => at >= row.texts.len(),
        };
        is_cut && !description.is_nullable()
    })
}

#[cfg(test)]
mod tests;
