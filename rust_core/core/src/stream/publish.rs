//! How a token set comes to be on disk: whole, or not at all.
//!
//! ```text
//! create .OUT.bin.<pid>-<n>.partial (and .ends, .json) in the target directory
//! write ─► fsync each ─► rename data, rename ends ─► fsync directory ─► rename manifest ─► fsync directory
//! ```
//!
//! Renames do not replace: if another program puts a file there meanwhile, the job fails and that
//! file stays. With `force` the old manifest is removed first, so that at no moment a manifest
//! stands beside data that it does not describe. The partial files are removed when anything fails;
//! they carry the process id, so that leftovers of a killed process can be told from live ones.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::manifest::{Manifest, with_suffix};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::job::JobSpec;

/// Output bytes per input byte that must be free before a job starts: about what European text
/// needs as uint16. Denser text may still run out of space; that is then an error without leftovers.
const FREE_PER_INPUT_BYTE: f64 = 0.5;

/// The files of an output that is being made.
pub struct OutputSet {
    path: PathBuf,
    directory: OwnedFd,
    data: Partial,
    ends: Partial,
    published: bool,
}

/// A file under its temporary name.
struct Partial {
    file: File,
    temporary: OsString,
    name: OsString,
}

impl OutputSet {
    /// Checks an output before any work: its directory, its name, what is there, free space.
    pub(crate) fn check(spec: &JobSpec, sources: &[Source], total_bytes: u64) -> Result<()> {
        let (directory, name) = open_parent(spec)?;
        let data = stat(&directory, &name, &spec.output)?;
        for (suffix, there) in [
            ("", data),
            (".ends", stat(&directory, &suffixed(&name, ".ends"), &spec.output)?),
            (".json", stat(&directory, &suffixed(&name, ".json"), &spec.output)?),
        ] {
            let path = with_suffix(&spec.output, suffix);
            let Some((device, inode)) = there else { continue };
            if spec.inputs.contains(&path)
                || sources
                    .iter()
                    .any(|source| (source.identity.device, source.identity.inode) == (device, inode))
            {
                return Err(Error::OutputIsInput { path });
            }
            // A complete set may turn out to be up to date; anything else is in the way.
            if !spec.force && (data.is_none() || Manifest::read_beside(&spec.output)?.is_none()) {
                return Err(Error::OutputExists { path });
            }
        }
        let space =
            rustix::fs::fstatvfs(&directory).map_err(|errno| failed(&spec.output, "statvfs", errno))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let needed = (total_bytes as f64 * FREE_PER_INPUT_BYTE) as u64;
        if data.is_none() && free < needed {
            let what =
                format!("about {needed} bytes are needed for {total_bytes} bytes of input, {free} are free");
            return Err(Error::NoSpace { path: spec.output.clone(), what });
        }
        Ok(())
    }

    /// Creates the partial files.
    pub(crate) fn create(spec: &JobSpec) -> Result<Self> {
        let (directory, name) = open_parent(spec)?;
        let data = Partial::create(&directory, &name, &spec.output)?;
        let ends =
            Partial::create(&directory, &suffixed(&name, ".ends"), &spec.output).inspect_err(|_| {
                data.remove(&directory);
            })?;
        Ok(Self { path: spec.output.clone(), directory, data, ends, published: false })
    }

    /// Writes ids' bytes at an offset; any thread, in any order.
    pub(crate) fn write_data(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        self.data.write(bytes, offset_bytes, &self.path)
    }

    /// Writes document ends at an offset; any thread, in any order.
    pub(crate) fn write_ends(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        self.ends.write(bytes, offset_bytes, &self.path)
    }

    pub(crate) fn data_name(&self) -> String {
        self.data.name.to_string_lossy().into_owned()
    }

    pub(crate) fn ends_name(&self) -> String {
        self.ends.name.to_string_lossy().into_owned()
    }

