//! Merging pretokens of 16 to 96 bytes: the same rule and tables as `short`, in arrays.
//!
//! The least priority and its place are found as the minimum of one number that has both, which
//! compilers turn into vector code; the gap is closed by a move. Quadratic, with small constants; what
//! is longer goes to the linear way (`merge`).

use super::short::{NEVER, ShortPairs};

/// Longest pretoken, in bytes.
pub(crate) const MEDIUM_MAX: usize = 96;

/// Symbols of a pretoken; what stands behind `n` of them is [`NEVER`].
pub(crate) struct Symbols {
    pub(crate) symbols: [u16; MEDIUM_MAX + 2],
    pub(crate) n: usize,
}

/// Merges a pretoken of 1 to [`MEDIUM_MAX`] bytes.
///
/// # Safety
/// None needed; the kernel that needs processor features has this signature too.
pub(crate) unsafe fn portable(pairs: &ShortPairs, piece: &[u8]) -> Symbols {
    run(pairs, piece)
}

/// The same code, compiled for AVX2.
///
/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(crate) unsafe fn avx2(pairs: &ShortPairs, piece: &[u8]) -> Symbols {
    run(pairs, piece)
}

#[inline(always)]
fn run(pairs: &ShortPairs, piece: &[u8]) -> Symbols {
    const LANES: usize = 16;
    let mut n = piece.len();
    let mut symbols = [NEVER; MEDIUM_MAX + 2];
    let mut priorities = [NEVER; MEDIUM_MAX + 2];
    for (symbol, &byte) in symbols.iter_mut().zip(piece) {
        *symbol = u16::from(byte);
    }
    for (priority, pair) in priorities.iter_mut().zip(piece.windows(2)) {
        *priority = pairs.of_bytes(u16::from_le_bytes([pair[0], pair[1]]));
    }
    loop {
        let searched = n.next_multiple_of(LANES).min(MEDIUM_MAX);
        let mut least = u32::MAX;
        for (at, &priority) in priorities[..searched].iter().enumerate() {
            least = least.min(u32::from(priority) << 16 | at as u32);
        }
        let (priority, at) = ((least >> 16) as u16, (least & 0xFFFF) as usize);
        if priority == NEVER {
            return Symbols { symbols, n };
        }
        symbols[at] = priority;
        symbols.copy_within(at + 2..=n, at + 1);
        priorities.copy_within(at + 2..=n, at + 1);
        n -= 1;
        let pair = |left: usize| u32::from(symbols[left]) | u32::from(symbols[left + 1]) << 16;
        priorities[at] = pairs.get(pair(at));
        if at > 0 {
            priorities[at - 1] = pairs.get(pair(at - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::merge::{MergeScratch, merge};
    use crate::bpe::pairs::PairTable;
    use crate::tier;
    use crate::vocab::Vocabulary;

    #[test]
    fn merges_as_the_general_way_does() {
        let vocab = Vocabulary::gpt2();
        let table = PairTable::new(&vocab);
        let pairs = ShortPairs::new(&table).expect("GPT-2 has symbols");
        let tokens: Vec<u8> = vocab.ordinary().flat_map(|(_, token)| token.to_vec()).collect();
        let (mut scratch, mut expected) = (MergeScratch::default(), Vec::new());
        for kernels in tier::tested() {
            for len in [1, 2, 15, 16, 17, 31, 32, 33, 64, 95, 96] {
                let pieces = tokens.windows(len).step_by(1009).map(<[u8]>::to_vec);
                for piece in pieces.chain([vec![b' '; len], vec![b'a'; len], vec![0; len]]) {
                    // SAFETY: the tier is available.
                    let merged = unsafe { (kernels.medium)(&pairs, &piece) };
                    expected.clear();
                    merge(&table, &piece, &mut scratch, &mut expected);
                    let ids: Vec<u32> = merged.symbols[..merged.n].iter().map(|&s| pairs.id(s)).collect();
                    assert_eq!(ids, expected, "{}: {piece:?}", kernels.name);
                }
            }
        }
    }
}
