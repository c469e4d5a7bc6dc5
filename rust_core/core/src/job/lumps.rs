//! Where a source is cut into lumps: whole records, or pieces of a text, about a chunk long.
//!
//! Where a lump ends follows from where it starts and from what the source holds, and from nothing else,
//! so that a resumed job makes the blocks, and a stream the segments, of an undisturbed one.

use memchr::memmem;

use crate::documents::Rules;
use crate::error::{Error, Result};
use crate::input::Opened;
use crate::input::ahead::{Ahead, Claim, Read};
use crate::input::border::{self, Cuts};

/// Longest record, in bytes; a longer one fails the job, for it would have to be held in memory.
const RECORD_MAX_BYTES: u64 = 1 << 30;
/// Bytes that are searched for the end of a line before a whole chunk is.
const WINDOW_BYTES: u64 = 64 << 10;

/// What a lump may end with.
#[derive(Clone, Copy)]
pub(super) enum Ends<'a> {
    /// A newline.
    Lines,
    /// A separator; `None`: only the source's end.
    Texts(Option<&'a memmem::Finder<'a>>),
    /// Any place at which the text can be cut.
    Flow(Cuts<'a>, &'a Rules<'a>),
}

impl Ends<'_> {
    /// Bytes behind an end that have a say in it.
    fn context_bytes(self) -> usize {
        match self {
            Self::Lines | Self::Texts(_) => 0,
            Self::Flow(_, rules) => rules.context_bytes(),
        }
    }

    /// The last end within the first `limit` bytes of `bytes`, which begin a lump.
    fn last(self, bytes: &[u8], limit: usize) -> Option<usize> {
        match self {
            Self::Lines => memchr::memrchr(b'\n', &bytes[..limit]).map(|found| found + 1),
            Self::Texts(separator) => {
                let separator = separator?;
                // From the front: separators do not overlap.
                separator.find_iter(&bytes[..limit]).last().map(|found| found + separator.needle().len())
            }
            Self::Flow(cuts, rules) => {
                let known = bytes.len().min(limit + self.context_bytes());
                border::last_in_text(&bytes[..known], limit, cuts, rules)
            }
        }
    }
}

fn too_long(source: &Opened, start: u64, len_bytes: u64) -> Result<()> {
    if len_bytes <= RECORD_MAX_BYTES {
        return Ok(());
    }
    let place = format!("the record at byte {start}");
    let reason = format!("it is longer than {RECORD_MAX_BYTES} bytes, the most that a record may have");
    Err(Error::BadDocument { path: source.path().to_owned(), place, reason })
}

/// The end of the lump of records that starts at `start` in a file that is not compressed.
pub(super) fn range_end(source: &Opened, ends: Ends<'_>, start: u64, chunk_bytes: u64) -> Result<u64> {
    let size = source.size_bytes();
    let mut bytes = Vec::new();
    if let (Ends::Lines, true) = (ends, start + chunk_bytes < size) {
        let from = start + chunk_bytes.saturating_sub(WINDOW_BYTES);
        source.read(from, start + chunk_bytes, &mut bytes)?;
        if let Some(found) = ends.last(&bytes, bytes.len()) {
            return Ok(from + found as u64);
        }
    }
    let mut len = chunk_bytes;
    loop {
        if start + len >= size || matches!(ends, Ends::Texts(None)) {
            too_long(source, start, if len > chunk_bytes { size - start } else { 0 })?;
            return Ok(size);
        }
        source.read(start, start + len, &mut bytes)?;
        if let Some(found) = ends.last(&bytes, bytes.len()) {
            return Ok(start + found as u64);
        }
        too_long(source, start, len)?;
        len *= 2;
    }
}

/// A source whose content is read from start to end, cut into lumps.
pub(super) struct LumpReader {
    content: Ahead,
    /// Content behind the last lump.
    rest: Vec<u8>,
    /// Where `rest` starts in the content.
    offset: u64,
    /// How much of it the next end is looked for in; 0: a chunk.
    limit: usize,
    /// Whether `rest` is all that there is.
    is_over: bool,
}

