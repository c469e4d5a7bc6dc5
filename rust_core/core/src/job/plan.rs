//! Handing out the work, in the order of the input.
//!
//! Small sources go out in batches, so that a hundred thousand of them cost no more than their
//! bytes; big ones in pieces that end at exact borders. With a split pattern whose borders are not
//! known (any but GPT-2's, for now), a big source is one piece of work that its worker streams.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::checkpoint::Position;
use crate::documents::Rules;
use crate::error::{Error, Result};
use crate::input::access::Roots;
use crate::input::border::{self, Cuts};
use crate::input::lease::Leases;
use crate::input::{Opened, Source};

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
    Stream { source: Arc<Opened>, from: Position },
}

pub(super) struct Planner<'a> {
    sources: &'a [Source],
    roots: &'a Roots,
    leases: &'a Leases,
    cuts: Option<Cuts<'a>>,
    rules: &'a Rules<'a>,
    chunk_bytes: u64,
    cursor: Mutex<Cursor>,
}

/// Where the next piece of work starts.
struct Cursor {
    sequence: u64,
    position: Position,
    /// The source at the position, if it is being cut.
    open: Option<Arc<Opened>>,
}

impl<'a> Planner<'a> {
    /// Plans what lies behind `start`.
    pub(super) fn new(
        sources: &'a [Source],
        roots: &'a Roots,
        leases: &'a Leases,
        cuts: Option<Cuts<'a>>,
        rules: &'a Rules<'a>,
        chunk_bytes: u64,
        start: Position,
    ) -> Self {
        let cursor = Mutex::new(Cursor { sequence: 0, position: start, open: None });
        Self { sources, roots, leases, cuts, rules, chunk_bytes, cursor }
    }

    /// An upper bound of the pieces of work, so that no threads are started for nothing.
    pub(super) fn n_chunks_at_most(&self) -> usize {
        let chunks = |source: &Source| source.identity.size_bytes.div_ceil(self.chunk_bytes).max(1);
        usize::try_from(self.sources.iter().map(chunks).sum::<u64>()).unwrap_or(usize::MAX)
    }

    /// The next piece of work, or `None` when all has been handed out; a failure comes with its
    /// place in the order.
    pub(super) fn next(&self) -> Result<Option<Task>, (u64, Error)> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = cursor.sequence;
        let Some(work) = self.work(&mut cursor).map_err(|error| (sequence, error))? else { return Ok(None) };
        cursor.sequence += 1;
        Ok(Some(Task { sequence, work }))
    }

    fn work(&self, cursor: &mut Cursor) -> Result<Option<Work>> {
        let index = cursor.position.source;
        let Some(source) = self.sources.get(index) else { return Ok(None) };
        if source.identity.size_bytes <= self.chunk_bytes && cursor.position.offset_bytes == 0 {
            let end = self.batch_end(index);
            cursor.position.source = end;
            return Ok(Some(Work::Batch(index..end)));
        }
        let source = match cursor.open.take() {
            Some(source) => source,
            None => self.open(index)?,
        };
        let Some(cuts) = self.cuts else {
            let next = Position { source: index + 1, ..Position::default() };
            return Ok(Some(Work::Stream { source, from: std::mem::replace(&mut cursor.position, next) }));
        };
        let start = cursor.position.offset_bytes;
        let end = border::chunk_end(&source, cuts, self.rules, start, self.chunk_bytes)?;
        if end == source.size_bytes() {
            cursor.position = Position { source: index + 1, ..Position::default() };
        } else {
            cursor.position.offset_bytes = end;
            cursor.open = Some(Arc::clone(&source));
        }
        Ok(Some(Work::Piece { index, source, range: start..end }))
    }

    /// The end of the batch of small sources that begins with `index`.
    fn batch_end(&self, index: usize) -> usize {
        let mut bytes = 0;
        let mut end = index;
        while let Some(source) = self.sources.get(end)
            && end - index < BATCH_SOURCES
            && bytes + source.identity.size_bytes <= self.chunk_bytes
        {
            bytes += source.identity.size_bytes;
            end += 1;
        }
        end
    }

    fn open(&self, index: usize) -> Result<Arc<Opened>> {
        let source = Arc::new(self.sources[index].open(self.roots)?);
        self.leases.take(&source);
        Ok(source)
    }
}
