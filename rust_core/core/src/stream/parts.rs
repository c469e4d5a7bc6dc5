//! Ids and document ends, written side by side at their places and hashed in order.
//!
//! An output is one part or several in a row; a part is a file of ids, a file of ends, and those of the
//! [`Sidecar`]s that the job has. Blocks come
//! in order to [`Parts::place`], which gives each its place and runs the hashes (memory speed, one at
//! a time), and then to [`Parts::write`], on any thread and in any order. A block never lies in two
//! parts: a part is closed by the first block that fills it, wherever commits fall, so that the same
//! job makes the same files however often it was interrupted.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{Error, Result};

/// Ids that are worth a request to write them, in bytes; a multiple of any page.
const WRITE_BACK_BYTES: u64 = 1 << 18;

/// What stands beside ids and ends for documents (see `job::records`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sidecar {
    /// Where each document stands in its source.
    Docs,
    /// Each document's id.
    Ids,
}

impl Sidecar {
    /// All of them, in the order of the arrays that have one entry for each.
    pub(crate) const ALL: [Self; 2] = [Self::Docs, Self::Ids];
}

/// A file of ids, its file of document ends, and the sidecars of the job.
pub(crate) struct Part {
    pub(crate) tokens: Named,
    pub(crate) ends: Named,
    pub(crate) sidecars: [Option<Named>; 2],
}

/// What a block puts into the files of a part.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub(crate) ids: &'a [u8],
    /// Cumulative over the whole output.
    pub(crate) ends: &'a [u64],
    pub(crate) sidecars: [&'a [u8]; 2],
}

/// A file and the path that messages name it by.
pub(crate) struct Named {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

impl Named {
    pub(crate) fn write(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset_bytes).map_err(|error| Error::io(&self.path, "writing", error))
    }

    /// Asks the kernel to begin to write these bytes. What goes wrong is not lost on us: only waiting
    /// for the writes, which this does not, takes an error away from the fsync to come.
    fn start_write_back(&self, from: u64, to: u64) {
        let (from, len) = (from.cast_signed(), (to - from).cast_signed());
        // SAFETY: a system call with integer arguments on a descriptor that `self` holds open.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), from, len, libc::SYNC_FILE_RANGE_WRITE) };
    }

    /// Makes what was written durable; after a failure the descriptor must not be used again.
    fn sync(&self, sync: Fsync) -> Result<()> {
        sync(&self.file).map_err(|error| Error::io(&self.path, "fsync", error))
    }
}

/// `File::sync_all`, or `File::sync_data`.
type Fsync = fn(&File) -> std::io::Result<()>;

/// Makes several files durable, side by side: a journaling file system then needs one commit for all of them
/// where it would need one for each, and small files do not wait until the big one is on disk.
///
/// Fails with the error of the first that failed; none is tried again.
pub(crate) fn sync_all(files: &[&Named], sync: Fsync) -> Result<()> {
    let [first, others @ ..] = files else { return Ok(()) };
    std::thread::scope(|scope| {
        let begun: Vec<_> = others
            .iter()
            .map(|file| (file, std::thread::Builder::new().spawn_scoped(scope, move || file.sync(sync))))
            .collect();
        let mut results = vec![first.sync(sync)];
        for (file, thread) in begun {
            let result = match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| {
                    Err(Error::Internal { what: format!("syncing {} panicked", file.path.display()) })
                }),
                // No thread to be had.
                Err(_) => file.sync(sync),
            };
            results.push(result);
        }
        results.into_iter().collect()
    })
}

impl Part {
    pub(crate) fn sync(&self) -> Result<()> {
        let mut files = vec![&self.tokens, &self.ends];
        files.extend(self.sidecars.iter().flatten());
        sync_all(&files, File::sync_data)
    }
}

/// Where a block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) part: usize,
    /// Within the part.
    pub(crate) first_token: u64,
    pub(crate) first_document: u64,
    /// Bytes of each sidecar before it.
    sidecars: [u64; 2],
}

/// How far a sidecar goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tail {
    pub(crate) n_bytes: u64,
    pub(crate) xxh3: u64,
}

impl Default for Tail {
    fn default() -> Self {
        Self { n_bytes: 0, xxh3: xxh3_64(&[]) }
    }
}

