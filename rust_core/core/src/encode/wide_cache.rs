//! What one worker remembers of pretokens of up to 31 bytes that have no place in the shared cache:
//! those of 16 bytes and more, and shorter ones with more ids than a value holds.
//!
//! ```text
//! line (64 bytes):  up to 31 bytes of the pretoken, 0xFF up to 32 | up to 30 bytes of packed ids | their length (u16)
//! ```
//!
//! Long words are rare, but merging one costs as much as finding hundreds of short ones. Direct-mapped,
//! so bounded; a newcomer replaces what was there.

use crate::huge::{Huge, Zeroed};

/// Longest pretoken, in bytes, that has a place here.
pub(super) const WIDE_MAX: usize = 31;
const N_LINES: usize = 1 << 17;
const IDS_MAX_BYTES: usize = 30;

/// A pretoken, with 0xFF behind it, which occurs in no text.
pub(super) type WideKey = [u64; 4];

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line {
    key: WideKey,
    ids: [u8; IDS_MAX_BYTES],
    n_bytes: u16,
}

// SAFETY: integers; an empty line's key is zero, which no pretoken has.
unsafe impl Zeroed for Line {}

/// A direct-mapped cache; its memory is touched as it fills.
#[derive(Default)]
pub(super) struct WideCache {
    lines: Option<Huge<Line>>,
}

/// The key of the pretoken `text[start..end]`, of at most [`WIDE_MAX`] bytes.
#[inline]
pub(super) fn wide_key(text: &[u8], start: usize, end: usize) -> WideKey {
    let len = end - start;
    debug_assert!(len <= WIDE_MAX);
    let mut bytes = [0; 32];
    // A copy of a fixed length is four registers; only the end of a text has no 32 bytes.
    match text.get(start..start + 32) {
        Some(window) => bytes.copy_from_slice(window),
        None => bytes[..len].copy_from_slice(&text[start..end]),
    }
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| {
        let kept = len.saturating_sub(8 * at).min(8);
        u64::from_le_bytes(words[at]) | PAD[kept]
    })
}

/// `PAD[n]` has 0xFF in every byte from `n` on.
const PAD: [u64; 9] = {
    let mut pad = [u64::MAX; 9];
    let mut n = 1;
    while n < 8 {
        pad[n] = u64::MAX << (8 * n);
        n += 1;
    }
    pad[8] = 0;
    pad
};

impl WideCache {
    /// Where a pretoken would be.
    #[inline]
    pub(super) fn slot(key: &WideKey) -> usize {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        let low = fold(key[0] ^ 0x9E37_79B9_7F4A_7C15, key[1] ^ 0xD6E8_FEB8_6659_FD93);
        let high = fold(key[2] ^ 0xA076_1D64_78BD_642F, key[3] ^ 0xE703_7ED1_A0B4_28DB);
        fold(low ^ 0x8EBC_6AF0_9C88_C6E3, high ^ 0x5899_65CC_7537_4CC3) as usize % N_LINES
    }

    /// Asks the processor for a line.
    #[inline]
    pub(super) fn prefetch(&self, slot: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(line) = self.lines.as_ref().and_then(|lines| lines.get(slot)) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch has no effect but on timing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast()) };
        }
    }

    /// Appends the packed ids of a pretoken to `out`; false if it is not known.
    #[inline]
    pub(super) fn get(&self, slot: usize, key: &WideKey, out: &mut Vec<u8>) -> bool {
        let line = self.lines.as_ref().and_then(|lines| lines.get(slot));
        let Some(line) = line.filter(|line| line.key == *key) else { return false };
        let from = out.len();
        out.extend_from_slice(&line.ids);
        out.truncate(from + usize::from(line.n_bytes));
        true
    }

    /// Remembers the packed ids of a pretoken, if they fit.
    pub(super) fn insert(&mut self, slot: usize, key: &WideKey, ids: &[u8]) -> bool {
        if ids.len() > IDS_MAX_BYTES {
            return false;
        }
        if self.lines.is_none() {
            self.lines = Huge::new(N_LINES);
        }
        let Some(line) = self.lines.as_mut().and_then(|lines| lines.get_mut(slot)) else { return false };
        line.key = *key;
        line.ids[..ids.len()].copy_from_slice(ids);
        line.n_bytes = ids.len() as u16;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_depend_on_what_follows() {
        let text = b"a word of thirty-one bytes, yes and more of it behind the end";
        for len in 1..=WIDE_MAX {
            let alone = wide_key(&text[..len], 0, len);
            assert_eq!(wide_key(text, 0, len), alone);
            assert_ne!(alone, wide_key(text, 0, len - 1));
            assert_eq!(alone[3] >> 56, 0xFF);
        }
    }

    #[test]
    fn remembers_what_fits() {
        let mut cache = WideCache::default();
        let key = wide_key(b"internationalization", 0, 20);
        let slot = WideCache::slot(&key);
        let mut ids = vec![9];
        assert!(!cache.get(slot, &key, &mut ids));
        assert!(!cache.insert(slot, &key, &[0; 31]));
        assert!(cache.insert(slot, &key, &[1, 2, 3, 4]) && cache.get(slot, &key, &mut ids));
        assert_eq!(ids, [9, 1, 2, 3, 4]);
    }
}
