//! What a vocabulary needs to encode.

use rustc_hash::FxHashMap;

use super::splitter::Splitter;
use crate::bpe::inert::Bridges;
use crate::bpe::medium::MEDIUM_MAX;
use crate::bpe::merge::{MergeScratch, merge};
use crate::bpe::pairs::{MISSING, PairTable};
use crate::bpe::short::{ShortPairs, Word};
use crate::cache::{KEY_MAX, Key, Learned, Table, image};
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::staged::Stage;
use crate::tier::Kernels;
use crate::vocab::{Merges, Vocabulary};

/// What a vocabulary needs to encode; immutable, shared by all threads.
pub(crate) struct Model {
    pub(crate) splitter: Splitter,
    /// What happens to text before it is split.
    pub(crate) stage: Option<Stage>,
    pub(crate) pairs: PairTable,
    pub(super) short: Option<ShortPairs>,
    pub(super) bridges: Bridges,
    /// Rank vocabularies, and those that ignore merges: tokens that merging their bytes does not arrive at. A pretoken that is one
    /// of them is that token, because the reference looks a whole pretoken up before it merges; the same
    /// bytes as a part of a longer pretoken are not.
    pub(super) whole: FxHashMap<Box<[u8]>, u32>,
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
    pub(super) fn merge(&self, piece: &[u8], scratch: &mut MergeScratch, ids: &mut Vec<u32>) {
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
    pub(super) fn parts_are_pretokens(&self, piece: &[u8]) -> bool {
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
    pub(super) fn check(&self, ids: &[u32], offset: u64) -> Result<()> {
        let Some(at) = ids.iter().position(|&id| id >= MISSING) else { return Ok(()) };
        let before: u64 = ids[..at].iter().map(|&id| u64::from(self.token_lens[id as usize])).sum();
        Err(Error::NoToken { path: None, byte: ids[at] as u8, offset: offset + before })
    }

    /// Fills a new table with every token of the vocabulary that a text can contain as a pretoken.
    pub(crate) fn seed<L: Lane>(&self, vocab: &Vocabulary, table: &Table) {
        let is_short = |(_, token): &(u32, &[u8])| token.len() <= KEY_MAX && !token.contains(&0xFF);
        let tokens = vocab.ordinary().filter(is_short);
        if vocab.reaches_all() {
            // Nothing is to be merged: each is one id.
            let entry = |(id, token): (u32, &[u8])| L::pack(&[id]).map(|value| (Key::new(token), value));
            let entries: Vec<_> = tokens.filter_map(entry).collect();
            let mut learned = Learned::default();
            image::insert_all(table, &entries, &mut learned);
            table.count_seeded(learned);
            return;
        }
        let tokens: Vec<&[u8]> = tokens.map(|(_, token)| token).collect();
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
