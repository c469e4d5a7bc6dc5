//! The columns of a parquet or arrow file, row by row, in bounded batches.
//!
//! Parquet: row groups one after another, only the wanted columns, so many rows at a time as hold about
//! a chunk of text on average. Arrow: the file format (`ARROW1`) and the stream format, as Hugging Face
//! datasets write it, one record batch at a time, handed out in slices. A column is a path with dots
//! through structs. The text's type is text or binary (plain, large, view or dictionary-encoded), either of which
//! comes as bytes that may be no UTF-8; an id is text or an integer. A null, as the value or as a struct
//! around it, is a bad document; rows count from 0 here.
//!
//! Which rows make a batch follows from the first one and from the file.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::columns::{Columns, check};
use super::detect::Content;
use super::field_path::FieldPath;
use super::text_as_bytes::{self, Patched};
use crate::error::{Error, Result};

/// Most rows of a batch.
const BATCH_ROWS_MAX: u64 = 1 << 16;

/// The rows of one file, from some row on.
pub(crate) struct Rows {
    batches: Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>,
    path: PathBuf,
    columns: Columns,
    /// A record batch that is being handed out, and the row within it to go on with.
    current: Option<(RecordBatch, usize)>,
    /// Number of the next row.
    row: u64,
    chunk_bytes: u64,
    progress: Progress,
    /// Parquet batches are made as they are handed out.
    is_sliced: bool,
}

/// How far a file is read.
enum Progress {
    Rows { all: u64, size_bytes: u64 },
    Bytes(Arc<AtomicU64>),
}

/// Rows that follow each other.
pub(crate) struct Batch {
    texts: Vec<Column>,
    id: Option<Column>,
    pub(crate) first_row: u64,
    pub(crate) n_rows: u64,
}

impl Rows {
    /// Opens a file, checks that it has the columns, and goes to row `first_row`.
    pub(crate) fn open(
        file: File,
        path: &Path,
        content: Content,
        columns: Columns,
        first_row: u64,
        chunk_bytes: u64,
    ) -> Result<Self> {
        let size_bytes = file.metadata().map_err(|error| Error::io(path, "stat", error))?.len();
        let opened = guarded(|| begin(file, path, content, &columns, first_row, chunk_bytes, size_bytes));
        let (batches, progress) = opened.unwrap_or_else(|panic| {
            let what = format!("not a readable {} file ({panic})", name(content));
            Err(Error::DamagedInput { path: path.to_owned(), offset: 0, what })
        })?;
        let mut rows = Self {
            batches,
            path: path.to_owned(),
            columns,
            current: None,
            row: 0,
            chunk_bytes,
            progress,
            is_sliced: content != Content::Parquet,
        };
        if rows.is_sliced {
            rows.skip_to(first_row)?;
        } else {
            rows.row = first_row;
        }
        Ok(rows)
    }

    /// The next rows, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Batch>> {
        let Some((batch, at)) = self.take()? else { return Ok(None) };
        let len = batch.num_rows();
        let rows = if self.is_sliced {
            let mean = (batch.get_array_memory_size() / len.max(1)).max(1) as u64;
            (self.chunk_bytes / mean).clamp(1, BATCH_ROWS_MAX) as usize
        } else {
            len
        };
        let end = (at + rows).min(len);
        let texts = self.columns.texts.iter().map(|text| column(&batch, text, at, end)).collect();
        let id = self.columns.id.as_ref().map(|id| column(&batch, id, at, end));
        let n_rows = (end - at) as u64;
        let made = Batch { texts, id, first_row: self.row, n_rows };
        self.row += n_rows;
        self.current = (end < len).then_some((batch, end));
        Ok(Some(made))
    }

    /// Bytes of the file that were read for the rows so far, about.
    pub(crate) fn n_file_bytes(&self) -> u64 {
        match &self.progress {
            Progress::Rows { all, size_bytes } => {
                (u128::from(*size_bytes) * u128::from(self.row) / u128::from((*all).max(1))) as u64
            }
            Progress::Bytes(at) => at.load(Ordering::Relaxed),
        }
    }

    /// A record batch that still has rows.
    fn take(&mut self) -> Result<Option<(RecordBatch, usize)>> {
        loop {
            let (batch, at) = match self.current.take() {
                Some(current) => current,
                None => match self.read()? {
                    Some(batch) => (batch, 0),
                    None => return Ok(None),
                },
            };
            if at < batch.num_rows() {
                return Ok(Some((batch, at)));
            }
        }
    }

    fn read(&mut self) -> Result<Option<RecordBatch>> {
        let read = guarded(|| self.batches.next().transpose()).unwrap_or_else(Err);
        read.map_err(|error| {
            let what = format!("the rows behind row {} cannot be read ({error}), somewhere", self.row);
            let offset = self.n_file_bytes();
            Error::DamagedInput { path: self.path.clone(), offset, what }
        })
    }

    fn skip_to(&mut self, row: u64) -> Result<()> {
        while self.row < row {
            let Some((batch, at)) = self.take()? else {
                let what = "since the interrupted run: it has fewer rows".to_owned();
                return Err(Error::InputChanged { path: self.path.clone(), what });
            };
            let end = batch.num_rows().min(at + (row - self.row) as usize);
            self.row += (end - at) as u64;
            self.current = Some((batch, end));
        }
        Ok(())
    }
}

