//! Records: lines of JSON, rows of a column, and texts that are looked at as a whole. Each is one document
//! of the output or one entry of the account.
//!
//! ```text
//! planner: next lump (whole records, in order) ─► worker: find the text, encode ─► committer: duplicates, lines
//! ```
//!
//! What is in the input is in the output or is listed: as bad (with the reason), as filtered (by its
//! number of ids) or as a duplicate (of an earlier document's text, by its XXH3-128). So for each source
//! `n_in = n_documents + n_bad + n_filtered + n_duplicates`. Blank lines are no records; they are counted,
//! as is a byte order mark at the start of JSON lines.
//!
//! Text files are records where an option looks at whole documents (limits, duplicates, bad ones to be
//! left out): up to each separator, or the file. Without such an option they are not, and stay fast.
//!
//! # What is left out: `OUT.skipped.jsonl`
//!
//! ```text
//! {"kind": "bad" | "filtered" | "duplicate", "path": ..., "line": from 1 (a column's row, a text's
//!  document), "offset_bytes": of its start in the decompressed content (null for rows), "reason": ...}
//! ```
//!
//! in the order of the input, and only if there is any. It travels in the checkpoint's records, behind the
//! hashes that guard them, and is written when the output is published, so that a resumed job lists what
//! an undisturbed one does.
//!
//! # Where documents come from: `OUT.docs` (a stream: `docs-00000.u64`, one for each segment)
//!
//! ```text
//! for each document of a source with places, in the order of the output, two uint64, little-endian:
//!   offset_bytes   of the record's start in the decompressed content of its source (a column: the row, from 0)
//!   n_bytes        of the record: the line without its end, the text up to its separator; a column: of the text
//! ```
//!
//! The manifest's sources say which documents are a source's: they follow each other in the order of
//! `sources`, `n_documents` each. A source has places if it has a `records` entry, or `places` (text that is not
//! looked at whole, see `job::places`). Others have none here: to find a source's, add up `n_documents` of those before
//! it that have some. There is no file where each input is plain text and one document.
//!
//! # Ids: `OUT.ids` (a stream: `ids-00000.jsonl`), with `id_field`
//!
//! ```text
//! a line for each document of a record source: its id as JSON, as it stands in the source; null if missing
//! ```

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::documents::{DocumentEncoder, Eot, TextEnd};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::input::columnar::Id;
use crate::input::detect::{Content, InputFormat};
use crate::input::field_path::FieldPath;
use crate::input::jsonl::Finder;
use crate::lane::Lane;
use memchr::memmem;
use rustc_hash::FxHashSet;

/// What inputs are, and how records become documents.
#[derive(Clone, Debug, Default)]
pub struct RecordOptions {
    pub input_format: InputFormat,
    /// The field or column of the text; `None`: `text`.
    pub field: Option<FieldPath>,
    /// The field or column whose values are kept beside the output.
    pub id_field: Option<FieldPath>,
    /// List bad documents and go on; without, the first one fails the job.
    pub skip_bad: bool,
    /// Documents with fewer ids, end-of-text ids not counted, are left out.
    pub min_tokens: u64,
    /// Documents with more are left out.
    pub max_tokens: Option<u64>,
    /// Documents are cut to so many ids, before `max_tokens` looks at them.
    pub truncate_tokens: Option<u64>,
    /// Leave out documents whose text was there before.
    pub deduplicate: bool,
}

impl RecordOptions {
    /// The field of the text.
    #[must_use]
    pub fn text_field(&self) -> FieldPath {
        self.field.clone().unwrap_or_else(FieldPath::text)
    }

    /// Whether a source goes through as records; else as a flow of text.
    pub(crate) fn are_of(&self, source: &Source) -> bool {
        source.kind.content != Content::Text
            || self.skip_bad
            || self.min_tokens > 0
            || self.max_tokens.is_some()
            || self.truncate_tokens.is_some()
            || self.deduplicate
    }

    /// Refuses options that have nothing to act on.
    pub(crate) fn check(&self, sources: &[Source]) -> Result<()> {
        let has_fields = sources.iter().any(|source| source.kind.content != Content::Text);
        for (option, field) in [("field", &self.field), ("id_field", &self.id_field)] {
            if let (Some(field), false) = (field, has_fields) {
                let what = format!(
                    "{:?} is given, but no input has fields: all are text (say so if they are JSON lines: \
                     --input-format jsonl)",
                    field.name()
                );
                return Err(Error::BadOption { option, what });
            }
        }
        if let Some(most) = self.max_tokens.filter(|&most| most < self.min_tokens) {
            let what = format!("{most} is below min_tokens, {}", self.min_tokens);
            return Err(Error::BadOption { option: "max_tokens", what });
        }
        Ok(())
    }
}

