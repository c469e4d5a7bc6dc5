//! Text to ids: pretokens in batches of a kilobyte, through the merge cache.
//!
//! ```text
//! scan ─► starts ─► keys, lines, prefetch ─► probe ─┬─ hits: 16 bytes each, in order ──┬─► ids
//!                                                   └─ misses: look further, merge ────┘
//! ```
//!
//! * `pretokenize::scan` finds where pretokens start (other patterns: `pretokenize::machine`);
//! * [`batch`] collects them, and sends a batch through the stages when it is full;
//! * [`keys`] makes a key of each and asks for its cache line;
//! * [`probe`] compares the lines, which have arrived by then, and appends the values of the hits;
//! * [`window`] keeps the ids of several batches, and notes what they are missing;
//! * [`misses`] finds or merges that, all of a window together, and teaches it to the cache;
//! * [`documents`] sends many short texts through the stages together.
//!
//! Each stage is a loop over arrays that stay in the processor's first cache, exists once per
//! processor tier (`tier`) and has a portable twin. Nothing here knows which vocabulary it is: class,
//! cut, pair and word tables are made from any (see [`Model`]).

mod batch;
pub(crate) mod documents;
pub(crate) mod keys;
mod long_cache;
mod misses;
mod model;
pub(crate) mod probe;
pub(crate) mod splitter;
mod wide_cache;
pub(crate) mod widen;
mod window;
mod words;

use crate::bpe::merge::MergeScratch;
use crate::bpe::short::Word;
use crate::cache::{Learned, Table};
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::pretokenize::scan::words::Work;
use crate::pretokenize::scan::{BATCH, Scan, ScanTables};
use crate::pretokenize::steps::{Chain, Piece};
use crate::pretokenize::{Matcher, Pretokenizer as _, Split};
use batch::{Batch, Open};
use long_cache::LongCache;
use misses::Found;
pub(crate) use model::Model;
use probe::Miss;
use splitter::Splitter;
use wide_cache::WideCache;
use window::Window;

/// Units that the documents before may leave in a batch when the next one is added to it.
const CARRIED: usize = 256;
/// Units of a batch: a pretoken per byte at most, and what was left in it: one pretoken that is open, or units
/// of documents that are complete.
const UNITS: usize = BATCH + CARRIED;
/// Bytes behind the start of a pretoken from which later text cannot change it: itself a character,
/// the next one, and one more (whitespace gives its last character away, see `scan`).
const CERTAIN: usize = 8;

/// A text to be split: `from..to` of `whole`, in which other texts may stand before and behind it.
#[derive(Clone, Copy)]
struct Part<'t> {
    whole: &'t str,
    from: usize,
    to: usize,
    /// Whether the text ends where it ends, or more of it will follow.
    complete: bool,
    /// Where `whole` starts in its document, for errors.
    offset: u64,
}

impl<'t> Part<'t> {
    fn text(&self) -> &'t str {
        &self.whole[self.from..self.to]
    }
}

/// A worker's own memory; reused from job to job.
pub(crate) struct Scratch {
    scan: Scan,
    work: Work,
    pieces: Vec<Piece>,
    /// The batch that is being filled, and the one before it, whose lines are on their way.
    filling: Box<Batch>,
    waiting: Box<Batch>,
    /// What the probe of a batch did not find.
    noted: Box<[Miss; UNITS]>,
    window: Window,
    /// Ids of a window's misses, packed, and where those of each miss are.
    spill: Vec<u8>,
    found: Vec<Found>,
    /// Words to be merged, and which miss each comes from.
    words: Vec<Word>,
    sources: Vec<u32>,
    merge: MergeScratch,
    ids: Vec<u32>,
    wide: WideCache,
    long: LongCache,
    between: documents::Between,
    /// Where the documents ended whose marks came by: ids of the output.
    ends: Vec<u64>,
    pub(crate) learned: Learned,
    pub(crate) hits: u64,
    pub(crate) misses_seen: u64,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            scan: Scan::default(),
            work: Work::default(),
            pieces: Vec::new(),
            filling: Batch::new(),
            waiting: Batch::new(),
            noted: Box::new([Miss::default(); _]),
            window: Window::default(),
            spill: Vec::new(),
            found: Vec::new(),
            words: Vec::new(),
            sources: Vec::new(),
            merge: MergeScratch::default(),
            ids: Vec::new(),
            wide: WideCache::default(),
            long: LongCache::default(),
            between: documents::Between::default(),
            ends: Vec::new(),
            learned: Learned::default(),
            hits: 0,
            misses_seen: 0,
        }
    }
}

/// Encodes text through one generation of the cache.
pub(crate) struct Encoder<'a> {
    pub(crate) model: &'a Model,
    pub(crate) table: &'a Table,
    pub(crate) scratch: &'a mut Scratch,
}

