//! Where pretokens start: GPT-2's split pattern as algebra on classes, 64 bytes at a time.
//!
//! Every byte gets a *class byte*; all bytes of a character get the same one:
//!
//! ```text
//! low nibble   1 letter   2 number   4 other   8 whitespace   5 none of these (see below)
//! 0x10 GLUES       what follows belongs to this pretoken, unless it is whitespace: U+0020
//! 0x20 WIDE_SPACE  a byte of a whitespace character of several bytes
//! 0x40 APOSTROPHE  perhaps the beginning of a contraction
//! ```
//!
//! A byte with class `c`, after a byte with class `b` and before one with class `d`, starts a pretoken
//!
//! * if it is no whitespace: when `b` has another nibble and does not glue;
//! * if it is whitespace: when `b` is none, or when `d` is none. The second case is `\s+(?!\S)`: a run
//!   gives its last character away, and if that is a space, it glues to what follows.
//!
//! So starts depend on three neighbouring bytes and nothing else, once two things are put into the
//! classes beforehand ([`repair`]): the apostrophe of a contraction is made to glue and its letters
//! get nibble 5, so that what comes after them starts; and the text is followed by whitespace, so
//! that a run at its end stays whole. Whitespace characters of several bytes are corrected afterwards.
//!
//! A start is also put at every *inert cut*: between two characters whose touching bytes stand
//! together in no token (see `bpe::inert`), found with two look-ups per byte ([`tables::CutTables`]); and
//! between letters and such characters (`bpe::edges`).
//! That is what makes Chinese as fast as English: a clause of 100 bytes, never seen before, falls
//! apart into characters that the word cache knows.
//!
//! The two passes, [`Kernels::classify`](crate::tier::Kernels) and `starts`, exist once per processor
//! tier; [`portable`] is the plain twin that the others are tested against.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;
pub(crate) mod repair;
pub(crate) mod tables;
pub(crate) mod words;

use crate::tier::Kernels;
pub(crate) use tables::ScanTables;

pub(crate) const LETTER: u8 = 1;
pub(crate) const NUMBER: u8 = 2;
pub(crate) const OTHER: u8 = 4;
pub(crate) const SPACE: u8 = 8;
pub(crate) const NONE: u8 = 5;
pub(crate) const NIBBLE: u8 = 0x0F;
pub(crate) const GLUES: u8 = 0x10;
pub(crate) const WIDE_SPACE: u8 = 0x20;
pub(crate) const APOSTROPHE: u8 = 0x40;

/// Bytes per step of the kernels.
pub(crate) const BLOCK: usize = 64;
/// Blocks per batch; 8 to 32 were measured, 16 was best or equal on every corpus.
pub(crate) const BATCH_BLOCKS: usize = 16;
pub(crate) const BATCH: usize = BLOCK * BATCH_BLOCKS;
/// Bytes behind a block that the kernels may read: the rest of a character, and one vector more.
pub(crate) const READ_AHEAD: usize = 2 * BLOCK;
/// Room that a kernel needs for the starts of a batch: one per byte, and one store of 64 more.
pub(crate) const STARTS_ROOM: usize = BATCH + BLOCK;

/// The class bytes of a batch, with a block before and two behind.
///
/// ```text
/// | block before | 16 blocks of the batch | block behind, already classified | slack |
/// ```
#[repr(C, align(64))]
struct ClassBuffer([u8; BLOCK * (BATCH_BLOCKS + 3)]);

/// Bytes of a text's end that are copied, and the room that the copy needs: what is copied, the rest
/// of its last block, a block behind, and `READ_AHEAD`.
const TAIL_COPIED: usize = BATCH + 4 * READ_AHEAD;
const TAIL_ROOM: usize = TAIL_COPIED + 2 * BLOCK + READ_AHEAD;

/// The state of scanning one text.
pub(crate) struct Scan {
    classes: Box<ClassBuffer>,
    /// Bit 0: the block behind the last batch has bytes outside ASCII.
    wide: u64,
    at: usize,
    /// Bytes of other text before and behind this one, at least, which may be read but say nothing.
    room: (usize, usize),
    /// Where the text itself has no room before or behind: a copy, with a block before it.
    tail: Box<[u8; BLOCK + TAIL_ROOM]>,
    /// What the copy's first byte is, if the copy reaches the end of the text.
    tail_from: Option<usize>,
}

impl Default for Scan {
    fn default() -> Self {
        let classes = Box::new(ClassBuffer([0; _]));
        Self { classes, wide: 0, at: 0, room: (0, 0), tail: Box::new([0; _]), tail_from: None }
    }
}

impl Scan {
    /// Starts a text.
    pub(crate) fn begin(&mut self) {
        (self.at, self.room, self.tail_from) = (0, (0, 0), None);
        self.classes.0[BLOCK - 1] = NONE;
    }

