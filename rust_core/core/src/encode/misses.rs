//! What the probe did not find: looked up elsewhere, else merged, and taught to the cache.
//!
//! | pretoken | looked up | else |
//! |---|---|---|
//! | up to 15 bytes | second line of its key; if it may have many ids, the wide cache | merged in registers, all of a window together (`bpe::short`) |
//! | up to 31 | the worker's wide cache, or if it has many ids its long one | cut at inert borders; each part looked up or merged |
//! | longer | the worker's long cache | the same |
//!
//! Ids are collected, packed (see `lane`), in `spill`, in the order in which they are found; `found` has the place
//! of each miss's ids there.

use std::ops::Range;

use super::long_cache::LongCache;
use super::wide_cache::{WIDE_MAX, wide_key};
use super::window::NO_SLOT;
use super::{Encoder, Model, Scratch};
use crate::bpe::merge::merge;
use crate::bpe::short::Word;
use crate::cache::{KEY_MAX, Key};
use crate::error::Result;
use crate::lane::{Lane, unpack};

/// Parts of a long pretoken whose lines are asked for together.
const PARTS_ASKED: usize = 16;

/// Where the ids of a miss are in `spill`.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) at_bytes: usize,
    pub(super) n_bytes: usize,
}

impl Found {
    const MERGING: usize = usize::MAX;

    /// Stands for a miss until its word, the `number`-th of the window, is merged.
    fn merging(number: usize) -> Self {
        Self { at_bytes: Self::MERGING, n_bytes: number }
    }

    /// The number of the word that is waited for.
    fn word(self) -> Option<usize> {
        (self.at_bytes == Self::MERGING).then_some(self.n_bytes)
    }
}

/// Words of a window by their lines: where one was seen, it may come again.
struct Recent([u16; Self::N]);

impl Recent {
    const N: usize = 256;

    fn new() -> Self {
        Self([u16::MAX; _])
    }

    /// The number of the word that was there last, or what is none.
    fn replace(&mut self, slot: u32, number: usize) -> usize {
        // Lines are 64 bytes.
        usize::from(std::mem::replace(&mut self.0[(slot >> 6) as usize % Self::N], number as u16))
    }
}

