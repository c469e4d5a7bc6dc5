//! Read leases: the kernel's word that nobody writes to an input unless we are told first.
//!
//! Who holds a lease on a file (`F_SETLEASE`, `F_RDLCK`) makes the next one who opens it for writing,
//! or cuts it, wait until the lease is given back (the kernel takes it back after 45 s). In that time
//! we let go of the mapping and read from then on, so that no page can vanish under a copy; whether
//! the file was changed then shows at the end of its turn, as without a lease. A file that is open for
//! writing already, belongs to somebody else, or lies where there are no leases is not granted one:
//! then the SIGBUS handler (`sigbus`) is what stands between a cut and the process.
//!
//! The kernel announces a break with a signal, SIGIO by default, which would end the process. We ask
//! for SIGURG instead, whose default is to be ignored and which therefore disturbs neither this
//! process nor a Python in it, and look every [`POLL`] whether a lease is being broken.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::Opened;

/// A writer waits at most about this long.
const POLL: Duration = Duration::from_millis(50);
/// `F_SETSIG` of fcntl(2), which the libc crate lacks on some targets.
const F_SETSIG: i32 = 10;

/// The leases of one job.
#[derive(Default)]
pub(crate) struct Leases {
    state: Mutex<State>,
    stop: Condvar,
}

#[derive(Default)]
struct State {
    held: Vec<Weak<Opened>>,
    stopped: bool,
}

impl Leases {
    /// Asks for a lease on an input, without one if the kernel says no. It is held until the input
    /// is closed or somebody wants to write to it.
    pub(crate) fn take(&self, source: &Arc<Opened>) {
        let fd = source.file.as_raw_fd();
        // SAFETY: fcntl with integer arguments on a descriptor that `source` holds open.
        let granted = unsafe {
            libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
                && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
        };
        if granted {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.held.push(Arc::downgrade(source));
        }
    }

    /// Gives back leases that are being broken, until [`Leases::stop`]; blocks.
    pub(crate) fn watch(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.stopped {
            state.held.retain(|source| source.upgrade().is_some_and(|source| keep(&source)));
            state = self.stop.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends [`Leases::watch`].
    pub(crate) fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.stop.notify_all();
    }
}

/// Whether a lease stands; one that is being broken is given back.
fn keep(source: &Opened) -> bool {
    let fd = source.file.as_raw_fd();
    // SAFETY: fcntl with integer arguments on a descriptor that `source` holds open.
    if unsafe { libc::fcntl(fd, libc::F_GETLEASE) } == libc::F_RDLCK {
        return true;
    }
    source.unmap();
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
    false
}
