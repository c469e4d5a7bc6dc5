//! The merge cache: pretoken → ids, shared by every job of a tokenizer for the process's lifetime.
//!
//! ```text
//! line (64 bytes):  key 0 | key 1 | value 0 | value 1        two ways, 16 bytes each
//! key:              up to 15 bytes of the pretoken, then 0xFF up to 16 bytes
//! value:            packed ids and their length (see `lane`)
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
//! A key has two lines, its own and the one beside it (they share 128 bytes, which processors fetch
//! together); the second is only used when the first is full, and only the miss path looks there.
//!
//! **Bounded.** When a table has taken as much as it usefully can, the next worker that starts a
//! chunk puts an empty one in its place (seeded with the vocabulary); workers still reading the old
//! one keep it alive until their chunk ends. What it held counts as evicted. So memory is at most
//! two tables, and a change of language cannot leave the cache full of the old one for ever.
//!
//! Tried elsewhere and not repeated: a table per thread (each learns the same words again), tables
//! that grow with the corpus, denser tables with keys of 8 bytes (more instructions per key cost more
//! than the misses they save).

pub(crate) mod image;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use memmap2::MmapMut;

use crate::tier::Kernels;

/// Longest pretoken, in bytes, that has a key.
pub(crate) const KEY_MAX: usize = 15;

/// High key word of a way that is being written; no key has it, its last byte is not 0xFF.
const CLAIMED: u64 = 1;

/// Size of the default table: 2^20 entries. On 50 MB of warm prose a table of 16 MiB was a sixth slower
/// (and a third after it had been renewed), one of 64 MiB a twentieth faster.
pub(crate) const CACHE_BYTES: usize = 32 << 20;
const LINE_BYTES: usize = 64;
/// A table is not replaced before it has refused so many entries.
const REFUSED_MIN: u64 = 1 << 16;
/// From a line to the one beside it.
const BESIDE: u32 = LINE_BYTES as u32;

/// What a key maps to: packed ids and their length in bytes, see `lane`.
pub(crate) type Value = [u64; 2];

/// The key of a pretoken.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Key {
    pub(crate) lo: u64,
    pub(crate) hi: u64,
}

/// `PAD[n]` has 0xFF in every byte from `n` on; with 16 nothing is left of the bytes.
const PAD: [u128; 17] = {
    let mut pad = [u128::MAX; 17];
    let mut n = 1;
    while n < 16 {
        pad[n] = u128::MAX << (8 * n);
        n += 1;
    }
    pad
};

impl Key {
    /// A key that no table has.
    pub(crate) const NONE: Self = Self { lo: u64::MAX, hi: u64::MAX };

    /// The key of a pretoken of up to [`KEY_MAX`] bytes; the text is UTF-8.
    #[inline]
    pub(crate) fn new(piece: &[u8]) -> Self {
        debug_assert!(piece.len() <= KEY_MAX);
        let mut bytes = [0; 16];
        bytes[..piece.len()].copy_from_slice(piece);
        Self::padded(u128::from_le_bytes(bytes), piece.len() as u32)
    }

    /// The key of the first `len` bytes, at most 16; with 16 no table has it.
    #[inline]
    pub(crate) fn padded(bytes: u128, len: u32) -> Self {
        let key = bytes | PAD[len as usize];
        Self { lo: key as u64, hi: (key >> 64) as u64 }
    }

    /// The pretoken, with 0xFF behind it.
    pub(crate) fn bytes(self) -> [u8; 16] {
        (u128::from(self.lo) | u128::from(self.hi) << 64).to_le_bytes()
    }
}

/// Where the lines of a table are, for the kernels.
#[derive(Clone, Copy)]
pub(crate) struct Slots {
    pub(crate) lines: *const u8,
    /// A hash, and this, is the offset of a line in bytes.
    pub(crate) mask: u32,
}

#[repr(C, align(64))]
struct Line {
    keys: [[AtomicU64; 2]; 2],
    values: [[AtomicU64; 2]; 2],
}
const _: () = assert!(size_of::<Line>() == LINE_BYTES);

/// One generation of the cache.
pub(crate) struct Table {
    memory: MmapMut,
    mask: u32,
    hash: fn(Key) -> u32,
    n_entries: AtomicU64,
    n_refused: AtomicU64,
}

impl Table {
    fn new(n_lines: usize, kernels: &Kernels) -> std::io::Result<Self> {
        let memory = MmapMut::map_anon(n_lines * LINE_BYTES)?;
        // Without huge pages every other probe pays a page walk; a kernel that refuses is only slower.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        let mask = ((n_lines - 1) * LINE_BYTES) as u32;
        let zero = AtomicU64::new;
        Ok(Self { memory, mask, hash: kernels.hash, n_entries: zero(0), n_refused: zero(0) })
    }

    /// Takes the table's memory from the kernel at once; without it, it comes page by page as it is used.
    pub(crate) fn populate(&self) {
        // A kernel that does not know this (before 5.14) leaves it at page by page.
        #[cfg(target_os = "linux")]
        let _ = self.memory.advise(memmap2::Advice::PopulateWrite);
    }

