//! Ids of several batches on their way to the output, packed, and what is missing between them.
//!
//! ```text
//! staged   | ids of hits ...... | ids of hits .. | ids of hits ......... |
//! misses                        ↑ a              ↑ b                     ↑ c, at their places
//! spill    | ids of b | ids of a | ids of c |    in the order in which they are found
//! ```
//!
//! A batch of a kilobyte misses a handful of pretokens, each of which needs memory that is far away. So they
//! wait for those of some batches more: what they will be looked up in is asked for when they are noted and has
//! arrived when they are resolved, words are merged four side by side without idle lanes, and the cost of
//! starting all that is shared. Longer windows would merge more words twice, because a word is only
//! known once its window is settled (within the window `misses` finds it again).

use super::long_cache::LongCache;
use super::wide_cache::{WIDE_MAX, WideCache, wide_key};
use super::{Batch, Encoder, Scratch, UNITS, widen};
use crate::cache::{KEY_MAX, Key};
use crate::error::Result;
use crate::lane::Lane;

/// A window is full when it has so many misses, or bytes; then it is settled.
const MISSES_FULL: usize = 32;
const BYTES_FULL: usize = 8192;
/// Bytes that may be staged: in a window that is not full the probe writes up to 15 for each unit of
/// one batch more, and one store of 16; reading goes in steps.
const STAGED: usize = BYTES_FULL + UNITS * 15 + 1 + STEP;
/// Bytes copied at a time when ids are put together, and how far behind them may be read and written.
const STEP: usize = widen::REACH;

/// A pretoken whose ids are not known yet: `text[start..end]`.
#[derive(Clone, Copy)]
pub(super) struct Missed {
    pub(super) key: Key,
    /// Its line in the table.
    pub(super) slot: u32,
    /// Where its worker's caches may have it, as its length says (see `misses`).
    pub(super) asked: u32,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Bytes of hits before it.
    at_bytes: usize,
    /// It is no pretoken but the end of a document (see `documents`).
    pub(super) is_mark: bool,
}

/// Marks a pretoken that is too long to be remembered.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// What is staged, and what is missing.
pub(super) struct Window {
    staged: Box<[u8; STAGED]>,
    pub(super) n_bytes: usize,
    pub(super) misses: Vec<Missed>,
}

impl Default for Window {
    #[expect(clippy::large_stack_arrays, reason = "once per worker, and then it is in a box")]
    fn default() -> Self {
        Self { staged: Box::new([0; _]), n_bytes: 0, misses: Vec::new() }
    }
}

impl Window {
    pub(super) fn clear(&mut self) {
        self.n_bytes = 0;
        self.misses.clear();
    }

    pub(super) fn is_full(&self) -> bool {
        self.n_bytes >= BYTES_FULL || self.misses.len() >= MISSES_FULL
    }

    /// Where the probe goes on.
    pub(super) fn end(&mut self) -> *mut u8 {
        self.staged[self.n_bytes..].as_mut_ptr()
    }
}

impl Encoder<'_> {
    /// Notes the misses of the waiting batch, whose hits are about to be added to the window, and asks the
    /// processor for what they will be looked up in.
    pub(super) fn note<L: Lane>(&mut self, text: &[u8], n_misses: usize) {
        let Scratch { waiting, noted, window, wide, long, .. } = &mut *self.scratch;
        let Batch { base, starts, keys, slots, marks, .. } = &**waiting;
        let mut marks = marks.iter();
        let mut mark = marks.next();
        for miss in &noted[..n_misses] {
            let unit = miss.unit as usize;
            let (start, end) = (base + starts[unit] as usize, base + starts[unit + 1] as usize);
            let (slot, len) = (slots[unit], end - start);
            if len <= KEY_MAX {
                self.table.prefetch_beside(slot);
            }
            let mut asked = 0;
            if len > L::VALUE_IDS && len <= WIDE_MAX {
                asked = WideCache::slot(&wide_key(text, start, end)) as u32;
                wide.prefetch(asked as usize);
            } else if len > WIDE_MAX {
                asked = LongCache::slot(&text[start..end]).map_or(NO_SLOT, |slot| slot as u32);
                long.prefetch(asked as usize);
            }
            let is_mark = mark == Some(&miss.unit);
            if is_mark {
                mark = marks.next();
            }
            let at_bytes = window.n_bytes + miss.at_bytes as usize;
            window.misses.push(Missed { key: keys[unit], slot, asked, start, end, at_bytes, is_mark });
        }
    }

    /// Appends everything in the window to `out`; `offset` is where `text` starts.
    pub(super) fn settle<L: Lane>(&mut self, text: &[u8], offset: u64, out: &mut Vec<L>) -> Result<()> {
        self.resolve::<L>(text, offset)?;
        self.splice(out);
        self.scratch.window.clear();
        Ok(())
    }

    /// Appends the ids of the hits to `out`, and those of the misses in their places.
    fn splice<L: Lane>(&mut self, out: &mut Vec<L>) {
        let Scratch { window, found, spill, between, ends, .. } = &mut *self.scratch;
        let Window { staged, n_bytes, misses } = window;
        assert!(*n_bytes <= STAGED - STEP && misses.len() == found.len());
        let n_before = out.len();
        // Pieces are short, so they are copied in steps, which may reach behind their end.
        let n_spilled = spill.len();
        spill.extend_from_slice(&[0; STEP]);
        // A word that is missing twice is spilled once.
        let n_repeated: usize = found.iter().map(|found| found.n_bytes).sum();
        out.reserve((*n_bytes + n_repeated) / L::PACKED_BYTES + STEP / L::BYTES);
        let widen = self.model.kernels.widen;
        // SAFETY: room for all ids of the hits and of the misses was reserved, and for a step more;
        // `staged` and `spill` hold what `misses` and `found` say, and a step more; both are whole ids,
        // of which any bytes are valid; the tier was chosen for this processor.
        unsafe {
            let first = out.as_mut_ptr().add(out.len()).cast::<u8>();
            let mut end = first;
            let mut append = |from: *const u8, n: usize| {
                if L::BYTES != L::PACKED_BYTES {
                    let n_ids = n / L::PACKED_BYTES;
                    widen(from, n_ids, end);
                    end = end.add(n_ids * L::BYTES);
                    return;
                }
                let mut at = 0;
                while at < n {
                    end.add(at).cast::<[u8; STEP]>().write(from.add(at).cast::<[u8; STEP]>().read());
                    at += STEP;
                }
                end = end.add(n);
            };
            let (mut done, mut n_missed) = (0, 0);
            for (miss, found) in misses.iter().zip(found.iter()) {
                debug_assert!(found.at_bytes + found.n_bytes <= n_spilled);
                let at = miss.at_bytes;
                append(staged.as_ptr().add(done), at - done);
                append(spill.as_ptr().add(found.at_bytes), found.n_bytes);
                done = at;
                n_missed += found.n_bytes;
                if miss.is_mark {
                    ends.push((n_before + (at + n_missed) / L::PACKED_BYTES - between.n_behind()) as u64);
                }
            }
            append(staged.as_ptr().add(done), *n_bytes - done);
            let n_ids = end.offset_from(first) as usize / L::BYTES;
            out.set_len(out.len() + n_ids);
        }
    }
}