/// How far a part goes, and the hashes of its files up to there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) part: usize,
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
    pub(crate) tokens_xxh3: u64,
    pub(crate) ends_xxh3: u64,
    /// `None` where there is nothing in it.
    #[serde(default, skip_serializing_if = "are_empty")]
    pub(crate) sidecars: [Option<Tail>; 2],
}

fn are_empty(sidecars: &[Option<Tail>; 2]) -> bool {
    sidecars.iter().all(Option::is_none)
}

/// The part under way, as far as blocks were placed.
#[derive(Clone, Default)]
pub(crate) struct Order {
    pub(crate) part: usize,
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
    pub(crate) tokens: Xxh3,
    pub(crate) ends: Xxh3,
    /// Length in bytes and hash of each sidecar.
    pub(crate) sidecars: [(u64, Xxh3); 2],
}

impl Order {
    /// The beginning of a part.
    pub(crate) fn start(part: usize) -> Self {
        Self { part, ..Self::default() }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            part: self.part,
            n_tokens: self.n_tokens,
            n_documents: self.n_documents,
            tokens_xxh3: self.tokens.digest(),
            ends_xxh3: self.ends.digest(),
            sidecars: [0, 1].map(|at| {
                let (n_bytes, hash) = &self.sidecars[at];
                (*n_bytes > 0).then(|| Tail { n_bytes: *n_bytes, xxh3: hash.digest() })
            }),
        }
    }
}

/// Makes the files of a part.
type Make = Box<dyn Fn(usize) -> Result<Part> + Send + Sync>;

/// The bytes of ends as they stand in the file, on the little-endian machines that we run on.
pub(crate) fn as_bytes(ends: &[u64]) -> &[u8] {
    // SAFETY: u64 has no padding and every byte of it is initialised; the length in bytes is that of
    // the slice and u8 has no alignment.
    unsafe { std::slice::from_raw_parts(ends.as_ptr().cast::<u8>(), size_of_val(ends)) }
}

/// The parts of an output under way.
pub(crate) struct Parts {
    id_bytes: u64,
    part_bytes: u64,
    make: Make,
    order: Mutex<Order>,
    /// Part, and bytes of its ids, up to which the kernel was asked to write.
    asked: Mutex<(usize, u64)>,
    open: Mutex<BTreeMap<usize, Arc<Part>>>,
}

impl Parts {
    /// Goes on from `order`, whose part is `part`. A part that holds `part_bytes` of ids is closed.
    pub(crate) fn new(id_bytes: u64, part_bytes: u64, make: Make, order: Order, part: Arc<Part>) -> Self {
        let open = BTreeMap::from([(order.part, part)]);
        let asked = Mutex::new((order.part, order.n_tokens * id_bytes));
        Self { id_bytes, part_bytes, make, order: Mutex::new(order), asked, open: Mutex::new(open) }
    }

    fn lock_open(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<Part>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the next block its place; the mark is how far the output goes with it.
    pub(crate) fn place(&self, piece: Piece<'_>) -> Result<(Place, Mark)> {
        let Piece { ids, ends, sidecars } = piece;
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.n_tokens * self.id_bytes >= self.part_bytes && !(ids.is_empty() && ends.is_empty()) {
            let part = (self.make)(order.part + 1)?;
            *order = Order::start(order.part + 1);
            self.lock_open().insert(order.part, Arc::new(part));
        }
        let place = Place {
            part: order.part,
            first_token: order.n_tokens,
            first_document: order.n_documents,
            sidecars: [0, 1].map(|at| order.sidecars[at].0),
        };
        for (bytes, (n_bytes, hash)) in sidecars.iter().zip(&mut order.sidecars) {
            *n_bytes += bytes.len() as u64;
            hash.update(bytes);
        }
        order.tokens.update(ids);
        order.ends.update(as_bytes(ends));
        order.n_tokens += ids.len() as u64 / self.id_bytes;
        order.n_documents += ends.len() as u64;
        Ok((place, order.mark()))
    }

    /// Writes a block at its place.
    pub(crate) fn write(&self, place: Place, piece: Piece<'_>) -> Result<()> {
        let Piece { ids, ends, sidecars } = piece;
        let part = self.lock_open().get(&place.part).map(Arc::clone);
        let Some(part) = part else {
            return Err(Error::Internal { what: format!("part {} was closed too early", place.part) });
        };
        part.tokens.write(ids, place.first_token * self.id_bytes)?;
        for (at, bytes) in sidecars.iter().enumerate() {
            if let (Some(file), false) = (&part.sidecars[at], bytes.is_empty()) {
                file.write(bytes, place.sidecars[at])?;
            }
        }
        if ends.is_empty() {
            return Ok(());
        }
        part.ends.write(as_bytes(ends), place.first_document * 8)
    }

    /// Asks the kernel to begin to write ids up to `mark`, all of which it was given, so that
    /// [`Parts::sync`] finds little left to wait for. Makes nothing durable; may block where the disk
    /// has more to do than it takes.
    pub(crate) fn start_write_back(&self, mark: &Mark) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let from = if asked.0 == mark.part { asked.1 } else { 0 };
        // A page that is still being filled would be written twice.
        let to = mark.n_tokens * self.id_bytes / WRITE_BACK_BYTES * WRITE_BACK_BYTES;
        let part = self.lock_open().get(&mark.part).map(Arc::clone);
        if let (Some(part), true) = (part, from < to) {
            part.tokens.start_write_back(from, to);
            *asked = (mark.part, to);
        }
    }