    /// The table as the kernels see it.
    pub(crate) fn slots(&self) -> Slots {
        Slots { lines: self.memory.as_ptr(), mask: self.mask }
    }

    /// The line of a key, as an offset in bytes.
    #[inline]
    pub(crate) fn slot(&self, key: Key) -> u32 {
        (self.hash)(key) & self.mask
    }

    #[inline]
    fn line(&self, slot: u32) -> &Line {
        // Masked once more, so that no caller can reach outside.
        let offset = (slot & self.mask) as usize;
        #[expect(
            clippy::cast_ptr_alignment,
            reason = "a mapping is page-aligned, offsets are multiples of 64"
        )]
        // SAFETY: the mapping is page-aligned, reaches to `mask + 64`, lives as long as `self`, and is
        // only ever accessed atomically or by `probe`; zeroed memory is a valid Line.
        unsafe {
            &*self.memory.as_ptr().add(offset).cast::<Line>()
        }
    }

    /// Asks the processor for the second line of a key.
    #[inline]
    pub(crate) fn prefetch_beside(&self, slot: u32) {
        self.prefetch(slot ^ BESIDE);
    }

    /// Asks the processor for a line.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch has no effect but on timing.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(self.line(slot)).cast());
        }
    }

    /// The value of a key, if the table has it in either of its lines.
    #[inline]
    pub(crate) fn get(&self, slot: u32, key: Key) -> Option<Value> {
        self.line(slot).get(key).or_else(|| self.get_beside(slot, key))
    }

    /// The value of a key, if the table has it in its second line.
    #[inline]
    pub(crate) fn get_beside(&self, slot: u32, key: Key) -> Option<Value> {
        self.line(slot ^ BESIDE).get(key)
    }

    /// Stores a value where a way is free; where none is, nothing is stored. `learned` counts, for
    /// [`Table::count`]: a locked addition per word would cost as much as finding it a place.
    pub(crate) fn insert(&self, slot: u32, key: Key, value: Value, learned: &mut Learned) {
        for slot in [slot, slot ^ BESIDE] {
            match self.line(slot).insert(key, value) {
                Inserted::Now => {
                    learned.entries += 1;
                    return;
                }
                Inserted::Before => return,
                Inserted::Not => {}
            }
        }
        learned.refused += 1;
    }

    /// Adds the entries that a table was seeded with: those that found no place are no sign of wear.
    pub(crate) fn count_seeded(&self, learned: Learned) {
        self.count(Learned { refused: 0, ..learned });
    }

    /// Adds what a worker has learned since it last said so.
    pub(crate) fn count(&self, learned: Learned) {
        self.n_entries.fetch_add(learned.entries, Ordering::Relaxed);
        self.n_refused.fetch_add(learned.refused, Ordering::Relaxed);
    }

    /// Every entry, in the order of the lines.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Key, Value)> + '_ {
        (0..=self.mask).step_by(LINE_BYTES).flat_map(|slot| {
            let line = self.line(slot);
            (0..2).filter_map(|way| line.entry(way))
        })
    }

    pub(crate) fn n_entries(&self) -> u64 {
        self.n_entries.load(Ordering::Relaxed)
    }

    /// Whether refused entries have become as many as a quarter of what the table holds at most; a small
    /// table waits longer, because filling a new one with the vocabulary has its price.
    fn is_worn(&self) -> bool {
        let quarter = u64::from(self.mask) / (2 * LINE_BYTES as u64);
        self.n_refused.load(Ordering::Relaxed) > quarter.max(REFUSED_MIN)
    }
}

/// How many entries a worker has made, and how many found no place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Learned {
    entries: u64,
    refused: u64,
}

enum Inserted {
    Now,
    Before,
    Not,
}

impl Line {
    #[inline]
    fn get(&self, key: Key) -> Option<Value> {
        (0..2).find(|&way| self.has(way, key)).map(|way| self.value(way))
    }

    #[inline]
    fn has(&self, way: usize, key: Key) -> bool {
        let [lo, hi] = &self.keys[way];
        hi.load(Ordering::Acquire) == key.hi && lo.load(Ordering::Relaxed) == key.lo
    }

