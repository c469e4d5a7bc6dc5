//! Handing out the work, in the order of the input.
//!
//! Small sources go out in batches, so that a hundred thousand of them cost no more than their
//! bytes; big ones in pieces that end at exact borders. With a split pattern whose borders are not
//! known (any but GPT-2's, for now), a big source is one piece of work that its worker streams.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::documents::Rules;
use crate::error::{Error, Result};
use crate::input::access::Roots;
use crate::input::border::{self, Cuts};
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
    /// One source, whole, in bounded steps.
    Stream { index: usize, source: Arc<Opened> },
}

pub(super) struct Planner<'a> {
    sources: &'a [Source],
    roots: &'a Roots,
    cuts: Option<Cuts<'a>>,
    rules: &'a Rules<'a>,
    chunk_bytes: u64,
    cursor: Mutex<Cursor>,
}

#[derive(Default)]
struct Cursor {
    sequence: u64,
    index: usize,
    open: Option<(Arc<Opened>, u64)>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        sources: &'a [Source],
        roots: &'a Roots,
        cuts: Option<Cuts<'a>>,
        rules: &'a Rules<'a>,
        chunk_bytes: u64,
    ) -> Self {
        Self { sources, roots, cuts, rules, chunk_bytes, cursor: Mutex::default() }
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
        let index = cursor.index;
        let Some(source) = self.sources.get(index) else { return Ok(None) };
        if source.identity.size_bytes <= self.chunk_bytes {
            let mut bytes = 0;
            let mut end = index;
            while let Some(source) = self.sources.get(end)
                && end - index < BATCH_SOURCES
                && bytes + source.identity.size_bytes <= self.chunk_bytes
            {
                bytes += source.identity.size_bytes;
                end += 1;
            }
            cursor.index = end;
            return Ok(Some(Work::Batch(index..end)));
        }
        let Some(cuts) = self.cuts else {
            cursor.index += 1;
            return Ok(Some(Work::Stream { index, source: Arc::new(source.open(self.roots)?) }));
        };
        let (source, start) = match cursor.open.take() {
            Some(open) => open,
            None => (Arc::new(source.open(self.roots)?), 0),
        };
        let end = border::chunk_end(&source, cuts, self.rules, start, self.chunk_bytes)?;
        if end == source.size_bytes() {
            cursor.index += 1;
        } else {
            cursor.open = Some((Arc::clone(&source), end));
        }
        Ok(Some(Work::Piece { index, source, range: start..end }))
    }
}
