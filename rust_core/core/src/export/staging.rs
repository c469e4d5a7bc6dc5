//! How a set of files comes to be there whole or not at all.
//!
//! ```text
//! .NAME.tokend-export/   (locked) files are written here ─► fsync each ─► fsync the directory
//!     a directory set: renamed to NAME, without replacing
//!     a prefix set:    its files renamed one by one, the commit file last ─► fsync the parent
//! ```
//!
//! A directory set appears with one rename. A Megatron set, which is a pair of files with a common
//! prefix, appears with its `.idx`. What a killed run left in the hidden directory is removed by the
//! next one, which holds the directory's lock; nothing else there is touched.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, RenameFlags};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::job::Control;

const BUFFER_BYTES: usize = 1 << 18;

/// One file of a published set, as `tokend.json` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub file: String,
    pub size_bytes: u64,
    pub xxh3: String,
}

/// A finished file that may be taken into a set, with what its own set says of it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) path: PathBuf,
    pub(crate) size_bytes: u64,
    pub(crate) xxh3: String,
}

/// A set that is being made in a hidden directory beside its final place.
pub(crate) struct Staging {
    folder: PathBuf,
    _lock: File,
    files: RefCell<Vec<FileInfo>>,
    published: std::cell::Cell<bool>,
}

impl Staging {
    /// Begins a set that will stand at `output`.
    pub(crate) fn begin(output: &Path) -> Result<Self> {
        let Some(name) = output.file_name() else {
            let what = format!("{} is no file name", output.display());
            return Err(Error::BadOption { option: "output", what });
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".tokend-export");
        let folder = output.with_file_name(hidden);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(&folder, "creating", error));
            }
            _ => {}
        }
        let lock = File::open(&folder).map_err(|error| Error::io(&folder, "opening", error))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::OutputBusy { path: output.to_owned() })?;
        // Whoever held the lock before us may have renamed what we locked, or left files behind.
        fs::remove_dir_all(&folder).map_err(|error| Error::io(&folder, "clearing", error))?;
        fs::create_dir(&folder).map_err(|error| Error::io(&folder, "creating", error))?;
        let lock = File::open(&folder).map_err(|error| Error::io(&folder, "opening", error))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::OutputBusy { path: output.to_owned() })?;
        Ok(Self { folder, _lock: lock, files: RefCell::default(), published: false.into() })
    }

    /// Creates a file; `name` may lie in a subdirectory.
    pub(crate) fn create(&self, name: &str) -> Result<Staged> {
        let path = self.path(name)?;
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| Error::io(&path, "creating", error))?;
        let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Staged { writer, path, name: name.to_owned(), n_bytes: 0, hash: Xxh3::new(), patched: false })
    }

    /// Takes an existing file into the set: its bytes are shared where the file system can do that (XFS,
    /// Btrfs), else it gets a second name, and where it can have none it is copied.
    pub(crate) fn link(&self, existing: &Known, name: &str) -> Result<()> {
        let path = self.path(name)?;
        if !share(&existing.path, &path)
            && rustix::fs::linkat(CWD, &existing.path, CWD, &path, AtFlags::empty()).is_err()
        {
            fs::copy(&existing.path, &path).map_err(|error| Error::io(&path, "copying", error))?;
        }
        let size_bytes = fs::metadata(&path).map_err(|error| Error::io(&path, "stat", error))?.len();
        if size_bytes != existing.size_bytes {
            let what = format!("{size_bytes} bytes, not {} any more", existing.size_bytes);
            return Err(Error::Damaged { path: existing.path.clone(), what });
        }
        Self::sync_file(&path)?;
        let xxh3 = existing.xxh3.clone();
        self.files.borrow_mut().push(FileInfo { file: name.to_owned(), size_bytes, xxh3 });
        Ok(())
    }

    /// Writes a small file whole.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.create(name)?;
        file.write(bytes)?;
        self.close(file)
    }

    /// Completes a file.
    pub(crate) fn close(&self, mut file: Staged) -> Result<()> {
        file.writer.flush().map_err(|error| Error::io(&file.path, "writing", error))?;
        file.writer.get_ref().sync_all().map_err(|error| Error::io(&file.path, "fsync", error))?;
        let xxh3 = if file.patched { hash_file(&file.path)?.1 } else { hex(file.hash.digest()) };
        self.files.borrow_mut().push(FileInfo { file: file.name, size_bytes: file.n_bytes, xxh3 });
        Ok(())
    }

    /// The files completed so far.
    pub(crate) fn files(&self) -> Vec<FileInfo> {
        self.files.borrow().clone()
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        if name.contains('/')
            && let Some(parent) = path.parent()
        {
            fs::create_dir_all(parent).map_err(|error| Error::io(parent, "creating", error))?;
        }
        Ok(path)
    }

    fn sync_file(path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|error| Error::io(path, "opening", error))?;
        file.sync_all().map_err(|error| Error::io(path, "fsync", error))
    }

    /// Publishes the set as the directory `output`.
    pub(crate) fn publish_directory(&self, output: &Path, force: bool) -> Result<()> {
        for split in ["train", "val"] {
            let path = self.folder.join(split);
            if path.is_dir() {
                Self::sync_file(&path)?;
            }
        }
        Self::sync_file(&self.folder)?;
        let flags = if force && output.exists() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        rename(&self.folder, output, flags)?;
        self.published.set(true);
        sync_parent(output)?;
        if flags == RenameFlags::EXCHANGE {
            // The old set now has the hidden name.
            fs::remove_dir_all(&self.folder).map_err(|error| Error::io(&self.folder, "removing", error))?;
        }
        Ok(())
    }

    /// Publishes the set's files beside `output`, in this order; readers need the last one.
    pub(crate) fn publish_files(&self, output: &Path, names: &[String], force: bool) -> Result<()> {
        let parent = output.parent().unwrap_or(Path::new("."));
        // A new data file never stands beside an old index.
        for name in names
            .iter()
            .filter(|name| force && Path::new(name).extension().is_some_and(|ending| ending == "idx"))
        {
            let commit = parent.join(name);
            match fs::remove_file(&commit) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(commit, "removing the old index", error));
                }
                _ => sync_parent(output)?,
            }
        }
        let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let mut done: Vec<PathBuf> = Vec::new();
        for name in names {
            let to = parent.join(name);
            if let Err(error) = rename(&self.folder.join(name), &to, flags) {
                // Taken back: they were put there a moment ago, by us.
                for path in done.iter().filter(|_| !force) {
                    let _ = fs::remove_file(path);
                }
                return Err(error);
            }
            done.push(to);
        }
        sync_parent(output)
    }
}

