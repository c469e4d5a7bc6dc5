//! How many of a job's workers may work at a time, and how far: what a daemon paces its jobs with.
//!
//! A worker enters the gate for each piece of work, so a change takes hold within a chunk. One that holds
//! a piece of work never waits for room, only while nobody may work ([`Gate::pause_point`], in long
//! pieces): others may wait for the piece, which comes before theirs in the output.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The gate of one job. Open for any number until [`Gate::set`].
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Workers that may be inside; 0: all of them wait.
    limit: usize,
    inside: usize,
    /// Tokens of the output after which all of them wait.
    ceiling: u64,
    /// The job ends: nobody waits any more.
    is_over: bool,
}

/// A worker's stay inside.
pub(super) struct Pass<'a>(&'a Gate);

impl Default for Gate {
    fn default() -> Self {
        let state = State { limit: usize::MAX, inside: 0, ceiling: u64::MAX, is_over: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `limit` workers in at a time from now on; those inside finish their piece.
    pub(super) fn set(&self, limit: usize) {
        self.lock().limit = limit;
        self.changed.notify_all();
    }

    /// Lets nobody in once `n_tokens` are written.
    pub(super) fn set_ceiling(&self, n_tokens: u64) {
        self.lock().ceiling = n_tokens;
        self.changed.notify_all();
    }

    /// Lets everybody through, to find that the job has ended.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Waits until there is room for a worker; `written` counts the job's tokens.
    pub(super) fn enter(&self, written: &AtomicU64) -> Pass<'_> {
        let mut state = self.lock();
        while (state.inside >= state.limit || state.is_at_ceiling(written)) && !state.is_over {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.inside += 1;
        Pass(self)
    }

    /// Waits while nobody may work, from inside.
    pub(super) fn pause_point(&self, written: &AtomicU64) {
        let mut state = self.lock();
        while (state.limit == 0 || state.is_at_ceiling(written)) && !state.is_over {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn is_at_ceiling(&self, written: &AtomicU64) -> bool {
        written.load(Ordering::Relaxed) >= self.ceiling
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.lock().inside -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    /// Workers that go in and out until told to stop; gives how many were inside at once at most.
    fn most_inside(limit: usize, n_workers: usize, pieces: usize) -> usize {
        let gate = Gate::default();
        gate.set(limit);
        let written = AtomicU64::new(0);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..n_workers {
                scope.spawn(|| {
                    for _ in 0..pieces {
                        let _pass = gate.enter(&written);
                        most.fetch_max(1 + inside.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(1));
                        gate.pause_point(&written);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        most.load(Ordering::SeqCst)
    }

    #[test]
    fn no_more_than_the_limit_are_inside() {
        assert_eq!(most_inside(1, 4, 5), 1);
        assert!((1..=2).contains(&most_inside(2, 4, 5)));
    }

    #[test]
    fn a_closed_gate_opens_again_or_ends() {
        for (closed_by_ceiling, ends) in [(false, false), (false, true), (true, false), (true, true)] {
            let (gate, written) = (Gate::default(), AtomicU64::new(100));
            if closed_by_ceiling {
                gate.set_ceiling(100);
            } else {
                gate.set(0);
            }
            let entered = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let _pass = gate.enter(&written);
                        gate.pause_point(&written);
                        entered.fetch_add(1, Ordering::SeqCst);
                    });
                }
                std::thread::sleep(Duration::from_millis(20));
                assert_eq!(entered.load(Ordering::SeqCst), 0);
                match (ends, closed_by_ceiling) {
                    (true, _) => gate.end(),
                    (false, true) => gate.set_ceiling(101),
                    (false, false) => gate.set(2),
                }
            });
            assert_eq!(entered.load(Ordering::SeqCst), 3);
        }
    }
}
