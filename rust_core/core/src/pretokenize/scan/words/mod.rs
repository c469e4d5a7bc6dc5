//! Where pretokens start, for the patterns of today's models: cl100k, o200k, Llama, Qwen, `DeepSeek`,
//! Kimi and their like, as algebra on bit planes.
//!
//! Every character gets a *class byte*, its memberships in the sets of the pattern, a bit each:
//!
//! ```text
//! 0x01 LOWER    letter that may stand behind the first small one     (all letters, where case is ignored)
//! 0x02 UPPER    letter that may stand before it                      (LOWER | UPPER: both, as in Chinese)
//! 0x04 OTHER    punctuation                                          (all three: a mark, see `algebra`)
//! 0x08 SPACE    whitespace, 0x10 NEWLINE as well: \r and \n
//! 0x20 NUMBER
//! 0x40 OWN      runs of their own: Han, kana                        (with LOOSE: the punctuation in them)
//! 0x80 LOOSE    in no alternative but before a letter
//! ```
//!
//! and a text becomes starts in three loops over a kilobyte, each over arrays in the first cache:
//!
//! 1. [`planes`]: 64 bytes become a word of 64 bits per class;
//! 2. [`algebra`]: the pattern as operations on such words, and a few bits that one block leaves to the
//!    next. Which operations is data, the [`Grammar`] that was read from a pattern's tree;
//! 3. *positions* of the bits.
//!
//! What is rare and would make the algebra long (a mark behind punctuation, a number of digits of several
//! bytes in groups) is not computed: the block gives up, and the pattern's own matcher finds the pretokens
//! of that kilobyte. From any place where a pretoken starts, scanning can begin anew.
//!
//! Between two characters of several bytes that no token spans (`bpe::seams`), and between such a character
//! and a letter (`bpe::edges`), a start is put as well: the clause of a script without spaces falls apart into words that the cache knows.

pub(crate) mod algebra;
mod columns;
pub(crate) mod contractions;
pub(crate) mod grammar;
pub(crate) mod planes;

use super::{BATCH_BLOCKS, BLOCK, STARTS_ROOM, Scan, ScanTables};
use crate::bpe::seams::Seams;
use crate::tier::Kernels;
use algebra::{Blocks, State};
pub(crate) use grammar::Grammar;
use planes::{PlaneTables, Planes};

pub(crate) const LOWER: u8 = 0x01;
pub(crate) const UPPER: u8 = 0x02;
pub(crate) const LETTER: u8 = LOWER | UPPER;
pub(crate) const OTHER: u8 = 0x04;
pub(crate) const SPACE: u8 = 0x08;
pub(crate) const NEWLINE: u8 = 0x10;
pub(crate) const NUMBER: u8 = 0x20;
pub(crate) const OWN: u8 = 0x40;
pub(crate) const LOOSE: u8 = 0x80;

/// What a pattern needs to be scanned, and where its pretokens may be cut.
pub(crate) struct Words {
    grammar: Grammar,
    tables: PlaneTables,
    seams: Seams,
}

impl Words {
    /// The scanner of a grammar, with the class of each code point; `seams` says where pretokens may be cut.
    pub(crate) fn new(grammar: Grammar, classes: &[u8], seams: Seams) -> Self {
        let tables = PlaneTables::new(ScanTables::from_classes(|c| classes[c as usize]));
        Self { grammar, tables, seams }
    }

    /// Adds seams and edges to the starts in `bits`, a word per block; `wide` has a bit per block with bytes outside ASCII.
    ///
    /// # Safety
    /// The blocks, four bytes before and [`super::READ_AHEAD`] behind them can be read at `src`; the processor
    /// has the tier's features.
    unsafe fn cut(&self, kernels: &Kernels, src: *const u8, wide: u64, planes: &[Planes], bits: &mut [u64]) {
        for at in 0..bits.len() {
            if wide >> at & 1 == 0 {
                continue;
            }
            let (own, before) = (&planes[at], if at == 0 { 0 } else { planes[at - 1].tail >> 63 });
            let candidates = own.high & !own.tail & (own.tail << 1 | before) & !bits[at];
            // SAFETY: what the caller promises, for this block.
            bits[at] |= unsafe { (kernels.cuts)(&self.seams, src.add(at * BLOCK), candidates) };
        }
    }
}

/// What one batch leaves to the next.
pub(crate) struct Work {
    state: State,
    planes: Box<[Planes; BATCH_BLOCKS + 1]>,
    /// Bit 0: the block behind the last batch, whose planes are the first now, has bytes outside ASCII.
    wide: u64,
    bits: [u64; BATCH_BLOCKS],
}

impl Default for Work {
    fn default() -> Self {
        let planes = Box::new([Planes::default(); _]);
        Self { state: State::default(), planes, wide: 0, bits: [0; _] }
    }
}

impl Scan {
    /// Starts a text.
    pub(crate) fn begin_words(&mut self, work: &mut Work) {
        self.begin();
        (work.state, work.wide) = (State::default(), 0);
    }

    /// Finds the starts in the next batch, as [`Scan::batch`] does; `None` if the batch is not for the
    /// algebra, after which the text has to be begun anew.
    #[expect(clippy::too_many_arguments, reason = "those of `batch`, and what it needs here")]
    pub(crate) fn words(
        &mut self,
        work: &mut Work,
        words: &Words,
        kernels: &Kernels,
        text: &[u8],
        base: usize,
        starts: &mut [u32],
        n: usize,
    ) -> Option<usize> {
        assert!(self.at < text.len() && starts.len() >= n + STARTS_ROOM);
        let left = text.len() - self.at;
        let n_blocks = left.div_ceil(BLOCK).min(BATCH_BLOCKS);
        let src = self.source(text, BLOCK * (n_blocks + 1));
        let Work { state, planes, bits, .. } = work;
        let (planes, bits) = (&mut planes[..=n_blocks], &mut bits[..n_blocks]);
        // The first block was the one behind the batch before.
        let known = usize::from(self.at > 0);
        // SAFETY: `n_blocks + 1` blocks can be read at `src`, four bytes before and READ_AHEAD behind them; the
        // tier was chosen for this processor.
        let wide = unsafe { (kernels.planes)(&words.tables, src.add(BLOCK * known), &mut planes[known..]) };
        let wide = work.wide | wide << known;
        for (at, planes) in planes.iter_mut().enumerate().skip(left / BLOCK) {
            planes.end_at(left.saturating_sub(at * BLOCK));
        }
        let plain = if words.tables.columns.is_some() { !wide } else { 0 };
        let blocks = Blocks { text, offset: self.at, planes, plain };
        // SAFETY: the tier was chosen for this processor.
        if !unsafe { (kernels.algebra)(&words.grammar, state, &blocks, bits) } {
            return None;
        }
        // SAFETY: as above; and `starts` has room for all starts of a batch.
        let found = unsafe {
            words.cut(kernels, src, wide, planes, bits);
            (kernels.flatten)(bits, self.at.wrapping_sub(base) as u32, starts.as_mut_ptr().add(n))
        };
        planes[0] = planes[n_blocks];
        work.wide = wide >> n_blocks & 1;
        self.at += n_blocks * BLOCK;
        let mut n = n + found;
        while n > 0 && (starts[n - 1] as usize).wrapping_add(base) >= text.len() {
            n -= 1;
        }
        Some(n)
    }
}

#[cfg(test)]
mod tests;