/// Makes `to` a file of its own that shares the bytes of `from`; false where the file system cannot.
fn share(from: &Path, to: &Path) -> bool {
    let (Ok(source), Ok(made)) = (File::open(from), File::create_new(to)) else { return false };
    if rustix::fs::ioctl_ficlone(&made, &source).is_ok() {
        return true;
    }
    let _ = fs::remove_file(to);
    false
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published.get() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<()> {
    let renamed = match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        // A file system without these flags: nothing stands there, or it is to be replaced.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS)
            if flags != RenameFlags::EXCHANGE && (flags.is_empty() || !to.exists()) =>
        {
            rustix::fs::rename(from, to)
        }
        other => other,
    };
    renamed.map_err(|errno| match errno {
        rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY => Error::OutputExists { path: to.to_owned() },
        _ => Error::io(to, "publishing", errno.into()),
    })
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(parent).map_err(|error| Error::io(parent, "opening", error))?;
    directory.sync_all().map_err(|error| Error::io(parent, "fsync", error))
}

/// A file that is being written.
pub(crate) struct Staged {
    writer: BufWriter<File>,
    path: PathBuf,
    name: String,
    n_bytes: u64,
    hash: Xxh3,
    patched: bool,
}

impl Staged {
    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.n_bytes += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(|error| Error::io(&self.path, "writing", error))
    }

    /// Overwrites bytes at an offset, for counts in headers that are known at the end.
    pub(crate) fn patch(&mut self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        self.patched = true;
        self.writer.flush().map_err(|error| Error::io(&self.path, "writing", error))?;
        let file = self.writer.get_ref();
        file.write_all_at(bytes, offset_bytes).map_err(|error| Error::io(&self.path, "writing", error))
    }

    /// Its length so far.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

