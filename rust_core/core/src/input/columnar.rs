//! The text column of a parquet or arrow file, row by row, in bounded batches.
//!
//! Parquet: row groups one after another, only the wanted columns, [`BATCH_ROWS`] rows at a time.
//! Arrow: the file format (`ARROW1`) and the stream format, as Hugging Face datasets write it, one
//! record batch at a time. A column is a path with dots through structs. Its type is text (plain,
//! large, view or dictionary-encoded) or binary, which must then be UTF-8. A null, as the value or as a
//! struct around it, is a bad document; rows count from 1, as lines do elsewhere.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, types};
use arrow_schema::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::detect::Records;
use super::jsonl::FieldPath;
use crate::error::{Error, Result};

/// Rows of a parquet batch.
const BATCH_ROWS: usize = 1024;

/// The rows of one file.
pub(crate) struct Rows {
    batches: Box<dyn Iterator<Item = std::result::Result<RecordBatch, String>> + Send>,
    path: PathBuf,
    column: FieldPath,
    id_column: Option<FieldPath>,
    n_rows: u64,
}

/// A batch's texts: for each row the text, or why there is none, and the identifier.
pub(crate) struct Batch {
    pub(crate) texts: Vec<Result<Vec<u8>, &'static str>>,
    pub(crate) ids: Vec<Option<String>>,
}

impl Rows {
    /// Opens a file and checks that it has the column.
    pub(crate) fn open(
        file: File,
        path: &Path,
        records: Records,
        column: &FieldPath,
        id_column: Option<&FieldPath>,
    ) -> Result<Self> {
        let damaged = |what: String| Error::DamagedInput { path: path.to_owned(), offset: 0, what };
        let wanted: Vec<&FieldPath> = std::iter::once(column).chain(id_column).collect();
        let batches: Box<dyn Iterator<Item = _> + Send> = match records {
            Records::Parquet => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(file)
                    .map_err(|error| damaged(format!("not a readable parquet file ({error})")))?;
                check(builder.schema(), path, &wanted)?;
                let parquet_schema = builder.parquet_schema();
                let leaves = (0..parquet_schema.num_columns()).filter(|&leaf| {
                    let parts = parquet_schema.column(leaf);
                    wanted.iter().any(|field| parts.path().parts().starts_with(field.keys()))
                });
                let mask = ProjectionMask::leaves(parquet_schema, leaves.collect::<Vec<_>>());
                let reader = builder
                    .with_projection(mask)
                    .with_batch_size(BATCH_ROWS)
                    .build()
                    .map_err(|error| damaged(format!("not a readable parquet file ({error})")))?;
                Box::new(reader.map(|batch| batch.map_err(|error| error.to_string())))
            }
            Records::ArrowFile => {
                let reader = arrow_ipc::reader::FileReader::try_new(std::io::BufReader::new(file), None)
                    .map_err(|error| damaged(format!("not a readable arrow file ({error})")))?;
                check(&reader.schema(), path, &wanted)?;
                Box::new(reader.map(|batch| batch.map_err(|error| error.to_string())))
            }
            _ => {
                let reader = arrow_ipc::reader::StreamReader::try_new(std::io::BufReader::new(file), None)
                    .map_err(|error| damaged(format!("not a readable arrow stream ({error})")))?;
                check(&reader.schema(), path, &wanted)?;
                Box::new(reader.map(|batch| batch.map_err(|error| error.to_string())))
            }
        };
        Ok(Self {
            batches,
            path: path.to_owned(),
            column: column.clone(),
            id_column: id_column.cloned(),
            n_rows: 0,
        })
    }

    /// The next rows, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Batch>> {
        let Some(batch) = self.batches.next() else { return Ok(None) };
        let batch = batch.map_err(|error| {
            let what = format!("the rows behind row {} cannot be read ({error})", self.n_rows);
            Error::DamagedInput { path: self.path.clone(), offset: 0, what }
        })?;
        self.n_rows += batch.num_rows() as u64;
        let texts = values(&batch, &self.column)
            .into_iter()
            .map(|value| value.ok_or("the value is null"))
            .collect::<Vec<_>>();
        let ids = match &self.id_column {
            Some(column) => values(&batch, column)
                .into_iter()
                .map(|value| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
                .collect(),
            None => vec![None; texts.len()],
        };
        Ok(Some(Batch { texts, ids }))
    }
}

/// Fails unless the columns are there and can be read as text (the first) or identifiers.
fn check(schema: &Schema, path: &Path, wanted: &[&FieldPath]) -> Result<()> {
    for (index, column) in wanted.iter().enumerate() {
        let mut fields = schema.fields();
        let mut found = None;
        for key in column.keys() {
            let Some(field) = fields.iter().find(|field| field.name() == key) else {
                let names: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
                let what = format!(
                    "{} has no column {:?}; there are {}",
                    path.display(),
                    column.name(),
                    names.join(", ")
                );
                return Err(Error::BadOption { option: "field", what });
            };
            found = Some(field.data_type());
            if let DataType::Struct(inner) = field.data_type() {
                fields = inner;
            }
        }
        let usable = match found {
            Some(DataType::Dictionary(_, value)) => is_text(value),
            Some(other) => is_text(other) || (index > 0 && is_identifier(other)),
            None => false,
        };
        if !usable {
            let kind = found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            let what = format!("{}: column {:?} is {kind}, not text", path.display(), column.name());
            return Err(Error::BadOption { option: "field", what });
        }
    }
    Ok(())
}

fn is_text(kind: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
    matches!(kind, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView)
}

fn is_identifier(kind: &DataType) -> bool {
    matches!(kind, DataType::Int32 | DataType::Int64 | DataType::UInt32 | DataType::UInt64)
}

/// A column's values as bytes; `None` where it, or a struct around it, is null.
fn values(batch: &RecordBatch, column: &FieldPath) -> Vec<Option<Vec<u8>>> {
    let n_rows = batch.num_rows();
    let mut keys = column.keys().iter();
    let mut array: Option<ArrayRef> = keys.next().and_then(|key| batch.column_by_name(key)).cloned();
    let mut outer_nulls = vec![false; n_rows];
    for key in keys {
        let Some(outer) = array.take() else { break };
        for (row, null) in outer_nulls.iter_mut().enumerate() {
            *null |= outer.is_null(row);
        }
        array = outer.as_struct_opt().and_then(|fields| fields.column_by_name(key)).cloned();
    }
    let Some(array) = array else { return vec![None; n_rows] };
    (0..n_rows).map(|row| if outer_nulls[row] { None } else { value(&*array, row) }).collect()
}

fn value(array: &dyn Array, row: usize) -> Option<Vec<u8>> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).as_bytes().to_vec(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).as_bytes().to_vec(),
        DataType::Utf8View => array.as_string_view().value(row).as_bytes().to_vec(),
        DataType::Binary => array.as_binary::<i32>().value(row).to_vec(),
        DataType::LargeBinary => array.as_binary::<i64>().value(row).to_vec(),
        DataType::BinaryView => array.as_binary_view().value(row).to_vec(),
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[row];
            return value(dictionary.values().as_ref(), key);
        }
        DataType::Int64 => array.as_primitive::<types::Int64Type>().value(row).to_string().into_bytes(),
        DataType::Int32 => array.as_primitive::<types::Int32Type>().value(row).to_string().into_bytes(),
        DataType::UInt64 => array.as_primitive::<types::UInt64Type>().value(row).to_string().into_bytes(),
        DataType::UInt32 => array.as_primitive::<types::UInt32Type>().value(row).to_string().into_bytes(),
        _ => return None,
    })
}
