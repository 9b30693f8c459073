//! Labelled streams: from a CSV file, or the wine-quality set that comes with `linfa-datasets`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use statrs::statistics::Statistics;

/// The first two bytes of every gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// More distinct labels than this are taken for a mistake: a column of measurements, not of classes.
const MOST_CLASSES: usize = 1_000;

/// A labelled data set in the order in which production would see it.
#[derive(Debug, Clone)]
pub struct Stream {
    /// What to call it in reports, e.g. the file name without its extension.
    pub name: String,
    /// One name per feature.
    pub columns: Vec<String>,
    /// One row per observation, in stream order; NaN = missing.
    pub features: Vec<Vec<f64>>,
    /// The true class of each row, `0..classes`.
    pub labels: Vec<usize>,
    /// How many classes there are.
    pub classes: usize,
}

impl Stream {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is no row.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// Why a stream could not be read. Every variant says where to look.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file could not be opened, unpacked or decoded as UTF-8.
    #[error("{path}: cannot read line {line}")]
    Read {
        /// The file.
        path: String,
        /// The line that was about to be read, counted from 1.
        line: usize,
        /// What the system says.
        source: io::Error,
    },
    /// The text is not a labelled stream.
    #[error("{path}, line {line}: {problem}")]
    Malformed {
        /// The file.
        path: String,
        /// The offending line, counted from 1 (the header is line 1).
        line: usize,
        /// What was found and what was expected.
        problem: String,
    },
}

/// Reads a stream from a plain or gzip CSV file (told apart by its first bytes, not by its name).
///
/// The first line is a header, `x0..xk,y`: any feature names, then `y`. Every further line is one row in stream
/// order. An empty cell or `nan` is a missing feature. The class is an integer of any value; classes are renumbered
/// `0..classes` in ascending order. Blank lines are skipped; quoting is not supported.
///
/// # Errors
/// [`DataError`] with the line number, if the file cannot be read or is not of this form.
pub fn read_csv(path: &Path) -> Result<Stream, DataError> {
    let shown = path.display().to_string();
    let unreadable = |source| DataError::Read { path: shown.clone(), line: 1, source };
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let zipped = file.fill_buf().map_err(unreadable)?.starts_with(&GZIP_MAGIC);
    if zipped { parse(&shown, BufReader::new(MultiGzDecoder::new(file))) } else { parse(&shown, file) }
}

/// Reads the text of a CSV file; `path` is for names and messages.
fn parse(path: &str, mut text: impl BufRead) -> Result<Stream, DataError> {
    let malformed = |line, problem| DataError::Malformed { path: path.to_owned(), line, problem };
    let mut buffer = String::new();
    let mut number = 0;
    let mut next = |buffer: &mut String| -> Result<Option<usize>, DataError> {
        loop {
            buffer.clear();
            number += 1;
            let read = text.read_line(buffer).map_err(|source| DataError::Read {
                path: path.to_owned(),
                line: number,
                source,
            })?;
            if read == 0 {
                return Ok(None);
            }
            if !buffer.trim().is_empty() {
                return Ok(Some(number));
            }
        }
    };

    let Some(line) = next(&mut buffer)? else {
        return Err(malformed(1, "the file is empty; expected a header x0..xk,y".to_owned()));
    };
    let columns = parse_header(&buffer).map_err(|problem| malformed(line, problem))?;

    let mut features = Vec::new();
    let mut raw_labels = Vec::new();
    let mut last_line = line;
    while let Some(line) = next(&mut buffer)? {
        let (row, label) = parse_row(buffer.trim(), &columns).map_err(|problem| malformed(line, problem))?;
        features.push(row);
        raw_labels.push(label);
        last_line = line;
    }
    if features.is_empty() {
        return Err(malformed(last_line, "there is a header but no row".to_owned()));
    }
    let (labels, classes) = renumber(&raw_labels);
    if classes > MOST_CLASSES {
        return Err(malformed(
            last_line,
            format!(
                "{classes} different labels by the end of the file, expected at most {MOST_CLASSES} classes; \
                 is y a measurement?"
            ),
        ));
    }
    Ok(Stream { name: stream_name(path), columns, features, labels, classes })
}

