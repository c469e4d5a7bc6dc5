//! Inputs: regular files, opened under rules, mapped or read, copied once.
//!
//! The bytes of a mapping can change at any instant, because other processes may write to the file.
//! So no reference into a mapping ever leaves this module: a range is copied into the caller's
//! buffer, and everything that follows (validation, splitting, hashing) sees that one private copy.
//! The copy costs about 0.1 ns per byte and makes every later stage simple: it also ends the
//! question of reading past the end of a file.
//!
//! * [`access`]: which paths may be opened;
//! * [`border`]: where a big file may be cut.

pub mod access;
pub(crate) mod border;
pub mod jsonl;

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Smaller files are read: a system call costs less than a mapping and its page faults.
const MAP_MIN_BYTES: u64 = 64 * 1024;

/// What identifies a file's content for the length of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
    pub size_bytes: u64,
    pub mtime_ns: i128,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        }
    }
}

/// An input that was found to be a regular file.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub identity: Identity,
}

impl Source {
    /// Looks a path up.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], [`Error::NotRegular`], [`Error::PathDenied`], or
    /// [`Error::Io`] where it cannot be read.
    pub fn find(path: &Path, roots: &access::Roots) -> Result<Self> {
        let file = roots.open_input(path)?;
        Ok(Self { path: path.to_owned(), identity: inspect(&file, path)? })
    }

    /// Opens the source again, as the same file with the same content as when it was found.
    pub(crate) fn open(&self, roots: &access::Roots) -> Result<Opened> {
        let file = roots.open_input(&self.path)?;
        let identity = inspect(&file, &self.path)?;
        if identity != self.identity {
            return Err(changed(&self.path, &self.identity, &identity));
        }
        let map = if identity.size_bytes < MAP_MIN_BYTES {
            None
        } else {
            // SAFETY: the mapping is private to `Opened`, which never makes a reference into it (see
            // the module header); a file that shrinks is answered by the checks around the job.
            // A file system that cannot map is read instead.
            unsafe { Mmap::map(&file) }.ok()
        };
        Ok(Opened { path: self.path.clone(), identity, file, map })
    }
}

/// A source that is being read.
pub(crate) struct Opened {
    path: PathBuf,
    identity: Identity,
    file: File,
    map: Option<Mmap>,
}

impl Opened {
    pub(crate) fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    /// Replaces the content of `buffer` by the bytes `start..end`, which lie inside the file.
    pub(crate) fn read(&self, start: u64, end: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let len = (end - start) as usize;
        buffer.clear();
        if let Some(map) = &self.map {
            debug_assert!(end <= map.len() as u64);
            buffer.reserve(len);
            // SAFETY: the range lies inside the mapping and inside the reserved buffer; raw copies
            // make no reference to bytes that another process may be changing.
            unsafe {
                std::ptr::copy_nonoverlapping(map.as_ptr().add(start as usize), buffer.as_mut_ptr(), len);
                buffer.set_len(len);
            }
            return Ok(());
        }
        buffer.resize(len, 0);
        self.file.read_exact_at(buffer, start).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                let what = format!("it ends before byte {end}");
                return Error::InputChanged { path: self.path.clone(), what };
            }
            Error::io(&self.path, "reading", error)
        })
    }

    /// Checks that the file is still what it was when it was opened.
    pub(crate) fn verify(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(|error| Error::io(&self.path, "stat", error))?;
        let now = Identity::of(&metadata);
        if now == self.identity { Ok(()) } else { Err(changed(&self.path, &self.identity, &now)) }
    }
}

fn changed(path: &Path, before: &Identity, now: &Identity) -> Error {
    let what = if before.size_bytes != now.size_bytes {
        format!("it had {} bytes and has {}", before.size_bytes, now.size_bytes)
    } else if (before.device, before.inode) != (now.device, now.inode) {
        "another file was put in its place".to_owned()
    } else {
        "it was written to".to_owned()
    };
    Error::InputChanged { path: path.to_owned(), what }
}

fn inspect(file: &File, path: &Path) -> Result<Identity> {
    let metadata = file.metadata().map_err(|error| Error::io(path, "stat", error))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(Error::IsDirectory { path: path.to_owned() });
    }
    if !kind.is_file() {
        let kind = if kind.is_fifo() {
            "FIFO"
        } else if kind.is_socket() {
            "socket"
        } else {
            "device"
        };
        return Err(Error::NotRegular { path: path.to_owned(), kind });
    }
    Ok(Identity::of(&metadata))
}
