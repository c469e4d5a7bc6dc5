//! Text to ids: pretokens in batches, through the merge cache.
//!
//! ```text
//! split a batch ─► keys, lines, prefetch ─► probe and emit ─┬─ hit: 16 bytes copied
//!                                                           └─ miss: cut at inert borders, merge, learn
//! ```
//!
//! A batch exists so that the cache lines of its pretokens are on their way before the first of
//! them is probed. Pretokens longer than a key take the miss path, where they are first cut at
//! *inert* borders (see `bpe::inert`); their parts are then ordinary cache entries. What is still
//! too long, or has too many ids for a value, is remembered per worker in a [`LongCache`].

use crate::bpe::inert::Bridges;
use crate::bpe::merge::{MergeScratch, merge};
use crate::bpe::pairs::{MISSING, PairTable};
use crate::cache::{KEY_MAX, Key, Table};
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::long_cache::LongCache;
use crate::pretokenize::gpt2::Gpt2;
use crate::pretokenize::steps::{Chain, Piece};
use crate::pretokenize::unicode::classes;
use crate::pretokenize::{Matcher, Pretokenizer as _};
use crate::staged::Stage;
use crate::vocab::{Merges, Vocabulary};
use rustc_hash::FxHashMap;

/// Pretokens per batch: enough to hide the latency of memory, few enough to stay in the L1 cache.
const BATCH: usize = 256;

/// How pretokens are found.
pub(crate) enum Splitter {
    Gpt2(Box<Gpt2>),
    Machine(Matcher),
    Chain(Chain),
}

impl Splitter {
    /// The splitter of a vocabulary.
    pub(crate) fn new(vocab: &Vocabulary) -> Result<Self> {
        if Gpt2::accepts(vocab.pattern()) {
            return Ok(Self::Gpt2(Box::new(Gpt2::new(classes(vocab.reference())))));
        }
        Ok(match vocab.pipeline() {
            Some(pipeline) => Self::Chain(Chain::new(&pipeline.steps)?),
            None => Self::Machine(Matcher::new(vocab.pattern(), vocab.reference())?),
        })
    }

    /// Whether there are places that [`Splitter::is_border`] knows.
    pub(crate) fn has_borders(&self) -> bool {
        matches!(self, Self::Gpt2(_))
    }

    /// Whether a pretoken starts at `at` whatever stands further left, and what stands left of it splits
    /// as if the text ended there.
    pub(crate) fn is_border(&self, text: &[u8], at: usize) -> bool {
        match self {
            Self::Gpt2(scanner) => scanner.is_border(text, at),
            Self::Machine(_) | Self::Chain(_) => false,
        }
    }
}

/// What a vocabulary needs to encode; immutable, shared by all threads.
pub(crate) struct Model {
    pub(crate) splitter: Splitter,
    /// What happens to text before it is split.
    pub(crate) stage: Option<Stage>,
    pub(crate) pairs: PairTable,
    bridges: Bridges,
    /// Rank vocabularies: tokens that merging their bytes does not arrive at. A pretoken that is one
    /// of them is that token, because tiktoken looks a whole pretoken up before it merges; the same
    /// bytes as a part of a longer pretoken are not.
    whole: FxHashMap<Box<[u8]>, u32>,
    token_lens: Vec<u32>,
}

impl Model {
    pub(crate) fn new(vocab: &Vocabulary) -> Result<Self> {
        let (splitter, stage) = (Splitter::new(vocab)?, Stage::new(vocab)?);
        let pairs = PairTable::new(vocab);
        let mut whole = FxHashMap::default();
        if vocab.is_whole_first() && !(matches!(vocab.merges(), Merges::Ranks) && pairs.is_canonical()) {
            let (mut scratch, mut ids) = (MergeScratch::default(), Vec::new());
            for (id, token) in vocab.ordinary() {
                ids.clear();
                merge(&pairs, token, &mut scratch, &mut ids);
                if ids != [id] {
                    whole.insert(token.into(), id);
                }
            }
        }
        let mut token_lens = vec![0; vocab.len_ids() as usize];
        for (id, token) in vocab.ordinary() {
            token_lens[id as usize] = token.len() as u32;
        }
        Ok(Self { splitter, stage, pairs, bridges: Bridges::new(vocab), whole, token_lens })
    }

