//! The merge cache: pretoken → ids, shared by every job of a tokenizer for the process's lifetime.
//!
//! ```text
//! line (64 bytes):  key 0 | key 1 | value 0 | value 1        two ways, 16 bytes each
//! key:              up to 15 bytes of the pretoken, then 0xFF up to 16 bytes
//! value:            ids in final form and their count (see `lane`)
//! ```
//!
//! The padding makes keys unambiguous because 0xFF never occurs in UTF-8, and it makes the last
//! byte of every key 0xFF, so that zero (an empty way) and [`CLAIMED`] are no keys.
//!
//! **Many readers, many writers, no locks.** A way is written once: claimed by a compare-exchange
//! of its high key word from 0 to [`CLAIMED`], then its value and its low key word are stored, and
//! last its high key word with release order. A reader loads the high word with acquire order
//! first; if it matches, the rest of the key and the value are visible and will never change. Two
//! threads that learn one pretoken at the same time may fill both ways with it: harmless, both
//! values are equal. Nothing is replaced in place, because a reader that has matched a key could
//! then see another value.
//!
//! **Bounded.** When a table has taken as much as it usefully can, the next worker that starts a
//! chunk puts an empty one in its place (seeded with the vocabulary); workers still reading the old
//! one keep it alive until their chunk ends. What it held counts as evicted. So memory is at most
//! two tables, and a change of language cannot leave the cache full of the old one for ever.
//!
//! Tried elsewhere and not repeated: a table per thread (each learns the same words again), and
//! tables that grow with the corpus (every probe then misses the processor's caches).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use memmap2::MmapMut;

/// Longest pretoken, in bytes, that has a key.
pub const KEY_MAX: usize = 15;

/// High key word of a way that is being written; no key has it, its last byte is not 0xFF.
const CLAIMED: u64 = 1;

/// Lines of the default table: 2^19 of 64 bytes, 32 MiB of address space, touched as it fills.
const N_LINES: usize = 1 << 19;

/// The key of a pretoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    lo: u64,
    hi: u64,
}

/// `PAD[n]` has 0xFF in every byte from `n` on.
const PAD: [u128; 16] = {
    let mut pad = [u128::MAX; 16];
    let mut n = 1;
    while n < 16 {
        pad[n] = u128::MAX << (8 * n);
        n += 1;
    }
    pad
};

impl Key {
    /// A key that no way ever has: its last byte is not 0xFF, and it is neither 0 nor [`CLAIMED`].
    pub const NONE: Self = Self { lo: 0, hi: 2 };

    /// The key of `text[start..start + len]`, `len <= KEY_MAX`; the text is UTF-8.
    #[inline]
    #[must_use]
    pub fn new(text: &[u8], start: usize, len: usize) -> Self {
        debug_assert!(len <= KEY_MAX);
        let bytes = if let Some(window) = text.get(start..start + 16) {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(window);
            u128::from_le_bytes(bytes)
        } else {
            let mut bytes = [0; 16];
            bytes[..len].copy_from_slice(&text[start..start + len]);
            u128::from_le_bytes(bytes)
        };
        let key = bytes | PAD[len];
        Self { lo: key as u64, hi: (key >> 64) as u64 }
    }

    /// One widening multiplication; both halves take part in both factors' high bits.
    #[inline]
    fn hash(self) -> u64 {
        let product =
            u128::from(self.lo ^ 0x9E37_79B9_7F4A_7C15) * u128::from(self.hi ^ 0xD6E8_FEB8_6659_FD93);
        (product >> 64) as u64 ^ product as u64
    }
}

#[repr(C, align(64))]
struct Line {
    keys: [[AtomicU64; 2]; 2],
    values: [[AtomicU64; 2]; 2],
}

/// One generation of the cache.
pub struct Table {
    memory: MmapMut,
    mask: u64,
    n_entries: AtomicU64,
    n_refused: AtomicU64,
}

