//! The rows of a data file as Parquet, in one row group and without compression.

use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use super::line::{Line, class, columns};
use crate::error::BoxError;
use crate::schema::{Field, FieldKind, Schema, Slot, Target};

/// The cells of one column.
enum Cells {
    Numbers(Vec<Option<f64>>),
    Booleans(Vec<Option<bool>>),
    Texts(Vec<Option<String>>),
    /// Microseconds since the Unix epoch.
    Times(Vec<Option<i64>>),
    /// Vectors of numbers; a missing part is NaN.
    Vectors(Vec<Option<Vec<f64>>>),
}

impl Cells {
    fn declare(&self, name: &str) -> Result<Type, ParquetError> {
        let optional = |physical, logical| {
            let column = Type::primitive_type_builder(name, physical).with_logical_type(logical);
            column.with_repetition(Repetition::OPTIONAL).build()
        };
        match self {
            Cells::Numbers(_) => optional(Physical::DOUBLE, None),
            Cells::Booleans(_) => optional(Physical::BOOLEAN, None),
            Cells::Texts(_) => optional(Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Cells::Times(_) => optional(Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
            Cells::Vectors(_) => {
                let element = Type::primitive_type_builder("element", Physical::DOUBLE);
                let element = element.with_repetition(Repetition::OPTIONAL).build()?;
                let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED);
                let list = list.with_fields(vec![Arc::new(element)]).build()?;
                let column = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
                column.with_logical_type(Some(LogicalType::List)).with_fields(vec![Arc::new(list)]).build()
            }
        }
    }

    fn write(self, column: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        match self {
            Cells::Numbers(cells) => {
                let (values, levels) = present(cells);
                column.typed::<DoubleType>().write_batch(&values, Some(&levels), None)?;
            }
            Cells::Booleans(cells) => {
                let (values, levels) = present(cells);
                column.typed::<BoolType>().write_batch(&values, Some(&levels), None)?;
            }
            Cells::Texts(cells) => {
                let (values, levels) = present(cells);
                let values: Vec<ByteArray> =
                    values.into_iter().map(|text| ByteArray::from(text.into_bytes())).collect();
                column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
            }
            Cells::Times(cells) => {
                let (values, levels) = present(cells);
                column.typed::<Int64Type>().write_batch(&values, Some(&levels), None)?;
            }
            Cells::Vectors(cells) => {
                // Definition: 0 no vector, 1 no part (does not occur), 2 a missing part, 3 a part. Repetition: 0 begins a row.
                let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
                for cell in cells {
                    let parts = cell.unwrap_or_default();
                    if parts.is_empty() {
                        defined.push(0);
                        repeated.push(0);
                    }
                    for (index, part) in parts.into_iter().enumerate() {
                        defined.push(if part.is_nan() { 2 } else { 3 });
                        repeated.push(i16::from(index > 0));
                        values.extend((!part.is_nan()).then_some(part));
                    }
                }
                column.typed::<DoubleType>().write_batch(&values, Some(&defined), Some(&repeated))?;
            }
        }
        Ok(())
    }
}

/// The values that are there, and for each cell 1 if it has one.
fn present<T>(cells: Vec<Option<T>>) -> (Vec<T>, Vec<i16>) {
    let levels = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    (cells.into_iter().flatten().collect(), levels)
}

/// Rows as one Parquet file: a column for each field, then label and weight, then what is known of the samples, if there are
/// any. Missing values are null.
///
/// Numbers and whole numbers are doubles (as models see them; beyond 2^53 only the JSON Lines are exact), categories, texts
/// and names of classes strings, timestamps microseconds in UTC, embeddings lists of doubles.
///
/// # Errors
/// The writer refuses; that is a mistake of ours.
pub(crate) fn parquet(schema: &Schema, lines: &[Line<'_>]) -> Result<Vec<u8>, BoxError> {
    let mut table: Vec<(String, Cells)> = Vec::new();
    for (index, field) in schema.fields().iter().enumerate() {
        table.push((field.name().to_owned(), cells_of(schema, index, field, lines)));
    }
    let names = columns(schema);
    let mut put = |usual: &str, cells: Cells| table.extend(names.get(usual).map(|name| (name.clone(), cells)));
    put(
        "label",
        match schema.target() {
            Target::Classes(_) => texts(lines, |line| class(line.label, schema)),
            Target::Value => Cells::Numbers(lines.iter().map(|line| Some(line.label.number())).collect()),
        },
    );
    put("weight", Cells::Numbers(lines.iter().map(|line| Some(line.weight)).collect()));
    if lines.iter().any(|line| line.origin.is_some()) {
        let origins = || lines.iter().map(|line| line.origin);
        put("sample", Cells::Texts(origins().map(|origin| Some(origin?.sample.to_string())).collect()));
        put("time", Cells::Times(origins().map(|origin| Some(origin?.time.timestamp_micros())).collect()));
        put("source", texts(lines, |line| Some(line.origin?.source())));
        put("lane", texts(lines, |line| Some(line.origin?.lane.as_str())));
        put("inclusion", Cells::Numbers(origins().map(|origin| Some(origin?.inclusion)).collect()));
        put("split", texts(lines, |line| Some(line.origin?.split())));
    }
    Ok(write(table)?)
}

fn texts<'a>(lines: &'a [Line<'a>], text: impl Fn(&'a Line<'a>) -> Option<&'a str>) -> Cells {
    Cells::Texts(lines.iter().map(|line| text(line).map(str::to_owned)).collect())
}

fn cells_of(schema: &Schema, index: usize, field: &Field, lines: &[Line<'_>]) -> Cells {
    let rows = lines.iter().map(|line| line.row);
    match field.kind() {
        FieldKind::Number { .. } | FieldKind::Integer { .. } => {
            Cells::Numbers(rows.map(|row| row.number(schema, index)).collect())
        }
        FieldKind::Boolean => Cells::Booleans(rows.map(|row| Some(row.number(schema, index)? != 0.0)).collect()),
        FieldKind::Category { .. } => {
            Cells::Texts(rows.map(|row| row.category(schema, index).map(str::to_owned)).collect())
        }
        FieldKind::Text { .. } => Cells::Texts(rows.map(|row| row.text(schema, index).map(str::to_owned)).collect()),
        FieldKind::Timestamp => Cells::Times(rows.map(|row| row.integer(schema, index)).collect()),
        FieldKind::Embedding { .. } => {
            let Slot::Values { at, len, .. } = schema.slot(index) else { return Cells::Vectors(Vec::new()) };
            let parts =
                |row: &crate::Row| (!row.is_missing(schema, index)).then(|| row.values()[at..at + len].to_vec());
            Cells::Vectors(rows.map(parts).collect())
        }
    }
}

fn write(table: Vec<(String, Cells)>) -> Result<Vec<u8>, ParquetError> {
    let mut fields: Vec<TypePtr> = Vec::with_capacity(table.len());
    // Measured elsewhere: doubles in a dictionary are several times slower and larger; texts repeat.
    let mut properties = WriterProperties::builder().set_dictionary_enabled(false);
    for (name, cells) in &table {
        fields.push(Arc::new(cells.declare(name)?));
        if matches!(cells, Cells::Texts(_)) {
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(vec![name.clone()]), true);
        }
    }
    let root = Type::group_type_builder("schema").with_fields(fields).build()?;
    let mut file = SerializedFileWriter::new(Vec::new(), Arc::new(root), Arc::new(properties.build()))?;
    let mut group = file.next_row_group()?;
    for (_, cells) in table {
        if let Some(mut column) = group.next_column()? {
            cells.write(&mut column)?;
            column.close()?;
        }
    }
    group.close()?;
    file.into_inner()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