/// The account of one source or of a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Lines (blank ones not counted), rows or texts.
    pub n_in: u64,
    pub n_bad: u64,
    pub n_filtered: u64,
    pub n_duplicates: u64,
    /// Documents of the output that were cut to `truncate_tokens`.
    pub n_truncated: u64,
    pub n_blank_lines: u64,
    /// 1 if a byte order mark was passed over.
    pub n_byte_order_marks: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.n_in += other.n_in;
        self.n_bad += other.n_bad;
        self.n_filtered += other.n_filtered;
        self.n_duplicates += other.n_duplicates;
        self.n_truncated += other.n_truncated;
        self.n_blank_lines += other.n_blank_lines;
        self.n_byte_order_marks += other.n_byte_order_marks;
    }

    /// Lines, rows or texts, blank lines among them.
    pub(crate) fn n_lines(&self) -> u64 {
        self.n_in + self.n_blank_lines
    }

    /// Records that are not in the output.
    pub(crate) fn n_skipped(&self) -> u64 {
        self.n_bad + self.n_filtered + self.n_duplicates
    }
}

/// A record that is not in the output; `line` counts from the lump's start until it is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skip {
    pub(crate) kind: SkipKind,
    pub(crate) source: usize,
    pub(crate) line: u64,
    pub(crate) offset_bytes: Option<u64>,
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SkipKind {
    Bad,
    Filtered,
    Duplicate,
}

/// What a worker made of a lump, beside ids and ends.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) counts: Counts,
    pub(super) skips: Vec<Skip>,
    /// The sidecar of places: two numbers for each document.
    pub(super) docs: Vec<u64>,
    /// The sidecar of ids: a line for each document.
    pub(super) ids: Vec<u8>,
    /// For each document its line and the hash of its text, if duplicates are to be left out.
    pub(super) texts: Vec<(u64, u128)>,
}

impl Made {
    /// Leaves out documents whose text is in `seen`, and adds the others to it; returns these as text for
    /// the checkpoint. `ids` and `ends` are those of the lump's documents.
    pub(super) fn leave_out_duplicates<L: Lane>(
        &mut self,
        source: usize,
        seen: &mut FxHashSet<u128>,
        ids: &mut Vec<L>,
        ends: &mut Vec<u64>,
    ) -> String {
        use std::fmt::Write;
        let texts = std::mem::take(&mut self.texts);
        let mut kept = String::with_capacity(32 * texts.len());
        let id_lines = std::mem::take(&mut self.ids);
        let mut id_lines = id_lines.split_inclusive(|&byte| byte == b'\n');
        let (mut to, mut start, mut n_kept) = (0, 0, 0);
        for (at, (line, hash)) in texts.into_iter().enumerate() {
            let end = ends[at] as usize;
            let place = [self.docs[2 * at], self.docs[2 * at + 1]];
            let id_line = id_lines.next().unwrap_or_default();
            if seen.insert(hash) {
                ids.copy_within(start..end, to);
                to += end - start;
                ends[n_kept] = to as u64;
                self.docs[2 * n_kept..2 * n_kept + 2].copy_from_slice(&place);
                self.ids.extend_from_slice(id_line);
                n_kept += 1;
                // Writing to a text does not fail.
                let _ = write!(kept, "{hash:032x}");
            } else {
                self.counts.n_duplicates += 1;
                let reason = "the same text as an earlier document".to_owned();
                let offset_bytes = Some(place[0]);
                self.skips.push(Skip { kind: SkipKind::Duplicate, source, line, offset_bytes, reason });
            }
            start = end;
        }
        ids.truncate(to);
        ends.truncate(n_kept);
        self.docs.truncate(2 * n_kept);
        self.skips.sort_by_key(|skip| skip.line);
        kept
    }
}

