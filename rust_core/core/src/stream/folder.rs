//! A directory in which an output is made, by its descriptor: whoever renames or replaces the path to
//! it meanwhile does not lead us elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::input::access::Roots;

/// An open directory and the path that messages name it by.
pub(crate) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a directory.
    pub(crate) fn open(roots: &Roots, path: &Path) -> Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Ok(Self { fd: roots.open_directory(path)?, path: path.to_owned() })
    }

    /// Opens the directory that `output` lies in; returns its name too.
    pub(crate) fn of(roots: &Roots, output: &Path) -> Result<(Self, OsString)> {
        let (Some(parent), Some(name)) = (output.parent(), output.file_name()) else {
            let what = format!("{} is no file name", output.display());
            return Err(Error::BadOption { option: "output", what });
        };
        Ok((Self::open(roots, parent)?, name.to_owned()))
    }

    /// The path of a name in it, for messages.
    pub(crate) fn path(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    fn failed(&self, name: &OsStr, action: &'static str, errno: Errno) -> Error {
        Error::io(self.path(name), action, errno.into())
    }

    /// Device and inode of what a name stands for.
    pub(crate) fn stat(&self, name: &OsStr) -> Result<Option<(u64, u64)>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::empty()) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed(name, "stat", errno)),
        }
    }

    /// Creates a file that is not there yet.
    pub(crate) fn create(&self, name: &OsStr) -> Result<File> {
        self.open_file(name, OFlags::CREATE | OFlags::EXCL, "creating")
    }

    /// Opens a file of ours for reading and writing; `None` if it is not there.
    pub(crate) fn reopen(&self, name: &OsStr) -> Result<Option<File>> {
        match self.open_file(name, OFlags::empty(), "opening") {
            Ok(file) => Ok(Some(file)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file of ours, or creates it.
    pub(crate) fn open_or_create(&self, name: &OsStr) -> Result<File> {
        self.open_file(name, OFlags::CREATE, "creating")
    }

    fn open_file(&self, name: &OsStr, flags: OFlags, action: &'static str) -> Result<File> {
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o644))
            .map(File::from)
            .map_err(|errno| self.failed(name, action, errno))
    }

    /// Makes a directory in it and syncs that; false if there is one.
    pub(crate) fn make_directory(&self, name: &OsStr) -> Result<bool> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => self.sync().map(|()| true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.failed(name, "making the directory", errno)),
        }
    }

    /// Removes an empty directory in it.
    pub(crate) fn remove_directory(&self, name: &OsStr) -> Result<()> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
            .map_err(|errno| self.failed(name, "removing the directory", errno))
    }

    /// Gives a file its final name; unless `replace`, never over another one.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr, replace: bool) -> Result<()> {
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let renamed = match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, flags) {
            // A kernel without renameat2: replacing needs no flag.
            Err(Errno::NOSYS) if replace => rustix::fs::renameat(&self.fd, from, &self.fd, to),
            // A file system without NOREPLACE: a link does not replace either.
            Err(Errno::INVAL | Errno::NOSYS) if !replace => {
                rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty())
                    .and_then(|()| rustix::fs::unlinkat(&self.fd, from, AtFlags::empty()))
            }
            other => other,
        };
        renamed.map_err(|errno| match errno {
            Errno::EXIST => Error::OutputExists { path: self.path(to) },
            _ => self.failed(to, "publishing", errno),
        })
    }

    /// Removes a file; false if it is not there.
    pub(crate) fn remove(&self, name: &OsStr) -> Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.failed(name, "removing", errno)),
        }
    }

    /// Makes names durable.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd)
            .map_err(|errno| self.failed(OsStr::new(""), "fsync of the directory", errno))
    }

    /// Writes a small file whole or not at all: temporary, fsync, rename over, fsync of the directory.
    pub(crate) fn replace(&self, name: &OsStr, temporary: &OsStr, bytes: &[u8]) -> Result<()> {
        self.remove(temporary)?;
        let file = self.create(temporary)?;
        let written = file
            .write_all_at(bytes, 0)
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io(self.path(name), "writing", error))
            .and_then(|()| self.rename(temporary, name, true));
        if written.is_err() {
            let _ = self.remove(temporary);
        }
        written.and_then(|()| self.sync())
    }

    /// Takes the directory for this process alone, until the folder is closed.
    pub(crate) fn lock(&self) -> Result<()> {
        lock(&self.fd, &self.path)
    }

    /// The names in it.
    pub(crate) fn names(&self) -> Result<Vec<OsString>> {
        let failed = |errno| self.failed(OsStr::new(""), "reading the directory", errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsString::from(String::from_utf8_lossy(entry.file_name().to_bytes()).into_owned());
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Bytes that may still be written to its file system.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        let space =
            rustix::fs::fstatvfs(&self.fd).map_err(|errno| self.failed(OsStr::new(""), "statvfs", errno))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Opens a file of ours and takes it for this process alone, as long as it is open.
    pub(crate) fn open_locked(&self, name: &OsStr) -> Result<File> {
        loop {
            let file = self.open_or_create(name)?;
            lock(&file, &self.path(name))?;
            // Whoever held it before may have removed it: then it is nobody's, and we take a new one.
            let ours = rustix::fs::fstat(&file).map_err(|errno| self.failed(name, "stat", errno))?;
            if self.stat(name)? == Some((ours.st_dev, ours.st_ino)) {
                return Ok(file);
            }
        }
    }
}

/// The right to make an output, for one job at a time whatever its partial key; given up when dropped.
///
/// It is a lock (`flock`) on a file `.OUT.lock` beside the output, which is removed while it is held.
/// What a killed job left of it holds nobody up and is taken over.
pub(crate) struct Claim {
    folder: Arc<Folder>,
    name: OsString,
    /// Closed after the file is removed, so that nobody takes one that is about to go.
    _file: File,
}

impl Claim {
    /// Claims the output `name`.
    ///
    /// # Errors
    /// [`Error::OutputBusy`] while another job has it.
    pub(crate) fn take(folder: &Arc<Folder>, name: &OsStr) -> Result<Self> {
        let lock_name = Self::file_name(name);
        let file = folder.open_locked(&lock_name).map_err(|error| match error {
            Error::OutputBusy { .. } => Error::OutputBusy { path: folder.path(name) },
            other => other,
        })?;
        Ok(Self { folder: Arc::clone(folder), name: lock_name, _file: file })
    }

    /// Removes the lock file that a killed job left; false if there is none, or if a job has it.
    pub(crate) fn clear(folder: &Arc<Folder>, name: &OsStr) -> Result<bool> {
        if folder.stat(&Self::file_name(name))?.is_none() {
            return Ok(false);
        }
        match Self::take(folder, name) {
            Ok(_) => Ok(true),
            Err(Error::OutputBusy { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn file_name(name: &OsStr) -> OsString {
        let mut lock_name = OsString::from(".");
        lock_name.push(suffixed(name, ".lock"));
        lock_name
    }

    /// The folder that the output lies in.
    pub(crate) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = self.folder.remove(&self.name);
    }
}

fn lock(fd: impl std::os::fd::AsFd, path: &Path) -> Result<()> {
    rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        Errno::WOULDBLOCK => Error::OutputBusy { path: path.to_owned() },
        _ => Error::io(path, "locking", errno.into()),
    })
}

/// `name` with a suffix.
pub(crate) fn suffixed(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

/// The name of a file that is being made for `name` by the job `key`.
pub(crate) fn partial(name: &OsStr, key: &str) -> OsString {
    let mut partial = OsString::from(".");
    partial.push(name);
    partial.push(format!(".{key}.partial"));
    partial
}
