//! Keys to ids: each line is compared with its key, and the value of the way that matches is appended.
//!
//! A value is stored whole, 16 bytes, and the output advances by as many bytes as the value says it
//! has. There is no branch but the one for a miss. Misses are noted with the place where their ids
//! belong, and the output goes on as if they had none: they are put in afterwards, all of a batch
//! together, which is cheaper than breaking the loop for them.
//!
//! With each key, the line of one key of the next batch is asked for (see `keys`).
//!
//! **Other threads write to the table meanwhile.** A way is written once: first its value, then the
//! low word of its key, last the high word (see `cache`). Whoever has read both words of the key,
//! in whatever order, may read the value: if both match, the way is complete, because the low word
//! of a way never changes once it is not 0, and a key whose low word is 0 has that word from the
//! start. The vector tiers read keys in an assembly block, out of the sight of the memory model of
//! the language, with an instruction whose aligned 8-byte parts x86 reads undivided and, as all loads
//! there, in program order.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::{Key, Slots};

/// A pretoken that the table does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Miss {
    /// Its number in the batch.
    pub(crate) unit: u32,
    /// Where its ids belong: bytes of output before it.
    pub(crate) at_bytes: u32,
}

/// Appends the values of all keys that the table has to `out`, and asks for the lines at `next`; returns
/// the bytes written and how many misses were noted.
///
/// # Safety
/// `slots` are offsets of lines of the table; `out` has room for 15 bytes per key and one more;
/// `misses` and `next` are as long as `keys`; the processor has the tier's features.
pub(crate) unsafe fn portable(
    table: Slots,
    keys: &[Key],
    slots: &[u32],
    next: &[u32],
    out: *mut u8,
    misses: &mut [Miss],
) -> (usize, usize) {
    super::keys::prefetch(table, &next[..keys.len()]);
    let (mut n_bytes, mut n_misses) = (0, 0);
    for (unit, (key, &slot)) in keys.iter().zip(slots).enumerate() {
        #[expect(clippy::cast_ptr_alignment, reason = "lines are aligned to 64 bytes")]
        // SAFETY: a line is eight words: two keys, two values (see `cache`), only accessed atomically.
        let line = unsafe { &*table.lines.add(slot as usize).cast::<[AtomicU64; 8]>() };
        let way = (0..2).find(|&way| {
            line[2 * way + 1].load(Ordering::Acquire) == key.hi
                && line[2 * way].load(Ordering::Relaxed) == key.lo
        });
        let Some(way) = way else {
            misses[n_misses] = Miss { unit: unit as u32, at_bytes: n_bytes as u32 };
            n_misses += 1;
            continue;
        };
        let value = [4, 5].map(|word| line[2 * way + word].load(Ordering::Relaxed));
        // SAFETY: at most 15 bytes per key were written before, and 16 are written.
        unsafe { out.add(n_bytes).cast::<[u64; 2]>().write_unaligned(value) };
        n_bytes += (value[1] >> 56) as usize;
    }
    (n_bytes, n_misses)
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(
        clippy::wildcard_imports,
        clippy::cast_possible_wrap,
        clippy::cast_ptr_alignment,
        clippy::similar_names,
        reason = "intrinsics by name; their lanes are signed by convention and their loads unaligned where said"
    )]

    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::{Key, Miss, Slots};

    /// Bit m: no key of the line matches, given the compare bits m of its four words (way 0: bits 0, 1).
    const NEITHER: u32 = 0b0000_0111_0111_0111;

    macro_rules! probe {
        ($(#[$attribute:meta])* $name:ident, $compare:ident) => {
            $(#[$attribute])*
            ///
            /// # Safety
            /// As there.
            pub(crate) unsafe fn $name(
                table: Slots,
                keys: &[Key],
                slots: &[u32],
                next: &[u32],
                out: *mut u8,
                misses: &mut [Miss],
            ) -> (usize, usize) {
                let n = keys.len();
                assert!(slots.len() >= n && next.len() >= n && misses.len() >= n);
                let (mut end, mut n_misses) = (out, 0);
                for unit in 0..n {
                    // SAFETY: `unit` is in range of all slices; a line is 64 bytes, aligned; room
                    // in `out` is the caller's promise; the value is complete (see the module header).
                    unsafe {
                        let line = table.lines.add(*slots.get_unchecked(unit) as usize);
                        let next = table.lines.wrapping_add(*next.get_unchecked(unit) as usize);
                        _mm_prefetch::<_MM_HINT_T0>(next.cast());
                        let key = _mm_loadu_si128(keys.as_ptr().add(unit).cast());
                        let bits = $compare(_mm256_broadcastsi128_si256(key), line);
                        if NEITHER >> (bits & 15) & 1 == 1 {
                            *misses.get_unchecked_mut(n_misses) =
                                Miss { unit: unit as u32, at_bytes: end.offset_from(out) as u32 };
                            n_misses += 1;
                            continue;
                        }
                        // Way 1 has bits 2 and 3: adding 4 carries into bit 4. (If both ways have the key
                        // their values are equal.)
                        let value = line.add(32 + (bits as usize + 4 & 16));
                        _mm_storeu_si128(end.cast(), _mm_load_si128(value.cast()));
                        end = end.add(usize::from(value.add(15).read()));
                    }
                }
                // SAFETY: both point into the output.
                (unsafe { end.offset_from(out) } as usize, n_misses)
            }
        };
    }

    probe! {
        /// See [`super::portable`].
        #[target_feature(enable = "avx2")]
        avx2, compare_avx2
    }
    probe! {
        /// See [`super::portable`].
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2")]
        avx512, compare_avx512
    }

    /// Compares the two keys of a line with `key`, which is there twice: a bit per 8 bytes.
    ///
    /// # Safety
    /// `line` points to a line.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn compare_avx2(key: __m256i, line: *const u8) -> u32 {
        let equal: __m256i;
        // SAFETY: reads 32 bytes of the line and changes nothing but the output register.
        unsafe {
            asm!("vpcmpeqq {equal}, {key}, ymmword ptr [{line}]",
                equal = lateout(ymm_reg) equal, key = in(ymm_reg) key, line = in(reg) line,
                options(nostack, preserves_flags, readonly));
        }
        _mm256_movemask_pd(_mm256_castsi256_pd(equal)) as u32
    }

    /// See [`compare_avx2`].
    ///
    /// # Safety
    /// As there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2")]
    unsafe fn compare_avx512(key: __m256i, line: *const u8) -> u32 {
        let bits: u32;
        // SAFETY: as in `compare_avx2`.
        unsafe {
            asm!("vpcmpeqq {mask}, {key}, ymmword ptr [{line}]", "kmovw {bits:e}, {mask}",
                mask = out(kreg) _, bits = lateout(reg) bits, key = in(ymm_reg) key, line = in(reg) line,
                options(nostack, preserves_flags, readonly));
        }
        bits
    }
}
