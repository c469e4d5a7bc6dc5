//! What an input is, by its content.
//!
//! | first bytes | compression |   | first bytes of the content | records |
//! |---|---|---|---|---|
//! | `1F 8B` | gzip | | `PAR1` | parquet |
//! | `28 B5 2F FD`, or a skippable frame `5x 2A 4D 18` | zstd | | `ARROW1` | arrow, file format |
//! | `42 5A 68` (`BZh`) | bzip2 | | `FF FF FF FF` | arrow, stream format |
//! | `FD 37 7A 58 5A 00` | xz | | name `.jsonl`, `.ndjson` or `.json`, or a field was asked for | JSON lines |
//! | | | | anything else | text |
//!
//! Text is told from JSON lines by name, because a text may well begin with a brace; what is
//! compressed loses its `.gz` and the like before its name is looked at.

use std::path::Path;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

/// What a file's content is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    Text,
    JsonLines,
    Parquet,
    ArrowFile,
    ArrowStream,
}

/// Bytes of a file's start that [`compression`] and [`records`] look at.
pub const HEAD_BYTES: usize = 8;

/// The compression that a file's first bytes show.
#[must_use]
pub fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1F, 0x8B, ..] => Compression::Gzip,
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        _ => Compression::None,
    }
}

/// The kind of records that a content's first bytes and its file's name show.
#[must_use]
pub fn records(path: &Path, head: &[u8], field_given: bool) -> Records {
    if head.starts_with(b"PAR1") {
        return Records::Parquet;
    }
    if head.starts_with(b"ARROW1") {
        return Records::ArrowFile;
    }
    if head.starts_with(&[0xFF; 4]) {
        return Records::ArrowStream;
    }
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let mut name = name.as_str();
    for suffix in [".gz", ".zst", ".zstd", ".bz2", ".xz"] {
        name = name.strip_suffix(suffix).unwrap_or(name);
    }
    let named = [".jsonl", ".ndjson", ".json"].iter().any(|suffix| name.ends_with(suffix));
    if named || field_given { Records::JsonLines } else { Records::Text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides() {
        assert_eq!(compression(b"\x1f\x8b\x08\0"), Compression::Gzip);
        assert_eq!(compression(b"\x28\xb5\x2f\xfd"), Compression::Zstd);
        assert_eq!(compression(b"\x50\x2a\x4d\x18"), Compression::Zstd);
        assert_eq!(compression(b"BZh9"), Compression::Bzip2);
        assert_eq!(compression(b"\xfd7zXZ\0"), Compression::Xz);
        assert_eq!(compression(b"BZh is how this text begins"), Compression::None);
        assert_eq!(compression(b""), Compression::None);
        let kind = |name: &str, head: &[u8]| records(Path::new(name), head, false);
        assert_eq!(kind("x.txt", b"PAR1"), Records::Parquet);
        assert_eq!(kind("x", b"ARROW1\0\0"), Records::ArrowFile);
        assert_eq!(kind("x.arrow", b"\xff\xff\xff\xff"), Records::ArrowStream);
        assert_eq!(kind("a/X.JSONL.gz", b"{"), Records::JsonLines);
        assert_eq!(kind("x.txt", b"{"), Records::Text);
        assert_eq!(records(Path::new("x"), b"{", true), Records::JsonLines);
    }
}
