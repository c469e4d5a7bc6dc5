//! Arrays in huge pages, for tables that are read here and there.
//!
//! A text streams through the processor's list of pages and pushes everything out of it that is not read all the
//! time. In pages of 4 KiB each look-up in a table of megabytes then begins with a walk through the
//! page tables, twice as long in a virtual machine: several hundred ticks, which even a prefetch waits for.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memmap2::MmapMut;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What may be made of zero bytes.
///
/// # Safety
/// A value of zero bytes is valid, nothing has to be dropped, and the alignment is at most [`HUGE_PAGE_BYTES`].
pub(crate) unsafe trait Zeroed: Copy {}

/// An array whose items begin as zero bytes; memory comes as it is touched.
pub(crate) struct Huge<T> {
    items: NonNull<[T]>,
    /// What they lie in.
    _memory: MmapMut,
}

// SAFETY: as a Box of them, which this is but for where the memory comes from.
unsafe impl<T: Send> Send for Huge<T> {}
// SAFETY: see above.
unsafe impl<T: Sync> Sync for Huge<T> {}

impl<T: Zeroed> Huge<T> {
    /// `None` if the system has no address space for it.
    pub(crate) fn new(n_items: usize) -> Option<Self> {
        let n_bytes = n_items.checked_mul(size_of::<T>())?.checked_next_multiple_of(HUGE_PAGE_BYTES)?;
        // What is mapped begins anywhere; with a page more there are whole huge pages in it.
        let mut memory = MmapMut::map_anon(n_bytes.checked_add(HUGE_PAGE_BYTES)?).ok()?;
        let from = memory.as_ptr().align_offset(HUGE_PAGE_BYTES).min(HUGE_PAGE_BYTES);
        // A kernel that refuses is only slower.
        #[cfg(target_os = "linux")]
        let _ = memory.advise_range(memmap2::Advice::HugePage, from, n_bytes);
        let first = NonNull::from(&mut memory[from..]).cast::<T>();
        Some(Self { items: NonNull::slice_from_raw_parts(first, n_items), _memory: memory })
    }
}

impl<T> Deref for Huge<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` mapped the bytes of all items, aligned for every T; they were zero, which is a T,
        // and only ever written as T; the mapping lives as long as `self` and is not used otherwise.
        unsafe { self.items.as_ref() }
    }
}

impl<T> DerefMut for Huge<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { self.items.as_mut() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY: integers.
    unsafe impl Zeroed for u32 {}

    #[test]
    fn items_begin_as_zero_and_keep_what_is_written() {
        for n_items in [0, 1, 3, HUGE_PAGE_BYTES / 4, HUGE_PAGE_BYTES / 4 + 1] {
            let mut huge = Huge::<u32>::new(n_items).expect("memory");
            assert!(huge.len() == n_items && huge.iter().all(|&item| item == 0));
            assert_eq!(huge.as_ptr() as usize % HUGE_PAGE_BYTES, 0);
            huge.iter_mut().zip(1..).for_each(|(item, number)| *item = number);
            assert!(huge.iter().zip(1..).all(|(&item, number)| item == number));
        }
        assert!(Huge::<u32>::new(usize::MAX / 4).is_none());
    }
}
