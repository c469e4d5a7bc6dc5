//! Merging words of up to 15 bytes, the misses of the word cache, in registers.
//!
//! A word's symbols and the priorities of its pairs are 16 lanes of 16 bits each. A merge is: find
//! the least priority and its lane (`vphminposuw`), put the result there, close the gap, look up the
//! two new pairs. What it costs is waiting: for the minimum, for the pair table, for the permutation
//! behind both. So the vector kernels run four words side by side, and a word that is done makes room
//! for the next one at once.
//!
//! **Symbols.** A byte is its own value, the k-th merge in order of priority makes symbol 256 + k. A
//! symbol therefore *is* the priority of the merge that makes it, and a table entry needs one number
//! for both. Vocabularies of which that is not true (two merges of different priority with one
//! result, bytes without a token) have no [`ShortPairs`] and take the general way (`merge`).
//!
//! **More merges than symbols.** Of a larger vocabulary the first [`MERGES_MAX`] are here. If it is
//! ordered (see `pairs`), a later merge makes no pair for an earlier one: so these come first, whatever
//! follows, and what they leave, one to three symbols as a rule, is merged on in the general way
//! (`merge::Later`).
//!
//! **Pair table.** Two tables of 65,536 entries, 256 KiB each, read side by side: the two loads do not
//! depend on each other. A pair's 32 bits, multiplied by an odd number, give the place in the upper
//! half and, in the lower half, what is left to tell it from all others with that place: the product
//! is a bijection, so 16 bits of tag make the match exact. Building is cuckoo hashing: who finds its
//! place taken sends the other one to its place in the other table. (A trie with validity checks was
//! tried instead of merging, 740 cycles a word against 480; a displacement table, two loads of which
//! the second waits for the first, takes 170 ms to build.)

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{avx2, avx512};

use super::merge::{Later, MergeScratch};
use super::pairs::PairTable;
use crate::huge::{Huge, Zeroed};

/// Longest word, in bytes.
pub(crate) const WORD_MAX: usize = 15;
/// The priority of a pair that does not merge; no symbol.
pub(crate) const NEVER: u16 = u16::MAX;

const PLACES: usize = 1 << 16;
/// Merges that the tables take: fuller than this, building them takes too many moves.
const MERGES_MAX: usize = 52_000;
/// How often a newcomer may move others before the table is built with other factors.
const MOVES_MAX: usize = 500;

/// A word to merge, and its symbols afterwards.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Word {
    /// The bytes; what stands behind `n_bytes` of them does not matter.
    pub(crate) bytes: [u8; 16],
    pub(crate) n_bytes: u32,
    /// How many of `symbols` count.
    pub(crate) n_symbols: u32,
    pub(crate) symbols: [u16; 16],
}

impl Word {
    /// A word of 1 to [`WORD_MAX`] bytes.
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes[..text.len()].copy_from_slice(text);
        Self::padded(bytes, text.len() as u32)
    }

    /// The same, from 16 bytes of which `n_bytes` count.
    pub(crate) fn padded(bytes: [u8; 16], n_bytes: u32) -> Self {
        debug_assert!((1..=WORD_MAX as u32).contains(&n_bytes));
        Self { bytes, n_bytes, n_symbols: 0, symbols: [NEVER; 16] }
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.bytes[..self.n_bytes as usize]
    }

    pub(crate) fn symbols(&self) -> &[u16] {
        &self.symbols[..self.n_symbols as usize]
    }
}

/// What is looked up; together, so that one huge page has all of it.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tables {
    /// Priority << 16 | tag, two tables one after the other.
    places: [u32; 2 * PLACES],
    /// Priority by two neighbouring bytes, the first one in the low half.
    bytes: [u16; PLACES],
    /// Token id of each symbol.
    ids: [u32; PLACES],
}

// SAFETY: integers.
unsafe impl Zeroed for Tables {}

/// The pair tables of a vocabulary.
pub(crate) struct ShortPairs {
    tables: Huge<Tables>,
    factors: [u32; 2],
    /// The merges that are not here.
    later: Option<Later>,
}

