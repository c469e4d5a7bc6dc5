//! Files that lie beside each other: the directory of the last one stays open, and the next one in it is
//! found from there by its name alone.
//!
//! A path of six parts is six look-ups for the kernel, and with roots each file would have its root opened
//! first; of a hundred thousand small files that is a tenth of the time. What is found is the same: a name
//! that leads elsewhere (a link, under roots), and everything that fails, is looked up by its whole path.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat};

use super::access::Roots;
use crate::error::Result;

/// Looks files up, one after the other; for the length of one look at a list of them.
pub(crate) struct Nearby<'a> {
    roots: &'a Roots,
    folder: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Nearby<'a> {
    pub(crate) fn new(roots: &'a Roots) -> Self {
        Self { roots, folder: None }
    }

    /// The directory of a path, and its name there; `None` where the path is none of a file, or fails.
    fn place<'p>(&mut self, path: &'p Path) -> Option<(&OwnedFd, &'p OsStr)> {
        // By its bytes: a path that is taken apart by its rules takes longer than the look-up.
        let bytes = path.as_os_str().as_bytes();
        let (parent, name) = bytes.split_at(bytes.iter().rposition(|&byte| byte == b'/')? + 1);
        if matches!(name, b"" | b"." | b"..") {
            return None;
        }
        if self.folder.as_ref().is_none_or(|(known, _)| known != parent) {
            let place = self.roots.open_place(Path::new(OsStr::from_bytes(parent))).ok()?;
            self.folder = Some((parent.to_owned(), place));
        }
        self.folder.as_ref().map(|(_, folder)| (folder, OsStr::from_bytes(name)))
    }

    /// As [`Roots::open_input`].
    pub(super) fn open(&mut self, path: &Path) -> Result<File> {
        let roots = self.roots;
        let found = self.place(path).and_then(|(folder, name)| roots.open_input_in(folder, name));
        found.map_or_else(|| roots.open_input(path), Ok)
    }

    /// What the kernel says of a file without opening it; `None` where that takes more than one look.
    pub(super) fn stat(&mut self, path: &Path) -> Option<Stat> {
        let follows = self.roots.are_none();
        let flags = if follows { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let (folder, name) = self.place(path)?;
        let stat = rustix::fs::statat(folder, name, flags).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::error::Error;

    fn content(nearby: &mut Nearby<'_>, path: &Path) -> Result<String> {
        let mut text = String::new();
        nearby.open(path)?.read_to_string(&mut text).expect("a text");
        Ok(text)
    }

    #[test]
    fn names_are_what_their_paths_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        for folder in ["root", "root/a", "root/b"] {
            std::fs::create_dir(dir.path().join(folder)).expect("mkdir");
        }
        for (path, text) in [("secret", "s"), ("root/a/1", "a1"), ("root/a/2", "a2"), ("root/b/1", "b1")] {
            std::fs::write(dir.path().join(path), text).expect("write");
        }
        std::os::unix::fs::symlink("../b/1", root.join("a/inside")).expect("symlink");
        std::os::unix::fs::symlink("../../secret", root.join("a/outside")).expect("symlink");
        for roots in [Roots::default(), Roots::new(vec![root.clone()])] {
            let mut nearby = Nearby::new(&roots);
            for (path, text) in
                [("a/1", "a1"), ("a/2", "a2"), ("b/1", "b1"), ("a/../b/1", "b1"), ("a/inside", "b1")]
            {
                assert_eq!(content(&mut nearby, &root.join(path)).expect(path), text);
            }
            let stat = nearby.stat(&root.join("a/1")).expect("a file");
            assert_eq!(stat.st_size, 2);
            assert!(nearby.stat(&root.join("a")).is_none() && nearby.stat(&root.join("a/none")).is_none());
            assert_eq!(nearby.stat(&root.join("a/inside")).is_some(), roots.are_none());
            let missing = nearby.open(&root.join("a/none"));
            assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
            let file_as_folder = nearby.open(&root.join("a/1/."));
            assert_eq!(file_as_folder.is_ok(), roots.open_input(&root.join("a/1/.")).is_ok());
            let outside = nearby.open(&root.join("a/outside"));
            assert_eq!(matches!(outside, Err(Error::PathDenied { .. })), !roots.are_none(), "{outside:?}");
            let above = nearby.open(&root.join("../secret"));
            assert_eq!(matches!(above, Err(Error::PathDenied { .. })), !roots.are_none(), "{above:?}");
        }
    }
}