/// The hashes that [`Made::leave_out_duplicates`] gave.
pub(crate) fn hashes(kept: &str) -> impl Iterator<Item = u128> {
    kept.as_bytes()
        .chunks(32)
        .filter_map(|digits| u128::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
}

/// Why a lump could not be encoded.
pub(super) enum Stop {
    /// A bad document, where these fail the job.
    Bad(Skip),
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Encodes records into `documents`.
pub(super) struct Recorder<'r, 'a, L> {
    pub(super) options: &'r RecordOptions,
    pub(super) documents: &'r mut DocumentEncoder<'a, L>,
    pub(super) source: usize,
    pub(super) replace_invalid: bool,
    pub(super) made: Made,
    /// Room for a text without its escapes.
    pub(super) scratch: Vec<u8>,
}

/// Where a record stands.
#[derive(Clone, Copy)]
struct At {
    offset_bytes: u64,
    n_bytes: u64,
}

impl<L: Lane> Recorder<'_, '_, L> {
    /// Whole lines of JSON that start `offset` bytes into their content.
    pub(super) fn lines(&mut self, bytes: &[u8], offset: u64) -> Result<(), Stop> {
        let fields = [self.options.text_field()].into_iter().chain(self.options.id_field.clone()).collect();
        let mut finder = Finder::new(fields, std::mem::take(&mut self.scratch))?;
        // One check for all lines, where they are as they should be.
        let all = simdutf8::basic::from_utf8(bytes).ok();
        let mut at = 0;
        if offset == 0 && bytes.starts_with(b"\xEF\xBB\xBF") {
            self.made.counts.n_byte_order_marks += 1;
            at = 3;
        }
        while at < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |found| at + found);
            let line = &bytes[at..end];
            let place = At { offset_bytes: offset + at as u64, n_bytes: line.len() as u64 };
            if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
                self.made.counts.n_blank_lines += 1;
                at = end + 1;
                continue;
            }
            self.made.counts.n_in += 1;
            let lossy;
            let text = match all {
                Some(all) => Ok(&all[at..end]),
                None => match std::str::from_utf8(line) {
                    Ok(text) => Ok(text),
                    Err(_) if self.replace_invalid => {
                        lossy = String::from_utf8_lossy(line);
                        Ok(&*lossy)
                    }
                    Err(error) => Err(invalid_utf8(error.valid_up_to(), "line")),
                },
            };
            let read =
                text.and_then(|line| finder.read(line).map(|()| line).map_err(|fault| fault.to_string()));
            let found = read.and_then(|line| {
                finder.text(line).map(|text| (line, text)).map_err(|fault| fault.to_string())
            });
            match found {
                Ok((line, text)) => {
                    let id = self.options.id_field.as_ref().and_then(|_| finder.json(1, line));
                    self.document(text, place, id)?;
                }
                Err(reason) => self.bad(place, reason)?,
            }
            at = end + 1;
        }
        self.scratch = finder.into_buffer();
        Ok(())
    }

    /// Whole texts, each up to a separator or the end of the source, that start `offset` bytes into
    /// their content.
    pub(super) fn texts(
        &mut self,
        bytes: &[u8],
        offset: u64,
        separator: Option<&memmem::Finder<'_>>,
    ) -> Result<(), Stop> {
        let mut at = 0;
        loop {
            let found = separator.and_then(|separator| separator.find(&bytes[at..]));
            let end = found.map_or(bytes.len(), |found| at + found);
            // Nothing behind the last separator is no document; a source of zero bytes is an empty one.
            if found.is_none() && at == bytes.len() && offset + at as u64 > 0 {
                return Ok(());
            }
            self.made.counts.n_in += 1;
            let place = At { offset_bytes: offset + at as u64, n_bytes: (end - at) as u64 };
            self.utf8(&bytes[at..end], place, "document", None)?;
            match (found, separator) {
                (Some(_), Some(separator)) => at = end + separator.needle().len(),
                _ => return Ok(()),
            }
        }
    }

    /// Values of a column, the first of which is row number `first` from 0, with their ids.
    pub(super) fn rows<'v>(
        &mut self,
        values: impl Iterator<Item = (Option<&'v [u8]>, Option<Id<'v>>)>,
        first: u64,
    ) -> Result<(), Stop> {
        for (row, (value, id)) in (first..).zip(values) {
            self.made.counts.n_in += 1;
            let n_bytes = value.map_or(0, <[u8]>::len) as u64;
            let place = At { offset_bytes: row, n_bytes };
            match (value, self.id_json(id)) {
                (Some(bytes), Ok(id)) => self.utf8(bytes, place, "value", id.as_deref())?,
                (Some(_), Err(reason)) => self.bad(place, reason)?,
                (None, _) => self.bad(place, "the value is null".to_owned())?,
            }
        }
        Ok(())
    }

    /// An id as JSON, or why it is none.
    fn id_json(&self, id: Option<Id<'_>>) -> Result<Option<String>, String> {
        Ok(match id {
            None => None,
            Some(Id::Integer(number)) => Some(number),
            Some(Id::Text(bytes)) => {
                let text = match simdutf8::compat::from_utf8(bytes) {
                    Ok(text) => Cow::Borrowed(text),
                    Err(_) if self.replace_invalid => String::from_utf8_lossy(bytes),
                    Err(error) => return Err(invalid_utf8(error.valid_up_to(), "id")),
                };
                serde_json::to_string(&text).ok()
            }
        })
    }

    /// A document that is one piece of bytes.
    fn utf8(&mut self, bytes: &[u8], place: At, name: &str, id: Option<&str>) -> Result<(), Stop> {
        match simdutf8::compat::from_utf8(bytes) {
            Ok(text) => self.document(text, place, id),
            Err(_) if self.replace_invalid => self.document(&String::from_utf8_lossy(bytes), place, id),
            Err(error) => self.bad(place, invalid_utf8(error.valid_up_to(), name)),
        }
    }

    /// Encodes a document; `id` is JSON.
    fn document(&mut self, text: &str, place: At, id: Option<&str>) -> Result<(), Stop> {
        let documents = &mut *self.documents;
        let before = documents.ids.len();
        if let Err(error) = documents.push(text, 0, TextEnd::Source) {
            documents.ids.truncate(before);
            (documents.open, documents.untouched) = (false, true);
            return match error {
                Error::SpecialToken { .. }
                | Error::NoToken { .. }
                | Error::TooMuchBacktracking { .. }
                | Error::TooLong { .. } => self.bad(place, error.to_string()),
                other => Err(other.into()),
            };
        }
        let (leading, trailing) = match documents.rules.eot {
            // The one before the first document of the output is added by the committer.
            Eot::Append | Eot::Both => (0, 1),
            Eot::Prepend => (1, 0),
            Eot::None => (0, 0),
        };
        let own = documents.ids.len() - before - leading - trailing;
        let mut n_ids = own as u64;
        let cut = self.options.truncate_tokens.filter(|&most| n_ids > most);
        if let Some(most) = cut {
            let from = before + leading + most as usize;
            documents.ids.drain(from..from + own - most as usize);
            n_ids = most;
            if let Some(end) = documents.ends.last_mut() {
                *end = documents.ids.len() as u64;
            }
        }
        let limit = match (self.options.min_tokens, self.options.max_tokens) {
            (least, _) if n_ids < least => Some(("fewer", least)),
            (_, Some(most)) if n_ids > most => Some(("more", most)),
            _ => None,
        };
        if let Some((word, limit)) = limit {
            documents.ids.truncate(before);
            documents.ends.pop();
            self.made.counts.n_filtered += 1;
            self.skip(SkipKind::Filtered, place, format!("{n_ids} tokens, {word} than {limit}"));
            return Ok(());
        }
        self.made.counts.n_truncated += u64::from(cut.is_some());
        self.made.docs.extend([place.offset_bytes, place.n_bytes]);
        if self.options.id_field.is_some() {
            self.made.ids.extend_from_slice(id.unwrap_or("null").as_bytes());
            self.made.ids.push(b'\n');
        }
        if self.options.deduplicate {
            self.made.texts.push((self.made.counts.n_lines(), xxh3_128(text.as_bytes())));
        }
        Ok(())
    }

    fn bad(&mut self, place: At, reason: String) -> Result<(), Stop> {
        self.made.counts.n_bad += 1;
        self.skip(SkipKind::Bad, place, reason);
        match self.made.skips.pop_if(|_| !self.options.skip_bad) {
            Some(skip) => Err(Stop::Bad(skip)),
            None => Ok(()),
        }
    }

    fn skip(&mut self, kind: SkipKind, place: At, reason: String) {
        let (source, line) = (self.source, self.made.counts.n_lines());
        let offset_bytes = Some(place.offset_bytes);
        self.made.skips.push(Skip { kind, source, line, offset_bytes, reason });
    }
}

fn invalid_utf8(at: usize, name: &str) -> String {
    format!("not valid UTF-8 at byte {at} of the {name}")
}