    #[inline]
    fn value(&self, way: usize) -> Value {
        let [first, second] = &self.values[way];
        [first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)]
    }

    fn entry(&self, way: usize) -> Option<(Key, Value)> {
        let [lo, hi] = &self.keys[way];
        let hi = hi.load(Ordering::Acquire);
        (hi != 0 && hi != CLAIMED).then(|| (Key { lo: lo.load(Ordering::Relaxed), hi }, self.value(way)))
    }

    fn insert(&self, key: Key, value: Value) -> Inserted {
        for way in 0..2 {
            if self.has(way, key) {
                return Inserted::Before;
            }
            let [lo, hi] = &self.keys[way];
            // Asked first: the exchange locks the line even where it fails.
            if hi.load(Ordering::Relaxed) == 0
                && hi.compare_exchange(0, CLAIMED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                self.values[way][0].store(value[0], Ordering::Relaxed);
                self.values[way][1].store(value[1], Ordering::Relaxed);
                lo.store(key.lo, Ordering::Relaxed);
                hi.store(key.hi, Ordering::Release);
                return Inserted::Now;
            }
        }
        Inserted::Not
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
pub(crate) struct WordCache {
    kernels: &'static Kernels,
    table: RwLock<Arc<Table>>,
    n_lines: usize,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

impl WordCache {
    /// An empty cache of about so many bytes, at most 2 GiB.
    pub(crate) fn new(bytes: usize, kernels: &'static Kernels) -> std::io::Result<Self> {
        Self::with_lines((bytes / LINE_BYTES).clamp(2, 1 << 25), kernels)
    }

    /// An empty cache of `n_lines` lines, rounded up to a power of two: lines are found by masking.
    pub(crate) fn with_lines(n_lines: usize, kernels: &'static Kernels) -> std::io::Result<Self> {
        let n_lines = n_lines.next_power_of_two().max(2);
        Ok(Self {
            kernels,
            table: RwLock::new(Arc::new(Table::new(n_lines, kernels)?)),
            n_lines,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        })
    }

    /// The present table; workers hold it for one chunk and then ask again.
    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces a table that refuses too much; `seed` fills the new one. Called between chunks.
    pub(crate) fn renew_if_worn(&self, seed: impl FnOnce(&Table)) {
        if self.table().is_worn() {
            self.replace(seed, Table::is_worn);
        }
    }

    /// Forgets everything learned; `seed` fills the new table.
    pub(crate) fn clear(&self, seed: impl FnOnce(&Table)) {
        self.replace(seed, |_| true);
    }

    fn replace(&self, seed: impl FnOnce(&Table), still: impl Fn(&Table) -> bool) {
        let mut current = self.table.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been first; and without memory for a new table the old one serves on.
        if still(&current)
            && let Ok(fresh) = Table::new(self.n_lines, self.kernels)
        {
            seed(&fresh);
            self.evictions.fetch_add(current.n_entries(), Ordering::Relaxed);
            *current = Arc::new(fresh);
        }
    }

    /// Adds a chunk's counts.
    pub(crate) fn count(&self, hits: u64, misses: u64) {
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
    }

    /// What the cache holds and did.
    pub(crate) fn stats(&self) -> CacheStats {
        let table = self.table();
        let entries = table.n_entries();
        CacheStats {
            entries,
            bytes: entries * 32,
            capacity_bytes: (self.n_lines * LINE_BYTES) as u64,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier;

    fn key(text: &str) -> Key {
        Key::new(text.as_bytes())
    }

    fn cache(n_lines: usize) -> WordCache {
        WordCache::with_lines(n_lines, tier::kernels().expect("a tier")).expect("memory")
    }

    #[test]
    fn keys_tell_lengths_and_nuls_apart() {
        let texts = ["", "\0", "\0\0", "a", "a\0", "123456789012345"];
        for (i, a) in texts.iter().enumerate() {
            for (j, b) in texts.iter().enumerate() {
                assert_eq!(key(a) == key(b), i == j);
            }
        }
        let longer = u128::from_le_bytes(*b"abc and then mor");
        assert_eq!(Key::padded(longer, 3), key("abc"));
        assert_eq!(Key::padded(longer, 16), key(""), "what is too long has the key of nothing");
        assert_eq!(&key("abc").bytes()[..4], b"abc\xFF");
    }

    #[test]
    fn a_full_pair_of_lines_refuses_and_a_worn_table_is_replaced() {
        let cache = cache(2);
        let table = cache.table();
        let mut learned = Learned::default();
        for (text, id) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6)] {
            table.insert(table.slot(key(text)), key(text), [id, 0], &mut learned);
        }
        table.count(learned);
        cache.renew_if_worn(|_| unreachable!("it has refused two entries"));
        table.count(Learned { entries: 0, refused: REFUSED_MIN });
        assert_eq!(table.get(table.slot(key("d")), key("d")), Some([4, 0]));
        assert_eq!(table.get(table.slot(key("e")), key("e")), None);
        assert_eq!(table.entries().count(), 4);
        cache.renew_if_worn(|fresh| fresh.insert(0, key("z"), [9, 9], &mut learned));
        assert_eq!(cache.stats().evictions, 4);
        assert_eq!(cache.table().get(0, key("z")), Some([9, 9]));
        assert_eq!(table.get(table.slot(key("a")), key("a")), Some([1, 0]), "a reader keeps its table");
    }

    #[test]
    fn threads_that_insert_and_read_only_ever_see_whole_values() {
        let cache = cache(64);
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
                            None => table.insert(table.slot(key), key, [n, !n], &mut Learned::default()),
                        }
                    }
                });
            }
        });
    }
}
