//! The pair table: `(left symbol, right symbol) -> (priority, result)`.
//!
//! Symbols are token ids; a byte without a token of its own gets a stand-in above every id
//! ([`MISSING`]), because a rank file may merge two such bytes into a token all the same.
//!
//! Two kinds of vocabulary become one table:
//!
//! * a **merge list** gives its pairs and their priorities directly;
//! * **ranks** (tiktoken's rule) merge *any* two neighbours whose joined bytes are a token. Every
//!   token therefore enters under each of its two-part splits. If every token is *reachable*, that
//!   is if merging its own bytes with lower ranks alone ends in exactly two parts, only that last
//!   pair can ever meet, and the other splits are dropped: inside a stretch of text that merges
//!   have not crossed, merges happen in the order they would in isolation, and in isolation there
//!   is exactly one state of two parts. For GPT-2 that is 50,000 pairs instead of 108,299.
//!
//! A table is *ordered* when no merge makes a pair of lower or equal priority than its own. Trained
//! vocabularies are; it permits the linear merge (see `merge`).

use rustc_hash::FxHashMap;

use crate::vocab::{Merges, Vocabulary};

/// Stand-in symbols for bytes without a token: `MISSING + byte`.
pub const MISSING: u32 = 0xFFFF_FF00;
/// The priority of a pair that does not merge.
pub const NEVER: u32 = u32::MAX;

/// A pair of symbols that merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub left: u32,
    pub right: u32,
    pub priority: u32,
    pub result: u32,
}

const EMPTY: Pair = Pair { left: u32::MAX, right: u32::MAX, priority: NEVER, result: 0 };

/// An open-addressed table, at most half full, so that a look-up is one or two adjacent slots.
pub struct PairTable {
    slots: Box<[Pair]>,
    shift: u32,
    symbols: Box<[u32; 256]>,
    ordered: bool,
    canonical: bool,
    n_priorities: u32,
}

impl PairTable {
    /// Builds the table of a vocabulary.
    #[must_use]
    pub fn new(vocab: &Vocabulary) -> Self {
        let mut symbols = Box::new([0_u32; 256]);
        for byte in 0..=255_u8 {
            symbols[usize::from(byte)] = vocab.byte_id(byte).unwrap_or(MISSING + u32::from(byte));
        }
        match vocab.merges() {
            Merges::List(list) => {
                let pair = |(&(left, right, result), priority): (&(u32, u32, u32), u32)| Pair {
                    left,
                    right,
                    priority,
                    result,
                };
                let pairs = list.iter().zip(0_u32..).map(pair).collect();
                Self::from_pairs(symbols, pairs)
            }
            Merges::Ranks => {
                if let Some(pairs) = canonical_splits(vocab, &symbols) {
                    return Self::from_pairs(symbols, pairs);
                }
                let splits = all_splits(vocab, &symbols);
                Self { canonical: false, ..Self::from_pairs(symbols, splits) }
            }
        }
    }

    fn from_pairs(symbols: Box<[u32; 256]>, pairs: Vec<Pair>) -> Self {
        let n_priorities = pairs.iter().map(|pair| pair.priority + 1).max().unwrap_or(0);
        let ordered = is_ordered(&pairs);
        let mut table = Self::with_capacity(symbols, pairs.len());
        table.ordered = ordered;
        table.n_priorities = n_priorities;
        for pair in pairs {
            table.insert(pair);
        }
        table
    }

    fn with_capacity(symbols: Box<[u32; 256]>, n_pairs: usize) -> Self {
        let n_slots = (2 * n_pairs).next_power_of_two().max(16);
        Self {
            slots: vec![EMPTY; n_slots].into_boxed_slice(),
            shift: 64 - n_slots.trailing_zeros(),
            symbols,
            ordered: true,
            canonical: true,
            n_priorities: 0,
        }
    }

