//! A page of a mapped input that is no longer there: the job's error instead of the process's end.
//!
//! When a file is cut, or its disk fails, a read of its mapping raises SIGBUS, whose default is to end
//! the process. Here a handler puts a page of zeros over the lost one and notes it in the range that
//! the page belongs to; the copy that was under way finishes, looks at the note, and fails. No stack
//! is unwound and no code is skipped: to the interrupted copy it is as if the file held zeros.
//!
//! The handler answers only for ranges registered here, and hands every other SIGBUS to whoever was
//! there before it (or, if nobody was, lets the process end as it would have).
//!
//! # Why the handler may do what it does
//!
//! * It runs on the thread that faulted, at the instruction that faulted, so it may interrupt
//!   anything, also an allocator or a lock. It therefore calls nothing but `mmap` and, before it
//!   gives up, `sigaction` and `raise`: plain system calls. It allocates nothing and takes no lock;
//!   what it reads are atomics in a static table. It restores `errno`.
//! * `MAP_FIXED` over a page of a registered range replaces memory that this module's caller mapped
//!   and alone reads, through raw copies, never through references. Nobody's data is overwritten.
//! * The range cannot vanish meanwhile: a thread that faults in it is inside a copy that holds its
//!   [`Range`], which is dropped before the memory is unmapped. Slots of other ranges may be changing
//!   while the table is searched; a slot is believed only if its start reads the same before and
//!   after its end, and it is withdrawn by its start first.
//! * Two threads that fault on one page both put zeros over it; the second finds zeros already.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Ranges at once; a file that finds no free slot is read instead of mapped.
const MAX_RANGES: usize = 256;
/// The start of a free slot, and of one whose fields are being changed; no mapping starts there.
const FREE: usize = 0;
const CHANGING: usize = 1;

struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    lost: AtomicBool,
}

static SLOTS: [Slot; MAX_RANGES] = [const {
    Slot { start: AtomicUsize::new(FREE), end: AtomicUsize::new(0), lost: AtomicBool::new(false) }
}; MAX_RANGES];

static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
/// What was there before; empty if the handler could not be installed.
static PREVIOUS: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// A registered range of mapped memory. Drop it before the memory is unmapped.
pub(super) struct Range {
    slot: &'static Slot,
}

impl Range {
    /// Registers `len_bytes` of a mapping from its first page on; `None` if the table is full or the
    /// handler cannot be installed.
    pub(super) fn register(start: *const u8, len_bytes: usize) -> Option<Self> {
        PREVIOUS.get_or_init(install).as_ref()?;
        let slot = SLOTS.iter().find(|slot| {
            let order = (Ordering::AcqRel, Ordering::Relaxed);
            slot.start.compare_exchange(FREE, CHANGING, order.0, order.1).is_ok()
        })?;
        slot.lost.store(false, Ordering::Relaxed);
        // The last page counts whole: bytes behind the end of the file lie on it too.
        let page = PAGE_BYTES.load(Ordering::Relaxed);
        slot.end.store((start.addr() + len_bytes).next_multiple_of(page), Ordering::Release);
        slot.start.store(start.addr(), Ordering::Release);
        Some(Self { slot })
    }

    /// Whether a page of the range was found missing.
    pub(super) fn is_lost(&self) -> bool {
        self.slot.lost.load(Ordering::Acquire)
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        self.slot.start.store(CHANGING, Ordering::Release);
        self.slot.end.store(0, Ordering::Release);
        self.slot.start.store(FREE, Ordering::Release);
    }
}

/// Installs the handler, once for the life of the process; returns what was there before.
fn install() -> Option<libc::sigaction> {
    // SAFETY: plain system calls on structures of our own; zeroed `sigaction`s are valid ones. The
    // handler's statics are set before it can run.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE);
        PAGE_BYTES
            .store(usize::try_from(page).ok().filter(|page| page.is_power_of_two())?, Ordering::Relaxed);
        let mut ours: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle;
        ours.sa_sigaction = handler as usize;
        // The alternate stack is used where a thread has one, as other handlers of the process expect.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut ours.sa_mask);
        let mut previous: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(libc::SIGBUS, &raw const ours, &raw mut previous) == 0).then_some(previous)
    }
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: see the module header. The kernel gives a valid `info` to an SA_SIGINFO handler, and
    // `si_addr` is set for the code that is looked at.
    unsafe {
        let errno = *libc::__errno_location();
        let ours = (*info).si_code == libc::BUS_ADRERR && replace((*info).si_addr().addr());
        *libc::__errno_location() = errno;
        if !ours {
            pass_on(signal, info, context);
        }
    }
}

/// Puts zeros over the page of `address` if it belongs to a registered range, and notes that.
///
/// # Safety
/// To be called by the handler only, on the thread that faulted at `address`.
unsafe fn replace(address: usize) -> bool {
    let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
    let page = address & !(page_bytes - 1);
    let mut ours = false;
    for slot in &SLOTS {
        let start = slot.start.load(Ordering::Acquire);
        let end = slot.end.load(Ordering::Acquire);
        if start <= CHANGING || !(start..end).contains(&page) || slot.start.load(Ordering::Acquire) != start {
            continue;
        }
        // The note is made first: whoever sees the zeros must see the note.
        slot.lost.store(true, Ordering::SeqCst);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page lies in a registered range, whose memory is ours to replace (module header).
        let zeros = unsafe {
            let at = std::ptr::with_exposed_provenance_mut::<c_void>(page);
            libc::mmap(at, page_bytes, libc::PROT_READ, flags, -1, 0)
        };
        ours = zeros != libc::MAP_FAILED;
        break;
    }
    ours
}

/// Hands a SIGBUS that is not ours to the handler that was there before.
///
/// # Safety
/// With the arguments that the kernel gave to the handler.
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get().and_then(Option::as_ref);
    match previous.map(|previous| (previous.sa_sigaction, previous.sa_flags)) {
        // SAFETY: the kernel accepted this address as a handler with these flags, so it is a function
        // of this kind.
        Some((handler, flags)) if handler > libc::SIG_IGN => unsafe {
            if flags & libc::SA_SIGINFO != 0 {
                type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
                std::mem::transmute::<usize, Handler>(handler)(signal, info, context);
            } else {
                std::mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal);
            }
        },
        // Nobody: the signal is raised again with its default, which takes effect on return.
        // SAFETY: plain system calls; a zeroed `sigaction` is the default.
        _ => unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
            libc::raise(signal);
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_page_that_vanished_reads_as_zeros_and_is_noted() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&vec![7; 1 << 20]).expect("write");
        // SAFETY: only raw reads follow.
        let map = unsafe { memmap2::Mmap::map(&file) }.expect("map");
        let range = Range::register(map.as_ptr(), map.len()).expect("a slot");
        let other = Range::register(map.as_ptr().wrapping_add(1 << 30), 4096).expect("a slot");
        let at = |offset: usize| {
            // SAFETY: inside the mapping; a missing page is the handler's business.
            unsafe { map.as_ptr().add(offset).read_volatile() }
        };
        assert_eq!((at(0), at(1 << 19)), (7, 7));
        assert!(!range.is_lost());
        file.set_len(1 << 18).expect("cut");
        assert_eq!(at((1 << 20) - 1), 0);
        assert!(range.is_lost() && !other.is_lost());
        assert_eq!(at(0), 7);
    }

    #[test]
    fn slots_are_used_again() {
        for n in 1..3 * MAX_RANGES {
            let range = Range::register(std::ptr::without_provenance(n << 40), 1).expect("a slot");
            assert!(!range.is_lost());
        }
    }
}
