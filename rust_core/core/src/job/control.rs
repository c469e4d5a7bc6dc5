//! How a running job is watched and steered: counters out; cancelling, pacing and a deadline in.
//!
//! Everything is an atomic that the job looks at between chunks (see [`Control::check`] and `gate`), so
//! nothing here blocks, and any thread may call it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::gate::Gate;
use crate::error::{Error, Result};

/// A running job's counters and its off switch; shared between threads.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    pub(super) suspended: AtomicBool,
    pub(super) gate: Gate,
    retire_before: AtomicU64,
    pub(super) wanted: AtomicU64,
    /// Milliseconds since the epoch; 0: none.
    deadline_ms: AtomicU64,
    pub bytes_done: AtomicU64,
    pub bytes_total: AtomicU64,
    pub n_tokens: AtomicU64,
    pub n_documents: AtomicU64,
    /// Records that were left out.
    pub n_skipped: AtomicU64,
}

impl Control {
    /// Asks the job to stop; it does so within a chunk and leaves nothing behind.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.gate.end();
    }

    /// Asks the job to stop as [`Control::cancel`] does, but to leave what a resumed run needs.
    pub fn suspend(&self) {
        self.suspended.store(true, Ordering::Relaxed);
        self.cancel();
    }

    /// The time, in milliseconds since the epoch, after which the job stops as if it was cancelled: it
    /// publishes nothing any more.
    pub fn set_deadline(&self, deadline_ms: u64) {
        self.deadline_ms.store(deadline_ms, Ordering::Relaxed);
    }

    /// Lets `n_threads` of the job's workers work at a time; 0: it stands still, and what it has written
    /// is committed. Takes hold within a chunk.
    pub fn set_threads(&self, n_threads: usize) {
        self.gate.set(n_threads);
    }

    /// Lets the job write up to about `n_tokens`; it stands still there.
    pub fn set_ceiling(&self, n_tokens: u64) {
        self.gate.set_ceiling(n_tokens);
    }

    /// Says that a reader waits for the first `n_tokens` of a stream: they are committed as soon as they are
    /// written, not with the next commit that is due.
    pub fn set_wanted(&self, n_tokens: u64) {
        self.wanted.store(n_tokens, Ordering::Relaxed);
    }

    /// Says that nobody will read tokens before this position of a stream again: the files of segments
    /// that end there go with one of the next commits.
    pub fn retire(&self, before: u64) {
        self.retire_before.fetch_max(before, Ordering::Relaxed);
    }

    /// The position of [`Control::retire`].
    pub(crate) fn retire_before(&self) -> u64 {
        self.retire_before.load(Ordering::Relaxed)
    }

    /// [`Error::Cancelled`] once the job is to stop.
    pub fn check(&self) -> Result<()> {
        let is_over = self.cancelled.load(Ordering::Relaxed) || self.is_late();
        if is_over { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn is_late(&self) -> bool {
        let deadline_ms = self.deadline_ms.load(Ordering::Relaxed);
        let since = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        deadline_ms != 0 && since() >= u128::from(deadline_ms)
    }
}
