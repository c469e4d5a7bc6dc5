//! Merging short words with vector registers; see the module above.

use std::arch::x86_64::*;

use super::{NEVER, ShortPairs, Word};

/// Words that the AVX-512 kernel has in work at a time.
const SIDE_BY_SIDE: usize = 4;

/// Lane numbers from which a window of three begins one before a lane; 16 and before 0 is lane 15,
/// which is always empty.
static NEIGHBOURS: [u16; 32] = {
    let mut lanes = [0; 32];
    let mut at = 0;
    while at < 32 {
        lanes[at] = (at as u16).wrapping_sub(1) & 15;
        at += 1;
    }
    lanes
};

/// Symbols and priorities of a word in work.
#[derive(Clone, Copy)]
struct State {
    symbols: __m256i,
    priorities: __m256i,
    n: u32,
}

/// Priorities of the pairs of neighbouring bytes, [`NEVER`] behind the last.
#[inline]
#[target_feature(enable = "avx2")]
fn byte_priorities(pairs: &ShortPairs, word: &Word) -> __m256i {
    let bytes = u128::from_le_bytes(word.bytes);
    let pair = |at: u32| pairs.of_bytes((bytes >> (8 * at)) as u16) as i16;
    let all = _mm256_setr_epi16(
        pair(0),
        pair(1),
        pair(2),
        pair(3),
        pair(4),
        pair(5),
        pair(6),
        pair(7),
        pair(8),
        pair(9),
        pair(10),
        pair(11),
        pair(12),
        pair(13),
        -1,
        -1,
    );
    // Lanes from the last byte on have no pair.
    let last = _mm256_set1_epi16(word.n_bytes as i16 - 1);
    let lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm256_or_si256(all, _mm256_xor_si256(_mm256_cmpgt_epi16(last, lane), _mm256_set1_epi16(-1)))
}

/// The bytes as symbols, [`NEVER`] behind the last.
#[inline]
#[target_feature(enable = "avx2")]
fn byte_symbols(word: &Word) -> __m256i {
    // SAFETY: 16 bytes.
    let bytes = unsafe { _mm_loadu_si128(word.bytes.as_ptr().cast()) };
    let n = _mm256_set1_epi16(word.n_bytes as i16);
    let lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let behind = _mm256_xor_si256(_mm256_cmpgt_epi16(n, lane), _mm256_set1_epi16(-1));
    _mm256_or_si256(_mm256_cvtepu8_epi16(bytes), behind)
}

/// The least of 16 priorities (lower half of the result) and its lane (upper half), the leftmost of
/// equals.
#[inline]
#[target_feature(enable = "avx2,sse4.1")]
fn least(priorities: __m256i) -> u32 {
    let low = _mm_cvtsi128_si32(_mm_minpos_epu16(_mm256_castsi256_si128(priorities))) as u32;
    let high = _mm_cvtsi128_si32(_mm_minpos_epu16(_mm256_extracti128_si256::<1>(priorities))) as u32;
    let high = high + (8 << 16);
    if (high as u16) < low as u16 { high } else { low }
}

