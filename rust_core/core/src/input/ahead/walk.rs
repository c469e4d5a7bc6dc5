//! Finding the parts of a compressed file that can be decoded on their own, without decoding any.
//!
//! A walker goes from border to border by what the format says of itself: the block headers of zstd, the
//! member sizes of BGZF, the index of xz, the magic numbers of bzip2's blocks. It decides nothing about what
//! is valid: a part is believed only when its decoder used up exactly its bytes, and where the
//! format is not as it should be, the walker gives up and the plain decoder gets the rest.

use std::ops::Range;
use std::sync::Arc;

use super::{bzip2, gzip, xz, zstd};
use crate::error::Result;
use crate::input::Opened;
use crate::input::detect::Compression;

/// How large parts are.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Smaller ones are put together until they have as much content, or as many bytes.
    pub(super) min_bytes: u64,
    /// Most content, and most compressed bytes, of one that is decoded on its own; a larger one is streamed.
    pub(super) max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { min_bytes: 1 << 20, max_bytes: 32 << 20 }
    }
}

/// What comes next in a file.
pub(super) enum Part {
    /// Whole frames, members or blocks, to be decoded on their own.
    Stretch(Stretch),
    /// A zstd frame to be streamed; where it ends is not known.
    Frame { start: u64 },
    /// All that follows, to be streamed by a decoder that starts at `restart`.
    Rest { restart: u64 },
    /// Nothing.
    End,
}

/// Bytes of a file that can be decoded on their own.
#[derive(Debug)]
pub(super) struct Stretch {
    /// They begin with or before the end of the stretch before (bzip2's borders lie within bytes).
    pub(super) range: Range<u64>,
    pub(super) size: Size,
    /// Where a plain decoder has to begin to come to it.
    pub(super) restart: u64,
    pub(super) form: Form,
}

/// Bytes of content, as far as it is known before decoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// What to expect, at most.
    pub(super) n_bytes: u64,
    /// The format states it; what decodes to another size is damaged.
    pub(super) is_exact: bool,
}

impl Size {
    pub(super) const NOTHING: Self = Self { n_bytes: 0, is_exact: true };

    pub(super) fn and(self, other: Self) -> Self {
        Self { n_bytes: self.n_bytes + other.n_bytes, is_exact: self.is_exact && other.is_exact }
    }
}

/// What makes the bytes of a stretch decodable.
#[derive(Debug)]
pub(super) enum Form {
    /// Nothing: they are whole frames or members.
    Whole,
    /// The same of zstd, and whatever is wrong with them shows (see [`zstd`]).
    Checked,
    Xz(xz::Blocks),
    Bzip2(bzip2::Blocks),
}

/// Goes from part to part.
pub(super) enum Walker {
    Zstd(zstd::Walker),
    Gzip(gzip::Walker),
    Xz(xz::Walker),
    Bzip2(bzip2::Walker),
    Plain,
}

impl Walker {
    pub(super) fn new(source: &Arc<Opened>, compression: Compression, limits: Limits) -> Self {
        match compression {
            // No bytes are no frame: an error, which the plain decoder has to give.
            _ if source.size_bytes() == 0 => Self::Plain,
            Compression::None => Self::Plain,
            Compression::Gzip => Self::Gzip(gzip::Walker::new(Arc::clone(source), limits)),
            Compression::Bzip2 => Self::Bzip2(bzip2::Walker::new(Arc::clone(source), limits)),
            Compression::Xz => Self::Xz(xz::Walker::new(Arc::clone(source), limits)),
            Compression::Zstd => Self::Zstd(zstd::Walker::new(Arc::clone(source), limits)),
        }
    }

    pub(super) fn next(&mut self) -> Result<Part> {
        match self {
            Self::Zstd(walker) => walker.next(),
            Self::Gzip(walker) => walker.next(),
            Self::Xz(walker) => walker.next(),
            Self::Bzip2(walker) => walker.next(),
            Self::Plain => Ok(Part::Rest { restart: 0 }),
        }
    }

    /// Goes on behind a [`Part::Frame`], which has been streamed.
    pub(super) fn go_on_at(&mut self, offset: u64) {
        if let Self::Zstd(walker) = self {
            walker.at = offset;
        }
    }
}

/// What stands at a place of a zstd or gzip file.
pub(super) enum Found {
    /// A frame or member that can be decoded on its own.
    Whole { end: u64, size: Size, is_checked: bool },
    /// A zstd frame to be streamed.
    Large,
    /// Not as it should be, or nothing that says where it ends.
    Unknown,
}

/// The part that begins at `at`, which is moved behind what was put together: frames or members that
/// follow each other, as `found` sees them.
pub(super) fn gather(
    at: &mut u64,
    file_end: u64,
    limits: Limits,
    mut found: impl FnMut(u64) -> Result<Found>,
) -> Result<Part> {
    let mut group = Group::at(*at, limits);
    loop {
        if *at == file_end {
            return Ok(if group.is_empty() { Part::End } else { group.into_part() });
        }
        match found(*at)? {
            Found::Whole { end, size, is_checked } if !group.is_full(size, end) => {
                group.add(size, end, is_checked);
                *at = end;
            }
            _ if !group.is_empty() => return Ok(group.into_part()),
            Found::Whole { .. } | Found::Unknown => return Ok(Part::Rest { restart: *at }),
            Found::Large => return Ok(Part::Frame { start: *at }),
        }
    }
}

/// Puts frames or members that follow each other together.
struct Group {
    range: Range<u64>,
    size: Size,
    is_checked: bool,
    limits: Limits,
}

impl Group {
    fn at(start: u64, limits: Limits) -> Self {
        Self { range: start..start, size: Size::NOTHING, is_checked: true, limits }
    }

    fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Whether a part of this size would make it too large.
    fn is_full(&self, size: Size, end: u64) -> bool {
        let large = |n_bytes: u64| n_bytes > self.limits.max_bytes;
        let enough = self.size.n_bytes.max(self.range.end - self.range.start) >= self.limits.min_bytes;
        !self.is_empty()
            && (enough || large(self.size.n_bytes + size.n_bytes) || large(end - self.range.start))
    }

    fn add(&mut self, size: Size, end: u64, is_checked: bool) {
        self.range.end = end;
        self.is_checked &= is_checked;
        self.size = self.size.and(size);
    }

    fn into_part(self) -> Part {
        let Self { range, size, is_checked, .. } = self;
        let (restart, form) = (range.start, if is_checked { Form::Checked } else { Form::Whole });
        Part::Stretch(Stretch { range, size, restart, form })
    }
}

/// Up to `N` bytes of a file from `start` on; fewer where it ends.
pub(super) fn peek<const N: usize>(source: &Opened, start: u64, buffer: &mut Vec<u8>) -> Result<()> {
    let size = source.size_bytes();
    source.read(start.min(size), (start + N as u64).min(size), buffer)
}

/// A little-endian number of up to 8 bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
