//! Annotations from an export of Label Studio.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::BufRead;

use chrono::{DateTime, Utc};
use hashbrown::HashSet;
use serde::de::{DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::super::super::ReviewQueue;
use super::super::ImportReport;
use super::super::json_lines::{label, time};
use super::super::statement::{Said, Statement, Trouble, parts, prefix};
use super::{CONTROL, KEY, LabelStudioOptions};
use crate::clock::from_micros;
use crate::error::Error;
use crate::event::{Label, PredictionId};
use crate::sample::Annotator;
use crate::schema::{Schema, Target};

const SOURCE: &str = "label-studio";
/// Begins as `SOURCE` does, so that both are found together.
const TRUTH: &str = "label-studio-truth";

/// A task as Label Studio exports it.
#[derive(Deserialize)]
struct Exported {
    data: Option<BTreeMap<String, Value>>,
    annotations: Option<Vec<Value>>,
}

/// An annotation as Label Studio exports it.
#[derive(Deserialize)]
struct Finished {
    unique_id: Option<Uuid>,
    completed_by: Option<Person>,
    result: Option<Vec<Value>>,
    was_cancelled: Option<bool>,
    ground_truth: Option<bool>,
    created_at: Option<String>,
    updated_at: Option<String>,
    lead_time: Option<f64>,
    prediction: Option<Value>,
    parent_prediction: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Person {
    Id(u64),
    Full { id: u64, email: Option<String> },
}

impl Person {
    fn name(&self) -> String {
        match self {
            Person::Full { email: Some(email), .. } if !email.trim().is_empty() => email.clone(),
            Person::Full { id, .. } | Person::Id(id) => format!("label-studio-{id}"),
        }
    }
}

/// What a file holds, for those who ask what it no longer holds.
#[derive(Default)]
struct Seen {
    /// The samples with their places; `None` if something about them was unreadable.
    samples: BTreeMap<PredictionId, Option<u64>>,
    /// Hashes of sample and stream.
    streams: HashSet<u128>,
}

impl Seen {
    fn hash(sample: PredictionId, stream: &str) -> u128 {
        xxh3_128(format!("{sample}{stream}").as_bytes())
    }
}

struct Import<'a> {
    queue: &'a ReviewQueue,
    schema: &'a Schema,
    options: LabelStudioOptions,
    report: &'a mut ImportReport,
    seen: Seen,
    place: u64,
    /// A failure of the store, which ends the import.
    failed: Option<Error>,
}

pub(in super::super) fn import(
    queue: &ReviewQueue,
    schema: &Schema,
    input: impl BufRead,
    options: LabelStudioOptions,
    report: &mut ImportReport,
) -> Result<(), Error> {
    let mut import = Import { queue, schema, options, report, seen: Seen::default(), place: 0, failed: None };
    let mut reader = serde_json::Deserializer::from_reader(input);
    let read = (&mut import).deserialize(&mut reader).and_then(|()| reader.end());
    if let Some(failed) = import.failed {
        return Err(failed);
    }
    match read {
        Ok(()) if import.options.tombstones => import.retract_what_is_gone(),
        Ok(()) => Ok(()),
        Err(error) => {
            import.report.ends_at(import.place + 1, error);
            Ok(())
        }
    }
}

// Task by task, so that the file is never in memory as a whole.
impl<'de> DeserializeSeed<'de> for &mut Import<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Import<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the array of tasks of an export of Label Studio (JSON)")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tasks: A) -> Result<(), A::Error> {
        while let Some(task) = tasks.next_element::<Value>()? {
            self.place += 1;
            if let Err(error) = self.task(task) {
                self.failed = Some(error);
                return Err(A::Error::custom("the store failed"));
            }
        }
        Ok(())
    }
}

