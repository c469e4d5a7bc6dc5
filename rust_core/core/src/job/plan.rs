//! Handing out the work, in the order of the input.
//!
//! Small sources of plain text go out in batches, so that a hundred thousand of them cost no more than
//! their bytes; big ones in pieces that end at exact borders. With a split pattern whose borders are not
//! known (any but GPT-2's, for now), a big source is one piece of work that its worker streams.
//!
//! Records go out in lumps of whole ones. What must be read from start to end (compressed files, columns)
//! is read here, under the lock, a chunk ahead of the worker that gets it. Where a compressed file has parts
//! that can be decoded on their own, the lock is only held to cut what is decoded: a worker for whom nothing
//! is there decodes the next part first.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::JobSpec;
use super::checkpoint::{Position, Progress};
use super::lumps::{self, Ends, LumpReader};
use crate::documents::Rules;
use crate::error::{Error, Result};
use crate::input::ahead::{Ahead, Claim};
use crate::input::border::{self, Cuts};
use crate::input::columnar::{Batch, Rows};
use crate::input::columns::Columns;
use crate::input::detect::{Compression, Content, Kind};
use crate::input::field_path::FieldPath;
use crate::input::lease::Leases;
use crate::input::{Opened, Source};

/// Pieces of work that a source of unknown content may be.
const CHUNKS_UNKNOWN: u64 = 1 << 16;
/// Most small sources in one batch: bounds the time between two looks at the off switch.
const BATCH_SOURCES: usize = 512;

/// One piece of work; `sequence` counts from 0 in the order of the output.
pub(super) struct Task {
    pub(super) sequence: u64,
    pub(super) work: Work,
}

pub(super) enum Work {
    /// Whole sources, by index.
    Batch(Range<usize>),
    /// A piece of one source.
    Piece { index: usize, source: Arc<Opened>, range: Range<u64> },
    /// One source, from a position in it on, in bounded steps.
    Stream { source: Arc<Opened>, from: Position, n_bytes_done: u64 },
    /// Part of a source that is not plain text, or whose documents are looked at whole.
    Lump(Lump),
}

/// Records of one source, or a piece of its text.
pub(super) struct Lump {
    pub(super) index: usize,
    pub(super) source: Arc<Opened>,
    pub(super) what: What,
    /// Where the input stands before it, and behind it.
    pub(super) start: (usize, u64),
    pub(super) next: Position,
    /// Bytes of the file that were read for it, about.
    pub(super) n_bytes: u64,
    /// Hash of the file as far as it was read, where that is not the text itself.
    pub(super) xxh3: Option<u64>,
}

pub(super) enum What {
    /// Bytes of the file.
    Range(Range<u64>),
    /// Bytes of its content, which start at `offset` there.
    Unpacked { bytes: Vec<u8>, offset: u64, is_last: bool },
    /// Rows of its columns.
    Rows(Batch),
    /// Nothing: the end of a file that was not read from start to end.
    End,
}

/// What there is to do.
enum Next<T> {
    Work(T),
    /// Nothing before this is seen to: the content that comes next is not decoded yet.
    Starved(Claim),
    Nothing,
}

/// A source that is read in order.
enum Reader {
    Lumps(Box<LumpReader>),
    Rows(Box<Rows>),
}

pub(super) struct Planner<'a> {
    sources: &'a [Source],
    spec: &'a JobSpec,
    /// The fields of its outputs.
    fields: Vec<FieldPath>,
    leases: &'a Leases,
    cuts: Option<Cuts<'a>>,
    rules: &'a Rules<'a>,
    chunk_bytes: u64,
    n_threads: usize,
    cursor: Mutex<Cursor>,
    /// A claimed part of a compressed source was decoded.
    decoded: Condvar,
}

/// Where the next piece of work starts.
struct Cursor {
    sequence: u64,
    position: Position,
    /// The source at the position, if it is being cut.
    open: Option<Arc<Opened>>,
    /// What reads it, if it is read in order, and how many bytes of the file its lumps have been.
    reader: Option<(Reader, u64)>,
    /// A source that an interrupted run had begun, and how many bytes of it were done.
    begun: (usize, u64),
}

impl Cursor {
    /// Bytes of the source at the position that are done.
    fn given(&self) -> u64 {
        if self.begun.0 == self.position.source { self.begun.1 } else { 0 }
    }
}