type Begun = (Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>, Progress);

fn begin(
    file: File,
    path: &Path,
    content: Content,
    columns: &Columns,
    first_row: u64,
    chunk_bytes: u64,
    size_bytes: u64,
) -> Result<Begun> {
    let failed = |error: &dyn std::fmt::Display| {
        let what = format!("not a readable {} file ({error})", name(content));
        Error::DamagedInput { path: path.to_owned(), offset: 0, what }
    };
    if content == Content::Parquet {
        let about = text_as_bytes::parquet(&file).map_err(|error| failed(&error))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, about);
        check(builder.schema(), path, columns)?;
        let parquet_schema = builder.parquet_schema();
        let wanted = |leaf: usize| {
            let parts = parquet_schema.column(leaf);
            let parts = parts.path().parts();
            columns.texts.iter().chain(&columns.id).any(|column| parts.starts_with(column.keys()))
        };
        let leaves: Vec<_> = (0..parquet_schema.num_columns()).filter(|&leaf| wanted(leaf)).collect();
        let (mut n_bytes, mut n_rows) = (0, 0);
        for group in builder.metadata().row_groups() {
            n_rows += group.num_rows().cast_unsigned();
            for &leaf in &leaves {
                n_bytes += group.column(leaf).uncompressed_size().cast_unsigned();
            }
        }
        let rows = chunk_bytes.saturating_mul(n_rows) / n_bytes.max(1);
        let mask = ProjectionMask::leaves(parquet_schema, leaves);
        let reader = builder
            .with_projection(mask)
            .with_batch_size(rows.clamp(1, BATCH_ROWS_MAX) as usize)
            .with_offset(first_row as usize)
            .build()
            .map_err(|error| failed(&error))?;
        let batches = reader.map(|batch| batch.map_err(|error| error.to_string()));
        return Ok((Box::new(batches), Progress::Rows { all: n_rows, size_bytes }));
    }
    let patches = super::arrow_sizes::check(&file, content, size_bytes).map_err(|error| failed(&error))?;
    let at = Arc::<AtomicU64>::default();
    let counted = Counted { file, at: Arc::clone(&at) };
    let reader = BufReader::new(Patched { inner: counted, patches });
    let batches: Box<dyn Iterator<Item = _> + Send> = if content == Content::ArrowFile {
        let reader = arrow_ipc::reader::FileReader::try_new(reader, None).map_err(|error| failed(&error))?;
        check(&reader.schema(), path, columns)?;
        at.store(0, Ordering::Relaxed);
        Box::new(reader.map(|batch| batch.map_err(|error| error.to_string())))
    } else {
        let reader =
            arrow_ipc::reader::StreamReader::try_new(reader, None).map_err(|error| failed(&error))?;
        check(&reader.schema(), path, columns)?;
        Box::new(reader.map(|batch| batch.map_err(|error| error.to_string())))
    };
    Ok((batches, Progress::Bytes(at)))
}

fn name(content: Content) -> &'static str {
    if content == Content::Parquet { "parquet" } else { "arrow" }
}

