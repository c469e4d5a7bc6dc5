//! What one worker remembers of pretokens of 32 to 128 bytes, and of shorter ones with more ids than
//! `wide_cache` holds.
//!
//! Indented source code is the reason: GPT-2 has nearly one token per space of a deep indent, and
//! the same few runs of spaces come back on every line. Direct-mapped, so bounded; a newcomer
//! replaces what was there.

use std::hash::{BuildHasher, BuildHasherDefault};

use rustc_hash::FxHasher;

use crate::huge::{Huge, Zeroed};

/// Longest pretoken, in bytes, that is remembered; longer ones hardly ever come twice.
pub(super) const LONG_MAX: usize = 128;
const N_SLOTS: usize = 1 << 12;
/// A pretoken has at most one id per byte, of two or three bytes (see `lane`).
const IDS_MAX_BYTES: usize = LONG_MAX * 3;

/// A direct-mapped cache of long pretokens; its memory is touched as it fills.
#[derive(Default)]
pub(super) struct LongCache {
    slots: Option<Huge<Entry>>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Entry {
    n_text_bytes: u16,
    n_ids_bytes: u16,
    text: [u8; LONG_MAX],
    ids: [u8; IDS_MAX_BYTES],
}

// SAFETY: integers; an empty entry is all zeros: no pretoken has no bytes.
unsafe impl Zeroed for Entry {}

impl LongCache {
    /// Where a pretoken would be; `None` if it is too long.
    #[inline]
    pub(super) fn slot(text: &[u8]) -> Option<usize> {
        let hash = BuildHasherDefault::<FxHasher>::default().hash_one(text);
        (text.len() <= LONG_MAX).then_some((hash >> 48) as usize % N_SLOTS)
    }

    /// Asks the processor for an entry.
    #[inline]
    pub(super) fn prefetch(&self, slot: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(entry) = self.slots.as_ref().and_then(|slots| slots.get(slot)) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch has no effect but on timing.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(entry).cast());
                _mm_prefetch::<_MM_HINT_T0>(entry.ids.as_ptr().cast());
            }
        }
    }

    /// Appends the packed ids of a pretoken to `out`; false if it is not known.
    #[inline]
    pub(super) fn get(&self, slot: usize, text: &[u8], out: &mut Vec<u8>) -> bool {
        let entry = self.slots.as_ref().and_then(|slots| slots.get(slot));
        let Some(entry) = entry else { return false };
        let n = usize::from(entry.n_text_bytes);
        if n != text.len() || entry.text[..n] != *text {
            return false;
        }
        out.extend_from_slice(&entry.ids[..usize::from(entry.n_ids_bytes)]);
        true
    }

    /// Remembers the packed ids of a pretoken; its text is not longer than [`LONG_MAX`].
    pub(super) fn insert(&mut self, slot: usize, text: &[u8], ids: &[u8]) {
        if self.slots.is_none() {
            self.slots = Huge::new(N_SLOTS);
        }
        let Some(entry) = self.slots.as_mut().and_then(|slots| slots.get_mut(slot)) else { return };
        entry.text[..text.len()].copy_from_slice(text);
        entry.ids[..ids.len()].copy_from_slice(ids);
        (entry.n_text_bytes, entry.n_ids_bytes) = (text.len() as u16, ids.len() as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_what_fits_and_nothing_longer() {
        let mut cache = LongCache::default();
        let text = b"a long run of spaces";
        let slot = LongCache::slot(text).expect("it fits");
        let mut ids = vec![7];
        assert!(!cache.get(slot, text, &mut ids));
        cache.insert(slot, text, &[1, 0, 2, 0]);
        assert!(cache.get(slot, text, &mut ids));
        assert_eq!(ids, [7, 1, 0, 2, 0]);
        assert!(!cache.get(slot, b"another run of lines", &mut ids));
        assert_eq!(LongCache::slot(&[b'x'; 129]), None);
    }
}