impl Import<'_> {
    fn task(&mut self, task: Value) -> Result<(), Error> {
        let place = self.place;
        let task = match Exported::deserialize(task) {
            Ok(task) => task,
            Err(error) => {
                // Whose annotations it holds is not known, so none can be called gone.
                self.options.tombstones = false;
                return self.report.note(place, None, Err(malformed(error)));
            }
        };
        let key = task.data.as_ref().and_then(|data| data.get(KEY)).and_then(Value::as_str);
        let Some(sample) = key.and_then(|key| key.parse().ok()) else {
            let detail = format!("its data has no `{KEY}` that names a sample: it is not a task of this loop");
            return self.report.note(place, key, Err(Trouble::refused("no_key", detail)));
        };
        let mut finished = Vec::new();
        let mut readable = true;
        for annotation in task.annotations.unwrap_or_default() {
            let read = Finished::deserialize(&annotation).map_err(malformed).and_then(|read| {
                let as_of = read.updated_at.as_deref().or(read.created_at.as_deref()).map(time).transpose()?;
                let key = read.unique_id.ok_or_else(|| Trouble::refused("bad_key", "it has no `unique_id`"))?;
                Ok((as_of, key, read))
            });
            match read {
                Ok(read) => finished.push(read),
                Err(trouble) => {
                    readable = false;
                    let key = annotation.get("unique_id").and_then(Value::as_str);
                    self.report.note(place, key, Err(trouble))?;
                }
            }
        }
        if self.options.tombstones {
            let task = self.seen.samples.entry(sample).or_insert(Some(place));
            *task = task.filter(|_| readable);
        }
        // One person may have made several: the newest counts, in whatever order they are.
        finished.sort_by_key(|(as_of, key, _)| (*as_of, *key));
        for (as_of, key, read) in finished {
            let key = key.to_string();
            let verdict = self.annotation(sample, as_of, &key, &read);
            self.report.note(place, Some(&key), verdict)?;
        }
        Ok(())
    }

    fn annotation(
        &mut self,
        sample: PredictionId,
        as_of: Option<DateTime<Utc>>,
        key: &str,
        read: &Finished,
    ) -> Result<Said, Trouble> {
        let (voice, truth) = (format!("{SOURCE}-{key}"), format!("{TRUTH}-{key}"));
        if self.options.tombstones {
            self.seen.streams.extend([&voice, &truth].map(|stream| Seen::hash(sample, stream)));
        }
        let person = read.completed_by.as_ref();
        let who = person.map(Person::name);
        let who = who.ok_or_else(|| Trouble::refused("no_annotator", "its `completed_by` is empty"))?;
        let skipped = read.was_cancelled == Some(true);
        let label = if skipped { None } else { Some(self.label(read)?) };
        let shown = [&read.prediction, &read.parent_prediction].into_iter().flatten().any(|value| match value {
            Value::Object(fields) => !fields.is_empty(),
            other => !other.is_null(),
        });
        let seconds = read.lead_time.filter(|seconds| *seconds >= 0.0 && seconds.is_finite());
        let mut statement =
            Statement { sample, stream: voice, who, truth: false, label, time: as_of, confidence: 1.0, seconds, shown };
        let mut said = self.queue.say(&statement)?;
        if skipped {
            let passed = self.queue.pass_over(sample, &statement.who)?;
            said = if said == Said::Retracted { said } else { passed };
        }
        if self.options.ground_truth {
            // Marking another annotation takes the mark away without a new `updated_at`.
            let said = if label.is_some() && read.ground_truth == Some(true) {
                (statement.stream, statement.truth) = (truth, true);
                self.queue.say(&statement)?
            } else {
                take_back(self.queue, sample, truth)?
            };
            self.report.truths += u64::from(matches!(said, Said::Recorded | Said::Corrected | Said::Retracted));
        }
        Ok(said)
    }

    /// The one answer of the control that asks for the label.
    fn label(&self, read: &Finished) -> Result<Label, Trouble> {
        let kind = match self.schema.target() {
            Target::Classes(_) => "choices",
            Target::Value => "number",
        };
        let results = read.result.as_deref().unwrap_or_default();
        let mut answers = results.iter().filter(|result| result["from_name"] == CONTROL && result["type"] == kind);
        let answer = answers.next().ok_or_else(|| {
            Trouble::refused("no_label", format!("its result has no {kind} of the control `{CONTROL}`"))
        })?;
        let value = &answer["value"][kind];
        let value = match value.as_array().map(Vec::as_slice) {
            Some([one]) => one,
            Some([]) => return Err(Trouble::refused("no_label", "no choice was made")),
            Some(_) => return Err(Trouble::refused("several_labels", format!("{value} was found, one is expected"))),
            None => value,
        };
        if answers.next().is_some() {
            return Err(Trouble::refused("several_labels", format!("the control `{CONTROL}` has several results")));
        }
        label(self.schema, value)
    }

    /// Takes back what came from annotations that are no longer there.
    fn retract_what_is_gone(self) -> Result<(), Error> {
        let Import { queue, report, seen, .. } = self;
        for (sample, task) in seen.samples {
            let Some(place) = task else { continue };
            let records = queue.annotation_records(&prefix(sample, SOURCE))?;
            let streams: BTreeSet<&str> = records.iter().filter_map(|record| Some(parts(&record.key.id)?.0)).collect();
            for stream in streams.into_iter().filter(|stream| !seen.streams.contains(&Seen::hash(sample, stream))) {
                match take_back(queue, sample, stream.to_owned()) {
                    Ok(Said::Retracted) if stream.starts_with(TRUTH) => report.truths += 1,
                    Ok(Said::Retracted) => report.retracted += 1,
                    // It had been taken back before.
                    Ok(_) => {}
                    Err(trouble) => report.note(place, Some(stream), Err(trouble))?,
                }
            }
        }
        Ok(())
    }
}

/// Takes back what a stream says. When it vanished is not known; dated right behind what it said, the retraction does not
/// stand before anything that the person said later.
fn take_back(queue: &ReviewQueue, sample: PredictionId, stream: String) -> Result<Said, Trouble> {
    let Some((version, last)) = queue.earlier(sample, &stream)?.pop() else { return Ok(Said::Known) };
    let who = match last.annotator {
        Annotator::Human(name) => name,
        _ => SOURCE.into(),
    };
    let time = Some(from_micros(i64::try_from(version).map_or(i64::MAX, |version| version.saturating_add(1))));
    let (truth, label, confidence, seconds, shown) = (false, None, 1.0, None, false);
    queue.say(&Statement { sample, stream, who, truth, label, time, confidence, seconds, shown })
}

fn malformed(error: serde_json::Error) -> Trouble {
    Trouble::refused("malformed", error.to_string())
}