impl Table {
    fn new(n_lines: usize) -> std::io::Result<Self> {
        let memory = MmapMut::map_anon(n_lines * size_of::<Line>())?;
        // Without huge pages every other probe pays a page walk; a kernel that refuses is only slower.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Self {
            memory,
            mask: n_lines as u64 - 1,
            n_entries: AtomicU64::new(0),
            n_refused: AtomicU64::new(0),
        })
    }

    #[inline]
    fn lines(&self) -> &[Line] {
        #[expect(clippy::cast_ptr_alignment, reason = "a mapping is page-aligned")]
        let first = self.memory.as_ptr().cast::<Line>();
        // SAFETY: the mapping is page-aligned (Line needs 64), holds `mask + 1` lines, lives as long
        // as `self`, and is only ever accessed through the atomics of this view; zeroed memory is a
        // valid Line.
        unsafe { std::slice::from_raw_parts(first, self.mask as usize + 1) }
    }

    /// The line of a key.
    #[inline]
    #[must_use]
    pub fn slot(&self, key: Key) -> u32 {
        (key.hash() & self.mask) as u32
    }

    /// Asks the processor for a line that will be probed soon.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        #[cfg(target_arch = "x86_64")]
        if let Some(line) = self.lines().get(slot as usize) {
            // SAFETY: a prefetch has no effect but on timing, and the address is valid.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                    std::ptr::from_ref(line).cast(),
                );
            }
        }
    }

    /// The value of a key, if the table has it.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: u32, key: Key) -> Option<[u64; 2]> {
        let line = &self.lines()[slot as usize];
        for way in 0..2 {
            let [lo, hi] = &line.keys[way];
            if hi.load(Ordering::Acquire) == key.hi && lo.load(Ordering::Relaxed) == key.lo {
                let [first, second] = &line.values[way];
                return Some([first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)]);
            }
        }
        None
    }

    /// Stores a value where a way is free; a full line takes nothing.
    pub fn insert(&self, slot: u32, key: Key, value: [u64; 2]) {
        let line = &self.lines()[slot as usize];
        for way in 0..2 {
            let [lo, hi] = &line.keys[way];
            if hi.compare_exchange(0, CLAIMED, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                line.values[way][0].store(value[0], Ordering::Relaxed);
                line.values[way][1].store(value[1], Ordering::Relaxed);
                lo.store(key.lo, Ordering::Relaxed);
                hi.store(key.hi, Ordering::Release);
                self.n_entries.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        self.n_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether refused entries have become as many as half of what the table holds at most.
    fn is_worn(&self) -> bool {
        self.n_refused.load(Ordering::Relaxed) > self.mask
    }
}

/// What a cache did so far; counts are since the tokenizer was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub entries: u64,
    pub bytes: u64,
    pub capacity_bytes: u64,
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
}

/// The cache of one tokenizer.
pub struct WordCache {
    table: RwLock<Arc<Table>>,
    n_lines: usize,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

impl WordCache {
    /// An empty cache of the default size.
    pub fn new() -> std::io::Result<Self> {
        Self::with_lines(N_LINES)
    }

    /// An empty cache of `n_lines` lines, rounded up to a power of two: lines are found by masking.
    pub fn with_lines(n_lines: usize) -> std::io::Result<Self> {
        let n_lines = n_lines.next_power_of_two();
        Ok(Self {
            table: RwLock::new(Arc::new(Table::new(n_lines)?)),
            n_lines,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        })
    }

    /// The present table; workers hold it for one chunk and then ask again.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces a table that refuses too much; `seed` fills the new one. Called between chunks.
    pub fn renew_if_worn(&self, seed: impl FnOnce(&Table)) {
        if self.table().is_worn() {
            self.replace(seed, Table::is_worn);
        }
    }

    /// Forgets everything learned; `seed` fills the new table.
    pub fn clear(&self, seed: impl FnOnce(&Table)) {
        self.replace(seed, |_| true);
    }

    fn replace(&self, seed: impl FnOnce(&Table), still: impl Fn(&Table) -> bool) {
        let mut current = self.table.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been first; and without memory for a new table the old one serves on.
        if still(&current)
            && let Ok(fresh) = Table::new(self.n_lines)
        {
            seed(&fresh);
            self.evictions.fetch_add(current.n_entries.load(Ordering::Relaxed), Ordering::Relaxed);
            *current = Arc::new(fresh);
        }
    }

    /// Adds a chunk's counts.
    pub fn count(&self, hits: u64, misses: u64) {
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
    }

    /// What the cache holds and did.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let table = self.table();
        let entries = table.n_entries.load(Ordering::Relaxed);
        CacheStats {
            entries,
            bytes: entries * 32,
            capacity_bytes: (self.n_lines * size_of::<Line>()) as u64,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text.as_bytes(), 0, text.len())
    }

    #[test]
    fn keys_tell_lengths_and_nuls_apart() {
        let texts = ["", "\0", "\0\0", "a", "a\0", "123456789012345"];
        for (i, a) in texts.iter().enumerate() {
            for (j, b) in texts.iter().enumerate() {
                assert_eq!(key(a) == key(b), i == j);
            }
        }
        // The same bytes give the same key whether 16 bytes can be read or not.
        assert_eq!(Key::new(b"abc and then some more", 0, 3), key("abc"));
    }

    #[test]
    fn a_full_line_refuses_and_a_worn_table_is_replaced() {
        let cache = WordCache::with_lines(1).expect("memory");
        let table = cache.table();
        for (text, id) in [("a", 1), ("b", 2), ("c", 3)] {
            table.insert(table.slot(key(text)), key(text), [id, 0]);
        }
        assert_eq!(table.get(0, key("b")), Some([2, 0]));
        assert_eq!(table.get(0, key("c")), None);
        cache.renew_if_worn(|fresh| fresh.insert(0, key("z"), [9, 9]));
        assert_eq!(cache.stats().evictions, 2);
        assert_eq!(cache.table().get(0, key("z")), Some([9, 9]));
        assert_eq!(table.get(0, key("a")), Some([1, 0]), "a reader keeps its table");
    }

    #[test]
    fn threads_that_insert_and_read_only_ever_see_whole_values() {
        let cache = WordCache::with_lines(64).expect("memory");
        let table = cache.table();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..40_000_u64 {
                        let n = (round * 7 + thread) % 200;
                        let key = key(&format!("word{n}"));
                        match table.get(table.slot(key), key) {
                            Some(value) => assert_eq!(value, [n, !n]),
                            None => table.insert(table.slot(key), key, [n, !n]),
                        }
                    }
                });
            }
        });
    }
}