impl ShortPairs {
    /// The tables of a vocabulary whose merges have symbols; see the module header.
    pub(crate) fn new(pairs: &PairTable) -> Option<Self> {
        Self::with_merges(pairs, MERGES_MAX)
    }

    fn with_merges(pairs: &PairTable, n_max: usize) -> Option<Self> {
        let list = pairs.list();
        // The result of each priority. Pairs of one priority have one result.
        let mut results = vec![None; pairs.n_priorities() as usize];
        for pair in &list {
            results[pair.priority as usize] = Some(pair.result);
        }
        // Priorities have gaps where bytes have ids between the others.
        let late = results.iter().enumerate().filter(|(_, result)| result.is_some()).nth(n_max);
        let late = late.map(|(priority, _)| priority as u32);
        let is_partial = late.is_some();
        let mut results: Vec<u32> = results.into_iter().flatten().collect();
        if is_partial && !pairs.is_ordered() {
            return None;
        }
        results.truncate(n_max);
        let mut symbols = Symbols(vec![NEVER; results.iter().max().map_or(0, |&id| id as usize + 1)]);
        let mut ids = Vec::with_capacity(256 + results.len());
        for byte in 0..=255_u8 {
            let id = pairs.symbol(byte);
            if id >= super::pairs::MISSING || !symbols.insert(id, u16::from(byte)) {
                return None;
            }
            ids.push(id);
        }
        for &result in &results {
            // A result that is there already has another priority, or is a byte.
            if !symbols.insert(result, ids.len() as u16) {
                return None;
            }
            ids.push(result);
        }
        let symbol = |id| symbols.get(id);
        let mut entries = Vec::with_capacity(list.len());
        for pair in &list {
            // A part that no merge and no byte makes can never meet another.
            if let (Some(left), Some(right)) = (symbol(pair.left), symbol(pair.right)) {
                match symbol(pair.result) {
                    Some(result) => entries.push((u32::from(left) | u32::from(right) << 16, result)),
                    None if is_partial => {}
                    None => return None,
                }
            }
        }
        let mut tables = Huge::<Tables>::new(1)?;
        let all = tables.first_mut()?;
        all.ids[..ids.len()].copy_from_slice(&ids);
        all.bytes.fill(NEVER);
        for &(pair, priority) in &entries {
            if pair & 0xFF00_FF00 == 0 {
                all.bytes[(pair & 0xFF | pair >> 8) as usize] = priority;
            }
        }
        // Any odd factor is a bijection; a few are tried in the unlikely case that one pair fails.
        let factors = (0..64_u32).find_map(|attempt| {
            let factors = [0x9E37_79B1_u32, 0x85EB_CA6B].map(|factor| factor.wrapping_add(attempt << 1));
            build(&entries, factors, &mut all.places).then_some(factors)
        })?;
        Some(Self { tables, factors, later: late.map(|late| Later::new(pairs, late)) })
    }

    #[inline]
    fn tables(&self) -> &Tables {
        // SAFETY: there is one.
        unsafe { self.tables.get_unchecked(0) }
    }

    /// The priority of a pair of symbols, left one in the low half; [`NEVER`] if it does not merge.
    #[inline]
    pub(crate) fn get(&self, pair: u32) -> u16 {
        let [first, second] = spots(pair, self.factors);
        let places = &self.tables().places;
        // SAFETY: a place is below 65,536, in the first or the second half of 131,072 entries.
        let (a, b) = unsafe {
            (
                *places.get_unchecked((first >> 16) as usize),
                *places.get_unchecked(PLACES + (second >> 16) as usize),
            )
        };
        // Of two entries at most one has the pair's tag. Empty places have the priority NEVER.
        let a = if a as u16 == first as u16 { (a >> 16) as u16 } else { NEVER };
        let b = if b as u16 == second as u16 { (b >> 16) as u16 } else { NEVER };
        a.min(b)
    }

    /// The priority of two neighbouring bytes, the first one in the low half.
    #[inline]
    pub(crate) fn of_bytes(&self, pair: u16) -> u16 {
        self.tables().bytes[usize::from(pair)]
    }

    /// The token id of a symbol.
    #[inline]
    pub(crate) fn id(&self, symbol: u16) -> u32 {
        self.tables().ids[usize::from(symbol)]
    }

