//! One record of a source, read again by the place that a set's `.docs` gives it: for `tokend explain`.
//!
//! Compressed content is decompressed up to the record; of a column only the row is decoded where the
//! format allows it. Memory is what the decoder and the record need.

use std::path::Path;
use std::sync::Arc;

use super::Source;
use super::access::Roots;
use super::columnar::Rows;
use super::columns::Columns;
use super::compressed::Unpacked;
use super::detect::{self, Compression, Content};
use super::field_path::FieldPath;
use crate::error::{Error, Result};

/// The bytes of the record of `n_bytes` bytes at byte `place` of a file's content; of a file with columns the
/// value of the column `field` (`text` unless it is named) in row `place`, from 0.
///
/// # Errors
/// [`Error::InputChanged`] where there is no such record any more, [`Error::DamagedInput`], and what opening
/// the file fails with.
pub fn read(path: &Path, place: u64, n_bytes: u64, field: Option<&str>) -> Result<Vec<u8>> {
    let roots = Roots::default();
    let source = Source::find(path, &roots)?;
    let opened = Arc::new(source.open(&roots)?);
    let mut head = Vec::new();
    opened.read(0, opened.size_bytes().min(detect::HEAD_BYTES as u64), &mut head)?;
    let compression = detect::compression(&head);
    let changed = |what: &str| {
        let what = format!("since it was encoded: {what}");
        Error::InputChanged { path: path.to_owned(), what }
    };
    let content = detect::content(path, &head, detect::InputFormat::Auto).unwrap_or_default();
    if compression == Compression::None && content.is_columnar() {
        return row(&opened, path, content, place, field)?.ok_or_else(|| changed("the row is gone or null"));
    }
    let mut unpacked = Unpacked::new(opened, compression)?;
    unpacked.skip_to(place)?;
    let mut bytes = Vec::new();
    let mut left = n_bytes;
    while left > 0 {
        match unpacked.read(left.min(1 << 20) as usize, &mut bytes)? {
            0 => return Err(changed("its content is shorter")),
            n => left -= n as u64,
        }
    }
    Ok(bytes)
}

fn row(
    opened: &super::Opened,
    path: &Path,
    content: Content,
    row: u64,
    field: Option<&str>,
) -> Result<Option<Vec<u8>>> {
    let text = field.map(FieldPath::parse).transpose()?.unwrap_or_else(FieldPath::text);
    // Batches of one row, as far as the file is made so that there can be any.
    let mut rows =
        Rows::open(opened.file()?, path, content, Columns { texts: vec![text], id: None }, row, 1)?;
    let batch = rows.next()?.filter(|batch| batch.first_row == row);
    Ok(batch.and_then(|batch| batch.values(0).next().and_then(|(value, _)| value.map(<[u8]>::to_vec))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_record_of_compressed_lines_is_found_by_its_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let lines: Vec<_> = (0..50_000).map(|n| format!("{{\"text\": \"line {n}\"}}\n")).collect();
        let text = lines.concat();
        let place = text.find("line 43210").expect("there") as u64 - 10;
        let wanted = b"{\"text\": \"line 43210\"}".to_vec();
        let plain = dir.path().join("a.jsonl");
        std::fs::write(&plain, &text).expect("write");
        let zstd = dir.path().join("a.jsonl.zst");
        std::fs::write(&zstd, zstd::encode_all(text.as_bytes(), 1).expect("encoded")).expect("write");
        let gzip = dir.path().join("a.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).expect("encoded");
        std::fs::write(&gzip, encoder.finish().expect("encoded")).expect("write");
        for path in [plain, zstd, gzip] {
            assert_eq!(read(&path, place, wanted.len() as u64, None).expect("read"), wanted);
            let beyond = read(&path, text.len() as u64 - 5, 6, None);
            assert!(matches!(beyond, Err(Error::InputChanged { .. })), "{beyond:?}");
        }
    }
}