    /// Starts a text around which others stand in memory, so many bytes before and behind it. They do not
    /// change what is found: the first byte starts whatever stands before it, and classes behind the
    /// text are those of its end. They spare a copy of its beginning and its end.
    ///
    /// # Safety
    /// Every text that is given to [`Scan::batch`] until the next beginning is the same, and these bytes
    /// around it belong to the same allocation and can be read.
    pub(crate) unsafe fn begin_within(&mut self, n_before: usize, n_behind: usize) {
        self.begin();
        self.room = (n_before, n_behind);
    }

    /// Where the next batch begins; not before the end of the text when there is none.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Finds the starts in the next batch and puts them, minus `base`, behind the `n` that `starts`
    /// holds already; returns their number, with `n`.
    ///
    /// `starts` must have room for [`STARTS_ROOM`] more, and `at() - base` must fit 31 bits. (A base before the text
    /// is below 0, wrapped around.)
    pub(crate) fn batch(
        &mut self,
        tables: &ScanTables,
        kernels: &Kernels,
        text: &[u8],
        base: usize,
        starts: &mut [u32],
        n: usize,
    ) -> usize {
        assert!(starts.len() >= n + STARTS_ROOM);
        let (src, n_blocks, wide) = self.classify(tables, kernels, text, SPACE);
        let classes = self.classes.0.as_mut_ptr();
        let rel = self.at.wrapping_sub(base) as u32;
        // SAFETY: what `classify` says, and `starts` has room for all starts of a batch.
        let found = unsafe {
            let out = starts.as_mut_ptr().add(n);
            (kernels.starts)(tables, src, classes.add(BLOCK), n_blocks, wide, rel, out)
        };
        self.next(n_blocks, wide);
        let mut n = n + found;
        // Whitespace behind the text may start, too; those are no starts of the text.
        while n > 0 && (starts[n - 1] as usize).wrapping_add(base) >= text.len() {
            n -= 1;
        }
        n
    }

    /// Classifies the next batch and a block more; what follows the text gets the class `end`. Returns a
    /// pointer to the text, of which so many blocks, `READ_AHEAD`, and four bytes before can be read, the
    /// number of blocks without the last, and a bit for each that has bytes outside ASCII.
    fn classify(
        &mut self,
        tables: &ScanTables,
        kernels: &Kernels,
        text: &[u8],
        end: u8,
    ) -> (*const u8, usize, u64) {
        assert!(self.at < text.len());
        let left = text.len() - self.at;
        let n_blocks = left.div_ceil(BLOCK).min(BATCH_BLOCKS);
        let src = self.source(text, BLOCK * (n_blocks + 1));
        // Block 0 was classified as the block behind the batch before, and may carry its repairs.
        let known = usize::from(self.at > 0);
        let classes = self.classes.0.as_mut_ptr();
        // SAFETY: from `src` on there are `n_blocks + 1` readable blocks and READ_AHEAD; the class
        // buffer holds BATCH_BLOCKS + 3 blocks, of which these are the second to the last but one.
        let wide = unsafe {
            let first = BLOCK * known;
            (kernels.classify)(tables, src.add(first), n_blocks + 1 - known, classes.add(BLOCK + first))
        };
        let wide = if known == 1 { self.wide | wide << 1 } else { wide };
        let stop = BLOCK * (n_blocks + 2);
        if BLOCK + left < stop {
            self.classes.0[BLOCK + left..stop].fill(end);
        }
        (src, n_blocks, wide)
    }

    /// Goes on to the next batch.
    fn next(&mut self, n_blocks: usize, wide: u64) {
        self.wide = wide >> n_blocks & 1;
        self.at += n_blocks * BLOCK;
        self.classes.0.copy_within(n_blocks * BLOCK..(n_blocks + 2) * BLOCK, 0);
    }

    /// A pointer to the batch's text with `len` bytes, `READ_AHEAD` and four bytes before it readable: into
    /// the text itself, or into a copy of its beginning or end.
    fn source(&mut self, text: &[u8], len: usize) -> *const u8 {
        let at = self.at;
        let (n_before, n_behind) = self.room;
        if at + n_before >= 4 && at + len + READ_AHEAD <= text.len() + n_behind {
            // SAFETY: inside the text or what stands around it.
            return unsafe { text.as_ptr().add(at) };
        }
        let from = self.tail_from.unwrap_or_else(|| {
            let from = at.saturating_sub(4);
            let left = (text.len() - from).min(TAIL_COPIED);
            let copied = BLOCK + left;
            self.tail[BLOCK..copied].copy_from_slice(&text[from..from + left]);
            self.tail[copied..(copied + 2 * BLOCK + READ_AHEAD).min(BLOCK + TAIL_ROOM)].fill(0);
            if from + left == text.len() {
                self.tail_from = Some(from);
            }
            from
        });
        assert!(at - from + len + READ_AHEAD <= TAIL_ROOM);
        // SAFETY: inside the copy, by the assertion.
        unsafe { self.tail.as_ptr().add(BLOCK + at - from) }
    }
}