    /// The first of equal pairs wins; vocabularies refuse duplicates before it comes to that.
    fn insert(&mut self, slot: Pair) {
        let mut at = self.home(slot.left, slot.right);
        while self.slots[at].priority != NEVER {
            if (self.slots[at].left, self.slots[at].right) == (slot.left, slot.right) {
                return;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = slot;
    }

    #[inline]
    fn home(&self, left: u32, right: u32) -> usize {
        let key = u64::from(left) << 32 | u64::from(right);
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// Priority (lower merges earlier) and result of a pair; priority [`NEVER`] if it does not merge.
    #[inline]
    #[must_use]
    pub fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let mut at = self.home(left, right);
        loop {
            let slot = &self.slots[at];
            if (slot.left == left && slot.right == right) || slot.priority == NEVER {
                return (slot.priority, slot.result);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// All pairs, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<Pair> {
        self.slots.iter().filter(|slot| slot.priority != NEVER).copied().collect()
    }

    /// The symbol of a byte.
    #[inline]
    #[must_use]
    pub fn symbol(&self, byte: u8) -> u32 {
        self.symbols[usize::from(byte)]
    }

    /// Whether every pair that a merge makes has a higher priority number than that merge.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Whether every token of a rank vocabulary is reached by its own merges, so that looking a whole
    /// pretoken up first (as tiktoken does) could not change a result.
    #[must_use]
    pub fn is_canonical(&self) -> bool {
        self.canonical
    }

    /// One more than the largest priority.
    #[must_use]
    pub fn n_priorities(&self) -> u32 {
        self.n_priorities
    }
}

fn is_ordered(pairs: &[Pair]) -> bool {
    // One more than the last priority that makes each id; 0: none does.
    let n_ids = pairs.iter().map(|pair| pair.result as usize + 1).max().unwrap_or(0);
    let mut made_before = vec![0; n_ids];
    for pair in pairs {
        let made = &mut made_before[pair.result as usize];
        *made = (pair.priority + 1).max(*made);
    }
    let is_made_before =
        |part: u32, priority| made_before.get(part as usize).is_none_or(|&made| made <= priority);
    pairs
        .iter()
        .all(|pair| is_made_before(pair.left, pair.priority) && is_made_before(pair.right, pair.priority))
}

fn all_splits(vocab: &Vocabulary, symbols: &[u32; 256]) -> Vec<Pair> {
    let ids: FxHashMap<&[u8], u32> = vocab.ordinary().map(|(id, token)| (token, id)).collect();
    let symbol = |part: &[u8]| match part {
        [byte] => Some(symbols[usize::from(*byte)]),
        _ => ids.get(part).copied(),
    };
    let mut pairs = Vec::new();
    for (id, token) in vocab.ordinary() {
        for at in 1..token.len() {
            if let (Some(left), Some(right)) = (symbol(&token[..at]), symbol(&token[at..])) {
                pairs.push(Pair { left, right, priority: id, result: id });
            }
        }
    }
    pairs
}

/// The one pair that makes each token, or `None` if some token is not reachable with lower ranks.
fn canonical_splits(vocab: &Vocabulary, symbols: &[u32; 256]) -> Option<Vec<Pair>> {
    let tokens: Vec<_> = vocab.ordinary().filter(|(_, token)| token.len() > 1).collect();
    let mut table = PairTable::with_capacity(Box::new(*symbols), tokens.len());
    let mut pairs = Vec::with_capacity(tokens.len());
    let (mut parts, mut ids) = (Vec::new(), Vec::new());
    // In rank order the table holds exactly the lower ranks when a token's turn comes.
    for (id, token) in tokens {
        parts.clear();
        parts.extend(token.iter().map(|&byte| table.symbol(byte)));
        super::merge::scan(&table, &mut parts, &mut ids);
        let [left, right] = parts[..] else { return None };
        let pair = Pair { left, right, priority: id, result: id };
        table.insert(pair);
        pairs.push(pair);
    }
    Some(pairs)
}