impl Encoder<'_> {
    /// The same encoder for a shorter time.
    pub(crate) fn reborrow(&mut self) -> Encoder<'_> {
        Encoder { model: self.model, table: self.table, scratch: self.scratch }
    }

    /// Appends the ids of `text` to `out` and returns how many bytes of it were used.
    ///
    /// With `complete`, `text` ends where it ends and all of it is used. Without, more text will
    /// follow, and only pretokens that it cannot change are used. `offset` is where `text` starts in
    /// its document, for errors.
    pub(crate) fn encode<L: Lane>(
        &mut self,
        text: &str,
        complete: bool,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let part = Part { whole: text, from: 0, to: text.len(), complete, offset };
        let mut open = self.begin();
        let used = self.split(&self.model.splitter, part, &mut open, out)?;
        self.close(text.as_bytes(), &mut open, used, offset, out)?;
        self.finish(text.as_bytes(), offset, out)?;
        Ok(used)
    }

    /// An empty batch. (An error may have left one behind.)
    fn begin(&mut self) -> Open {
        let Scratch { filling, waiting, window, .. } = &mut *self.scratch;
        window.clear();
        waiting.units = 0;
        waiting.marks.clear();
        filling.marks.clear();
        Open::default()
    }

    /// Adds the pretokens of a part to the batch under way, and emits batches as they fill; returns the end
    /// of the last pretoken that no further text can change.
    fn split<L: Lane>(
        &mut self,
        splitter: &Splitter,
        part: Part<'_>,
        open: &mut Open,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let text = part.text();
        match splitter {
            Splitter::Words { words, plain } => self.words(words, plain, part, open, out),
            Splitter::Gpt2 { scan, .. } => self.scanned(scan, part, open, out),
            Splitter::Pattern(Matcher::Alternatives(fast)) => {
                self.matched(|at| Ok(fast.find(text.as_bytes(), at)), part, open, out)
            }
            Splitter::Pattern(Matcher::Machine(machine)) => {
                self.matched(|at| machine.next(text, at), part, open, out)
            }
            Splitter::Chain(chain) => self.chained(chain, part, open, out),
        }
    }

    /// With the scanner.
    fn scanned<L: Lane>(
        &mut self,
        tables: &ScanTables,
        part: Part<'_>,
        open: &mut Open,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let Part { from, to, offset, .. } = part;
        let (whole, text) = (part.whole.as_bytes(), part.text().as_bytes());
        // SAFETY: the text is this part of `whole`.
        unsafe { self.scratch.scan.begin_within(from, whole.len() - to) };
        while self.scratch.scan.at() < text.len() {
            let Scratch { scan, filling, .. } = &mut *self.scratch;
            open.reach(from + scan.at(), offset)?;
            let starts = &mut filling.starts;
            let base = open.base.wrapping_sub(from);
            open.n = scan.batch(tables, self.model.kernels, text, base, starts, open.n);
            if scan.at() < text.len() {
                // The last start's pretoken goes on in the next batch.
                self.advance_to(whole, open, open.n - 1, offset, out)?;
            } else if !part.complete {
                let certain = |&start: &u32| open.base + start as usize + CERTAIN <= to;
                let units = starts[..open.n].iter().rposition(certain).unwrap_or(0);
                self.advance_to(whole, open, units, offset, out)?;
                open.n = 0;
                return Ok(open.base);
            }
        }
        Ok(to)
    }

    /// With a matcher that gives pretokens one by one, and may skip text between them.
    fn matched<L: Lane>(
        &mut self,
        next: impl Fn(usize) -> Result<Split>,
        part: Part<'_>,
        open: &mut Open,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let Part { from, to, offset, .. } = part;
        let whole = part.whole.as_bytes();
        let mut at = from;
        while at < to {
            let split = next(at - from).map_err(|error| at_offset(error, offset + from as u64))?;
            if split.hit_end && !part.complete {
                break;
            }
            let end = from + split.end;
            if split.matched {
                self.add(whole, open, at..end, offset, out)?;
            } else {
                self.close(whole, open, at, offset, out)?;
            }
            at = end;
        }
        Ok(at)
    }

    /// With steps, which give the pretokens of a text all at once.
    fn chained<L: Lane>(
        &mut self,
        chain: &Chain,
        part: Part<'_>,
        open: &mut Open,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let Part { from, offset, .. } = part;
        let whole = part.whole.as_bytes();
        let mut pieces = std::mem::take(&mut self.scratch.pieces);
        pieces.clear();
        let used = chain
            .split(part.text(), part.complete, &mut pieces)
            .map_err(|error| at_offset(error, offset + from as u64))?;
        let mut at = from;
        for piece in &pieces {
            let end = from + piece.end;
            if piece.kept {
                self.add(whole, open, at..end, offset, out)?;
            } else {
                self.close(whole, open, at, offset, out)?;
            }
            at = end;
        }
        self.close(whole, open, at, offset, out)?;
        self.scratch.pieces = pieces;
        Ok(from + used)
    }
}

fn at_offset(error: Error, base: u64) -> Error {
    match error {
        Error::TooMuchBacktracking { offset } => Error::TooMuchBacktracking { offset: offset + base },
        other => other,
    }
}

#[cfg(test)]
mod tests;