    /// Merges what the kernels leave; `pairs` is the table that this one was made from.
    #[inline]
    pub(crate) fn go_on(&self, pairs: &PairTable, ids: &mut Vec<u32>, scratch: &mut MergeScratch) {
        if let Some(later) = &self.later {
            later.go_on(pairs, ids, scratch);
        }
    }

    /// The symbol of each token id.
    #[cfg(test)]
    fn symbols(&self) -> rustc_hash::FxHashMap<u32, u16> {
        let ids = self.tables().ids.iter().zip(0..NEVER);
        ids.filter(|(id, symbol)| **id != 0 || *symbol < 256).map(|(&id, symbol)| (id, symbol)).collect()
    }
}

/// The symbol of each token id, by id; [`NEVER`]: it has none.
struct Symbols(Vec<u16>);

impl Symbols {
    /// False if the id has a symbol already.
    fn insert(&mut self, id: u32, symbol: u16) -> bool {
        if self.0.len() <= id as usize {
            self.0.resize(id as usize + 1, NEVER);
        }
        std::mem::replace(&mut self.0[id as usize], symbol) == NEVER
    }

    fn get(&self, id: u32) -> Option<u16> {
        self.0.get(id as usize).copied().filter(|&symbol| symbol != NEVER)
    }
}

/// Place (upper half) and tag (lower half) of a pair in each of the two tables.
#[inline]
fn spots(pair: u32, factors: [u32; 2]) -> [u32; 2] {
    [pair.wrapping_mul(factors[0]), pair.rotate_left(16).wrapping_mul(factors[1])]
}

/// Fills the two tables; false if an entry finds no place.
fn build(entries: &[(u32, u16)], factors: [u32; 2], filled: &mut [u32; 2 * PLACES]) -> bool {
    const EMPTY: u64 = u64::MAX;
    // While building a place holds the whole pair, from which its other place follows.
    let mut places = vec![EMPTY; 2 * PLACES];
    for &(pair, priority) in entries {
        let mut homeless = u64::from(priority) << 32 | u64::from(pair);
        let mut side = 0;
        for _ in 0..MOVES_MAX {
            let at = side * PLACES + (spots(homeless as u32, factors)[side] >> 16) as usize;
            homeless = std::mem::replace(&mut places[at], homeless);
            if homeless == EMPTY {
                break;
            }
            side = 1 - side;
        }
        if homeless != EMPTY {
            return false;
        }
    }
    for (at, (filled, place)) in filled.iter_mut().zip(places).enumerate() {
        let tag = spots(place as u32, factors)[at / PLACES] & 0xFFFF;
        *filled = if place == EMPTY { u32::from(NEVER) << 16 } else { ((place >> 32) as u32) << 16 | tag };
    }
    true
}

