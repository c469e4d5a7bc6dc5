//! Batches under way: pretokens are added to one, and it goes through the stages when it is full.

use std::ops::Range;

use super::keys;
use super::{CARRIED, Encoder, Scratch, UNITS};
use crate::cache::{KEY_MAX, Key, Slots};
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::pretokenize::scan::{BATCH, STARTS_ROOM};
use crate::tier::Kernels;

/// Pretokens on their way: `units` of them, from each start to the next, counted from `base`.
pub(super) struct Batch {
    pub(super) base: usize,
    pub(super) units: usize,
    pub(super) starts: [u32; CARRIED + STARTS_ROOM],
    pub(super) keys: [Key; UNITS],
    pub(super) slots: [u32; UNITS],
    /// Units that are no pretokens but the end of a document, rising (see [`documents`]).
    pub(super) marks: Vec<u32>,
}

impl Batch {
    #[expect(clippy::large_stack_arrays, reason = "twice per worker, and then it is in a box")]
    pub(super) fn new() -> Box<Self> {
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
pub(super) struct Open {
    pub(super) base: usize,
    pub(super) n: usize,
}

impl Open {
    /// Where a unit starts that is added at `at`, counted from the batch's base.
    pub(super) fn start(&mut self, at: usize) -> u32 {
        if self.n == 0 {
            self.base = at;
        }
        (at - self.base) as u32
    }

    /// Makes sure that starts behind `at` can be counted from the base.
    pub(super) fn reach(&mut self, at: usize, offset: u64) -> Result<()> {
        if self.start(at) > i32::MAX as u32 {
            return Err(Error::TooLong { offset: offset + self.base as u64 });
        }
        Ok(())
    }
}

impl Encoder<'_> {
    /// Adds the pretoken `range` to the batch under way, in its inert parts if it is too long for a key;
    /// emits batches as they fill.
    pub(super) fn add<L: Lane>(
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
    pub(super) fn close<L: Lane>(
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
    pub(super) fn advance_to<L: Lane>(
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

    /// Emits the last batch of a text, and what is left in the window.
    pub(super) fn finish<L: Lane>(&mut self, text: &[u8], offset: u64, out: &mut Vec<L>) -> Result<()> {
        let result = self.emit(text, offset, out);
        self.scratch.waiting.units = 0;
        result?;
        self.settle(text, offset, out)
    }

    /// Puts the ids of the waiting batch into the window, and asks for the lines of the one that was filled.
    fn emit<L: Lane>(&mut self, text: &[u8], offset: u64, out: &mut Vec<L>) -> Result<()> {
        let Scratch { filling, waiting, noted, window, .. } = &mut *self.scratch;
        let Batch { units, keys, slots, .. } = &**waiting;
        let (units, table) = (*units, self.table.slots());
        // SAFETY: the slots were made for this table; a window that is not full has room for UNITS; the
        // tier was chosen for this processor.
        let (n_bytes, n_misses) = unsafe {
            let (keys, slots, next) = (&keys[..units], &slots[..units], &filling.slots[..units]);
            (self.model.kernels.probe)(table, keys, slots, next, window.end(), &mut noted[..])
        };
        self.scratch.hits += (units - n_misses) as u64;
        self.note::<L>(text, n_misses);
        self.scratch.window.n_bytes += n_bytes;
        self.scratch.waiting.marks.clear();
        if self.scratch.window.is_full() {
            self.settle(text, offset, out)?;
        }
        Ok(())
    }
}