/// Refuses to replace what is not a set of ours: a directory goes only if `tokend.json` lists each file
/// in it.
pub(crate) fn check_replaceable(output: &Path) -> Result<()> {
    if !output.exists() {
        return Ok(());
    }
    let keep = |what: String| Err(Error::BadOption { option: "force", what });
    let note = output.join("tokend.json");
    let listed: Option<Vec<String>> = fs::read(&note).ok().and_then(|bytes| {
        let note: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let files = (note["format"] == "tokend-export").then(|| note["files"].as_array())??;
        Some(files.iter().filter_map(|file| file["file"].as_str().map(str::to_owned)).collect())
    });
    let Some(listed) = listed else {
        return keep(format!("{} is no set that tokend made, and stays", output.display()));
    };
    for folder in ["", "train/", "val/"] {
        let path = output.join(folder);
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries {
            let entry = entry.map_err(|error| Error::io(&path, "listing", error))?;
            let name = format!("{folder}{}", entry.file_name().to_string_lossy());
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let known = if is_folder { name == "train" || name == "val" } else { listed.contains(&name) };
            if !known && name != "tokend.json" {
                return keep(format!("{} holds {name}, which tokend did not make", output.display()));
            }
        }
    }
    Ok(())
}

/// Size and XXH3-64 of a file.
pub(crate) fn hash_file(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).map_err(|error| Error::io(path, "opening", error))?;
    let (mut hash, mut size_bytes, mut buffer) = (Xxh3::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).map_err(|error| Error::io(path, "reading", error))?;
        if n == 0 {
            return Ok((size_bytes, hex(hash.digest())));
        }
        size_bytes += n as u64;
        hash.update(&buffer[..n]);
    }
}

/// XXH3-64 of the first so many bytes of a file, for each of `lengths`, which go up; as manifests have them.
///
/// # Errors
/// [`Error::InputChanged`] for a file that is shorter, [`Error::NotFound`], [`Error::Io`], and
/// [`Error::Cancelled`] where `control` says so.
pub fn hash_prefixes(path: &Path, lengths: &[u64], control: &Control) -> Result<Vec<String>> {
    let mut prefix = PrefixHash::default();
    lengths.iter().map(|&length| prefix.advance(path, length, control)).collect()
}

/// The running hash of the start of a file that grows: what was hashed is not read again.
#[derive(Clone, Default)]
pub struct PrefixHash {
    hash: Xxh3,
    at: u64,
}

impl PrefixHash {
    /// Reads on up to `length` bytes of the file; the hash of all of them, as manifests have it.
    ///
    /// # Errors
    /// As [`hash_prefixes`]; [`Error::Internal`] for a length that was passed already.
    pub fn advance(&mut self, path: &Path, length: u64, control: &Control) -> Result<String> {
        if length < self.at {
            return Err(Error::Internal { what: format!("{length} bytes, after {} were hashed", self.at) });
        }
        let mut file = File::open(path).map_err(|error| Error::io(path, "opening", error))?;
        file.seek(SeekFrom::Start(self.at)).map_err(|error| Error::io(path, "reading", error))?;
        let mut buffer = vec![0; usize::try_from(length - self.at).unwrap_or(usize::MAX).clamp(1, 1 << 20)];
        while self.at < length {
            control.check()?;
            let most = buffer.len().min((length - self.at).try_into().unwrap_or(usize::MAX));
            let n = file.read(&mut buffer[..most]).map_err(|error| Error::io(path, "reading", error))?;
            if n == 0 {
                let what = format!("it has {} bytes, not {length} any more", self.at);
                return Err(Error::InputChanged { path: path.to_owned(), what });
            }
            self.hash.update(&buffer[..n]);
            self.at += n as u64;
        }
        Ok(hex(self.hash.digest()))
    }

    /// How many bytes were hashed.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.at
    }
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}
