//! What one worker remembers of pretokens that have no place in the shared cache: those of 16 to 64
//! bytes, and shorter ones with more ids than a value holds.
//!
//! Indented source code is the reason: GPT-2 has nearly one token per space of a deep indent, and
//! the same few runs of spaces come back on every line. Direct-mapped, so bounded; a newcomer
//! replaces what was there.

use std::hash::{BuildHasher, BuildHasherDefault};

use rustc_hash::FxHasher;

/// Longest pretoken, in bytes, that is remembered; longer ones hardly ever come twice.
const MAX_BYTES: usize = 64;
const N_SLOTS: usize = 1 << 12;

/// A direct-mapped cache of long pretokens.
#[derive(Default)]
pub(crate) struct LongCache {
    slots: Vec<Entry>,
}

#[derive(Clone, Default)]
struct Entry {
    text: Box<[u8]>,
    ids: Box<[u32]>,
}

impl LongCache {
    fn slot(text: &[u8]) -> usize {
        let hash = BuildHasherDefault::<FxHasher>::default().hash_one(text);
        (hash >> 52) as usize % N_SLOTS
    }

    pub(crate) fn get(&self, text: &[u8]) -> Option<&[u32]> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let entry = self.slots.get(Self::slot(text))?;
        (*entry.text == *text && !text.is_empty()).then_some(&*entry.ids)
    }

    pub(crate) fn insert(&mut self, text: &[u8], ids: &[u32]) {
        if text.len() <= MAX_BYTES {
            self.slots.resize(N_SLOTS, Entry::default());
            self.slots[Self::slot(text)] = Entry { text: text.into(), ids: ids.into() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_what_fits_and_nothing_longer() {
        let mut cache = LongCache::default();
        cache.insert(b"a long run of spaces", &[1, 2, 3]);
        assert_eq!(cache.get(b"a long run of spaces"), Some(&[1, 2, 3][..]));
        assert_eq!(cache.get(b"another"), None);
        cache.insert(&[b'x'; 65], &[1]);
        assert_eq!(cache.get(&[b'x'; 65]), None);
    }
}
