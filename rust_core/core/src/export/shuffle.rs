//! The order of shuffled documents: a permutation that is computed, not held.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A permutation of `0..n` that follows from a seed alone, without memory.
///
/// A balanced Feistel network over the smallest even number of bits that holds `n`, whose rounds are
/// XXH3-64 of the half and the round's number; what falls outside `0..n` goes through again.
pub struct Shuffle {
    n: u64,
    seed: u64,
    half_bits: u32,
}

impl Shuffle {
    const ROUNDS: u64 = 8;

    /// The order of `n` documents under a seed.
    #[must_use]
    pub fn new(n: u64, seed: u64) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Self { n, seed, half_bits: bits.div_ceil(2).max(1) }
    }

    /// The document at a position below `n`.
    #[must_use]
    pub fn at(&self, position: u64) -> u64 {
        let mut value = position;
        loop {
            value = self.round_trip(value);
            if value < self.n {
                return value;
            }
        }
    }

    /// The position of a document below `n`: the reverse of [`Shuffle::at`].
    #[must_use]
    pub fn position_of(&self, document: u64) -> u64 {
        let mut value = document;
        loop {
            value = self.way_back(value);
            if value < self.n {
                return value;
            }
        }
    }

    fn round_trip(&self, value: u64) -> u64 {
        let (mut left, mut right) = self.halves(value);
        for round in 0..Self::ROUNDS {
            (left, right) = (right, left ^ self.scrambled(right, round));
        }
        left << self.half_bits | right
    }

    fn way_back(&self, value: u64) -> u64 {
        let (mut left, mut right) = self.halves(value);
        for round in (0..Self::ROUNDS).rev() {
            (left, right) = (right ^ self.scrambled(left, round), left);
        }
        left << self.half_bits | right
    }

    fn mask(&self) -> u64 {
        (1 << self.half_bits) - 1
    }

    fn halves(&self, value: u64) -> (u64, u64) {
        (value >> self.half_bits, value & self.mask())
    }

    fn scrambled(&self, half: u64, round: u64) -> u64 {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&half.to_le_bytes());
        key[8..].copy_from_slice(&round.to_le_bytes());
        xxh3_64_with_seed(&key, self.seed) & self.mask()
    }
}

#[cfg(test)]
mod tests {
    use super::Shuffle;

    #[test]
    fn shuffles_are_permutations_that_follow_from_the_seed() {
        let order = |n: u64, seed: u64| {
            let shuffle = Shuffle::new(n, seed);
            (0..n).map(|position| shuffle.at(position)).collect::<Vec<_>>()
        };
        for n in (0..70).chain([1000, 4096, 4097]) {
            let mut seen = order(n, 7);
            assert_eq!(seen, order(n, 7));
            let shuffle = Shuffle::new(n, 7);
            assert!(seen.iter().map(|&document| shuffle.position_of(document)).eq(0..n));
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..n));
        }
        assert_ne!(order(1000, 7), order(1000, 8));
        // Each document comes to each place: 24 orders of four, none of them rare.
        let mut counts = std::collections::HashMap::new();
        for seed in 0..2400 {
            *counts.entry(order(4, seed)).or_insert(0) += 1;
        }
        assert!(counts.len() == 24 && counts.values().all(|count| (50..200).contains(count)), "{counts:?}");
    }
}
