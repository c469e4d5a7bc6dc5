//! Columns of text of parquet and arrow files, opened as if they were of bytes.
//!
//! Both decoders check texts for UTF-8 a batch at a time and give up the file at the first that is none. One such
//! row is a bad document, the others are none the worse, so whoever takes a value checks it. What says that a
//! column is text stands in one place, and nothing else in the files depends on it:
//!
//! ```text
//! parquet   footer: the leaf's logical and converted type (STRING, JSON); without them a BYTE_ARRAY is bytes
//! arrow     schema (a flatbuffer; file: in the footer, stream: the first message): a byte for each field
//!             Utf8 5 → Binary 4, LargeUtf8 20 → LargeBinary 19, Utf8View 24 → BinaryView 23
//!           a field whose values are in a dictionary has the byte of the values
//! ```
//!
//! Parquet's columns of bytes get lengths of 64 bits, so a batch of large rows is none too large. What the
//! writer noted about its own types (`ARROW:schema`) is not needed.

use std::fs::File;
use std::io::{Read, Result as IoResult, Seek, SeekFrom};
use std::sync::Arc;

use arrow_ipc::{Field as IpcField, Schema as IpcSchema, Type as IpcType};
use arrow_schema::{DataType, Field, FieldRef, Schema};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataReader};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

/// What a parquet file has, its texts as bytes.
pub(super) fn parquet(file: &File) -> ParquetResult<ArrowReaderMetadata> {
    let mut found = ParquetMetaDataReader::new().parse_and_finish(file)?.into_builder();
    let row_groups = found.take_row_groups();
    let found = found.build();
    let about = found.file_metadata();
    let schema = Arc::new(SchemaDescriptor::new(bytes_type(&about.schema_descr().root_schema_ptr())?));
    let types = parquet_to_arrow_schema(&schema, None)?;
    let types = Schema::new_with_metadata(
        types.fields().iter().map(large).collect::<Vec<_>>(),
        types.metadata().clone(),
    );
    let about = FileMetaData::new(
        about.version(),
        about.num_rows(),
        about.created_by().map(ToOwned::to_owned),
        None,
        schema,
        about.column_orders().cloned(),
    );
    let options = ArrowReaderOptions::new().with_schema(Arc::new(types));
    ArrowReaderMetadata::try_new(Arc::new(ParquetMetaData::new(about, row_groups)), options)
}

/// A parquet type whose texts are bytes.
fn bytes_type(kind: &TypePtr) -> ParquetResult<TypePtr> {
    let info = kind.get_basic_info();
    let id = info.has_id().then(|| info.id());
    if kind.is_primitive() {
        let is_text = match info.logical_type_ref() {
            Some(logical) => matches!(logical, LogicalType::String | LogicalType::Json),
            None => matches!(info.converted_type(), ConvertedType::UTF8 | ConvertedType::JSON),
        };
        if !is_text || kind.get_physical_type() != PhysicalType::BYTE_ARRAY {
            return Ok(Arc::clone(kind));
        }
        let bytes = Type::primitive_type_builder(info.name(), PhysicalType::BYTE_ARRAY);
        return Ok(Arc::new(bytes.with_repetition(info.repetition()).with_id(id).build()?));
    }
    let fields = kind.get_fields().iter().map(bytes_type).collect::<ParquetResult<_>>()?;
    let mut group = Type::group_type_builder(info.name())
        .with_converted_type(info.converted_type())
        // A FILE's fields would have to be text.
        .with_logical_type(info.logical_type_ref().filter(|&kind| *kind != LogicalType::File).cloned())
        .with_fields(fields)
        .with_id(id);
    if info.has_repetition() {
        group = group.with_repetition(info.repetition());
    }
    Ok(Arc::new(group.build()?))
}

/// A field whose bytes, also those in structs, have lengths of 64 bits.
fn large(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        DataType::Binary => DataType::LargeBinary,
        DataType::Struct(inner) => DataType::Struct(inner.iter().map(large).collect()),
        _ => return Arc::clone(field),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}

/// Bytes of a file to be read as others: where, and as what.
pub(super) type Patches = Vec<(u64, u8)>;

/// What makes the texts of an arrow schema bytes, which begins `start` bytes into its file.
pub(super) fn arrow(schema: IpcSchema<'_>, start: u64) -> Patches {
    let mut patches = Patches::new();
    for field in schema.fields().into_iter().flatten() {
        patch(field, start, &mut patches);
    }
    patches.sort_unstable();
    patches
}

fn patch(field: IpcField<'_>, start: u64, patches: &mut Patches) {
    let kind = match field.type_type() {
        IpcType::Utf8 => IpcType::Binary,
        IpcType::LargeUtf8 => IpcType::LargeBinary,
        IpcType::Utf8View => IpcType::BinaryView,
        // Also of other fields: their values are in structs, lists and so on.
        other => other,
    };
    if kind != field.type_type() {
        let at = field._tab.loc() + usize::from(field._tab.vtable().get(IpcField::VT_TYPE_TYPE));
        patches.push((start + at as u64, kind.0));
    }
    for child in field.children().into_iter().flatten() {
        patch(child, start, patches);
    }
}

/// A file, some bytes of which are read as others.
pub(super) struct Patched<R> {
    pub(super) inner: R,
    pub(super) patches: Patches,
}

impl<R: Read + Seek> Read for Patched<R> {
    fn read(&mut self, out: &mut [u8]) -> IoResult<usize> {
        let start = self.inner.stream_position()?;
        let n = self.inner.read(out)?;
        let first = self.patches.partition_point(|&(at, _)| at < start);
        for &(at, byte) in self.patches[first..].iter().take_while(|&&(at, _)| at < start + n as u64) {
            out[(at - start) as usize] = byte;
        }
        Ok(n)
    }
}

impl<R: Seek> Seek for Patched<R> {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        self.inner.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn patches_hold_wherever_a_read_begins() {
        let bytes: Vec<u8> = (0..50).collect();
        let patches: Patches = vec![(0, 100), (7, 107), (8, 108), (49, 149)];
        let mut expected = bytes.clone();
        for &(at, byte) in &patches {
            expected[at as usize] = byte;
        }
        for start in 0..50 {
            for len in 1..=50 - start {
                let mut file = Patched { inner: Cursor::new(&bytes), patches: patches.clone() };
                file.seek(SeekFrom::Start(start as u64)).expect("within");
                let mut out = vec![0; len];
                file.read_exact(&mut out).expect("within");
                assert_eq!(out, expected[start..start + len]);
            }
        }
    }
}
