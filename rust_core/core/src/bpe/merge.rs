//! Running the merges of one pretoken.
//!
//! The rule is always the same: of all neighbouring pairs that merge, take the one of the lowest
//! priority number, the leftmost of equals, replace it by its result, repeat. Three ways to do it:
//!
//! | symbols | vocabulary | way | cost |
//! |---|---|---|---|
//! | up to [`SCAN_MAX`] | any | [`scan`]: keep the priorities in an array, look for the least | n·m, tiny constants |
//! | more | ordered | [`buckets`]: a bucket of positions per priority, emptied in rising order | n |
//! | more | other | [`heap`]: a binary heap of pairs, stale entries skipped | n log n |
//!
//! The bucket way is what makes ten megabytes of one letter cost the same per byte as ten
//! kilobytes. It needs an *ordered* table (see `pairs`): a merge then only makes pairs of higher
//! priority numbers, so a bucket that has been emptied never fills again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::pairs::{NEVER, PairTable};

/// Longest pretoken, in symbols, for which the plain scan is used.
pub const SCAN_MAX: usize = 96;

const NONE: u32 = u32::MAX;

/// Reusable memory of the merges; one per worker.
#[derive(Default)]
pub struct MergeScratch {
    priorities: Vec<u32>,
    links: Vec<Link>,
    events: Vec<Event>,
    heads: Vec<u32>,
    waiting: Vec<u64>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

/// Merges the bytes of `piece` and appends the symbols that remain to `out`.
pub fn merge(table: &PairTable, piece: &[u8], scratch: &mut MergeScratch, out: &mut Vec<u32>) {
    let from = out.len();
    out.extend(piece.iter().map(|&byte| table.symbol(byte)));
    if piece.len() <= SCAN_MAX {
        scan_tail(table, out, from, &mut scratch.priorities);
    } else {
        let symbols = out.split_off(from);
        Chain::new(table, &symbols, scratch).run(table.is_ordered(), out);
    }
}

/// The merges that come late: those from a priority on, of an ordered vocabulary.
///
/// What earlier merges leave of a word is mostly its ids already, and the table of a large vocabulary does
/// not fit the processor's caches. So a bit per pair, by hash, is asked first.
pub(crate) struct Later {
    bits: Box<[u64]>,
}

impl Later {
    const BITS: u32 = 21;

    /// The pairs of the table from priority `from` on.
    pub(crate) fn new(table: &PairTable, from: u32) -> Self {
        let mut bits = vec![0; (1 << Self::BITS) / 64].into_boxed_slice();
        for pair in table.list().iter().filter(|pair| pair.priority >= from) {
            let at = Self::place(pair.left, pair.right);
            bits[at / 64] |= 1 << (at % 64);
        }
        Self { bits }
    }

    #[inline]
    fn place(left: u32, right: u32) -> usize {
        let key = u64::from(left) << 32 | u64::from(right);
        (key.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> (64 - Self::BITS)) as usize
    }

    #[inline]
    fn may_merge(&self, left: u32, right: u32) -> bool {
        let at = Self::place(left, right);
        self.bits[at / 64] >> (at % 64) & 1 == 1
    }

    /// Merges what the earlier merges have left.
    #[inline]
    pub(crate) fn go_on(&self, table: &PairTable, symbols: &mut Vec<u32>, scratch: &mut MergeScratch) {
        if symbols.windows(2).any(|pair| self.may_merge(pair[0], pair[1])) {
            scan_tail(table, symbols, 0, &mut scratch.priorities);
        }
    }
}

/// Merges `symbols` in place by repeated search; the clearest of the three ways.
pub(super) fn scan(table: &PairTable, symbols: &mut Vec<u32>, priorities: &mut Vec<u32>) {
    scan_tail(table, symbols, 0, priorities);
}

fn scan_tail(table: &PairTable, symbols: &mut Vec<u32>, from: usize, priorities: &mut Vec<u32>) {
    let part = &mut symbols[from..];
    let mut n = part.len();
    priorities.clear();
    priorities.extend(part.windows(2).map(|pair| table.get(pair[0], pair[1]).0));
    while n > 1 {
        let (mut at, mut least) = (0, NEVER);
        for (index, &priority) in priorities.iter().enumerate() {
            if priority < least {
                (at, least) = (index, priority);
            }
        }
        if least == NEVER {
            break;
        }
        part[at] = table.get(part[at], part[at + 1]).1;
        part.copy_within(at + 2..n, at + 1);
        n -= 1;
        priorities.remove(at);
        if at < n - 1 {
            priorities[at] = table.get(part[at], part[at + 1]).0;
        }
        if at > 0 {
            priorities[at - 1] = table.get(part[at - 1], part[at]).0;
        }
    }
    symbols.truncate(from + n);
}

/// One symbol of a pretoken under the linked ways; a merged-away position keeps `priority` NEVER.
#[derive(Clone, Copy)]
struct Link {
    symbol: u32,
    prev: u32,
    next: u32,
    /// Priority of the pair (this symbol, the next one).
    priority: u32,
}

/// A position waiting in a bucket.
#[derive(Clone, Copy)]
struct Event {
    at: u32,
    /// The next event of the same bucket.
    next: u32,
}

struct Chain<'a> {
    table: &'a PairTable,
    scratch: &'a mut MergeScratch,
}