impl<'a> Planner<'a> {
    /// Plans what lies behind `progress`, for `n_threads` workers.
    #[expect(clippy::too_many_arguments, reason = "a job, piece by piece")]
    pub(super) fn new(
        sources: &'a [Source],
        spec: &'a JobSpec,
        fields: Vec<FieldPath>,
        leases: &'a Leases,
        cuts: Option<Cuts<'a>>,
        rules: &'a Rules<'a>,
        chunk_bytes: u64,
        n_threads: usize,
        progress: &Progress,
    ) -> Self {
        let position = progress.position.clone();
        let before = sources.iter().take(position.source).map(|source| source.identity.size_bytes).sum();
        let begun = (position.source, progress.n_bytes.saturating_sub(before));
        let cursor = Mutex::new(Cursor { sequence: 0, position, open: None, reader: None, begun });
        let decoded = Condvar::new();
        Self { sources, spec, fields, leases, cuts, rules, chunk_bytes, n_threads, cursor, decoded }
    }

    /// An upper bound of the pieces of work, so that no threads are started for nothing.
    pub(super) fn n_chunks_at_most(&self) -> usize {
        let chunks = |source: &Source| {
            if source.kind.compression != Compression::None || source.kind.content.is_columnar() {
                return CHUNKS_UNKNOWN;
            }
            source.identity.size_bytes.div_ceil(self.chunk_bytes).max(1)
        };
        usize::try_from(self.sources.iter().map(chunks).sum::<u64>()).unwrap_or(usize::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Cursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece of work, or `None` when all has been handed out; a failure comes with its
    /// place in the order. May decode parts of a compressed source first, or wait for others who do.
    pub(super) fn next(&self) -> Result<Option<Task>, (u64, Error)> {
        let mut cursor = self.lock();
        loop {
            let sequence = cursor.sequence;
            match self.work(&mut cursor).map_err(|error| (sequence, error))? {
                Next::Work(work) => {
                    cursor.sequence += 1;
                    return Ok(Some(Task { sequence, work }));
                }
                Next::Nothing => return Ok(None),
                Next::Starved(Claim::Again) => {}
                Next::Starved(Claim::Decode(part)) => {
                    drop(cursor);
                    let wake = Wake(self);
                    part.decode();
                    drop(wake);
                    cursor = self.lock();
                }
                Next::Starved(Claim::Wait) => {
                    cursor = self.decoded.wait(cursor).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn work(&self, cursor: &mut Cursor) -> Result<Next<Work>> {
        let index = cursor.position.source;
        let Some(source) = self.sources.get(index) else { return Ok(Next::Nothing) };
        if !source.kind.is_plain_text() || self.spec.records.are_of(source) {
            return self.lump(cursor, source);
        }
        if source.identity.size_bytes <= self.chunk_bytes && cursor.position.offset_bytes == 0 {
            let end = self.batch_end(index);
            cursor.position.source = end;
            return Ok(Next::Work(Work::Batch(index..end)));
        }
        let source = match cursor.open.take() {
            Some(source) => source,
            None => self.open(index)?,
        };
        let Some(cuts) = self.cuts else {
            let next = Position { source: index + 1, ..Position::default() };
            let n_bytes_done = cursor.given();
            let from = std::mem::replace(&mut cursor.position, next);
            return Ok(Next::Work(Work::Stream { source, from, n_bytes_done }));
        };
        let start = cursor.position.offset_bytes;
        let end = border::chunk_end(&source, cuts, self.rules, start, self.chunk_bytes)?;
        if end == source.size_bytes() {
            cursor.position = Position { source: index + 1, ..Position::default() };
        } else {
            cursor.position.offset_bytes = end;
            cursor.open = Some(Arc::clone(&source));
        }
        Ok(Next::Work(Work::Piece { index, source, range: start..end }))
    }

    /// The next part of a source that is not plain text or that is made of records.
    fn lump(&self, cursor: &mut Cursor, source: &Source) -> Result<Next<Work>> {
        let index = cursor.position.source;
        let behind = Position { source: index + 1, ..Position::default() };
        let opened = match cursor.open.take() {
            Some(opened) => opened,
            None => self.open(index)?,
        };
        let ends = match (source.kind.content, self.cuts) {
            (Content::JsonLines, _) => Some(Ends::Lines),
            _ if self.spec.records.are_of(source) => Some(Ends::Texts(self.rules.separator.as_ref())),
            (_, Some(cuts)) => Some(Ends::Flow(cuts, self.rules)),
            (_, None) => None,
        };
        let Some(ends) = ends else {
            let n_bytes_done = cursor.given();
            let from = std::mem::replace(&mut cursor.position, behind);
            return Ok(Next::Work(Work::Stream { source: opened, from, n_bytes_done }));
        };
        let lump = if source.kind.compression == Compression::None && !source.kind.content.is_columnar() {
            let start = cursor.position.offset_bytes;
            let end = lumps::range_end(&opened, ends, start, self.chunk_bytes)?;
            let next = if end == opened.size_bytes() {
                behind
            } else {
                Position { source: index, offset_bytes: end, ..Position::default() }
            };
            let (what, start) = (What::Range(start..end), cursor.position.order());
            let n_bytes = end - start.1;
            Lump { index, source: Arc::clone(&opened), what, start, next, n_bytes, xxh3: None }
        } else {
            match self.in_order(cursor, source, &opened, ends, behind)? {
                Next::Work(lump) => lump,
                Next::Starved(claim) => {
                    cursor.open = Some(opened);
                    return Ok(Next::Starved(claim));
                }
                Next::Nothing => return Ok(Next::Nothing),
            }
        };
        if lump.next.source == index {
            cursor.open = Some(opened);
        }
        cursor.position = lump.next.clone();
        Ok(Next::Work(Work::Lump(lump)))
    }

    /// The next part of a source that is read from start to end.
    fn in_order(
        &self,
        cursor: &mut Cursor,
        source: &Source,
        opened: &Arc<Opened>,
        ends: Ends<'_>,
        behind: Position,
    ) -> Result<Next<Lump>> {
        let index = cursor.position.source;
        let (mut reader, given) = match cursor.reader.take() {
            Some(reader) => reader,
            None => (self.reader(source, opened, &cursor.position)?, cursor.given()),
        };
        let at = |offset_bytes, content| Position {
            source: index,
            offset_bytes,
            content: Some(content),
            carry: None,
            document_bytes: None,
        };
        let found = match &mut reader {
            Reader::Lumps(reader) => match reader.next(ends, self.chunk_bytes)? {
                Some(lumps::UnpackedLump { bytes, offset, is_last }) => {
                    let (taken, xxh3) = reader.content().taken();
                    let next = if is_last { behind } else { at(taken, offset + bytes.len() as u64) };
                    let read = reader.content().n_file_bytes();
                    Ok((What::Unpacked { bytes, offset, is_last }, next, read, xxh3))
                }
                None => Err(reader.claim()?),
            },
            Reader::Rows(rows) => Ok(match rows.next()? {
                Some(batch) => {
                    let next = at(0, batch.first_row + batch.n_rows);
                    (What::Rows(batch), next, rows.n_file_bytes(), 0)
                }
                None => (What::End, behind, 0, 0),
            }),
        };
        let (what, next, read, xxh3) = match found {
            Ok(found) => found,
            Err(claim) => {
                cursor.reader = Some((reader, given));
                return Ok(Next::Starved(claim));
            }
        };
        // After a resume a reader may have come less far than it had for the lump before.
        let read = if next.source > index { opened.size_bytes() } else { read.max(given) };
        if next.source == index {
            cursor.reader = Some((reader, read));
        }
        let n_bytes = read.saturating_sub(given);
        let source = Arc::clone(opened);
        let start = cursor.position.order();
        Ok(Next::Work(Lump { index, source, what, start, next, n_bytes, xxh3: Some(xxh3) }))
    }

    fn reader(&self, source: &Source, opened: &Arc<Opened>, from: &Position) -> Result<Reader> {
        let Kind { compression, content } = source.kind;
        let done = from.content.unwrap_or(0);
        if !content.is_columnar() {
            let content = Ahead::new(Arc::clone(opened), compression, self.n_threads);
            return Ok(Reader::Lumps(Box::new(LumpReader::new(content, done))));
        }
        if let Some(name) = compression.name() {
            let what = format!(
                "{} is a parquet or arrow file within {name}; decompress it first",
                source.path.display()
            );
            return Err(Error::BadOption { option: "inputs", what });
        }
        let records = &self.spec.records;
        let columns = Columns { texts: self.fields.clone(), id: records.id_field.clone() };
        let rows = Rows::open(opened.file()?, &source.path, content, columns, done, self.chunk_bytes)?;
        Ok(Reader::Rows(Box::new(rows)))
    }

    /// The end of the batch of small sources that begins with `index`.
    fn batch_end(&self, index: usize) -> usize {
        let mut bytes = 0;
        let mut end = index;
        while let Some(source) = self.sources.get(end)
            && end - index < BATCH_SOURCES
            && bytes + source.identity.size_bytes <= self.chunk_bytes
            && source.kind.is_plain_text()
        {
            bytes += source.identity.size_bytes;
            end += 1;
        }
        end
    }

    fn open(&self, index: usize) -> Result<Arc<Opened>> {
        let source = Arc::new(self.sources[index].open(&self.spec.roots)?);
        self.leases.take(&source);
        Ok(source)
    }
}

/// Wakes those who wait for a part, however its decoding ended.
struct Wake<'p, 'a>(&'p Planner<'a>);

impl Drop for Wake<'_, '_> {
    fn drop(&mut self) {
        // Under the lock: who is about to wait has looked and does not know yet, or waits already.
        let _cursor = self.0.lock();
        self.0.decoded.notify_all();
    }
}
