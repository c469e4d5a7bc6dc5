//! The width of a token id on its way out: `u16` below 65,536 ids, else `u32`.
//!
//! A *value* is what the word cache holds for a pretoken: 16 bytes, stored and copied whole. The ids
//! stand in it *packed*, 16 or 24 bits each, and its last byte says how many bytes of them there are, so
//! that emitting a cached pretoken is one load, one store and one add, whatever the lane:
//!
//! ```text
//! u16:  id id id id id id id 0 b      (up to 7 ids of 2 bytes)
//! u32:  id  id  id  id  id     b      (up to 5 ids of 3 bytes)
//! ```
//!
//! No vocabulary has ids of 2^24 and more (`vocab::parts` refuses them). Packed ids of 24 bits are widened
//! when they go to the output (`encode::widen`); those of 16 bits are in final form. A pretoken with more
//! ids than fit has no value; it takes the slower way (see `encode`).

#[cfg(target_endian = "big")]
compile_error!("token files are little-endian and are written from memory as it is");

mod sealed {
    pub trait Sealed {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
}

/// An id type of an output: `u16` or `u32`.
pub trait Lane: sealed::Sealed + Copy + Default + Into<u32> + Send + Sync + 'static {
    /// Bytes of one id on disk.
    const BYTES: usize;
    /// Bytes of one id in a value.
    const PACKED_BYTES: usize;
    /// Ids that fit a value.
    const VALUE_IDS: usize = (VALUE_BYTES - 1) / Self::PACKED_BYTES;

    /// Narrows an id; the caller knows that it fits (the vocabulary's largest id chose the lane).
    fn from_id(id: u32) -> Self;

    /// Packs ids and their length in bytes; `None` when they do not fit.
    #[inline]
    #[must_use]
    fn pack(ids: &[u32]) -> Option<[u64; 2]> {
        if ids.len() > Self::VALUE_IDS {
            return None;
        }
        let bits = 8 * Self::PACKED_BYTES;
        let packed = ids.iter().rev().fold(0_u128, |packed, &id| {
            debug_assert!(u64::from(id) < 1 << bits);
            packed << bits | u128::from(id)
        });
        let packed = packed | ((ids.len() * Self::PACKED_BYTES) as u128) << (8 * (VALUE_BYTES - 1));
        Some([packed as u64, (packed >> 64) as u64])
    }
}

/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 16;

/// The packed ids of a value, and how many bytes of them there are.
#[inline]
pub(crate) fn unpack(value: [u64; 2]) -> ([u8; VALUE_BYTES], usize) {
    let packed = u128::from(value[0]) | u128::from(value[1]) << 64;
    (packed.to_le_bytes(), (value[1] >> 56) as usize)
}

macro_rules! lane {
    ($lane:ty, $packed:literal) => {
        impl Lane for $lane {
            const BYTES: usize = size_of::<$lane>();
            const PACKED_BYTES: usize = $packed;

            #[inline]
            fn from_id(id: u32) -> Self {
                debug_assert!(<$lane>::try_from(id).is_ok());
                id as $lane
            }
        }
    };
}

lane!(u16, 2);
lane!(u32, 3);

/// The bytes of ids as they stand in a token file.
#[must_use]
pub fn as_bytes<L: Lane>(ids: &[L]) -> &[u8] {
    // SAFETY: u16 and u32 (the only lanes, the trait is sealed) have no padding and every byte of
    // them is initialised; the length in bytes is that of the slice and u8 has no alignment.
    unsafe { std::slice::from_raw_parts(ids.as_ptr().cast::<u8>(), size_of_val(ids)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_hold_ids_and_their_length_in_bytes() {
        let value = u16::pack(&[1, 65_535, 3]).expect("three ids fit");
        assert_eq!(value, [1 | 65_535 << 16 | 3 << 32, 6 << 56]);
        assert_eq!(&unpack(value).0[..unpack(value).1], [1, 0, 255, 255, 3, 0]);
        assert!(u16::pack(&[0; 7]).is_some() && u16::pack(&[0; 8]).is_none());
        let value = u32::pack(&[70_000, 1, 0xFF_FFFF, 2, 3]).expect("five ids fit");
        assert_eq!(value, [0x01_1170 | 1 << 24 | 0xFFFF << 48, 0xFF | 2 << 8 | 3 << 32 | 15 << 56]);
        assert_eq!(unpack(value).1, 15);
        assert!(u32::pack(&[0; 6]).is_none());
        assert_eq!(as_bytes(&[0x0102_u16]), [2, 1]);
    }
}
