//! What an input is: by its first bytes, then by its name, then by its first line.
//!
//! | first bytes | compression |   | first bytes of the content | content |
//! |---|---|---|---|---|
//! | `1F 8B` | gzip | | `PAR1` | parquet |
//! | `28 B5 2F FD`, or a skippable frame `5x 2A 4D 18` | zstd | | `ARROW1` | arrow, file format |
//! | `42 5A 68` (`BZh`), a digit | bzip2 | | `FF FF FF FF` | arrow, stream format |
//! | `FD 37 7A 58 5A 00` | xz | | anything else | text or JSON lines |
//!
//! Text is told from JSON lines by the name, without `.gz` and the like: `.jsonl`, `.ndjson` and `.json`
//! hold JSON lines, `.txt`, `.text` and `.md` hold text. Under any other name, content whose first
//! line is a JSON object with a text in the wanted field is JSON lines, and so is content that begins with a
//! brace and has JSON objects in half or more of its first lines; everything else is text. The
//! user can say `text` or `jsonl` instead, which then holds for every file that is no parquet or arrow.
//!
//! A name is believed in one more case: what is called `.gz`, `.parquet` and the like, does not begin so and is
//! no text, or nothing at all, is damaged. (Taken for text, all its lines would be bad documents, and where those
//! are skipped the whole file would be.)

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::field_path::FieldPath;
use super::jsonl::Finder;
use crate::error::{Error, Result};

/// How a file is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Compression {
    /// Its name in manifests and messages; `None` for none.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
            Self::Bzip2 => Some("bzip2"),
            Self::Xz => Some("xz"),
        }
    }
}

/// What a file's content is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    #[default]
    Text,
    JsonLines,
    Parquet,
    ArrowFile,
    ArrowStream,
}

impl Content {
    /// Whether it has columns.
    #[must_use]
    pub fn is_columnar(self) -> bool {
        matches!(self, Self::Parquet | Self::ArrowFile | Self::ArrowStream)
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    pub compression: Compression,
    pub content: Content,
}

impl Kind {
    /// Whether the file holds text and nothing around it.
    #[must_use]
    pub fn is_plain_text(self) -> bool {
        self == Self::default()
    }

    /// Its name in manifests: `"jsonl"`, `"jsonl+zstd"`, `"text+gzip"`, `"parquet"` ...
    #[must_use]
    pub fn name(self) -> String {
        let content = match self.content {
            Content::Text => "text",
            Content::JsonLines => "jsonl",
            Content::Parquet => "parquet",
            Content::ArrowFile | Content::ArrowStream => "arrow",
        };
        match self.compression.name() {
            Some(compression) => format!("{content}+{compression}"),
            None => content.to_owned(),
        }
    }
}

/// What the user says that inputs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputFormat {
    /// Nothing: look at them.
    #[default]
    Auto,
    Text,
    #[serde(rename = "jsonl")]
    JsonLines,
}

impl InputFormat {
    /// Reads the option's value.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "jsonl" => Ok(Self::JsonLines),
            _ => {
                let what = format!("{text:?} is none of auto, text, jsonl");
                Err(Error::BadOption { option: "input_format", what })
            }
        }
    }
}

/// Bytes of a file's start that [`compression`] and [`content`] look at.
pub(crate) const HEAD_BYTES: usize = 8;
/// Names' endings that say how a file is compressed, and the length of what it must begin with.
const SUFFIXES: [(&str, usize); 5] = [(".gz", 2), (".zst", 4), (".zstd", 4), (".bz2", 4), (".xz", 6)];

/// The compression that a file's first bytes show.
#[must_use]
pub(crate) fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1F, 0x8B, ..] => Compression::Gzip,
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        _ => Compression::None,
    }
}

fn name_of(path: &Path) -> &[u8] {
    path.file_name().map_or(b"", OsStrExt::as_bytes)
}

/// The name without an ending, in capital or small letters, if it has it.
fn without<'n>(name: &'n [u8], ending: &str) -> Option<&'n [u8]> {
    let (stem, end) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
    end.eq_ignore_ascii_case(ending.as_bytes()).then_some(stem)
}

/// A name without what says that the file is compressed; and whether there was that.
fn stem(path: &Path) -> (&[u8], Option<usize>) {
    let name = name_of(path);
    for (suffix, magic_bytes) in SUFFIXES {
        if let Some(stem) = without(name, suffix) {
            return (stem, Some(magic_bytes));
        }
    }
    (name, None)
}

/// Whether a file whose first bytes show no compression can only be the beginning of what its name
/// says: it is too short to be anything compressed.
#[must_use]
pub(crate) fn is_cut_off(path: &Path, size_bytes: u64) -> bool {
    stem(path).1.is_some_and(|magic_bytes| size_bytes < magic_bytes as u64)
}

