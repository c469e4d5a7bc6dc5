//! What the probe did not find: looked up elsewhere, else merged, and taught to the cache.
//!
//! | pretoken | looked up | else |
//! |---|---|---|
//! | up to 15 bytes | second line of its key; if it may have many ids, the wide cache | merged in registers, all of a batch together (`bpe::short`) |
//! | up to 31 | the worker's wide cache | cut at inert borders; each part looked up or merged |
//! | longer | the worker's long cache | the same |
//!
//! Ids are collected as bytes in `spill`, in the order in which they are found; `found` has the place
//! of each miss's ids there.

use std::ops::Range;

use super::long_cache::LongCache;
use super::wide_cache::{WIDE_MAX, WideCache, wide_key};
use super::{Batch, Encoder, Model, Scratch};
use crate::bpe::merge::merge;
use crate::bpe::short::Word;
use crate::cache::{KEY_MAX, Key};
use crate::error::Result;
use crate::lane::Lane;

/// Where the ids of a miss are in `spill`.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) at_bytes: usize,
    pub(super) n_bytes: usize,
}

impl Found {
    /// Marks a miss whose word is being merged.
    const MERGING: Self = Self { at_bytes: usize::MAX, n_bytes: 0 };
}

impl Encoder<'_> {
    /// Finds the ids of the waiting batch's misses; `text` starts at its base, `offset` says where that
    /// is, for errors.
    pub(super) fn resolve<L: Lane>(&mut self, text: &[u8], n_misses: usize, offset: u64) -> Result<()> {
        self.ask::<L>(text, n_misses);
        self.scratch.found.clear();
        self.scratch.words.clear();
        let Model { short, whole, .. } = self.model;
        let mut n_marks = 0;
        for number in 0..n_misses {
            let Scratch { waiting, misses, asked, spill, wide, words, found, between, .. } =
                &mut *self.scratch;
            let Batch { starts, keys, slots, marks, .. } = &**waiting;
            let unit = misses[number].unit as usize;
            let (start, end) = (starts[unit] as usize, starts[unit + 1] as usize);
            let from = spill.len();
            if marks.get(n_marks) == Some(&misses[number].unit) {
                n_marks += 1;
                push_ids::<L>(spill, between.ids());
                found.push(Found { at_bytes: from, n_bytes: spill.len() - from });
                continue;
            }
            let asked = asked[number];
            if end - start > KEY_MAX {
                self.long::<L>(text, start..end, asked_slot(asked), offset)?;
            } else if let Some(value) = self.table.get_beside(slots[unit], keys[unit]) {
                push_value(spill, value);
                self.scratch.hits += 1;
            } else if end - start > L::VALUE_IDS
                && wide.get(asked as usize, &wide_key(text, start, end), spill)
            {
                self.scratch.hits += 1;
            } else if short.is_some() && (whole.is_empty() || !whole.contains_key(&text[start..end])) {
                words.push(Word::padded(keys[unit].bytes(), (end - start) as u32));
                found.push(Found::MERGING);
                continue;
            } else {
                self.learn::<L>(text, start..end, offset)?;
            }
            let n_bytes = self.scratch.spill.len() - from;
            self.scratch.found.push(Found { at_bytes: from, n_bytes });
        }
        self.merge_words::<L>(n_misses);
        Ok(())
    }

    /// Asks the processor for what each miss will be looked up in, so that they arrive together, and
    /// notes where that is.
    fn ask<L: Lane>(&mut self, text: &[u8], n_misses: usize) {
        let Scratch { waiting, misses, asked, wide, long, .. } = &mut *self.scratch;
        let Batch { starts, slots, .. } = &**waiting;
        asked.clear();
        for miss in &misses[..n_misses] {
            let unit = miss.unit as usize;
            let (start, end) = (starts[unit] as usize, starts[unit + 1] as usize);
            let len = end - start;
            if len <= KEY_MAX {
                self.table.prefetch_beside(slots[unit]);
            }
            let mut slot = 0;
            if len > L::VALUE_IDS && len <= WIDE_MAX {
                slot = WideCache::slot(&wide_key(text, start, end));
                wide.prefetch(slot);
            } else if len > WIDE_MAX {
                slot = LongCache::slot(&text[start..end]).unwrap_or(NO_SLOT);
                long.prefetch(slot);
            }
            asked.push(slot as u32);
        }
    }

    /// Merges the words that `resolve` collected, and fills in where their ids are.
    fn merge_words<L: Lane>(&mut self, n_misses: usize) {
        let Scratch {
            waiting,
            misses,
            asked,
            spill,
            found,
            words,
            wide,
            ids,
            misses_seen,
            learned,
            merge,
            ..
        } = &mut *self.scratch;
        let Some(short) = self.model.short.as_ref().filter(|_| !words.is_empty()) else { return };
        // SAFETY: the tier was chosen for this processor; keys of misses have 1 to 15 bytes of text.
        unsafe { (self.model.kernels.merge)(short, words) };
        *misses_seen += words.len() as u64;
        let mut merged = words.iter();
        for number in 0..n_misses {
            if found[number].at_bytes != usize::MAX {
                continue;
            }
            let Some(word) = merged.next() else { break };
            let from = spill.len();
            ids.clear();
            ids.extend(word.symbols().iter().map(|&symbol| short.id(symbol)));
            short.go_on(&self.model.pairs, ids, merge);
            let unit = misses[number].unit as usize;
            if let Some(value) = L::pack(ids) {
                self.table.insert(waiting.slots[unit], waiting.keys[unit], value, learned);
                push_value(spill, value);
            } else {
                push_ids::<L>(spill, ids);
                let key = wide_key(word.text(), 0, word.text().len());
                wide.insert(asked[number] as usize, &key, &spill[from..]);
            }
            found[number] = Found { at_bytes: from, n_bytes: spill.len() - from };
        }
    }

    /// A pretoken that is too long for a key; `slot` is where its cache may have it.
    #[inline(never)]
    fn long<L: Lane>(
        &mut self,
        text: &[u8],
        range: Range<usize>,
        slot: Option<usize>,
        offset: u64,
    ) -> Result<()> {
        let piece = &text[range.clone()];
        let key = (piece.len() <= WIDE_MAX).then(|| wide_key(text, range.start, range.end));
        let Scratch { wide, long, spill, .. } = &mut *self.scratch;
        let from = spill.len();
        let known = match (key, slot) {
            (Some(key), Some(slot)) => wide.get(slot, &key, spill),
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
                // What has too many ids is merged again whenever it comes: up to 31 bytes, quickly.
                wide.insert(slot, &key, &spill[from..]);
            }
            (None, Some(slot)) => long.insert(slot, piece, &spill[from..]),
            (_, None) => {}
        }
        Ok(())
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

/// Marks a pretoken that is too long to be remembered.
const NO_SLOT: usize = u32::MAX as usize;

fn asked_slot(slot: u32) -> Option<usize> {
    (slot as usize != NO_SLOT).then_some(slot as usize)
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