    /// The ids of one pretoken or part of one; symbols of bytes without a token stay above [`MISSING`].
    fn merge(&self, piece: &[u8], scratch: &mut MergeScratch, ids: &mut Vec<u32>) {
        ids.clear();
        match self.whole.get(piece) {
            Some(&id) => ids.push(id),
            None => merge(&self.pairs, piece, scratch, ids),
        }
    }

    /// Refuses ids that stand for bytes without a token; `offset` is where their text starts.
    fn check(&self, ids: &[u32], offset: u64) -> Result<()> {
        let Some(at) = ids.iter().position(|&id| id >= MISSING) else { return Ok(()) };
        let before: u64 = ids[..at].iter().map(|&id| u64::from(self.token_lens[id as usize])).sum();
        Err(Error::NoToken { path: None, byte: ids[at] as u8, offset: offset + before })
    }

    /// Fills a new table with every token of the vocabulary that a text can contain as a pretoken.
    pub(crate) fn seed<L: Lane>(&self, vocab: &Vocabulary, table: &Table) {
        let (mut scratch, mut ids) = (MergeScratch::default(), Vec::new());
        for (_, token) in vocab.ordinary() {
            if token.len() > KEY_MAX || token.contains(&0xFF) {
                continue;
            }
            self.merge(token, &mut scratch, &mut ids);
            if ids.iter().all(|&id| id < MISSING)
                && let Some(value) = L::pack(&ids)
            {
                let key = Key::new(token, 0, token.len());
                table.insert(table.slot(key), key, value);
            }
        }
    }
}

