//! How well a detector tells anomalies from normal rows.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use feedloop::{
    BoxError, ChunkBuffer, ConformalDetector, Covariance, Detector, Ecod, Findings, IsolationForest, Mahalanobis,
    NearestNeighbours, NoveltyScore, Observation, PredictionId, Reference, References, Row, RowView, Schema, Stage,
    Support, Target,
};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde::Serialize;
use uuid::Uuid;

use crate::common::data::Stream;

/// The detectors that score rows.
pub(crate) const NAMES: [&str; 9] = [
    "mahalanobis",
    "mahalanobis_empirical",
    "mahalanobis_oas",
    "mahalanobis_mcd",
    "mahalanobis_mcd75",
    "knn5",
    "knn20",
    "isolation_forest",
    "ecod",
];

/// Rows of one chunk.
const CHUNK: usize = 256;

/// What the last line says.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    set: String,
    detector: String,
    rows: usize,
    anomalies: usize,
    reference_rows: usize,
    auroc: f64,
    average_precision: f64,
    rate: f64,
    flagged_rate_on_normals: f64,
    ns_per_row: f64,
}

/// Runs the detector called `name`.
pub(crate) fn run(data: &Stream, name: &str, rate: f64, seed: u64) -> Result<Report, BoxError> {
    let job = Job { data, name, rate, seed };
    match name {
        "mahalanobis" => job.run(Mahalanobis::default()),
        "mahalanobis_empirical" => job.run(Mahalanobis::default().covariance(Covariance::Empirical)),
        "mahalanobis_oas" => job.run(Mahalanobis::default().covariance(Covariance::Oas)),
        "mahalanobis_mcd" => job.run(Mahalanobis::default().covariance(Covariance::MinCovDet(Support::Half))),
        "mahalanobis_mcd75" => {
            job.run(Mahalanobis::default().covariance(Covariance::MinCovDet(Support::ThreeQuarters)))
        }
        "knn5" => job.run(NearestNeighbours::default()),
        "knn20" => job.run(NearestNeighbours::default().neighbours(NonZeroUsize::MIN.saturating_add(19))),
        "isolation_forest" => job.run(IsolationForest::default().seed(seed)),
        "ecod" => job.run(Ecod::default()),
        _ => Err(format!("unknown detector '{name}' for anomalies, expected one of {}", NAMES.join(", ")).into()),
    }
}

struct Job<'a> {
    data: &'a Stream,
    name: &'a str,
    rate: f64,
    seed: u64,
}

impl Job<'_> {
    fn run<S: NoveltyScore>(&self, detector: ConformalDetector<S>) -> Result<Report, BoxError> {
        let anomaly = |row: usize| self.data.labels[row] > 0;
        let mut normal: Vec<usize> = (0..self.data.len()).filter(|&row| !anomaly(row)).collect();
        normal.shuffle(&mut StdRng::seed_from_u64(self.seed));
        let (fitted, held_out) = normal.split_at(normal.len() / 2);
        let mut scored: Vec<usize> = held_out.to_vec();
        scored.extend((0..self.data.len()).filter(|&row| anomaly(row)));
        if fitted.is_empty() || scored.len() == held_out.len() {
            return Err("normal rows (y = 0) and anomalies (y = 1) are needed".into());
        }

        let schema = Arc::new(Schema::numeric(self.data.columns.len(), Target::Value)?);
        let mut reference = Reference::builder(schema.clone());
        for &row in fitted {
            reference.push(&Row::from_values(&schema, &self.data.features[row])?, None, None)?;
        }
        let mut detector = detector.false_alarm_rate(self.rate);
        detector.rebase(&References::starting_with(Arc::new(reference.finish())))?;
        for blind in detector.blind() {
            eprintln!("blind{}: {}", blind.column.map(|name| format!(" on {name}")).unwrap_or_default(), blind.reason);
        }

        let chunks = chunks(self.data, &schema, &scored)?;
        let mut findings = Findings::new();
        for chunk in &chunks {
            detector.inspect(&chunk.view(&schema), &mut findings)?;
        }
        let flagged = findings.flags().iter().filter(|flag| !anomaly(number(flag.prediction))).count();
        let score = |&row: &usize| {
            let view = RowView { values: &self.data.features[row], ..RowView::default() };
            detector.score(view).unwrap_or(f64::NEG_INFINITY)
        };
        let ranked = Ranked::new(scored.iter().map(|row| (score(row), anomaly(*row))));
        Ok(Report {
            set: self.data.name.clone(),
            detector: self.name.to_owned(),
            rows: scored.len(),
            anomalies: scored.len() - held_out.len(),
            reference_rows: fitted.len(),
            auroc: ranked.auroc(),
            average_precision: ranked.average_precision(),
            rate: self.rate,
            flagged_rate_on_normals: flagged as f64 / held_out.len() as f64,
            ns_per_row: time(&mut detector, &schema, &self::chunks(self.data, &schema, held_out)?)?
                / held_out.len() as f64,
        })
    }
}

