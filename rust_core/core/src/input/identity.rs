//! What tells that a file is still the one that was found, with the content that it had then.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::filesystem::{self, Devices};
use crate::error::{Error, Result};

/// File times move in ticks of the kernel's clock, 10 ms at most: a write within one tick of the last
/// one does not show in the mtime.
const TICK_NS: i128 = 10_000_000;

/// What identifies a file's content for the length of a job.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
    pub size_bytes: u64,
    pub mtime_ns: i128,
    pub(super) ctime_ns: i128,
    /// The mtime was so fresh when it was looked at that another write may have the same.
    pub(super) fresh: bool,
}

impl Identity {
    /// Of a file that is looked at for the first time.
    pub(super) fn first(identity: Self) -> Self {
        let now_ns =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos().cast_signed());
        Self { fresh: (now_ns - identity.mtime_ns).abs() < TICK_NS, ..identity }
    }

    pub(super) fn of(metadata: &Metadata) -> Self {
        let mtime_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            mtime_ns,
            ctime_ns: i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()),
            fresh: false,
        }
    }

    pub(super) fn of_stat(stat: &rustix::fs::Stat) -> Self {
        let ns =
            |seconds: i64, nanoseconds: u64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size_bytes: stat.st_size.cast_unsigned(),
            mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
            fresh: false,
        }
    }

    /// Whether this is the same file, of the same size, not written to since.
    pub(super) fn is_same(&self, then: &Self) -> bool {
        let key = |of: &Self| (of.device, of.inode, of.size_bytes, of.mtime_ns);
        key(self) == key(then)
    }
}

/// What a file that is not the same any more fails with.
pub(super) fn changed(path: &Path, before: &Identity, now: &Identity) -> Error {
    let what = if before.size_bytes != now.size_bytes {
        format!("it had {} bytes and has {}", before.size_bytes, now.size_bytes)
    } else if (before.device, before.inode) != (now.device, now.inode) {
        "another file was put in its place".to_owned()
    } else {
        "it was written to".to_owned()
    };
    Error::InputChanged { path: path.to_owned(), what }
}

/// Refuses what is no regular file; `path` is what it is called.
pub(super) fn inspect(file: &File, path: &Path, devices: &Devices) -> Result<Identity> {
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
    if devices.kind(&metadata, file) == filesystem::Kind::Kernel {
        return Err(Error::NotRegular { path: path.to_owned(), kind: "file that the kernel makes up" });
    }
    Ok(Identity::first(Identity::of(&metadata)))
}