/// Merges each word: the twin of the vector kernels, and what runs without them.
///
/// # Safety
/// None needed; the kernels that need processor features have this signature too. Words have 1 to
/// [`WORD_MAX`] bytes.
pub(crate) unsafe fn portable(pairs: &ShortPairs, words: &mut [Word]) {
    for word in words {
        let mut n = word.n_bytes as usize;
        let mut symbols = [NEVER; 16];
        let mut priorities = [NEVER; 16];
        for (symbol, &byte) in symbols.iter_mut().zip(word.text()) {
            *symbol = u16::from(byte);
        }
        for (priority, pair) in priorities.iter_mut().zip(word.text().windows(2)) {
            *priority = pairs.of_bytes(u16::from_le_bytes([pair[0], pair[1]]));
        }
        loop {
            // The least priority with its place in one number: the leftmost of equals is the least.
            let least =
                (0..16).map(|at| u32::from(priorities[at]) << 16 | at as u32).min().unwrap_or(u32::MAX);
            let (priority, at) = ((least >> 16) as u16, (least & 0xFFFF) as usize);
            if priority == NEVER {
                break;
            }
            symbols[at] = priority;
            symbols.copy_within(at + 2..n, at + 1);
            priorities.copy_within(at + 2..n, at + 1);
            n -= 1;
            symbols[n] = NEVER;
            priorities[n] = NEVER;
            let pair = |left: usize| u32::from(symbols[left]) | u32::from(symbols[left + 1]) << 16;
            priorities[at] = pairs.get(pair(at));
            if at > 0 {
                priorities[at - 1] = pairs.get(pair(at - 1));
            }
        }
        word.symbols = symbols;
        word.n_symbols = n as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::merge::{MergeScratch, merge};
    use crate::tier;
    use crate::vocab::Vocabulary;

    #[test]
    fn every_tier_merges_as_the_general_way_does() {
        let vocab = Vocabulary::gpt2();
        let table = PairTable::new(&vocab);
        let pairs = ShortPairs::new(&table).expect("GPT-2 has symbols");
        let mut texts: Vec<Vec<u8>> = vocab.ordinary().map(|(_, token)| token.to_vec()).collect();
        let joined: Vec<u8> = texts.iter().flatten().copied().collect();
        texts.extend(joined.windows(15).step_by(7).map(<[u8]>::to_vec));
        texts.extend((1..=15).map(|n| vec![b'a'; n]));
        texts.retain(|text| text.len() <= WORD_MAX);
        let (mut scratch, mut expected) = (MergeScratch::default(), Vec::new());
        for kernels in tier::tested() {
            let mut words: Vec<Word> = texts.iter().map(|text| Word::new(text)).collect();
            for chunk in words.chunks_mut(37) {
                // SAFETY: the tier is available, the words have 1 to 15 bytes.
                unsafe { (kernels.merge)(&pairs, chunk) };
            }
            for (text, word) in texts.iter().zip(&words) {
                expected.clear();
                merge(&table, text, &mut scratch, &mut expected);
                let ids: Vec<u32> = word.symbols().iter().map(|&symbol| pairs.id(symbol)).collect();
                assert_eq!(ids, expected, "{}: {text:?}", kernels.name);
            }
        }
    }

    #[test]
    fn the_first_merges_and_then_the_others_are_all_of_them() {
        let vocab = Vocabulary::gpt2();
        let table = PairTable::new(&vocab);
        let tokens: Vec<u8> = vocab.ordinary().flat_map(|(_, token)| token.to_vec()).collect();
        let (mut scratch, mut expected, mut ids) = (MergeScratch::default(), Vec::new(), Vec::new());
        for n_max in [0, 1, 300, 20_000, 49_999] {
            let pairs = ShortPairs::with_merges(&table, n_max).expect("GPT-2 is ordered");
            assert!(pairs.later.is_some());
            let mut words: Vec<Word> =
                (1..=15).flat_map(|len| tokens.windows(len).step_by(701)).map(Word::new).collect();
            for kernels in tier::tested() {
                // SAFETY: the tier is available, the words have 1 to 15 bytes.
                unsafe { (kernels.merge)(&pairs, &mut words) };
                for word in &words {
                    expected.clear();
                    merge(&table, word.text(), &mut scratch, &mut expected);
                    ids.clear();
                    ids.extend(word.symbols().iter().map(|&symbol| pairs.id(symbol)));
                    pairs.go_on(&table, &mut ids, &mut scratch);
                    assert_eq!(ids, expected, "{}, {n_max} merges: {:?}", kernels.name, word.text());
                }
            }
        }
        assert!(ShortPairs::new(&table).expect("GPT-2 has symbols").later.is_none());
    }

    #[test]
    fn the_pair_table_knows_what_the_general_one_knows() {
        let table = PairTable::new(&Vocabulary::gpt2());
        let pairs = ShortPairs::new(&table).expect("GPT-2 has symbols");
        let symbols = pairs.symbols();
        for pair in table.list() {
            let key = u32::from(symbols[&pair.left]) | u32::from(symbols[&pair.right]) << 16;
            assert_eq!(pairs.id(pairs.get(key)), pair.result);
            assert_eq!(pairs.get(key ^ 0x8000_0000).min(pairs.get(key | 0xFFFF_0000)), {
                let other = symbols.iter().find(|(_, symbol)| **symbol == (key >> 16) as u16 ^ 0x8000);
                other.map_or(NEVER, |(&right, _)| match table.get(pair.left, right) {
                    (super::super::pairs::NEVER, _) => NEVER,
                    (_, result) => symbols[&result],
                })
            });
        }
    }
}
