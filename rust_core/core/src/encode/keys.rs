//! Pretokens to cache keys: up to 15 bytes, 0xFF behind them, and the line that they hash to.
//!
//! The table does not fit the processor's caches, so lines are asked for long before they are compared:
//! those of a batch while the batch before it is probed, one for each pretoken. Asking for all of them
//! in one go, here, fills the processor's queue of outstanding loads and then waits for it.
//!
//! A pretoken of 16 bytes or more gets the key of 16 times 0xFF, which is in no table.

use crate::cache::{Key, Slots};

const KEY_BYTES: u32 = 16;

/// The hash of the portable tier: one widening multiplication.
pub(crate) fn hash_portable(key: Key) -> u32 {
    let product = u128::from(key.lo ^ 0x9E37_79B9_7F4A_7C15) * u128::from(key.hi ^ 0xD6E8_FEB8_6659_FD93);
    ((product >> 64) as u64 ^ product as u64) as u32
}

/// Makes the keys and slots of the pretokens between neighbouring `starts`.
///
/// # Safety
/// Behind each start but the last, 16 bytes can be read at `base + start`; `keys` and `slots` are at
/// least one shorter than `starts`; starts rise; the processor has the tier's features.
pub(crate) unsafe fn portable(
    base: *const u8,
    starts: &[u32],
    table: Slots,
    keys: &mut [Key],
    slots: &mut [u32],
) {
    for ((pair, key), slot) in starts.windows(2).zip(keys).zip(slots) {
        // SAFETY: as the caller promises.
        let bytes = unsafe { base.wrapping_add(pair[0] as usize).cast::<u128>().read_unaligned() };
        *key = Key::padded(u128::from_le(bytes), (pair[1] - pair[0]).min(KEY_BYTES));
        *slot = hash_portable(*key) & table.mask;
    }
}

