//! Which paths a job may open.
//!
//! Without roots, whatever this process's user may open. With roots, only what lies beneath one of
//! them: the kernel resolves the rest of the path under the root's own descriptor (`openat2` with
//! `RESOLVE_BENEATH`), so that neither `..` nor a symbolic link, also one swapped in while the path
//! is being resolved, leads out.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::error::{Error, Result};

/// How inputs are opened. `O_NONBLOCK` keeps a FIFO without a writer from blocking.
const INPUT: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// The directories that may be served; none means no restriction.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    roots: Vec<PathBuf>,
}

impl Roots {
    /// Roots by absolute path.
    #[must_use]
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots }
    }

    /// Whether any path may be opened.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.roots.is_empty()
    }

    /// Opens an input for reading.
    pub fn open_input(&self, path: &Path) -> Result<File> {
        self.open(path, INPUT).map(File::from)
    }

    /// Opens a directory as a place to look files up from.
    pub(super) fn open_place(&self, path: &Path) -> Result<OwnedFd> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// As [`Roots::open_input`], in a directory that [`Roots::open_place`] gave; `None` where that fails, or where
    /// roots are to be watched and the name leads out of the directory.
    pub(super) fn open_input_in(&self, folder: &OwnedFd, name: &OsStr) -> Option<File> {
        let flags = INPUT | OFlags::CLOEXEC;
        let opened = if self.roots.is_empty() {
            rustix::fs::openat(folder, name, flags, Mode::empty())
        } else {
            rustix::fs::openat2(folder, name, flags, Mode::empty(), BENEATH)
        };
        opened.ok().map(File::from)
    }

    /// Opens a file of an output that is there already, for reading.
    ///
    /// # Errors
    /// [`Error::NotRegular`] for a FIFO or a device in its place, which might be read for ever.
    pub(crate) fn open_output(&self, path: &Path) -> Result<File> {
        let file = self.open_input(path)?;
        let metadata = file.metadata().map_err(|error| Error::io(path, "stat", error))?;
        if metadata.is_dir() {
            return Err(Error::IsDirectory { path: path.to_owned() });
        }
        if !metadata.is_file() {
            return Err(Error::NotRegular { path: path.to_owned(), kind: "file that holds data" });
        }
        Ok(file)
    }

    /// The whole of such a file; `None` if there is none.
    pub(crate) fn read_output(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let mut file = match self.open_output(path) {
            Err(Error::NotFound { .. }) => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| Error::io(path, "reading", error))?;
        Ok(Some(bytes))
    }

    /// Opens a directory in which outputs are made.
    pub fn open_directory(&self, path: &Path) -> Result<OwnedFd> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let failed = |errno: rustix::io::Errno| Error::io(path, "opening", errno.into());
        if self.roots.is_empty() {
            return rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed);
        }
        for root in &self.roots {
            let Ok(rest) = path.strip_prefix(root) else { continue };
            let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
            let directory = rustix::fs::openat(
                CWD,
                root,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|errno| Error::io(root, "opening root", errno.into()))?;
            return match rustix::fs::openat2(&directory, rest, flags, Mode::empty(), BENEATH) {
                Ok(file) => Ok(file),
                Err(rustix::io::Errno::XDEV | rustix::io::Errno::LOOP) => {
                    Err(Error::PathDenied { path: path.to_owned() })
                }
                Err(errno) => Err(failed(errno)),
            };
        }
        Err(Error::PathDenied { path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_a_root_is_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("mkdir");
        std::fs::write(dir.path().join("secret"), "s").expect("write");
        std::fs::write(root.join("file"), "f").expect("write");
        std::os::unix::fs::symlink("../secret", root.join("out")).expect("symlink");
        std::os::unix::fs::symlink("file", root.join("in")).expect("symlink");
        let roots = Roots::new(vec![root.clone()]);
        assert!(roots.open_input(&root.join("file")).is_ok());
        assert!(roots.open_input(&root.join("in")).is_ok());
        for path in [dir.path().join("secret"), root.join("../secret"), root.join("out")] {
            let denied = roots.open_input(&path);
            assert!(matches!(denied, Err(Error::PathDenied { .. })), "{path:?}: {denied:?}");
        }
        assert!(matches!(roots.open_input(&root.join("none")), Err(Error::NotFound { .. })));
    }
}