    /// Makes everything up to the part `last` durable and closes the parts before it. All blocks
    /// placed there have been written.
    pub(crate) fn sync(&self, last: usize) -> Result<()> {
        let parts: Vec<_> =
            self.lock_open().range(..=last).map(|(&index, part)| (index, Arc::clone(part))).collect();
        for (index, part) in parts {
            part.sync()?;
            if index < last {
                self.lock_open().remove(&index);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_is_asked_for_once_and_in_whole_pages() {
        let part = || -> Result<Part> {
            let file = |_| Named { file: tempfile::tempfile().expect("a file"), path: PathBuf::from("part") };
            Ok(Part { tokens: file(0), ends: file(1), sidecars: [Some(file(2)), None] })
        };
        let first = Arc::new(part().expect("a part"));
        let parts = Parts::new(2, 3 << 20, Box::new(move |_| part()), Order::default(), first);
        let asked = || *parts.asked.lock().expect("the place");
        let ids = vec![7; (3 << 19) + 6];
        let mut expected = [(0, 3 << 19), (0, 3 << 20), (1, 3 << 19)].into_iter();
        let piece = Piece { ids: &ids, ends: &[5, 6], sidecars: [b"abc", b""] };
        for _ in 0..3 {
            let (place, mark) = parts.place(piece).expect("a place");
            parts.write(place, piece).expect("written");
            parts.start_write_back(&mark);
            assert_eq!(Some(asked()), expected.next());
            parts.start_write_back(&mark);
            parts.start_write_back(&Mark { n_tokens: 1, ..mark });
            assert_eq!(asked().1, mark.n_tokens * 2 / WRITE_BACK_BYTES * WRITE_BACK_BYTES, "never backwards");
        }
        let mark = parts.order.lock().expect("the order").mark();
        assert_eq!(
            mark.sidecars,
            [Some(Tail { n_bytes: 3, xxh3: xxhash_rust::xxh3::xxh3_64(b"abc") }), None]
        );
        parts.sync(1).expect("synced");
    }

    #[test]
    fn files_are_synced_together_and_the_first_that_fails_is_named() {
        let file = |path: &str| Named { file: tempfile::tempfile().expect("a file"), path: path.into() };
        // A pipe has nothing that could be synced.
        let pipe = |path: &str| {
            let (read, _) = std::io::pipe().expect("a pipe");
            Named { file: std::os::fd::OwnedFd::from(read).into(), path: path.into() }
        };
        let (a, b, c, d) = (file("a"), pipe("b"), file("c"), pipe("d"));
        assert!(sync_all(&[], File::sync_all).is_ok());
        assert!(sync_all(&[&a, &c], File::sync_all).is_ok());
        for files in [&[&a, &b, &c, &d][..], &[&b, &a]] {
            let failed = sync_all(files, File::sync_data).expect_err("a pipe");
            assert!(matches!(&failed, Error::Io { path, .. } if path.as_os_str() == "b"), "{failed:?}");
        }
    }

    #[test]
    fn ends_stand_little_endian_in_their_file() {
        assert_eq!(as_bytes(&[1, 0x0102]), [1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
    }
}
