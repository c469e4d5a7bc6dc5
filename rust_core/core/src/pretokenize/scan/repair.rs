//! The rare parts of the scanner: contractions and whitespace characters of several bytes.

use super::{APOSTROPHE, GLUES, LETTER, NIBBLE, NONE, OTHER, SPACE, WIDE_SPACE};

/// Puts the contractions of one block into its classes. `marks` has a bit for each apostrophe.
///
/// An apostrophe that starts a pretoken takes `s`, `d`, `m`, `t`, `ll`, `ve` or `re` with it: it is
/// made to glue, and its letters get the nibble of nothing, after which everything starts.
///
/// # Safety
/// 64 bytes at `src` and two more, and as many class bytes at `classes` and one before, are valid.
#[cold]
#[inline(never)]
pub(super) unsafe fn contractions(src: *const u8, classes: *mut u8, mut marks: u64) {
    while marks != 0 {
        let at = marks.trailing_zeros() as usize;
        marks &= marks - 1;
        // SAFETY: `at` < 64; with the suffix that is at most 66 bytes, as the caller promises.
        unsafe {
            let before = *classes.add(at).sub(1);
            if before & NIBBLE == OTHER || before & GLUES != 0 {
                continue;
            }
            let n_letters = match (*src.add(at + 1), *src.add(at + 2)) {
                (b's' | b'd' | b'm' | b't', _) => 1,
                (b'l', b'l') | (b'v' | b'r', b'e') => 2,
                _ => 0,
            };
            // Behind the end of the text there are no letters, whatever the bytes there are.
            let is_letter = |k: usize| *classes.add(at + k) & NIBBLE == LETTER;
            if n_letters > 0 && (1..=n_letters).all(is_letter) {
                *classes.add(at) = OTHER | GLUES | APOSTROPHE;
                for k in 1..=n_letters {
                    *classes.add(at + k) = NONE;
                }
            }
        }
    }
}

/// Corrects the starts of one block at whitespace characters of several bytes; `wide` has a bit for
/// each of their bytes.
///
/// Only a character's first byte can start, and what follows the character is what counts.
///
/// # Safety
/// 64 bytes at `src`, and as many class bytes at `classes`, one before and three behind, are valid.
#[cold]
#[inline(never)]
pub(super) unsafe fn wide_spaces(src: *const u8, classes: *const u8, mut wide: u64, mut starts: u64) -> u64 {
    while wide != 0 {
        let at = wide.trailing_zeros() as usize;
        wide &= wide - 1;
        // SAFETY: `at` < 64, and a whitespace character has at most three bytes.
        unsafe {
            let lead = *src.add(at);
            let len = match lead {
                0..0xC0 => 0,
                0xC0..0xE0 => 2,
                _ => 3,
            };
            debug_assert!(*classes.add(at) & WIDE_SPACE != 0);
            let begins = *classes.add(at).sub(1) & SPACE == 0;
            let ends = *classes.add(at + len) & SPACE == 0;
            if len > 0 && (begins || ends) {
                starts |= 1 << at;
            } else {
                starts &= !(1 << at);
            }
        }
    }
    starts
}
