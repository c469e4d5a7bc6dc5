//! What the probe did not find: looked up elsewhere, else merged, and taught to the cache.
//!
//! | pretoken | looked up | else |
//! |---|---|---|
//! | up to 15 bytes | second line of its key; the worker's long cache | merged in registers, all of a batch together (`bpe::short`) |
//! | longer | the worker's long cache | cut at inert borders; each part looked up or merged |
//!
//! Ids are collected as bytes in `spill`, in the order in which they are found; `found` has the place
//! of each miss's ids there.

use super::long_cache::LongCache;
use super::{Batch, Encoder, Scratch};
use crate::bpe::merge::merge;
use crate::bpe::short::Word;
use crate::cache::{KEY_MAX, Key};
use crate::error::Result;
use crate::lane::Lane;

/// Where the ids of a miss are in `spill`.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) at_bytes: u32,
    pub(super) n_bytes: u32,
}

impl Found {
    /// Marks a miss whose word is being merged.
    const MERGING: Self = Self { at_bytes: u32::MAX, n_bytes: 0 };
}

impl Encoder<'_> {
    /// Finds the ids of the waiting batch's misses; `text` starts at its base, `offset` says where that
    /// is, for errors.
    pub(super) fn resolve<L: Lane>(&mut self, text: &[u8], n_misses: usize, offset: u64) -> Result<()> {
        self.ask(text, n_misses);
        self.scratch.found.clear();
        self.scratch.words.clear();
        let words_merge = self.model.short.is_some() && self.model.whole.is_empty();
        for number in 0..n_misses {
            let Scratch { waiting, misses, spill, long, words, .. } = &mut *self.scratch;
            let Batch { starts, keys, slots, .. } = &**waiting;
            let unit = misses[number].unit as usize;
            let (start, end) = (starts[unit] as usize, starts[unit + 1] as usize);
            let piece = &text[start..end];
            let from = spill.len();
            let mut merging = false;
            if piece.len() > KEY_MAX {
                self.long::<L>(piece, offset + start as u64)?;
            } else if let Some(value) = self.table.get_beside(slots[unit], keys[unit]) {
                push_value(spill, value);
                self.scratch.hits += 1;
            } else if piece.len() > L::VALUE_IDS
                && LongCache::slot(piece).is_some_and(|slot| long.get(slot, piece, spill))
            {
                self.scratch.hits += 1;
            } else if words_merge {
                words.push(Word::padded(keys[unit].bytes(), piece.len() as u32));
                merging = true;
            } else {
                self.learn::<L>(piece, offset + start as u64)?;
            }
            let (at_bytes, now) = (from as u32, self.scratch.spill.len() as u32);
            let found = Found { at_bytes, n_bytes: now - at_bytes };
            self.scratch.found.push(if merging { Found::MERGING } else { found });
        }
        self.merge_words::<L>(n_misses);
        Ok(())
    }

    /// Asks the processor for what each miss will be looked up in, so that they arrive together.
    fn ask(&self, text: &[u8], n_misses: usize) {
        let Scratch { waiting, misses, long, .. } = &*self.scratch;
        let Batch { starts, slots, .. } = &**waiting;
        for miss in &misses[..n_misses] {
            let unit = miss.unit as usize;
            let piece = &text[starts[unit] as usize..starts[unit + 1] as usize];
            if piece.len() <= KEY_MAX {
                self.table.prefetch_beside(slots[unit]);
            } else if let Some(slot) = LongCache::slot(piece) {
                long.prefetch(slot);
            }
        }
    }

    /// Merges the words that `resolve` collected, and fills in where their ids are.
    fn merge_words<L: Lane>(&mut self, n_misses: usize) {
        let Scratch { waiting, misses, spill, found, words, long, ids, misses_seen, .. } = &mut *self.scratch;
        let Some(short) = self.model.short.as_ref().filter(|_| !words.is_empty()) else { return };
        // SAFETY: the tier was chosen for this processor; keys of misses have 1 to 15 bytes of text.
        unsafe { (self.model.kernels.merge)(short, words) };
        *misses_seen += words.len() as u64;
        let mut merged = words.iter();
        for (miss, found) in misses[..n_misses].iter().zip(found) {
            if found.at_bytes != u32::MAX {
                continue;
            }
            let Some(word) = merged.next() else { break };
            ids.clear();
            ids.extend(word.symbols().iter().map(|&symbol| short.id(symbol)));
            found.at_bytes = spill.len() as u32;
            if let Some(value) = L::pack(ids) {
                self.table.insert(waiting.slots[miss.unit as usize], Key::new(word.text()), value);
                push_value(spill, value);
            } else {
                let from = spill.len();
                push_ids::<L>(spill, ids);
                if let Some(slot) = LongCache::slot(word.text()) {
                    long.insert(slot, word.text(), &spill[from..]);
                }
            }
            found.n_bytes = spill.len() as u32 - found.at_bytes;
        }
    }

    /// A pretoken that is too long for a key.
    #[inline(never)]
    fn long<L: Lane>(&mut self, piece: &[u8], offset: u64) -> Result<()> {
        let slot = LongCache::slot(piece);
        let Scratch { long, spill, .. } = &mut *self.scratch;
        if slot.is_some_and(|slot| long.get(slot, piece, spill)) {
            self.scratch.hits += 1;
            return Ok(());
        }
        let from = spill.len();
        if self.model.whole.contains_key(piece) {
            self.learn::<L>(piece, offset)?;
        } else {
            let mut start = 0;
            while start < piece.len() {
                let end = self.model.bridges.part_end(piece, start);
                self.part::<L>(&piece[start..end], offset + start as u64)?;
                start = end;
            }
        }
        if let Some(slot) = slot {
            let Scratch { long, spill, .. } = &mut *self.scratch;
            long.insert(slot, piece, &spill[from..]);
        }
        Ok(())
    }

    /// A part of a longer pretoken, between two inert borders.
    fn part<L: Lane>(&mut self, part: &[u8], offset: u64) -> Result<()> {
        if self.model.whole.contains_key(part) {
            // What the cache knows of these bytes is true of them as a pretoken only.
            let Scratch { merge: scratch, ids, spill, misses_seen, .. } = &mut *self.scratch;
            ids.clear();
            merge(&self.model.pairs, part, scratch, ids);
            *misses_seen += 1;
            self.model.check(ids, offset)?;
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
        self.learn::<L>(part, offset)
    }

    /// Merges a pretoken or part of one and remembers it.
    fn learn<L: Lane>(&mut self, piece: &[u8], offset: u64) -> Result<()> {
        let Scratch { merge, ids, spill, long, misses_seen, .. } = &mut *self.scratch;
        *misses_seen += 1;
        self.model.merge(piece, merge, ids);
        self.model.check(ids, offset)?;
        let from = spill.len();
        push_ids::<L>(spill, ids);
        if piece.len() <= KEY_MAX
            && let Some(value) = L::pack(ids)
        {
            let key = Key::new(piece);
            self.table.insert(self.table.slot(key), key, value);
        } else if let Some(slot) = LongCache::slot(piece) {
            long.insert(slot, piece, &spill[from..]);
        }
        Ok(())
    }
}

/// Appends the ids of a value.
#[inline]
fn push_value(spill: &mut Vec<u8>, value: [u64; 2]) {
    let n_bytes = (value[1] >> 48) as usize;
    let from = spill.len();
    spill.extend_from_slice((u128::from(value[0]) | u128::from(value[1]) << 64).to_le_bytes().as_slice());
    spill.truncate(from + n_bytes);
}

#[inline]
fn push_ids<L: Lane>(spill: &mut Vec<u8>, ids: &[u32]) {
    for &id in ids {
        spill.extend_from_slice(crate::lane::as_bytes(&[L::from_id(id)]));
    }
}