/// The feature names of a header whose last column is `y`.
fn parse_header(line: &str) -> Result<Vec<String>, String> {
    let line = line.trim_start_matches('\u{feff}').trim();
    let mut columns: Vec<String> = line.split(',').map(|name| name.trim().to_owned()).collect();
    match columns.pop() {
        Some(last) if last == "y" && !columns.is_empty() => Ok(columns),
        _ => {
            let shown: String = line.chars().take(60).collect();
            Err(format!("expected a header x0..xk,y, found '{shown}'"))
        }
    }
}

/// One row: its features and its label as written.
fn parse_row(line: &str, columns: &[String]) -> Result<(Vec<f64>, i64), String> {
    let found = line.split(',').count();
    if found != columns.len() + 1 {
        return Err(format!("found {found} cells, the header has {}", columns.len() + 1));
    }
    let mut cells = line.split(',').map(str::trim);
    let row = columns
        .iter()
        .zip(&mut cells)
        .map(|(name, cell)| match cell {
            "" => Ok(f64::NAN),
            cell => {
                cell.parse().map_err(|_| format!("column {name}: expected a number, nan or nothing, found '{cell}'"))
            }
        })
        .collect::<Result<_, _>>()?;
    let cell = cells.next().unwrap_or_default();
    Ok((row, parse_label(cell)?))
}

/// An integer label; `3.0` is accepted because number tables are often written that way.
fn parse_label(cell: &str) -> Result<i64, String> {
    let problem = || format!("column y: expected an integer class, found '{cell}'");
    if let Ok(label) = cell.parse::<i64>() {
        return Ok(label);
    }
    let value: f64 = cell.parse().map_err(|_| problem())?;
    // Beyond 2^53 not every integer has its own f64, so two classes could silently become one.
    if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 { Ok(value as i64) } else { Err(problem()) }
}

/// Labels as `0..classes`, in ascending order of what was written (what `numpy.unique` does).
fn renumber(raw: &[i64]) -> (Vec<usize>, usize) {
    let mut codes: BTreeMap<i64, usize> = raw.iter().map(|&label| (label, 0)).collect();
    for (code, slot) in codes.values_mut().enumerate() {
        *slot = code;
    }
    let labels = raw.iter().filter_map(|label| codes.get(label).copied());
    (labels.collect(), codes.len())
}

/// The file name without folder, `.gz` and `.csv`.
fn stream_name(path: &str) -> String {
    let name = Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned());
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.strip_suffix(".csv").unwrap_or(name).to_owned()
}

/// Red wines judged by people (Cortez et al., 2009), in an order that drifts: 1,599 rows, 11 measurements, label 1 =
/// quality of at least 6.
///
/// The drift is ours, not the data's: the rows are sorted by alcohol with a jitter of 0.3 standard deviations drawn
/// from `seed`, as if production moved on to stronger wines. A model that was trained on the first 400 rows then falls
/// to about .43 accuracy on the rest; one that learns on reaches about .70.
pub fn wine(seed: u64) -> Stream {
    const ALCOHOL: &str = "alcohol";
    let wines = linfa_datasets::winequality();
    let columns = wines.feature_names().to_vec();
    let quality = wines.targets();
    let records = wines.records();
    let alcohol = columns.iter().position(|name| name == ALCOHOL).unwrap_or(columns.len() - 1);

    let strength: Vec<f64> = records.column(alcohol).to_vec();
    let jitter = 0.3 * (&strength).population_std_dev();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut order: Vec<(f64, usize)> = strength
        .iter()
        .enumerate()
        .map(|(row, strength)| (strength + jitter * standard_normal(&mut rng), row))
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));

    Stream {
        name: "wine".to_owned(),
        columns,
        features: order.iter().map(|&(_, row)| records.row(row).to_vec()).collect(),
        labels: order.iter().map(|&(_, row)| usize::from(quality[row] >= 6)).collect(),
        classes: 2,
    }
}

/// One draw from the standard normal distribution (Box & Muller, 1958).
pub fn standard_normal(rng: &mut impl Rng) -> f64 {
    // 1 - u lies in (0, 1], so the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