/// Asks the processor for the lines at `slots`.
#[inline]
pub(crate) fn prefetch(table: Slots, slots: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    for &slot in slots {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect but on timing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(table.lines.wrapping_add(slot as usize).cast()) };
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{avx2, avx512, hash_aes, vaes};

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(
        clippy::wildcard_imports,
        clippy::cast_possible_wrap,
        clippy::cast_ptr_alignment,
        clippy::similar_names,
        reason = "intrinsics by name; their lanes are signed by convention and their loads unaligned where said"
    )]

    use std::arch::x86_64::*;

    use super::{KEY_BYTES, Key, Slots};

    /// Round keys of the hash: any constants without structure.
    const ROUND_1: [i64; 2] = [0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344];
    const ROUND_2: [i64; 2] = [0x4528_21E6_38D0_1377, 0x3E54_66CF_34E9_0C6C_u64 as i64];

    /// The hash of the vector tiers: two AES rounds, after which every bit depends on all 16 bytes.
    pub(crate) fn hash_aes(key: Key) -> u32 {
        // SAFETY: only the vector tiers call this, and they run where AES was detected.
        unsafe { hash(_mm_set_epi64x(key.hi as i64, key.lo as i64)) }
    }

    #[inline]
    #[target_feature(enable = "aes")]
    fn hash(key: __m128i) -> u32 {
        let once = _mm_aesenc_si128(key, _mm_set_epi64x(ROUND_1[1], ROUND_1[0]));
        _mm_cvtsi128_si32(_mm_aesenc_si128(once, _mm_set_epi64x(ROUND_2[1], ROUND_2[0]))) as u32
    }

    /// Row n: n zero bytes, then 0xFF.
    static PADDING: [[u8; 16]; 17] = {
        let mut rows = [[0xFF; 16]; 17];
        let mut len = 0;
        while len < 16 {
            let mut at = 0;
            while at < len {
                rows[len][at] = 0;
                at += 1;
            }
            len += 1;
        }
        rows
    };

    /// See [`super::portable`].
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx2,aes")]
    pub(crate) unsafe fn avx2(
        base: *const u8,
        starts: &[u32],
        table: Slots,
        keys: &mut [Key],
        slots: &mut [u32],
    ) {
        for ((pair, key), slot) in starts.windows(2).zip(keys).zip(slots) {
            let len = (pair[1] - pair[0]).min(KEY_BYTES) as usize;
            // SAFETY: as the caller promises; `len` <= 16; a Key is 16 bytes.
            unsafe {
                let bytes = _mm_loadu_si128(base.wrapping_add(pair[0] as usize).cast());
                let padded = _mm_or_si128(bytes, _mm_loadu_si128(PADDING[len].as_ptr().cast()));
                _mm_storeu_si128(std::ptr::from_mut(key).cast(), padded);
                *slot = hash(padded) & table.mask;
            }
        }
    }

    /// See [`super::portable`]: eight pretokens at a time, two in each register, with the AES rounds of
    /// VAES, which take both.
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx2,aes,vaes")]
    pub(crate) unsafe fn vaes(
        base: *const u8,
        starts: &[u32],
        table: Slots,
        keys: &mut [Key],
        slots: &mut [u32],
    ) {
        let n = starts.len() - 1;
        assert!(keys.len() >= n && slots.len() >= n);
        let round_1 = _mm256_broadcastsi128_si256(_mm_set_epi64x(ROUND_1[1], ROUND_1[0]));
        let round_2 = _mm256_broadcastsi128_si256(_mm_set_epi64x(ROUND_2[1], ROUND_2[0]));
        let mask = _mm_set1_epi32(table.mask as i32);
        let longest = _mm256_set1_epi32(KEY_BYTES as i32);
        let mut rows = [0_u32; 8];
        let mut at = 0;
        while at + 8 <= n {
            // SAFETY: `at + 8` <= n, so nine starts can be read, eight keys and slots written; the text
            // behind each start can be read, as the caller promises; rows are at most 16.
            unsafe {
                let first = starts.as_ptr().add(at);
                let lens = _mm256_sub_epi32(
                    _mm256_loadu_si256(first.add(1).cast()),
                    _mm256_loadu_si256(first.cast()),
                );
                // Offsets of rows of the padding table.
                let lens = _mm256_slli_epi32::<4>(_mm256_min_epu32(lens, longest));
                _mm256_storeu_si256(rows.as_mut_ptr().cast(), lens);
                let padding = PADDING.as_ptr().cast::<u8>();
                let mut padded = |k: usize| {
                    let text = |k: usize| base.wrapping_add(*first.add(k) as usize).cast::<__m128i>();
                    let row = |k: usize| padding.add(rows[k] as usize).cast::<__m128i>();
                    let text = _mm256_loadu2_m128i(text(k + 1), text(k));
                    let padded = _mm256_or_si256(text, _mm256_loadu2_m128i(row(k + 1), row(k)));
                    _mm256_storeu_si256(keys.as_mut_ptr().add(at + k).cast(), padded);
                    _mm256_aesenc_epi128(_mm256_aesenc_epi128(padded, round_1), round_2)
                };
                let mut four = |k: usize| {
                    // The first dwords of the two halves of each: a0 b0 of the low halves, then of the high.
                    let pairs = _mm256_unpacklo_epi32(padded(k), padded(k + 2));
                    let (low, high) = (_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
                    let lines = _mm_and_si128(_mm_unpacklo_epi32(low, high), mask);
                    _mm_storeu_si128(slots.as_mut_ptr().add(at + k).cast(), lines);
                };
                four(0);
                four(4);
            }
            at += 8;
        }
        // SAFETY: the same promises, for the rest.
        unsafe { avx2(base, &starts[at..], table, &mut keys[at..], &mut slots[at..]) };
    }

    /// See [`super::portable`]: four pretokens at a time, one in each quarter of a register.
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,vaes,aes,bmi1,bmi2")]
    pub(crate) unsafe fn avx512(
        base: *const u8,
        starts: &[u32],
        table: Slots,
        keys: &mut [Key],
        slots: &mut [u32],
    ) {
        let n = starts.len() - 1;
        assert!(keys.len() >= n && slots.len() >= n);
        let ones = _mm512_set1_epi8(-1);
        let lane =
            _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        // Byte 0 of dword k, sixteen times, for k = 0 to 3: a length for every byte of its quarter.
        let spread = _mm512_set_epi32(
            0x0C0C0C0C, 0x0C0C0C0C, 0x0C0C0C0C, 0x0C0C0C0C, 0x08080808, 0x08080808, 0x08080808, 0x08080808,
            0x04040404, 0x04040404, 0x04040404, 0x04040404, 0, 0, 0, 0,
        );
        let quarters = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
        let round_1 = _mm512_broadcast_i32x4(_mm_set_epi64x(ROUND_1[1], ROUND_1[0]));
        let round_2 = _mm512_broadcast_i32x4(_mm_set_epi64x(ROUND_2[1], ROUND_2[0]));
        let mask = _mm_set1_epi32(table.mask as i32);
        let mut at = 0;
        while at + 4 <= n {
            // SAFETY: `at + 4` <= n, so five starts can be read, four keys and slots written; the
            // text behind each of the four starts can be read, as the caller promises.
            unsafe {
                let first = starts.as_ptr().add(at);
                let load = |k: usize| _mm_loadu_si128(base.wrapping_add(*first.add(k) as usize).cast());
                let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(0)), load(1));
                let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(2)), load(3));
                let text = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                let lens = _mm_sub_epi32(_mm_loadu_si128(first.add(1).cast()), _mm_loadu_si128(first.cast()));
                // 16 and more become 0: nothing of the text is kept.
                let fits = _mm_cmplt_epu32_mask(lens, _mm_set1_epi32(KEY_BYTES as i32));
                let lens = _mm_maskz_mov_epi32(fits, lens);
                let lens = _mm512_permutexvar_epi8(spread, _mm512_castsi128_si512(lens));
                let kept = _mm512_cmplt_epu8_mask(lane, lens);
                let padded = _mm512_mask_mov_epi8(ones, kept, text);
                _mm512_storeu_si512(keys.as_mut_ptr().add(at).cast(), padded);
                let hashed = _mm512_aesenc_epi128(_mm512_aesenc_epi128(padded, round_1), round_2);
                let hashed = _mm512_castsi512_si128(_mm512_permutexvar_epi32(quarters, hashed));
                let lines = _mm_and_si128(hashed, mask);
                _mm_storeu_si128(slots.as_mut_ptr().add(at).cast(), lines);
            }
            at += 4;
        }
        // SAFETY: the same promises, for the rest.
        unsafe { avx2(base, &starts[at..], table, &mut keys[at..], &mut slots[at..]) };
    }
}