/// A lump, and how far the file was read for it.
pub(super) struct UnpackedLump {
    pub(super) bytes: Vec<u8>,
    /// Where it starts in the content.
    pub(super) offset: u64,
    pub(super) is_last: bool,
}

impl LumpReader {
    /// Goes on behind the first `offset` bytes of the content.
    pub(super) fn new(mut content: Ahead, offset: u64) -> Self {
        content.skip_to(offset);
        Self { content, rest: Vec::new(), offset, limit: 0, is_over: false }
    }

    pub(super) fn content(&self) -> &Ahead {
        &self.content
    }

    /// What to do when there is no next lump yet.
    pub(super) fn claim(&mut self) -> Result<Claim> {
        self.content.claim()
    }

    /// The next lump; `None` while the content that it needs is not decoded ([`LumpReader::claim`]).
    pub(super) fn next(&mut self, ends: Ends<'_>, chunk_bytes: u64) -> Result<Option<UnpackedLump>> {
        self.limit = self.limit.max(chunk_bytes as usize);
        loop {
            // One more, at least, tells whether the content ends with the chunk.
            let wanted = self.limit + ends.context_bytes().max(1);
            if self.rest.len() < wanted && !self.is_over {
                match self.content.read(wanted - self.rest.len(), &mut self.rest)? {
                    Read::Full => {}
                    Read::End => self.is_over = true,
                    Read::Starved => return Ok(None),
                }
            }
            let found = if self.is_over && self.rest.len() <= self.limit {
                Some(self.rest.len())
            } else {
                ends.last(&self.rest, self.limit)
            };
            let Some(end) = found else {
                too_long(self.content.source(), self.offset, self.limit as u64)?;
                self.limit *= 2;
                continue;
            };
            let rest = self.rest.split_off(end);
            let bytes = std::mem::replace(&mut self.rest, rest);
            let offset = self.offset;
            self.offset += end as u64;
            self.limit = 0;
            return Ok(Some(UnpackedLump { bytes, offset, is_last: self.is_over && self.rest.is_empty() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::input::detect::Compression;
    use crate::input::tests::opened;

    fn ranges(source: &Opened, ends: Ends<'_>, chunk_bytes: u64) -> Vec<u64> {
        let mut at = vec![0];
        while at.last() < Some(&source.size_bytes()) {
            at.push(range_end(source, ends, *at.last().expect("a place"), chunk_bytes).expect("an end"));
        }
        at
    }

    #[test]
    fn lumps_are_whole_records_wherever_they_start() {
        let separator = memmem::Finder::new("aa");
        for (ends, text) in [
            (Ends::Lines, "one\ntwo\n\nthe fourth is a long line\nfive\nsix".repeat(3)),
            (Ends::Texts(Some(&separator)), "xaaaaxaaayaa the long one aabaa".repeat(5)),
            (Ends::Texts(None), "no separator at all".repeat(5)),
        ] {
            let (_folder, source) = opened(text.as_bytes());
            for chunk_bytes in 1..40 {
                let at = ranges(&source, ends, chunk_bytes);
                if let Ends::Texts(Some(_)) = ends {
                    let naive: Vec<_> = separator.find_iter(text.as_bytes()).map(|found| found + 2).collect();
                    assert!(at[1..at.len() - 1].iter().all(|&end| naive.contains(&(end as usize))));
                }
                let unpacked = || Ahead::new(Arc::clone(&source), Compression::None, 1);
                for (n, &start) in at[..at.len() - 1].iter().enumerate() {
                    let mut reader = LumpReader::new(unpacked(), start);
                    let mut found = vec![start];
                    loop {
                        let Some(lump) = reader.next(ends, chunk_bytes).expect("a lump") else {
                            assert!(matches!(reader.claim(), Ok(Claim::Again)));
                            continue;
                        };
                        assert_eq!(lump.offset, *found.last().expect("a place"));
                        assert_eq!(lump.bytes, text.as_bytes()[lump.offset as usize..][..lump.bytes.len()]);
                        if !lump.bytes.is_empty() {
                            found.push(lump.offset + lump.bytes.len() as u64);
                        }
                        if lump.is_last {
                            break;
                        }
                    }
                    assert_eq!(found, at[n..], "{chunk_bytes}");
                }
            }
        }
    }
}
