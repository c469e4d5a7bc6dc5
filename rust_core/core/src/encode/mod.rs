//! Text to ids: pretokens in batches of a kilobyte, through the merge cache.
//!
//! ```text
//! scan ─► starts ─► keys, lines, prefetch ─► probe ─┬─ hits: 16 bytes each, in order ──┬─► ids
//!                                                   └─ misses: look further, merge ────┘
//! ```
//!
//! * `pretokenize::scan` finds where pretokens start (other patterns: `pretokenize::machine`);
//! * [`keys`] makes a key of each and asks for its cache line;
//! * [`probe`] compares the lines, which have arrived by then, and appends the values of the hits;
//! * [`misses`] finds or merges the rest, all of a batch together, and teaches them to the cache;
//! * [`splice`](Encoder::splice) puts their ids where they belong;
//! * [`documents`] sends many short texts through the stages together.
//!
//! Each stage is a loop over arrays that stay in the processor's first cache, exists once per
//! processor tier (`tier`) and has a portable twin. Nothing here knows which vocabulary it is: class,
//! cut, pair and word tables are made from any (see [`Model`]).

pub(crate) mod documents;
pub(crate) mod keys;
mod long_cache;
mod misses;
pub(crate) mod probe;
pub(crate) mod splitter;
mod wide_cache;
mod words;

use std::ops::Range;

use crate::bpe::inert::Bridges;
use crate::bpe::medium::MEDIUM_MAX;
use crate::bpe::merge::{MergeScratch, merge};
use crate::bpe::pairs::{MISSING, PairTable};
use crate::bpe::short::{ShortPairs, Word};
use crate::cache::{KEY_MAX, Key, Learned, Slots, Table, image};
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::pretokenize::scan::words::Work;
use crate::pretokenize::scan::{BATCH, STARTS_ROOM, Scan, ScanTables};
use crate::pretokenize::steps::{Chain, Piece};
use crate::pretokenize::{Matcher, Pretokenizer as _, Split};
use crate::staged::Stage;
use crate::tier::Kernels;
use crate::vocab::{Merges, Vocabulary};
use long_cache::LongCache;
use misses::Found;
use probe::Miss;
use rustc_hash::FxHashMap;
use splitter::Splitter;
use wide_cache::WideCache;

/// Units that the documents before may leave in a batch when the next one is added to it.
const CARRIED: usize = 256;
/// Units of a batch: a pretoken per byte at most, and what was left in it: one pretoken that is open, or units
/// of documents that are complete.
const UNITS: usize = BATCH + CARRIED;
/// Bytes that the probe may write for them: 14 each, and one store of 16.
const STAGED: usize = UNITS * 14 + 2 + COPY;
/// Bytes copied at a time when ids are put together.
const COPY: usize = 32;
/// Bytes behind the start of a pretoken from which later text cannot change it: itself a character,
/// the next one, and one more (whitespace gives its last character away, see `scan`).
const CERTAIN: usize = 8;

/// What a vocabulary needs to encode; immutable, shared by all threads.
pub(crate) struct Model {
    pub(crate) splitter: Splitter,
    /// What happens to text before it is split.
    pub(crate) stage: Option<Stage>,
    pub(crate) pairs: PairTable,
    short: Option<ShortPairs>,
    bridges: Bridges,
    /// Rank vocabularies, and those that ignore merges: tokens that merging their bytes does not arrive at. A pretoken that is one
    /// of them is that token, because the reference looks a whole pretoken up before it merges; the same
    /// bytes as a part of a longer pretoken are not.
    whole: FxHashMap<Box<[u8]>, u32>,
    token_lens: Vec<u32>,
    pub(crate) kernels: &'static Kernels,
}