/// Bytes of a file's start that [`is_text`] looks at.
pub(crate) const TEXT_BYTES: usize = 4096;

/// Names' endings of files that have columns.
const COLUMNAR: [&str; 4] = [".parquet", ".arrow", ".feather", ".ipc"];

/// What a name says that the file is which cannot be read as text: how it is compressed, or that it has columns.
#[must_use]
pub(crate) fn kind_by_name(path: &Path) -> Option<&'static str> {
    let name = name_of(path);
    let suffixes = SUFFIXES.iter().map(|(suffix, _)| *suffix).chain(COLUMNAR);
    suffixes.into_iter().find(|suffix| without(name, suffix).is_some())
}

/// Whether a file may begin so and be text: whole characters of UTF-8 but for the last, and no NUL.
#[must_use]
pub(crate) fn is_text(begin: &[u8]) -> bool {
    let is_cut = |error: std::str::Utf8Error| begin.len() == TEXT_BYTES && error.error_len().is_none();
    !begin.contains(&0) && std::str::from_utf8(begin).map_or_else(is_cut, |_| true)
}

/// What content is that begins with `head`; `None` where only its first line can tell.
#[must_use]
pub(crate) fn content(path: &Path, head: &[u8], format: InputFormat) -> Option<Content> {
    if head.starts_with(b"PAR1") {
        return Some(Content::Parquet);
    }
    if head.starts_with(b"ARROW1") {
        return Some(Content::ArrowFile);
    }
    if head.starts_with(&[0xFF; 4]) {
        return Some(Content::ArrowStream);
    }
    match format {
        InputFormat::Text => return Some(Content::Text),
        InputFormat::JsonLines => return Some(Content::JsonLines),
        InputFormat::Auto => {}
    }
    let (stem, _) = stem(path);
    let is_named = |suffixes: &[&str]| suffixes.iter().any(|suffix| without(stem, suffix).is_some());
    if is_named(&[".jsonl", ".ndjson", ".json"]) {
        return Some(Content::JsonLines);
    }
    let begin = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let first = begin.iter().find(|byte| !byte.is_ascii_whitespace());
    let may_be_json = first.map_or(head.len() == HEAD_BYTES, |&byte| byte == b'{');
    if is_named(&[".txt", ".text", ".md"]) || !may_be_json { Some(Content::Text) } else { None }
}

/// Whether a name lets suppose that the file holds plain text: it says nothing else.
#[must_use]
pub(crate) fn may_be_text(path: &Path, format: InputFormat) -> bool {
    // Of content that begins like this, what is not text is so by its name.
    kind_by_name(path).is_none() && content(path, b"a text ..", format) == Some(Content::Text)
}

/// Whether a file that begins with `head` is plain text: what [`may_be_text`] of its name let suppose.
#[must_use]
pub(crate) fn is_plain_text(path: &Path, head: &[u8], format: InputFormat) -> bool {
    let head = &head[..head.len().min(HEAD_BYTES)];
    compression(head) == Compression::None && content(path, head, format) == Some(Content::Text)
}

/// Lines that are not blank which [`Lines`] looks at.
const N_LINES: usize = 16;

