//! Buffers that go round: from a worker through the committer to the disk and back.
//!
//! A block of text and its ids are some megabytes. Taken from the allocator each time they would come
//! as fresh pages, which the kernel has to clear and to map, and go back as whole mappings: that cost
//! more than the copying did. So what a block was made in is lent again once it is written.

use std::sync::{Mutex, PoisonError};

/// Idle buffers that are kept: one comes back for each that is lent, so only after a jam more.
const IDLE_MAX: usize = 64;

/// What one block is made in; empty, with whatever space earlier blocks needed.
#[derive(Debug, Default)]
pub(super) struct Buffers<L> {
    pub(super) text: Vec<u8>,
    pub(super) ids: Vec<L>,
    pub(super) ends: Vec<u64>,
    /// A text without its escapes.
    pub(super) scratch: Vec<u8>,
}

impl<L> Buffers<L> {
    fn n_bytes(&self) -> usize {
        self.text.capacity()
            + self.scratch.capacity()
            + self.ids.capacity() * size_of::<L>()
            + self.ends.capacity() * size_of::<u64>()
    }
}

/// The idle buffers of one job.
pub(super) struct Pool<L> {
    idle: Mutex<Vec<Buffers<L>>>,
    /// Larger ones (a streamed source may need them once) are freed.
    max_bytes: usize,
}

impl<L: Default> Pool<L> {
    /// A pool for blocks of about `chunk_bytes` of text.
    pub(super) fn new(chunk_bytes: u64) -> Self {
        // Text, at most one id of four bytes for each byte of it, and as many ends again.
        let max_bytes = usize::try_from(chunk_bytes.saturating_mul(8)).unwrap_or(usize::MAX);
        Self { idle: Mutex::new(Vec::new()), max_bytes }
    }

    /// Lends the buffers that came back last: they are the likeliest to be in a cache.
    pub(super) fn take(&self) -> Buffers<L> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes buffers back, whatever is in them.
    pub(super) fn give(&self, mut buffers: Buffers<L>) {
        if buffers.n_bytes() > self.max_bytes {
            return;
        }
        buffers.text.clear();
        buffers.ids.clear();
        buffers.ends.clear();
        buffers.scratch.clear();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(buffers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_lent_again_empty() {
        let pool = Pool::<u16>::new(1000);
        let mut buffers = pool.take();
        buffers.text.extend([1; 500]);
        buffers.ids.extend([2; 300]);
        buffers.ends.push(3);
        let at = (buffers.text.as_ptr(), buffers.ids.as_ptr(), buffers.ends.as_ptr());
        pool.give(buffers);
        let again = pool.take();
        assert_eq!((again.text.as_ptr(), again.ids.as_ptr(), again.ends.as_ptr()), at);
        assert!(again.text.is_empty() && again.ids.is_empty() && again.ends.is_empty());
        assert_eq!(pool.take().n_bytes(), 0, "lent once");
    }

    #[test]
    fn neither_too_large_ones_nor_too_many_are_kept() {
        let pool = Pool::<u16>::new(1000);
        pool.give(Buffers { text: Vec::with_capacity(9000), ..pool.take() });
        assert_eq!(pool.take().n_bytes(), 0);
        for _ in 0..2 * IDLE_MAX {
            pool.give(Buffers { text: Vec::with_capacity(10), ..Buffers::default() });
        }
        assert_eq!(pool.idle.lock().expect("the pool").len(), IDLE_MAX);
    }
}