/// The rows as observations whose id is the row's number.
fn chunks(data: &Stream, schema: &Schema, rows: &[usize]) -> Result<Vec<ChunkBuffer>, BoxError> {
    let mut chunks = Vec::new();
    for rows in rows.chunks(CHUNK) {
        let mut buffer = ChunkBuffer::new(schema);
        for &row in rows {
            let mut observation = Observation::new(schema);
            observation.id = PredictionId::from_uuid(Uuid::from_u128(row as u128));
            observation.row.copy_values(&data.features[row])?;
            buffer.push(row as u64, &observation);
        }
        chunks.push(buffer);
    }
    Ok(chunks)
}

fn number(id: PredictionId) -> usize {
    id.uuid().as_u128() as usize
}

/// Nanoseconds for one pass over the chunks, the fastest of some.
fn time(detector: &mut impl Detector, schema: &Schema, chunks: &[ChunkBuffer]) -> Result<f64, BoxError> {
    let (mut findings, mut fastest, start) = (Findings::new(), Duration::MAX, Instant::now());
    while start.elapsed() < Duration::from_millis(300) {
        let pass = Instant::now();
        for chunk in chunks {
            findings.clear();
            detector.inspect(black_box(&chunk.view(schema)), &mut findings)?;
        }
        fastest = fastest.min(pass.elapsed());
    }
    Ok(fastest.as_nanos() as f64)
}

/// Scores with their truths, highest first.
struct Ranked(Vec<(f64, bool)>);

impl Ranked {
    fn new(scores: impl Iterator<Item = (f64, bool)>) -> Self {
        let mut scores: Vec<_> = scores.collect();
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ranked(scores)
    }

    /// Groups of equal scores: anomalies and rows.
    fn groups(&self) -> impl Iterator<Item = (f64, f64)> {
        let groups = self.0.chunk_by(|a, b| a.0 == b.0);
        groups.map(|group| (group.iter().filter(|(_, anomaly)| *anomaly).count() as f64, group.len() as f64))
    }

    /// Chance that an anomaly scores higher than a normal row; equal scores count half (Mann and Whitney 1947).
    fn auroc(&self) -> f64 {
        let (mut above, mut pairs, mut normals) = (0.0, 0.0, 0.0);
        for (anomalies, rows) in self.groups() {
            let normal = rows - anomalies;
            above += normal * (pairs + anomalies / 2.0);
            pairs += anomalies;
            normals += normal;
        }
        above / (pairs * normals)
    }

    /// Mean precision over the anomalies, at the score of each.
    fn average_precision(&self) -> f64 {
        let (mut found, mut seen, mut sum) = (0.0, 0.0, 0.0);
        for (anomalies, rows) in self.groups() {
            found += anomalies;
            seen += rows;
            sum += anomalies * found / seen;
        }
        sum / found
    }
}