/// What content is that begins with a brace, from its first lines.
///
/// One whose first line is a record is JSON lines; else one of whose first lines half or more are JSON objects: the
/// first may be one of the bad documents, of which a job would not say a word if it took all of it for a text.
pub(crate) struct Lines<'a> {
    field: &'a FieldPath,
    n: usize,
    n_objects: usize,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(field: &'a FieldPath) -> Self {
        Self { field, n: 0, n_objects: 0 }
    }

    /// Takes a line up; `Some` once it is known what the content is.
    pub(crate) fn add(&mut self, line: &[u8]) -> Option<Content> {
        if line.trim_ascii().is_empty() {
            return None;
        }
        let (mut is_object, mut is_record) = (false, false);
        if let Ok(line) = std::str::from_utf8(line)
            && let Ok(mut finder) = Finder::new(vec![self.field.clone()], Vec::new())
        {
            let line = line.trim_start_matches('\u{FEFF}');
            is_object = finder.read(line).is_ok();
            is_record = is_object && finder.text(line).is_ok();
        }
        self.n += 1;
        self.n_objects += usize::from(is_object);
        match (self.n, is_record) {
            (1, true) => Some(Content::JsonLines),
            (N_LINES, _) => Some(self.so_far()),
            _ => None,
        }
    }

    /// What the content is if there are no more lines.
    pub(crate) fn so_far(&self) -> Content {
        if self.n_objects > 0 && 2 * self.n_objects >= self.n { Content::JsonLines } else { Content::Text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_damaged_compression() {
        assert!(is_text(b"") && is_text("naïve\n".as_bytes()));
        let long = "é".repeat(TEXT_BYTES);
        assert!(
            is_text(&long.as_bytes()[..TEXT_BYTES])
                && is_text(&[b"a", &long.as_bytes()[..TEXT_BYTES - 1]].concat())
        );
        assert!(
            !is_text(b"a\0") && !is_text(&[0x28, 0xB5, 0x2F, 0xFF]) && !is_text("é".as_bytes().split_at(1).0)
        );
        assert_eq!(kind_by_name(Path::new("/x/A.JSONL.ZST")), Some(".zst"));
        assert_eq!(kind_by_name(Path::new("/x.gz/a.txt")), None);
    }

    #[test]
    fn first_bytes_decide() {
        assert_eq!(compression(b"\x1f\x8b\x08\0"), Compression::Gzip);
        assert_eq!(compression(b"\x28\xb5\x2f\xfd"), Compression::Zstd);
        assert_eq!(compression(b"\x50\x2a\x4d\x18"), Compression::Zstd);
        assert_eq!(compression(b"BZh9"), Compression::Bzip2);
        assert_eq!(compression(b"\xfd7zXZ\0"), Compression::Xz);
        assert_eq!(compression(b"BZh is how this text begins"), Compression::None);
        assert_eq!(compression(b""), Compression::None);
        let kind = |name: &str, head: &[u8]| content(Path::new(name), head, InputFormat::Auto);
        assert_eq!(kind("x.txt", b"PAR1"), Some(Content::Parquet));
        assert_eq!(kind("x", b"ARROW1\0\0"), Some(Content::ArrowFile));
        assert_eq!(kind("x.arrow", b"\xff\xff\xff\xff"), Some(Content::ArrowStream));
        assert!(is_cut_off(Path::new("a.jsonl.gz"), 1) && !is_cut_off(Path::new("a.jsonl.gz"), 2));
        assert!(!is_cut_off(Path::new("a.jsonl"), 0));
    }

    #[test]
    fn then_names_and_then_the_first_line() {
        let kind = |name: &str, head: &[u8]| content(Path::new(name), head, InputFormat::Auto);
        assert_eq!(kind("a/X.JSONL.gz", b"{"), Some(Content::JsonLines));
        assert_eq!(kind("x.txt.zst", b"{\"text\":"), Some(Content::Text));
        assert_eq!(kind("x", b"{\"text\":"), None);
        assert_eq!(kind("x", b"\n\n\n\n\n\n\n\n"), None);
        assert_eq!(kind("x", b"plain"), Some(Content::Text));
        assert_eq!(kind("x", b""), Some(Content::Text));
        assert_eq!(content(Path::new("x.txt"), b"{", InputFormat::JsonLines), Some(Content::JsonLines));
        assert_eq!(content(Path::new("x.jsonl"), b"{", InputFormat::Text), Some(Content::Text));
        for (name, head) in [("x", "plain"), ("x.txt", "{"), ("x.c", ""), ("x.html", "<html>\n<he")] {
            assert!(may_be_text(Path::new(name), InputFormat::Auto), "{name}");
            assert!(is_plain_text(Path::new(name), head.as_bytes(), InputFormat::Auto), "{name}");
        }
        assert!(!may_be_text(Path::new("x.jsonl"), InputFormat::Auto));
        assert!(may_be_text(Path::new("x.jsonl"), InputFormat::Text));
        assert!(!may_be_text(Path::new("x.txt.gz"), InputFormat::Text));
        assert!(!may_be_text(Path::new("x"), InputFormat::JsonLines));
        for head in [&b"{\"text\":"[..], b"PAR1", b"\x1f\x8b\x08", b"\xff\xff\xff\xff"] {
            assert!(!is_plain_text(Path::new("x"), head, InputFormat::Auto), "{head:?}");
        }
        let of = |lines: &[&str]| {
            let field = FieldPath::text();
            let mut looked_at = Lines::new(&field);
            let known = lines.iter().find_map(|line| looked_at.add(line.as_bytes()));
            known.unwrap_or_else(|| looked_at.so_far())
        };
        let record = r#"{"text":"a"}"#;
        assert_eq!(of(&[record, "text", "text", "text"]), Content::JsonLines);
        assert_eq!(of(&["\u{FEFF}{\"text\":\"a\"}\r"]), Content::JsonLines);
        for bad in [r#"{"other":"a"}"#, r#"{"text":1}"#, r#"{"text":null}"#, r#"{"text":"a",}"#, "{"] {
            assert_eq!(of(&[bad, "", record]), Content::JsonLines, "{bad}");
        }
        for other in ["{", "{ a set }", "{}x"] {
            assert_eq!(of(&[other]), Content::Text, "{other}");
            assert_eq!(of(&[other, "a", record]), Content::Text, "{other}");
        }
    }
}