/// See [`super::portable`].
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and VBMI2; words have 1 to 15 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,avx2,sse4.1,bmi1,bmi2")]
pub(crate) unsafe fn avx512(pairs: &ShortPairs, words: &mut [Word]) {
    let empty = State { symbols: _mm256_set1_epi16(-1), priorities: _mm256_set1_epi16(-1), n: 0 };
    let last_lane = _mm256_setr_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1);
    let start = |word: &Word| State {
        symbols: byte_symbols(word),
        priorities: byte_priorities(pairs, word),
        n: word.n_bytes,
    };
    let mut states = [empty; SIDE_BY_SIDE];
    let mut at = [usize::MAX; SIDE_BY_SIDE];
    let mut next = SIDE_BY_SIDE.min(words.len());
    for lane in 0..next {
        (states[lane], at[lane]) = (start(&words[lane]), lane);
    }
    let mut in_work = next;
    while in_work > 0 {
        let mut found = [0; SIDE_BY_SIDE];
        for lane in 0..SIDE_BY_SIDE {
            found[lane] = least(states[lane].priorities);
        }
        for lane in 0..SIDE_BY_SIDE {
            let (priority, place) = (found[lane] as u16, found[lane] >> 16);
            let State { symbols, priorities, n } = states[lane];
            if priority == NEVER {
                let Some(word) = words.get_mut(at[lane]) else { continue };
                // SAFETY: 16 lanes of 16 bits.
                unsafe { _mm256_storeu_si256(word.symbols.as_mut_ptr().cast(), symbols) };
                word.n_symbols = n;
                if next < words.len() {
                    (states[lane], at[lane]) = (start(&words[next]), next);
                    next += 1;
                } else {
                    (states[lane], at[lane]) = (empty, usize::MAX);
                    in_work -= 1;
                }
                continue;
            }
            let here = 1_u16 << place;
            let kept = !(2_u32 << place) as u16;
            let symbols = _mm256_mask_set1_epi16(symbols, here, priority as i16);
            let symbols = _mm256_or_si256(_mm256_maskz_compress_epi16(kept, symbols), last_lane);
            let priorities = _mm256_maskz_compress_epi16(kept, priorities);
            // SAFETY: `place` is below 16 and the table has 32 entries.
            let window = unsafe { _mm256_loadu_si256(NEIGHBOURS.as_ptr().add(place as usize).cast()) };
            let three =
                _mm_cvtsi128_si64(_mm256_castsi256_si128(_mm256_permutexvar_epi16(window, symbols))) as u64;
            let left = pairs.get(three as u32);
            let right = pairs.get((three >> 16) as u32);
            let priorities = _mm256_mask_set1_epi16(priorities, here, right as i16);
            // Without a left neighbour this is lane 15, and NEVER, as the pair with nothing is.
            let priorities = _mm256_mask_set1_epi16(priorities, here.rotate_right(1), left as i16);
            let priorities = _mm256_or_si256(priorities, last_lane);
            states[lane] = State { symbols, priorities, n: n - 1 };
        }
    }
}

/// See [`super::portable`]: the minimum by `vphminposuw`, the rest in memory.
///
/// # Safety
/// The processor has AVX2; words have 1 to 15 bytes.
#[target_feature(enable = "avx2,sse4.1,bmi1,bmi2")]
pub(crate) unsafe fn sse41(pairs: &ShortPairs, words: &mut [Word]) {
    for word in words {
        // Room behind, so that closing a gap is one unaligned load and store of everything behind it.
        let (mut symbols, mut priorities) = ([NEVER; 34], [NEVER; 34]);
        let mut n = word.n_bytes;
        let mut current = byte_priorities(pairs, word);
        // SAFETY: 16 lanes fit the arrays.
        unsafe {
            _mm256_storeu_si256(symbols.as_mut_ptr().cast(), byte_symbols(word));
            _mm256_storeu_si256(priorities.as_mut_ptr().cast(), current);
        }
        loop {
            let found = least(current);
            let (priority, place) = (found as u16, (found >> 16) as usize);
            if priority == NEVER {
                break;
            }
            n -= 1;
            // SAFETY: `place` is at most 13, and 16 lanes from 15 on end at 31 of 34.
            unsafe {
                for lanes in [&mut symbols, &mut priorities] {
                    let behind = _mm256_loadu_si256(lanes.as_ptr().add(place + 2).cast());
                    _mm256_storeu_si256(lanes.as_mut_ptr().add(place + 1).cast(), behind);
                }
            }
            symbols[place] = priority;
            let pair = |left: usize| u32::from(symbols[left]) | u32::from(symbols[left + 1]) << 16;
            priorities[place] = pairs.get(pair(place));
            if place > 0 {
                priorities[place - 1] = pairs.get(pair(place - 1));
            }
            // SAFETY: as above.
            current = unsafe { _mm256_loadu_si256(priorities.as_ptr().cast()) };
        }
        word.symbols.copy_from_slice(&symbols[..16]);
        word.n_symbols = n;
    }
}