/// A worker's own memory; reused from job to job.
#[derive(Default)]
pub(crate) struct Scratch {
    spans: Vec<Span>,
    pieces: Vec<Piece>,
    merge: MergeScratch,
    ids: Vec<u32>,
    long: LongCache,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    slot: u32,
    key: Key,
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
        if let Splitter::Chain(chain) = &self.model.splitter {
            return self.encode_chain(chain, text, complete, offset, out);
        }
        let mut at = 0;
        loop {
            let more = self.split_batch(text, &mut at, complete, offset)?;
            self.emit_batch(text.as_bytes(), offset, out)?;
            if !more {
                return Ok(at);
            }
        }
    }

    /// The same with a splitter that knows pretokens only all at once.
    fn encode_chain<L: Lane>(
        &mut self,
        chain: &Chain,
        text: &str,
        complete: bool,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let mut pieces = std::mem::take(&mut self.scratch.pieces);
        pieces.clear();
        let used = chain.split(text, complete, &mut pieces).map_err(|error| at_offset(error, offset))?;
        let mut start = 0;
        for batch in pieces.chunks(BATCH) {
            self.scratch.spans.clear();
            for piece in batch {
                if piece.kept {
                    self.push_span(text.as_bytes(), start, piece.end);
                }
                start = piece.end;
            }
            self.emit_batch(text.as_bytes(), offset, out)?;
        }
        self.scratch.pieces = pieces;
        Ok(used)
    }

    fn push_span(&mut self, text: &[u8], start: usize, end: usize) {
        let mut span = Span { start, end, slot: 0, key: Key::NONE };
        if end - start <= KEY_MAX {
            span.key = Key::new(text, start, end - start);
            span.slot = self.table.slot(span.key);
            self.table.prefetch(span.slot);
        }
        self.scratch.spans.push(span);
    }

    /// Finds the next pretokens; false when there are no more to be had.
    fn split_batch(&mut self, text: &str, at: &mut usize, complete: bool, offset: u64) -> Result<bool> {
        let bytes = text.as_bytes();
        self.scratch.spans.clear();
        while self.scratch.spans.len() < BATCH {
            let start = *at;
            if start == bytes.len() {
                return Ok(false);
            }
            let (end, matched, hit_end) = match &self.model.splitter {
                Splitter::Gpt2(scanner) => {
                    let (end, hit_end) = scanner.pretoken(bytes, start);
                    (end, true, hit_end)
                }
                Splitter::Machine(machine) => {
                    let split = machine.next(text, start).map_err(|error| at_offset(error, offset))?;
                    (split.end, split.matched, split.hit_end)
                }
                // See `encode_chain`.
                Splitter::Chain(_) => return Ok(false),
            };
            if hit_end && !complete {
                return Ok(false);
            }
            *at = end;
            if matched {
                self.push_span(bytes, start, end);
            }
        }
        Ok(true)
    }

    fn emit_batch<L: Lane>(&mut self, text: &[u8], offset: u64, out: &mut Vec<L>) -> Result<()> {
        let Some(last) = self.scratch.spans.last() else { return Ok(()) };
        // A pretoken has at most one id per byte; eight more because values are stored whole.
        out.reserve(last.end - self.scratch.spans[0].start + 8);
        let spans = std::mem::take(&mut self.scratch.spans);
        let mut result = Ok(());
        for &Span { start, end, slot, key } in &spans {
            // A pretoken that is too long for a key has one that no way has.
            if let Some(value) = self.table.get(slot, key) {
                self.scratch.hits += 1;
                push_value(value, out);
                continue;
            }
            result = self.miss(&text[start..end], offset + start as u64, out);
            if result.is_err() {
                break;
            }
        }
        self.scratch.spans = spans;
        result
    }

    /// A pretoken that the table does not have: its inert parts, each looked up or merged.
    #[cold]
    #[inline(never)]
    fn miss<L: Lane>(&mut self, piece: &[u8], offset: u64, out: &mut Vec<L>) -> Result<()> {
        if piece.len() <= KEY_MAX {
            return self.part(piece, offset, out);
        }
        if self.model.whole.contains_key(piece) {
            return self.part(piece, offset, out);
        }
        let mut start = 0;
        while start < piece.len() {
            let end = self.model.bridges.part_end(piece, start);
            let part = &piece[start..end];
            if self.model.whole.contains_key(part) {
                // What the cache knows of these bytes is true of them as a pretoken only.
                self.part_of_longer(part, offset + start as u64, out)?;
            } else {
                self.part(part, offset + start as u64, out)?;
            }
            start = end;
        }
        Ok(())
    }

    fn part<L: Lane>(&mut self, part: &[u8], offset: u64, out: &mut Vec<L>) -> Result<()> {
        let short = (part.len() <= KEY_MAX).then(|| {
            let key = Key::new(part, 0, part.len());
            (self.table.slot(key), key)
        });
        if let Some((slot, key)) = short
            && let Some(value) = self.table.get(slot, key)
        {
            self.scratch.hits += 1;
            out.reserve(8);
            push_value(value, out);
            return Ok(());
        }
        if let Some(ids) = self.scratch.long.get(part) {
            self.scratch.hits += 1;
            out.extend(ids.iter().map(|&id| L::from_id(id)));
            return Ok(());
        }
        self.scratch.misses += 1;
        let Scratch { merge, ids, long, .. } = &mut *self.scratch;
        self.model.merge(part, merge, ids);
        self.model.check(ids, offset)?;
        match (short, L::pack(ids)) {
            (Some((slot, key)), Some(value)) => self.table.insert(slot, key, value),
            _ => long.insert(part, ids),
        }
        out.extend(ids.iter().map(|&id| L::from_id(id)));
        Ok(())
    }

    /// A part whose bytes mean something else when they are a pretoken: merged, not remembered.
    fn part_of_longer<L: Lane>(&mut self, part: &[u8], offset: u64, out: &mut Vec<L>) -> Result<()> {
        self.scratch.misses += 1;
        let Scratch { merge: scratch, ids, .. } = &mut *self.scratch;
        ids.clear();
        merge(&self.model.pairs, part, scratch, ids);
        self.model.check(ids, offset)?;
        out.extend(ids.iter().map(|&id| L::from_id(id)));
        Ok(())
    }
}

/// Appends a cached value; at least eight lanes are reserved.
#[inline]
fn push_value<L: Lane>(value: [u64; 2], out: &mut Vec<L>) {
    let len = out.len();
    debug_assert!(out.capacity() - len >= 16 / L::BYTES);
    // SAFETY: the callers reserve eight lanes more than the ids that their pretokens can have, one
    // per byte, so 16 bytes at the end lie inside the allocation; lanes are plain integers, and the
    // count of a value never exceeds the lanes that hold ids.
    unsafe {
        out.as_mut_ptr().add(len).cast::<[u64; 2]>().write_unaligned(value);
        out.set_len(len + L::count(value));
    }
}

fn at_offset(error: Error, base: u64) -> Error {
    match error {
        Error::TooMuchBacktracking { offset } => Error::TooMuchBacktracking { offset: offset + base },
        other => other,
    }
}
