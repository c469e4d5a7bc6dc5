//! Packed ids of 24 bits to ids of 32, on their way from the staging buffer to the output.
//!
//! ```text
//! from:  a a a b b b c c c d d d ...
//! to:    a a a 0 b b b 0 c c c 0 d d d 0 ...
//! ```

/// How far behind the ids a kernel may read, and behind the place of the last one write.
pub(crate) const REACH: usize = 32;

/// Widens `n_ids` ids.
///
/// # Safety
/// Behind the packed ids [`REACH`] bytes more can be read, and behind the wide ones as many written; the
/// processor has the tier's features.
pub(crate) unsafe fn portable(from: *const u8, n_ids: usize, to: *mut u8) {
    const ID: u64 = 0xFF_FFFF;
    // Two at a time, from eight bytes of which the last two do not count.
    for at in (0..n_ids).step_by(2) {
        // SAFETY: `at` is below `n_ids`: at most 5 bytes behind the ids are read, and 4 written.
        unsafe {
            let pair = u64::from_le(from.add(3 * at).cast::<u64>().read_unaligned());
            let wide = pair & ID | (pair >> 24 & ID) << 32;
            to.add(4 * at).cast::<u64>().write_unaligned(wide.to_le());
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(clippy::wildcard_imports, clippy::cast_ptr_alignment, reason = "unaligned where said")]

    use std::arch::x86_64::*;

    /// See [`super::portable`]: eight at a time, four in each half of a register.
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx2")]
    pub(crate) unsafe fn avx2(from: *const u8, n_ids: usize, to: *mut u8) {
        let spread =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
        for at in (0..n_ids).step_by(8) {
            // SAFETY: `at` is below `n_ids`, of eight ids at least one counts: at most 25 bytes behind the
            // ids are read, and 28 written.
            unsafe {
                let first = from.add(3 * at);
                let packed = _mm256_loadu2_m128i(first.add(12).cast(), first.cast());
                _mm256_storeu_si256(to.add(4 * at).cast(), _mm256_shuffle_epi8(packed, spread));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier;

    #[test]
    fn every_tier_widens_every_number_of_ids_and_writes_no_further_than_it_may() {
        let ids: Vec<u32> = (1..=100_u32).map(|id| id.wrapping_mul(0x9E_3779) & 0xFF_FFFF).collect();
        let mut packed: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(3)).collect();
        packed.extend([0xEE; REACH]);
        for kernels in tier::tested() {
            for n_ids in 0..=ids.len() {
                let mut wide = vec![0xAA; 4 * n_ids + 2 * REACH];
                // SAFETY: the tier is available; there is REACH behind both.
                unsafe { (kernels.widen)(packed.as_ptr(), n_ids, wide.as_mut_ptr()) };
                let (done, behind) = wide.split_at(4 * n_ids);
                let expected: Vec<u8> = ids[..n_ids].iter().flat_map(|id| id.to_le_bytes()).collect();
                assert_eq!(done, expected, "{}, {n_ids} ids", kernels.name);
                assert!(behind[REACH..].iter().all(|&byte| byte == 0xAA), "{}, {n_ids} ids", kernels.name);
            }
        }
    }
}