impl Encoder<'_> {
    /// Finds the ids of the window's misses; `offset` is where `text` starts, for errors.
    pub(super) fn resolve<L: Lane>(&mut self, text: &[u8], offset: u64) -> Result<()> {
        let Scratch { spill, found, words, sources, .. } = &mut *self.scratch;
        spill.clear();
        found.clear();
        words.clear();
        sources.clear();
        let Model { short, whole, .. } = self.model;
        let mut recent = Recent::new();
        for number in 0..self.scratch.window.misses.len() {
            let Scratch { window, spill, wide, words, sources, found, between, .. } = &mut *self.scratch;
            let miss = window.misses[number];
            let (start, end, from) = (miss.start, miss.end, spill.len());
            if miss.is_mark {
                push_ids::<L>(spill, between.ids());
            } else if end - start > KEY_MAX {
                self.long::<L>(text, start..end, miss.asked, offset)?;
            } else if let Some(value) = self.table.get_beside(miss.slot, miss.key) {
                push_value(spill, value);
                self.scratch.hits += 1;
            } else if end - start > L::VALUE_IDS
                && wide.get(miss.asked as usize, &wide_key(text, start, end), spill)
            {
                self.scratch.hits += 1;
            } else if short.is_some() && (whole.is_empty() || !whole.contains_key(&text[start..end])) {
                let word = recent.replace(miss.slot, words.len());
                if sources.get(word).is_some_and(|&other| window.misses[other as usize].key == miss.key) {
                    recent.replace(miss.slot, word);
                    found.push(Found::merging(word));
                    self.scratch.hits += 1;
                } else {
                    found.push(Found::merging(words.len()));
                    words.push(Word::padded(miss.key.bytes(), (end - start) as u32));
                    sources.push(number as u32);
                }
                continue;
            } else {
                self.learn::<L>(text, start..end, offset)?;
            }
            let n_bytes = self.scratch.spill.len() - from;
            self.scratch.found.push(Found { at_bytes: from, n_bytes });
        }
        self.merge_words::<L>();
        Ok(())
    }

    /// Merges the words that `resolve` collected, and fills in where their ids are.
    fn merge_words<L: Lane>(&mut self) {
        let Scratch { window, spill, found, words, sources, wide, ids, misses_seen, learned, merge, .. } =
            &mut *self.scratch;
        let Some(short) = self.model.short.as_ref().filter(|_| !words.is_empty()) else { return };
        // SAFETY: the tier was chosen for this processor; keys of misses have 1 to 15 bytes of text.
        unsafe { (self.model.kernels.merge)(short, words) };
        *misses_seen += words.len() as u64;
        for (word, &source) in words.iter().zip(&*sources) {
            let from = spill.len();
            ids.clear();
            ids.extend(word.symbols().iter().map(|&symbol| short.id(symbol)));
            short.go_on(&self.model.pairs, ids, merge);
            let miss = &window.misses[source as usize];
            if let Some(value) = L::pack(ids) {
                self.table.insert(miss.slot, miss.key, value, learned);
                push_value(spill, value);
            } else {
                push_ids::<L>(spill, ids);
                let key = wide_key(word.text(), 0, word.text().len());
                wide.insert(miss.asked as usize, &key, &spill[from..]);
            }
            found[source as usize] = Found { at_bytes: from, n_bytes: spill.len() - from };
        }
        // Those that came again, behind the first of their kind.
        for number in 0..found.len() {
            if let Some(word) = found[number].word() {
                found[number] = found[sources[word] as usize];
            }
        }
    }

    /// A pretoken that is too long for a key; `asked` is where its cache may have it.
    #[inline(never)]
    fn long<L: Lane>(&mut self, text: &[u8], range: Range<usize>, asked: u32, offset: u64) -> Result<()> {
        let slot = (asked != NO_SLOT).then_some(asked as usize);
        let piece = &text[range.clone()];
        let key = (piece.len() <= WIDE_MAX).then(|| wide_key(text, range.start, range.end));
        let Scratch { wide, long, spill, .. } = &mut *self.scratch;
        let from = spill.len();
        let known = match (key, slot) {
            (Some(key), Some(slot)) => {
                wide.get(slot, &key, spill)
                    || LongCache::slot(piece).is_some_and(|slot| long.get(slot, piece, spill))
            }
            (None, Some(slot)) => long.get(slot, piece, spill),
            (_, None) => false,
        };
        if known {
            self.scratch.hits += 1;
            return Ok(());
        }
        if self.model.whole.contains_key(piece) {
            self.learn::<L>(text, range.clone(), offset)?;
        } else {
            self.ask_for_parts(piece);
            let mut start = 0;
            while start < piece.len() {
                let end = self.model.bridges.part_end(piece, start);
                self.part::<L>(text, range.start + start..range.start + end, offset)?;
                start = end;
            }
        }
        let Scratch { wide, long, spill, .. } = &mut *self.scratch;
        match (key, slot) {
            (Some(key), Some(slot)) => {
                if !wide.insert(slot, &key, &spill[from..])
                    && let Some(slot) = LongCache::slot(piece)
                {
                    long.insert(slot, piece, &spill[from..]);
                }
            }
            (None, Some(slot)) => long.insert(slot, piece, &spill[from..]),
            (_, None) => {}
        }
        Ok(())
    }

    /// Asks the processor for the lines of the first parts, so that they arrive together.
    fn ask_for_parts(&self, piece: &[u8]) {
        let mut start = 0;
        for _ in 0..PARTS_ASKED {
            let end = self.model.bridges.part_end(piece, start);
            if end - start <= KEY_MAX {
                self.table.prefetch(self.table.slot(Key::new(&piece[start..end])));
            }
            if end == piece.len() {
                return;
            }
            start = end;
        }
    }

    /// A part of a longer pretoken, between two inert borders.
    fn part<L: Lane>(&mut self, text: &[u8], range: Range<usize>, offset: u64) -> Result<()> {
        let part = &text[range.clone()];
        if self.model.whole.contains_key(part) {
            // What the cache knows of these bytes is true of them as a pretoken only.
            let Scratch { merge: scratch, ids, spill, misses_seen, .. } = &mut *self.scratch;
            ids.clear();
            merge(&self.model.pairs, part, scratch, ids);
            *misses_seen += 1;
            self.model.check(ids, offset + range.start as u64)?;
            push_ids::<L>(spill, ids);
            return Ok(());
        }
        if part.len() <= KEY_MAX {
            let key = Key::new(part);
            if let Some(value) = self.table.get(self.table.slot(key), key) {
                self.scratch.hits += 1;
                push_value(&mut self.scratch.spill, value);
                return Ok(());
            }
        }
        self.learn::<L>(text, range, offset)
    }

    /// Merges a pretoken or part of one and remembers it, if it is short.
    fn learn<L: Lane>(&mut self, text: &[u8], range: Range<usize>, offset: u64) -> Result<()> {
        let Scratch { merge, ids, spill, misses_seen, learned, .. } = &mut *self.scratch;
        *misses_seen += 1;
        let piece = &text[range.clone()];
        self.model.merge(piece, merge, ids);
        self.model.check(ids, offset + range.start as u64)?;
        push_ids::<L>(spill, ids);
        if piece.len() <= KEY_MAX
            && let Some(value) = L::pack(ids)
        {
            let key = Key::new(piece);
            self.table.insert(self.table.slot(key), key, value, learned);
        }
        Ok(())
    }
}

/// Appends the ids of a value.
#[inline]
fn push_value(spill: &mut Vec<u8>, value: [u64; 2]) {
    let (packed, n_bytes) = unpack(value);
    let from = spill.len();
    spill.extend_from_slice(&packed);
    spill.truncate(from + n_bytes);
}

#[inline]
fn push_ids<L: Lane>(spill: &mut Vec<u8>, ids: &[u32]) {
    for &id in ids {
        debug_assert!(u64::from(id) < 1 << (8 * L::PACKED_BYTES));
        spill.extend_from_slice(&id.to_le_bytes()[..L::PACKED_BYTES]);
    }
}