thread_local! {
    /// Whether this thread runs a decoder whose panics are errors.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder of a file that may be damaged: its panics are errors like others, and say nothing on
/// stderr.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                others(panic);
            }
        }));
    });
    IS_GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    IS_GUARDED.set(false);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "the decoder gave up".to_owned())
    })
}

/// A file that tells up to where it was read.
struct Counted {
    file: File,
    at: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(out)?;
        let at = self.file.stream_position()?;
        self.at.fetch_max(at, Ordering::Relaxed);
        Ok(n)
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

/// Values of a column.
struct Column {
    array: Option<ArrayRef>,
    /// For each row which of the values it has, where they are kept in a dictionary.
    keys: Option<Vec<usize>>,
    /// Where a struct around the value, or the key of a dictionary, is null; empty: nowhere.
    outer_nulls: Vec<bool>,
}

fn column(batch: &RecordBatch, column: &FieldPath, start: usize, end: usize) -> Column {
    let mut keys = column.keys().iter();
    let first = keys.next().and_then(|key| batch.column_by_name(key));
    let mut array = first.map(|array| array.slice(start, end - start));
    let mut outer_nulls = Vec::new();
    let mut note = |outer: &dyn Array| {
        outer_nulls.resize(end - start, false);
        for (row, null) in outer_nulls.iter_mut().enumerate() {
            *null |= outer.is_null(row);
        }
    };
    for key in keys {
        let Some(outer) = array.take() else { break };
        note(&outer);
        array = outer.as_struct_opt().and_then(|fields| fields.column_by_name(key)).cloned();
    }
    let mut keys = None;
    if let Some(dictionary) = array.clone().as_deref().and_then(|array| array.as_any_dictionary_opt()) {
        note(dictionary);
        keys = Some(dictionary.normalized_keys());
        array = Some(Arc::clone(dictionary.values()));
    }
    Column { array, keys, outer_nulls }
}

impl Column {
    /// The array and the place in it of a row's value, unless that is null.
    fn at(&self, row: usize) -> Option<(&dyn Array, usize)> {
        let array = self.array.as_deref()?;
        if self.outer_nulls.get(row).is_some_and(|&null| null) {
            return None;
        }
        let at = self.keys.as_ref().map_or(row, |keys| keys[row]);
        (at < array.len() && !array.is_null(at)).then_some((array, at))
    }
}

impl Batch {
    /// For each row its text of the given output, and its id if ids are kept; `None` where these are null.
    pub(crate) fn values(&self, output: usize) -> impl Iterator<Item = (Option<&[u8]>, Option<Id<'_>>)> {
        let column = self.texts.get(output);
        (0..self.n_rows as usize).map(move |row| {
            let text = column.and_then(|column| column.at(row)).and_then(|(array, at)| text(array, at));
            let id = self.id.as_ref().and_then(|id| id.at(row)).and_then(|(array, at)| id(array, at));
            (text, id)
        })
    }
}

fn text(array: &dyn Array, at: usize) -> Option<&[u8]> {
    Some(match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().value(at),
        DataType::LargeBinary => array.as_binary::<i64>().value(at),
        DataType::BinaryView => array.as_binary_view().value(at),
        _ => return None,
    })
}

/// An id of a row.
pub(crate) enum Id<'a> {
    Integer(String),
    /// Should be UTF-8.
    Text(&'a [u8]),
}

fn id(array: &dyn Array, at: usize) -> Option<Id<'_>> {
    use arrow_array::types::{
        Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    };
    macro_rules! integer {
        ($kind:ty) => {
            Some(Id::Integer(array.as_primitive::<$kind>().value(at).to_string()))
        };
    }
    match array.data_type() {
        DataType::Int8 => integer!(Int8Type),
        DataType::Int16 => integer!(Int16Type),
        DataType::Int32 => integer!(Int32Type),
        DataType::Int64 => integer!(Int64Type),
        DataType::UInt8 => integer!(UInt8Type),
        DataType::UInt16 => integer!(UInt16Type),
        DataType::UInt32 => integer!(UInt32Type),
        DataType::UInt64 => integer!(UInt64Type),
        _ => text(array, at).map(Id::Text),
    }
}
