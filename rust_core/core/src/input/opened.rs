//! A source that is being read: mapped where that pays and is safe, else by `pread`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use memmap2::Mmap;
use xxhash_rust::xxh3::Xxh3;

use super::identity::{Identity, changed};
use super::{filesystem, sigbus};
use crate::error::{Error, Result};
use crate::job::Control;

/// Smaller files are read: a system call costs less than a mapping and its page faults.
const MAP_MIN_BYTES: u64 = 64 * 1024;

/// A mapped file. Fields are dropped in order: the range is withdrawn before the memory goes.
pub(super) struct Mapping {
    pub(super) range: sigbus::Range,
    map: Mmap,
}

impl Mapping {
    /// Maps a file where that pays and is safe; it is read otherwise.
    fn new(file: &File, size_bytes: u64) -> Option<Self> {
        if size_bytes < MAP_MIN_BYTES || filesystem::kind(file) != filesystem::Kind::Local {
            return None;
        }
        // SAFETY: the mapping is private to `Opened`, which never makes a reference into it (see the
        // module header); pages that vanish are the registered handler's business.
        let map =
            unsafe { memmap2::MmapOptions::new().len(usize::try_from(size_bytes).ok()?).map(file) }.ok()?;
        let range = sigbus::Range::register(map.as_ptr(), map.len())?;
        Some(Self { range, map })
    }
}

/// A source that is being read.
pub(crate) struct Opened {
    /// What it is called.
    pub(super) path: PathBuf,
    identity: Identity,
    pub(super) file: File,
    pub(super) mapping: RwLock<Option<Mapping>>,
}

impl Opened {
    /// An open file, called `path`, that was found to be what `identity` says.
    pub(super) fn new(path: PathBuf, identity: Identity, file: File) -> Self {
        let mapping = RwLock::new(Mapping::new(&file, identity.size_bytes));
        Self { path, identity, file, mapping }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the file, for readers that find their own way in it.
    pub(crate) fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| Error::io(&self.path, "opening", error))
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    /// Replaces the content of `buffer` by the bytes `start..end`, which lie inside the file.
    pub(crate) fn read(&self, start: u64, end: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let len = (end - start) as usize;
        buffer.clear();
        // The lock is held for the copy: `unmap` waits for it.
        if let Some(Mapping { range, map }) = &*self.mapping.read().unwrap_or_else(PoisonError::into_inner) {
            debug_assert!(end <= map.len() as u64);
            buffer.reserve(len);
            // SAFETY: the range lies inside the mapping and inside the reserved buffer; raw copies
            // make no reference to bytes that another process may be changing.
            unsafe {
                std::ptr::copy_nonoverlapping(map.as_ptr().add(start as usize), buffer.as_mut_ptr(), len);
                buffer.set_len(len);
            }
            return if range.is_lost() { Err(self.lost(end)) } else { Ok(()) };
        }
        buffer.resize(len, 0);
        self.file.read_exact_at(buffer, start).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                return self.lost(end);
            }
            Error::io(&self.path, "reading", error)
        })
    }

    /// Bytes before `end` that are not there any more.
    fn lost(&self, end: u64) -> Error {
        match self.file.metadata().map(|metadata| metadata.len()) {
            Ok(len) if len >= self.identity.size_bytes => {
                let source = std::io::Error::other("a page could not be read from the disk");
                Error::Io { path: self.path.clone(), action: "reading", source }
            }
            Ok(len) => {
                let what = format!("it had {} bytes and has {len}", self.identity.size_bytes);
                Error::InputChanged { path: self.path.clone(), what }
            }
            Err(_) => {
                let what = format!("it ends before byte {end}");
                Error::InputChanged { path: self.path.clone(), what }
            }
        }
    }

    /// Lets go of the mapping, if there is one; what is still to be read is read from the file.
    pub(super) fn unmap(&self) {
        *self.mapping.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Checks, once all of the file has been read, that it is still what it was; `xxh3` is the hash
    /// of what was read. Reads the file again where its times cannot tell.
    pub(crate) fn verify(&self, xxh3: u64, control: &Control) -> Result<()> {
        if self.must_be_hashed_again()? && self.hash(self.size_bytes(), control)?.digest() != xxh3 {
            let what = "it was written to".to_owned();
            return Err(Error::InputChanged { path: self.path.clone(), what });
        }
        Ok(())
    }

    /// Checks what the file's times and size can tell of a change.
    pub(crate) fn check(&self) -> Result<()> {
        self.must_be_hashed_again().map(|_| ())
    }

    fn must_be_hashed_again(&self) -> Result<bool> {
        let metadata = self.file.metadata().map_err(|error| Error::io(&self.path, "stat", error))?;
        let now = Identity::of(&metadata);
        if !now.is_same(&self.identity) {
            return Err(changed(&self.path, &self.identity, &now));
        }
        Ok(now.ctime_ns != self.identity.ctime_ns || self.identity.fresh)
    }

    /// The hash, still running, of the first bytes of the file, unless the job is cancelled meanwhile.
    pub(crate) fn hash(&self, len_bytes: u64, control: &Control) -> Result<Xxh3> {
        let mut hash = Xxh3::new();
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < len_bytes {
            control.check()?;
            let end = (at + (1 << 20)).min(len_bytes);
            self.read(at, end, &mut buffer)?;
            hash.update(&buffer);
            at = end;
        }
        Ok(hash)
    }
}
