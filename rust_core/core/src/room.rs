//! Room for the ids of a text that is encoded as a whole.
//!
//! Such ids are written once, from front to back, to memory that is fresh. In pages of 4 KiB a third of the
//! time of a fast encoder goes into the kernel's work on them, and a vector that grows copies all it has. So
//! the room is taken at once, for as many ids as can be expected at most, and in huge pages; what was not
//! used is given back at the end.

use crate::lane::Lane;

/// From this size on room is taken for the worst case: one id for each byte.
const LARGE_BYTES: usize = 1 << 20;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// An empty vector for the ids of `n_bytes` of text.
pub(crate) fn room<L: Lane>(n_bytes: usize) -> Vec<L> {
    let usual = n_bytes / 3 + 16;
    let mut ids = Vec::new();
    // Memory that is never written is only an address; where even those are rationed, it grows instead.
    if n_bytes < LARGE_BYTES || ids.try_reserve_exact(n_bytes + 16).is_err() {
        ids.reserve(usual);
        return ids;
    }
    let start = ids.as_mut_ptr() as usize;
    let (first, end) = (
        start.next_multiple_of(HUGE_PAGE_BYTES),
        (start + ids.capacity() * L::BYTES) & !(HUGE_PAGE_BYTES - 1),
    );
    if first < end {
        // SAFETY: whole pages inside an allocation that is ours; the advice changes no byte of them. A
        // kernel that refuses is only slower.
        unsafe {
            let at = ids.as_mut_ptr().cast::<u8>().add(first - start);
            let _ = rustix::mm::madvise(at.cast(), end - first, rustix::mm::Advice::LinuxHugepage);
        }
    }
    ids
}

/// Gives back what `room` took for the worst case.
pub(crate) fn give_back<L: Lane>(ids: &mut Vec<L>) {
    if ids.capacity() >= LARGE_BYTES {
        ids.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::{LARGE_BYTES, give_back, room};

    #[test]
    fn large_texts_have_room_for_an_id_a_byte_and_keep_what_they_use() {
        let mut ids: Vec<u32> = room(5 * LARGE_BYTES);
        let first = ids.as_ptr();
        ids.extend(0..5 * LARGE_BYTES as u32);
        assert_eq!(ids.as_ptr(), first, "it did not grow");
        ids.truncate(LARGE_BYTES);
        give_back(&mut ids);
        assert!(ids.capacity() < 2 * LARGE_BYTES);
        assert!(ids.iter().copied().eq(0..LARGE_BYTES as u32));
    }
}