impl<'a> Chain<'a> {
    fn new(table: &'a PairTable, symbols: &[u32], scratch: &'a mut MergeScratch) -> Self {
        let n = u32::try_from(symbols.len()).unwrap_or(NONE);
        debug_assert!(n < NONE, "a chunk is far below 4 Gi symbols");
        scratch.links.clear();
        scratch.links.extend(symbols.iter().zip(0..n).map(|(&symbol, at)| Link {
            symbol,
            prev: at.wrapping_sub(1),
            next: if at + 1 < n { at + 1 } else { NONE },
            priority: NEVER,
        }));
        for at in 1..symbols.len() {
            scratch.links[at - 1].priority = table.get(symbols[at - 1], symbols[at]).0;
        }
        Self { table, scratch }
    }

    fn run(mut self, ordered: bool, out: &mut Vec<u32>) {
        if ordered {
            self.buckets();
        } else {
            self.heap();
        }
        // Position 0 is never merged away: a merge keeps its left position.
        let mut at = 0;
        while at != NONE {
            let link = self.scratch.links[at as usize];
            out.push(link.symbol);
            at = link.next;
        }
    }

    /// Merges the pair at `at`; returns the position after it.
    #[inline]
    fn merge_at(&mut self, at: u32) -> u32 {
        let links = &mut self.scratch.links;
        let left = links[at as usize];
        let right = links[left.next as usize];
        let symbol = self.table.get(left.symbol, right.symbol).1;
        links[left.next as usize].priority = NEVER;
        let priority = if right.next == NONE {
            NEVER
        } else {
            links[right.next as usize].prev = at;
            self.table.get(symbol, links[right.next as usize].symbol).0
        };
        links[at as usize] = Link { symbol, prev: left.prev, next: right.next, priority };
        if left.prev != NONE {
            let before = links[left.prev as usize].symbol;
            links[left.prev as usize].priority = self.table.get(before, symbol).0;
        }
        right.next
    }

    #[inline]
    fn enqueue(&mut self, at: u32) {
        let priority = self.scratch.links[at as usize].priority;
        if priority == NEVER {
            return;
        }
        let bucket = priority as usize;
        let event = self.scratch.events.len() as u32;
        self.scratch.events.push(Event { at, next: self.scratch.heads[bucket] });
        self.scratch.heads[bucket] = event;
        self.scratch.waiting[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Empties the buckets in rising order of priority.
    ///
    /// An event is stale when its position no longer has the bucket's priority. Order inside a
    /// bucket only matters where pairs overlap, in a run of equal symbols: so each event first walks
    /// to the left end of its run, and the run is merged from there, leftmost first.
    fn buckets(&mut self) {
        let n_buckets = self.table.n_priorities() as usize;
        self.scratch.heads.resize(n_buckets, NONE);
        self.scratch.waiting.resize(n_buckets.div_ceil(64), 0);
        self.scratch.events.clear();
        for at in 0..self.scratch.links.len() as u32 {
            self.enqueue(at);
        }
        let mut word = 0;
        while word < self.scratch.waiting.len() {
            let bits = self.scratch.waiting[word];
            if bits == 0 {
                word += 1;
                continue;
            }
            let bucket = word * 64 + bits.trailing_zeros() as usize;
            self.scratch.waiting[word] &= bits - 1;
            let mut event = std::mem::replace(&mut self.scratch.heads[bucket], NONE);
            while event != NONE {
                let Event { at, next } = self.scratch.events[event as usize];
                self.merge_run(at, bucket as u32);
                event = next;
            }
        }
    }

    fn merge_run(&mut self, mut at: u32, priority: u32) {
        if self.scratch.links[at as usize].priority != priority {
            return;
        }
        loop {
            let before = self.scratch.links[at as usize].prev;
            if before == NONE || self.scratch.links[before as usize].priority != priority {
                break;
            }
            at = before;
        }
        while at != NONE && self.scratch.links[at as usize].priority == priority {
            let before = self.scratch.links[at as usize].prev;
            let after = self.merge_at(at);
            if before != NONE {
                self.enqueue(before);
            }
            self.enqueue(at);
            at = after;
        }
    }

    /// The general way, for tables where a merge can make a pair that should have come earlier.
    fn heap(&mut self) {
        self.scratch.heap.clear();
        for at in 0..self.scratch.links.len() as u32 {
            self.push(at);
        }
        while let Some(Reverse((priority, at))) = self.scratch.heap.pop() {
            if self.scratch.links[at as usize].priority != priority {
                continue;
            }
            let before = self.scratch.links[at as usize].prev;
            self.merge_at(at);
            if before != NONE {
                self.push(before);
            }
            self.push(at);
        }
    }

    fn push(&mut self, at: u32) {
        let priority = self.scratch.links[at as usize].priority;
        if priority != NEVER {
            self.scratch.heap.push(Reverse((priority, at)));
        }
    }
}
