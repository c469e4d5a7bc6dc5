//! The width of a token id on its way out: `u16` below 65,536 ids, else `u32`.
//!
//! A *value* is what the word cache holds for a pretoken: 16 bytes, stored and copied whole. The ids
//! stand in it in final form, and its last two bytes say how many bytes of them there are, so that
//! emitting a cached pretoken is one load, one store and one add, whatever the lane:
//!
//! ```text
//! u16:  id id id id id id id b      (up to 7 ids)
//! u32:  id  id  id     0  b         (up to 3 ids)
//! ```
//!
//! A pretoken with more ids than fit has no value; it takes the slower way (see `encode`).

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
    /// Ids that fit a value.
    const VALUE_IDS: usize;

    /// Narrows an id; the caller knows that it fits (the vocabulary's largest id chose the lane).
    fn from_id(id: u32) -> Self;

    /// Packs ids and their length in bytes; `None` when they do not fit.
    fn pack(ids: &[u32]) -> Option<[u64; 2]>;
}

macro_rules! lane {
    ($lane:ty, $ids:literal) => {
        impl Lane for $lane {
            const BYTES: usize = size_of::<$lane>();
            const VALUE_IDS: usize = $ids;

            #[inline]
            fn from_id(id: u32) -> Self {
                debug_assert!(<$lane>::try_from(id).is_ok());
                id as $lane
            }

            #[inline]
            fn pack(ids: &[u32]) -> Option<[u64; 2]> {
                if ids.len() > $ids {
                    return None;
                }
                let mut packed = [<$lane>::default(); 16 / size_of::<$lane>()];
                for (lane, &id) in packed.iter_mut().zip(ids) {
                    *lane = Self::from_id(id);
                }
                let mut bytes = [0; 16];
                bytes.copy_from_slice(as_bytes(&packed));
                let packed = u128::from_le_bytes(bytes)
                    | (ids.len() as u128 * size_of::<$lane>() as u128) << (128 - 16);
                Some([packed as u64, (packed >> 64) as u64])
            }
        }
    };
}

lane!(u16, 7);
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
        assert_eq!(value, [1 | 65_535 << 16 | 3 << 32, 6 << 48]);
        assert!(u16::pack(&[0; 7]).is_some() && u16::pack(&[0; 8]).is_none());
        let value = u32::pack(&[70_000, 1, 2]).expect("three ids fit");
        assert_eq!(value, [0x11170 | 1 << 32, 2 | 12 << 48]);
        assert!(u32::pack(&[0; 4]).is_none());
        assert_eq!(as_bytes(&[0x0102_u16]), [2, 1]);
    }
}