    /// Puts the set under its names, the manifest last.
    pub(crate) fn publish(mut self, manifest: &Manifest, force: bool) -> Result<()> {
        let name = suffixed(&self.data.name, ".json");
        let json = Partial::create(&self.directory, &name, &self.path)?;
        let result = self.publish_all(&json, manifest, force);
        self.published = result.is_ok();
        if result.is_err() {
            json.remove(&self.directory);
        }
        result
    }

    fn publish_all(&self, json: &Partial, manifest: &Manifest, force: bool) -> Result<()> {
        let text = manifest.to_json()? + "\n";
        json.write(text.as_bytes(), 0, &self.path)?;
        for partial in [&self.data, &self.ends, json] {
            partial.file.sync_all().map_err(|error| Error::io(&self.path, "fsync", error))?;
        }
        if force {
            match rustix::fs::unlinkat(&self.directory, &json.name, AtFlags::empty()) {
                Ok(()) => self.sync_directory()?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(&self.path, "removing the old manifest", errno)),
            }
        }
        self.data.rename(&self.directory, force, &self.path)?;
        self.ends.rename(&self.directory, force, &self.path).inspect_err(|_| {
            self.data.withdraw(&self.directory);
        })?;
        self.sync_directory()?;
        json.rename(&self.directory, force, &self.path).inspect_err(|_| {
            self.data.withdraw(&self.directory);
            self.ends.withdraw(&self.directory);
        })?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<()> {
        rustix::fs::fsync(&self.directory)
            .map_err(|errno| failed(&self.path, "fsync of the directory", errno))
    }
}

impl Drop for OutputSet {
    fn drop(&mut self) {
        if !self.published {
            self.data.remove(&self.directory);
            self.ends.remove(&self.directory);
        }
    }
}

impl Partial {
    fn create(directory: &OwnedFd, name: &OsString, path: &Path) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}-{}.partial", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(directory, &partial, flags, Mode::from_raw_mode(0o644))
            .map_err(|errno| failed(path, "creating a file beside it", errno))?;
        Ok(Self { file: File::from(file), temporary: partial, name: name.clone() })
    }

    fn write(&self, bytes: &[u8], offset_bytes: u64, path: &Path) -> Result<()> {
        self.file.write_all_at(bytes, offset_bytes).map_err(|error| Error::io(path, "writing", error))
    }

    fn rename(&self, directory: &OwnedFd, replace: bool, path: &Path) -> Result<()> {
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let renamed =
            match rustix::fs::renameat_with(directory, &self.temporary, directory, &self.name, flags) {
                // A file system without NOREPLACE: a link does not replace either.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    rustix::fs::linkat(directory, &self.temporary, directory, &self.name, AtFlags::empty())
                        .inspect(|()| self.remove(directory))
                }
                other => other,
            };
        renamed.map_err(|errno| match errno {
            Errno::EXIST => Error::OutputExists { path: path.with_file_name(&self.name) },
            _ => failed(path, "publishing", errno),
        })
    }

    /// Removes the partial file; an error is not reported, the job's own is the one that counts.
    fn remove(&self, directory: &OwnedFd) {
        let _ = rustix::fs::unlinkat(directory, &self.temporary, AtFlags::empty());
    }

    /// Takes back a file that was published a moment ago by this very set.
    fn withdraw(&self, directory: &OwnedFd) {
        let _ = rustix::fs::unlinkat(directory, &self.name, AtFlags::empty());
    }
}

fn open_parent(spec: &JobSpec) -> Result<(OwnedFd, OsString)> {
    let path = &spec.output;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        let what = format!("{} is no file name", path.display());
        return Err(Error::BadOption { option: "output", what });
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let directory = spec.roots.open_directory(parent)?;
    Ok((directory, name.to_owned()))
}

fn stat(directory: &OwnedFd, name: &OsString, path: &Path) -> Result<Option<(u64, u64)>> {
    match rustix::fs::statat(directory, name, AtFlags::empty()) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(path, "stat", errno)),
    }
}

fn suffixed(name: &OsString, suffix: &str) -> OsString {
    let mut name = name.clone();
    name.push(suffix);
    name
}

fn failed(path: &Path, action: &'static str, errno: Errno) -> Error {
    Error::io(path, action, errno.into())
}