impl Model {
    pub(crate) fn new(vocab: &Vocabulary, kernels: &'static Kernels) -> Result<Self> {
        let pairs = PairTable::new(vocab);
        let mut whole = FxHashMap::default();
        if vocab.is_whole_first() && !(*vocab.merges() == Merges::Ranks && pairs.is_canonical()) {
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
        let bridges = Bridges::new(vocab);
        // A part of a pretoken may only be taken for one where the cache says the same of both.
        let whole_tokens = whole.keys().map(AsRef::as_ref);
        let splitter = Splitter::new(vocab, whole.is_empty().then_some(&bridges), whole_tokens)?;
        let stage = Stage::new(vocab)?;
        let short = ShortPairs::new(&pairs);
        Ok(Self { splitter, stage, pairs, short, bridges, whole, token_lens, kernels })
    }

    /// The ids of one pretoken or part of one; symbols of bytes without a token stay above [`MISSING`].
    fn merge(&self, piece: &[u8], scratch: &mut MergeScratch, ids: &mut Vec<u32>) {
        ids.clear();
        if let Some(&id) = self.whole.get(piece) {
            ids.push(id);
        } else if let Some(short) = self.short.as_ref().filter(|_| piece.len() <= MEDIUM_MAX) {
            // SAFETY: the tier was chosen for this processor.
            let merged = unsafe { (self.kernels.medium)(short, piece) };
            ids.extend(merged.symbols[..merged.n].iter().map(|&symbol| short.id(symbol)));
            short.go_on(&self.pairs, ids, scratch);
        } else {
            merge(&self.pairs, piece, scratch, ids);
        }
    }

    /// Whether the inert parts of a pretoken are what they would be as pretokens of their own.
    fn parts_are_pretokens(&self, piece: &[u8]) -> bool {
        let mut start = 0;
        self.whole.is_empty()
            || std::iter::from_fn(|| {
                let part = start..self.bridges.part_end(piece, start);
                start = part.end;
                (!part.is_empty()).then_some(part)
            })
            .all(|part| !self.whole.contains_key(&piece[part]))
    }

    /// Refuses ids that stand for bytes without a token; `offset` is where their text starts.
    fn check(&self, ids: &[u32], offset: u64) -> Result<()> {
        let Some(at) = ids.iter().position(|&id| id >= MISSING) else { return Ok(()) };
        let before: u64 = ids[..at].iter().map(|&id| u64::from(self.token_lens[id as usize])).sum();
        Err(Error::NoToken { path: None, byte: ids[at] as u8, offset: offset + before })
    }

    /// Fills a new table with every token of the vocabulary that a text can contain as a pretoken.
    pub(crate) fn seed<L: Lane>(&self, vocab: &Vocabulary, table: &Table) {
        let tokens = vocab.ordinary().map(|(_, token)| token);
        let tokens: Vec<&[u8]> =
            tokens.filter(|token| token.len() <= KEY_MAX && !token.contains(&0xFF)).collect();
        if vocab.reaches_all() {
            // Nothing is to be merged: each is one id.
            let mut learned = Learned::default();
            let entry = |(id, token): (u32, &[u8])| L::pack(&[id]).map(|value| (Key::new(token), value));
            let is_short = |(_, token): &(u32, &[u8])| token.len() <= KEY_MAX && !token.contains(&0xFF);
            let entries: Vec<_> = vocab.ordinary().filter(is_short).filter_map(entry).collect();
            image::insert_all(table, &entries, &mut learned);
            table.count_seeded(learned);
            return;
        }
        // Two threads, if there may be another: most of it is waiting for memory.
        let (first, second) = tokens.split_at(tokens.len() / 2);
        std::thread::scope(|scope| {
            let other =
                std::thread::Builder::new().spawn_scoped(scope, || self.seed_some::<L>(second, table));
            self.seed_some::<L>(first, table);
            if other.is_err() {
                self.seed_some::<L>(second, table);
            }
        });
    }

    fn seed_some<L: Lane>(&self, tokens: &[&[u8]], table: &Table) {
        let mut entries = Vec::with_capacity(tokens.len());
        let mut learn = |token: &[u8], ids: &[u32]| {
            if ids.iter().all(|&id| id < MISSING)
                && let Some(value) = L::pack(ids)
            {
                entries.push((Key::new(token), value));
            }
        };
        let (mut scratch, mut ids) = (MergeScratch::default(), Vec::new());
        if let Some(short) = &self.short {
            let mut words: Vec<Word> = tokens.iter().map(|token| Word::new(token)).collect();
            // SAFETY: the tier was chosen for this processor; tokens have at least a byte, and fit.
            unsafe { (self.kernels.merge)(short, &mut words) };
            for word in &words {
                ids.clear();
                if let Some(&id) = self.whole.get(word.text()) {
                    ids.push(id);
                } else {
                    ids.extend(word.symbols().iter().map(|&symbol| short.id(symbol)));
                    short.go_on(&self.pairs, &mut ids, &mut scratch);
                }
                learn(word.text(), &ids);
            }
        } else {
            for token in tokens {
                self.merge(token, &mut scratch, &mut ids);
                learn(token, &ids);
            }
        }
        let mut learned = Learned::default();
        image::insert_all(table, &entries, &mut learned);
        table.count_seeded(learned);
    }
}

/// Pretokens on their way: `units` of them, from each start to the next, counted from `base`.
struct Batch {
    base: usize,
    units: usize,
    starts: [u32; CARRIED + STARTS_ROOM],
    keys: [Key; UNITS],
    slots: [u32; UNITS],
    /// Units that are no pretokens but the end of a document, rising (see [`documents`]).
    marks: Vec<u32>,
}

impl Batch {
    #[expect(clippy::large_stack_arrays, reason = "twice per worker, and then it is in a box")]
    fn new() -> Box<Self> {
        let key = Key::default();
        let marks = Vec::new();
        Box::new(Self { base: 0, units: 0, starts: [0; _], keys: [key; _], slots: [0; _], marks })
    }
}

impl Batch {
    /// Makes the keys and slots of `units` pretokens, which stand in `text` from `base` on.
    fn fill(&mut self, text: &[u8], base: usize, units: usize, table: Slots, kernels: &Kernels) {
        (self.base, self.units) = (base, units);
        let Self { starts, keys, slots, marks, .. } = self;
        let (text, starts) = (&text[base..], &starts[..=units]);
        // Keys are read 16 bytes at a time; where the text ends before that, from a copy of its end.
        let whole = |&start: &u32| start as usize + 16 <= text.len();
        let n_inside = starts[..units].iter().rposition(whole).map_or(0, |at| at + 1);
        // SAFETY: behind the first `n_inside` starts 16 bytes can be read; arrays have room for UNITS,
        // which `units` does not exceed; the tier was chosen for this processor.
        unsafe { (kernels.keys)(text.as_ptr(), &starts[..=n_inside], table, keys, slots) };
        if n_inside < units {
            let from = starts[n_inside] as usize;
            let mut end = [0; 32];
            end[..text.len() - from].copy_from_slice(&text[from..]);
            // SAFETY: the remaining starts are less than 16 bytes before the end of the text, so 16 can
            // be read behind each of them in the copy, which stands for the text from `from` on.
            unsafe {
                let base = end.as_ptr().wrapping_sub(from);
                let (keys, slots) = (&mut keys[n_inside..], &mut slots[n_inside..]);
                (kernels.keys)(base, &starts[n_inside..], table, keys, slots);
            }
        }
        // What stands between two documents, if anything, is not looked up.
        for &mark in &*marks {
            keys[mark as usize] = Key::NONE;
        }
    }
}

/// A batch under way: `n` units, from `base` on.
#[derive(Default)]
struct Open {
    base: usize,
    n: usize,
}

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
    misses: Box<[Miss; UNITS]>,
    /// Values of a batch's hits, one after the other.
    staged: Box<[u8; STAGED]>,
    /// Ids of a batch's misses, as bytes, and where those of each miss are.
    spill: Vec<u8>,
    found: Vec<Found>,
    /// Where each miss is looked up, in the cache that its length says.
    asked: Vec<u32>,
    words: Vec<Word>,
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
    #[expect(clippy::large_stack_arrays, reason = "once per worker, and then it is in a box")]
    fn default() -> Self {
        Self {
            scan: Scan::default(),
            work: Work::default(),
            pieces: Vec::new(),
            filling: Batch::new(),
            waiting: Batch::new(),
            misses: Box::new([Miss::default(); _]),
            staged: Box::new([0; _]),
            spill: Vec::new(),
            found: Vec::new(),
            asked: Vec::new(),
            words: Vec::new(),
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
        let Scratch { filling, waiting, .. } = &mut *self.scratch;
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

    /// Adds the pretoken `range` to the batch under way, in its inert parts if it is too long for a key;
    /// emits batches as they fill.
    fn add<L: Lane>(
        &mut self,
        text: &[u8],
        open: &mut Open,
        range: Range<usize>,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<()> {
        if range.len() > i32::MAX as usize {
            return Err(Error::TooLong { offset: offset + range.start as u64 });
        }
        let cuts = range.len() > KEY_MAX && self.model.parts_are_pretokens(&text[range.clone()]);
        let mut start = range.start;
        while start < range.end {
            if open.n == BATCH || start - open.base > i32::MAX as usize {
                self.close(text, open, start, offset, out)?;
            }
            self.scratch.filling.starts[open.n] = open.start(start);
            open.n += 1;
            start = if cuts { self.model.bridges.part_end(&text[..range.end], start) } else { range.end };
        }
        Ok(())
    }

    /// Emits the batch under way, whose last pretoken ends at `end`.
    fn close<L: Lane>(
        &mut self,
        text: &[u8],
        open: &mut Open,
        end: usize,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<()> {
        let n = std::mem::take(&mut open.n);
        if n == 0 {
            return Ok(());
        }
        self.scratch.filling.starts[n] = (end - open.base) as u32;
        self.advance(text, open.base, n, offset, out)
    }

    /// Emits the first `units` of the batch under way; one, the pretoken that is open, stays.
    fn advance_to<L: Lane>(
        &mut self,
        text: &[u8],
        open: &mut Open,
        units: usize,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<()> {
        if units > 0 {
            let used = self.scratch.filling.starts[units] as usize;
            self.advance(text, open.base, units, offset, out)?;
            open.base += used;
            (self.scratch.filling.starts[0], open.n) = (0, 1);
        }
        Ok(())
    }

    /// Takes the batch that was filled, and emits the one before it; `offset` is where `text` starts.
    fn advance<L: Lane>(
        &mut self,
        text: &[u8],
        base: usize,
        units: usize,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<()> {
        let table = self.table.slots();
        self.scratch.filling.fill(text, base, units, table, self.model.kernels);
        // What the probe of the waiting batch will not ask for.
        let asked = self.scratch.waiting.units.min(units);
        keys::prefetch(table, &self.scratch.filling.slots[asked..units]);
        let result = self.emit(text, offset, out);
        let Scratch { filling, waiting, .. } = &mut *self.scratch;
        std::mem::swap(filling, waiting);
        result
    }

    /// Emits the last batch of a text.
    fn finish<L: Lane>(&mut self, text: &[u8], offset: u64, out: &mut Vec<L>) -> Result<()> {
        let result = self.emit(text, offset, out);
        self.scratch.waiting.units = 0;
        result
    }

    /// Appends the ids of the waiting batch, and asks for the lines of the one that was filled.
    fn emit<L: Lane>(&mut self, text: &[u8], offset: u64, out: &mut Vec<L>) -> Result<()> {
        let Scratch { filling, waiting, misses, staged, .. } = &mut *self.scratch;
        let Batch { base, units, keys, slots, .. } = &**waiting;
        let (base, units, table) = (*base, *units, self.table.slots());
        // SAFETY: the slots were made for this table; `staged` has room for UNITS; the tier was chosen
        // for this processor.
        let (n_bytes, n_misses) = unsafe {
            let (keys, slots, next) = (&keys[..units], &slots[..units], &filling.slots[..units]);
            (self.model.kernels.probe)(table, keys, slots, next, staged.as_mut_ptr(), &mut misses[..])
        };
        self.scratch.hits += (units - n_misses) as u64;
        if n_misses > 0 {
            self.resolve::<L>(&text[base..], n_misses, offset + base as u64)?;
        }
        self.splice(n_bytes, n_misses, out);
        self.scratch.waiting.marks.clear();
        Ok(())
    }

    /// Appends the ids of the hits to `out`, and those of the misses in their places.
    fn splice<L: Lane>(&mut self, n_bytes: usize, n_misses: usize, out: &mut Vec<L>) {
        let Scratch { waiting, staged, misses, found, spill, between, ends, .. } = &mut *self.scratch;
        let mut marks = waiting.marks.iter();
        let mut mark = marks.next();
        let n_before = out.len();
        // Pieces are short, so they are copied in steps of COPY bytes, which may reach behind their end.
        spill.extend_from_slice(&[0; COPY]);
        out.reserve((n_bytes + spill.len() + COPY) / L::BYTES);
        // SAFETY: room for all bytes of the hits and of the misses was reserved, and for a step more;
        // `staged` and `spill` hold what `misses` and `found` say, and a step more; both are whole ids,
        // of which any bytes are valid.
        unsafe {
            let first = out.as_mut_ptr().add(out.len()).cast::<u8>();
            let mut end = first;
            let mut append = |from: *const u8, n: usize| {
                let mut at = 0;
                while at < n {
                    end.add(at).cast::<[u8; COPY]>().write(from.add(at).cast::<[u8; COPY]>().read());
                    at += COPY;
                }
                end = end.add(n);
            };
            let (mut done, mut n_spilled) = (0, 0);
            for (miss, found) in misses[..n_misses].iter().zip(found.iter()) {
                let at = miss.at_bytes as usize;
                append(staged.as_ptr().add(done), at - done);
                append(spill.as_ptr().add(found.at_bytes), found.n_bytes);
                done = at;
                n_spilled += found.n_bytes;
                if mark == Some(&miss.unit) {
                    ends.push((n_before + (at + n_spilled) / L::BYTES - between.n_behind()) as u64);
                    mark = marks.next();
                }
            }
            append(staged.as_ptr().add(done), n_bytes - done);
            let n_ids = end.offset_from(first) as usize / L::BYTES;
            out.set_len(out.len() + n_ids);
        }
        spill.clear();
    }
}

impl Open {
    /// Where a unit starts that is added at `at`, counted from the batch's base.
    fn start(&mut self, at: usize) -> u32 {
        if self.n == 0 {
            self.base = at;
        }
        (at - self.base) as u32
    }

    /// Makes sure that starts behind `at` can be counted from the base.
    fn reach(&mut self, at: usize, offset: u64) -> Result<()> {
        if self.start(at) > i32::MAX as u32 {
            return Err(Error::TooLong { offset: offset + self.base as u64 });
        }
        Ok(())
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
