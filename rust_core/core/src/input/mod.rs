//! Inputs: regular files, opened under rules, mapped or read, copied once.
//!
//! The bytes of a mapping can change at any instant, because other processes may write to the file.
//! So no reference into a mapping ever leaves this module: a range is copied into the caller's
//! buffer, and everything that follows (validation, splitting, hashing) sees that one private copy.
//! The copy costs about 0.1 ns per byte and makes every later stage simple: it also ends the
//! question of reading past the end of a file.
//!
//! What happens to a file while it is read is noticed: its length is fixed when it is opened, and at
//! the end of its turn ([`Opened::verify`]) another size or mtime fails the job. Where only its ctime
//! moved (a link was made, another file was renamed over its name) or its mtime is too fresh to tell
//! one write from the next, its content is hashed again and compared with what was read.
//!
//! * [`access`]: which paths may be opened;
//! * [`border`]: where a big file may be cut;
//! * [`detect`]: what an input is;
//! * [`compressed`]: gzip, zstd, bzip2 and xz as plain bytes; [`ahead`]: their parts side by side;
//! * [`jsonl`]: the fields of a JSON line; [`columnar`]: the columns of a parquet or arrow file,
//!   [`arrow_sizes`]: whose sizes are looked at first;
//! * [`one_record`]: one line or row by its place, to show it;
//! * [`nearby`]: many files of one directory;
//! * [`filesystem`]: where mapping is safe;
//! * [`lease`]: being told before somebody writes;
//! * [`sigbus`]: pages that vanish all the same.

pub mod access;
pub(crate) mod ahead;
mod arrow_sizes;
pub(crate) mod border;
pub(crate) mod columnar;
pub(crate) mod compressed;
pub mod detect;
mod filesystem;
mod json_strings;
pub mod jsonl;
pub(crate) mod lease;
pub(crate) mod nearby;
pub mod one_record;
mod sigbus;
mod text_as_bytes;

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use memmap2::Mmap;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{Error, Result};
use crate::job::Control;
use compressed::Unpacked;
use detect::{Compression, Content, InputFormat, Kind};
pub(crate) use filesystem::Devices;
use jsonl::FieldPath;
pub(crate) use nearby::Nearby;

/// Smaller files are read: a system call costs less than a mapping and its page faults.
const MAP_MIN_BYTES: u64 = 64 * 1024;
/// A longer first line is not looked at to find out what a file is.
const FIRST_LINE_MAX_BYTES: usize = 64 << 20;
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
    ctime_ns: i128,
    /// The mtime was so fresh when it was looked at that another write may have the same.
    fresh: bool,
}

impl Identity {
    /// Of a file that is looked at for the first time.
    fn first(identity: Self) -> Self {
        let now_ns =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos().cast_signed());
        Self { fresh: (now_ns - identity.mtime_ns).abs() < TICK_NS, ..identity }
    }

    fn of(metadata: &Metadata) -> Self {
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

    fn of_stat(stat: &rustix::fs::Stat) -> Self {
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
    fn is_same(&self, then: &Self) -> bool {
        let key = |of: &Self| (of.device, of.inode, of.size_bytes, of.mtime_ns);
        key(self) == key(then)
    }
}

/// An input that was found to be a regular file.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub identity: Identity,
    pub kind: Kind,
    /// The kind is what the name lets suppose; whoever reads the file will see.
    pub(crate) is_supposed: bool,
}

impl Source {
    /// Looks a path up; its bytes are taken for text as they are.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], [`Error::NotRegular`], [`Error::PathDenied`], or
    /// [`Error::Io`] where it cannot be read.
    pub fn find(path: &Path, roots: &access::Roots) -> Result<Self> {
        let file = roots.open_input(path)?;
        let identity = inspect(&file, path, &Devices::default())?;
        Ok(Self { path: path.to_owned(), identity, kind: Kind::default(), is_supposed: false })
    }

    /// Looks a path up without opening the file, if it is a regular one of `max_bytes` at most, whose name lets
    /// suppose that it holds plain text. `None` otherwise, and whenever there is a doubt.
    pub(crate) fn suppose(
        path: &Path,
        nearby: &mut Nearby<'_>,
        format: InputFormat,
        max_bytes: u64,
        devices: &Devices,
    ) -> Option<Self> {
        if !detect::may_be_text(path, format) {
            return None;
        }
        let stat = nearby.stat(path)?;
        let identity = Identity::first(Identity::of_stat(&stat));
        if identity.size_bytes > max_bytes || devices.known(identity.device) != Some(filesystem::Kind::Local)
        {
            return None;
        }
        Some(Self { path: path.to_owned(), identity, kind: Kind::default(), is_supposed: true })
    }

    /// Looks a path up and finds out what it holds; `field` is where a JSON line's text would be, `devices`
    /// what is known of file systems from the files before.
    ///
    /// # Errors
    /// As [`Source::find`]; [`Error::DamagedInput`] for what cannot even be begun to be decompressed.
    pub(crate) fn detect(
        path: &Path,
        roots: &access::Roots,
        format: InputFormat,
        field: &FieldPath,
        devices: &Devices,
    ) -> Result<Self> {
        let file = roots.open_input(path)?;
        let identity = inspect(&file, path, devices)?;
        let mut head = [0; detect::HEAD_BYTES];
        let len = head.len().min(identity.size_bytes as usize);
        file.read_exact_at(&mut head[..len], 0).map_err(|error| Error::io(path, "reading", error))?;
        let compression = detect::compression(&head[..len]);
        let mut source = Self { path: path.to_owned(), identity, kind: Kind::default(), is_supposed: false };
        if compression == Compression::None {
            if detect::is_cut_off(path, identity.size_bytes) {
                let what = "the compressed data ends too early,".to_owned();
                return Err(Error::DamagedInput { path: path.to_owned(), offset: identity.size_bytes, what });
            }
            let content = detect::content(path, &head[..len], format);
            let by_name = detect::kind_by_name(path).filter(|_| !content.is_some_and(Content::is_columnar));
            if let Some(name) = by_name {
                let mut begin = vec![0; detect::TEXT_BYTES.min(identity.size_bytes as usize)];
                file.read_exact_at(&mut begin, 0).map_err(|error| Error::io(path, "reading", error))?;
                if begin.is_empty() || !detect::is_text(&begin) {
                    let what = format!("named {name}, but it begins neither so nor as text");
                    return Err(Error::DamagedInput { path: path.to_owned(), offset: 0, what });
                }
            }
            if let Some(content) = content {
                source.kind.content = content;
                return Ok(source);
            }
        }
        let mut unpacked = Unpacked::new(Arc::new(source.open(roots)?), compression)?;
        source.kind = Kind { compression, content: unpacked_content(path, &mut unpacked, format, field)? };
        Ok(source)
    }

    /// Opens the source again, as the same file with the same content as when it was found.
    pub(crate) fn open(&self, roots: &access::Roots) -> Result<Opened> {
        let file = roots.open_input(&self.path)?;
        let identity = inspect(&file, &self.path, &Devices::default())?;
        if !identity.is_same(&self.identity) {
            return Err(changed(&self.path, &self.identity, &identity));
        }
        let identity = Identity { fresh: self.identity.fresh, ..identity };
        let mapping = Mapping::new(&file, identity.size_bytes);
        Ok(Opened { path: self.path.clone(), identity, file, mapping: RwLock::new(mapping) })
    }

    /// Appends the whole content of a small source to `buffer`, and gives its hash; `None` where it is not the
    /// plain text that it was supposed to be.
    ///
    /// It is opened, read, and looked at once, after that: if it is then the file that was found, with
    /// the same size and times, it was so all the while. Where its times cannot tell (see [`Opened::verify`])
    /// it is read again.
    pub(crate) fn read_whole(
        &self,
        nearby: &mut Nearby<'_>,
        format: InputFormat,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<u64>> {
        let file = nearby.open(&self.path)?;
        let start = buffer.len();
        buffer.resize(start + self.identity.size_bytes as usize, 0);
        let read = file.read_exact_at(&mut buffer[start..], 0);
        let found = rustix::fs::fstat(&file).map_err(|errno| Error::io(&self.path, "stat", errno.into()))?;
        let now = Identity::of_stat(&found);
        if !now.is_same(&self.identity) {
            return Err(changed(&self.path, &self.identity, &now));
        }
        read.map_err(|error| Error::io(&self.path, "reading", error))?;
        if self.is_supposed && !detect::is_plain_text(&self.path, &buffer[start..], format) {
            return Ok(None);
        }
        let xxh3 = xxh3_64(&buffer[start..]);
        if self.must_be_hashed_again(&now) {
            let mut again = vec![0; self.identity.size_bytes as usize];
            file.read_exact_at(&mut again, 0).map_err(|error| Error::io(&self.path, "reading", error))?;
            if again != buffer[start..] {
                let what = "it was written to".to_owned();
                return Err(Error::InputChanged { path: self.path.clone(), what });
            }
        }
        Ok(Some(xxh3))
    }

    /// Whether the times of a file that is the same still cannot tell that its content is.
    fn must_be_hashed_again(&self, now: &Identity) -> bool {
        now.ctime_ns != self.identity.ctime_ns || self.identity.fresh
    }
}

/// What a content is, of which as much is read as it takes to tell.
fn unpacked_content(
    path: &Path,
    unpacked: &mut Unpacked,
    format: InputFormat,
    field: &FieldPath,
) -> Result<Content> {
    let mut bytes = Vec::new();
    unpacked.read(detect::HEAD_BYTES, &mut bytes)?;
    if let Some(content) = detect::content(path, &bytes, format) {
        return Ok(content);
    }
    let (mut start, mut searched, mut lines) = (0, 0, detect::Lines::new(field));
    loop {
        while let Some(found) = memchr::memchr(b'\n', &bytes[searched..]) {
            if let Some(content) = lines.add(&bytes[start..searched + found]) {
                return Ok(content);
            }
            (start, searched) = (searched + found + 1, searched + found + 1);
        }
        searched = bytes.len();
        if bytes.len() > FIRST_LINE_MAX_BYTES || unpacked.read(1 << 16, &mut bytes)? == 0 {
            return Ok(lines.add(&bytes[start..]).unwrap_or_else(|| lines.so_far()));
        }
    }
}

/// A mapped file. Fields are dropped in order: the range is withdrawn before the memory goes.
struct Mapping {
    range: sigbus::Range,
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
    path: PathBuf,
    identity: Identity,
    file: File,
    mapping: RwLock<Option<Mapping>>,
}

impl Opened {
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
    fn unmap(&self) {
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

fn inspect(file: &File, path: &Path, devices: &Devices) -> Result<Identity> {
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

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    /// An open file of these bytes, and the directory it is in.
    pub(crate) fn opened(bytes: &[u8]) -> (tempfile::TempDir, Arc<Opened>) {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).expect("written");
        let roots = access::Roots::default();
        let source = Source::find(&path, &roots).and_then(|source| source.open(&roots)).expect("opened");
        (folder, Arc::new(source))
    }

    #[test]
    fn a_cut_file_is_noticed_by_the_signal_handler_and_fails_the_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.txt");
        std::fs::write(&path, vec![b'a'; 1 << 20]).expect("write");
        let source = Source::find(&path, &access::Roots::default()).expect("a source");
        let opened = source.open(&access::Roots::default()).expect("an open source");
        let is_lost = || {
            let mapping = opened.mapping.read().expect("the mapping");
            mapping.as_ref().map(|mapping| mapping.range.is_lost())
        };
        let mut bytes = Vec::new();
        opened.read(0, 1 << 20, &mut bytes).expect("all of it");
        assert_eq!(is_lost(), Some(false), "mapped, nothing missing");
        File::options().write(true).open(&path).and_then(|file| file.set_len(100_000)).expect("cut");
        let failed = opened.read(1 << 19, 1 << 20, &mut bytes);
        assert!(matches!(failed, Err(Error::InputChanged { .. })), "{failed:?}");
        // Only the handler makes this note: the copy went through lost pages and came back.
        assert_eq!(is_lost(), Some(true));
        assert!(bytes.iter().all(|&byte| byte == 0));
    }

    type Change<'c> = &'c dyn Fn(&Path);

    /// Finds a file of 4 bytes, lets `change` happen to it, and reads it.
    fn read_after(name: &str, change: impl FnOnce(&Path)) -> Result<Option<String>> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        std::fs::write(&path, "text").expect("write");
        let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::options().write(true).open(&path).and_then(|file| file.set_modified(old)).expect("a time");
        let (roots, devices) = (access::Roots::default(), Devices::default());
        inspect(&File::open(&path).expect("open"), &path, &devices).expect("a device");
        let mut nearby = Nearby::new(&roots);
        let source = Source::suppose(&path, &mut nearby, InputFormat::Auto, 10, &devices).expect("a source");
        change(&path);
        let mut bytes = b"before".to_vec();
        let xxh3 = source.read_whole(&mut nearby, InputFormat::Auto, &mut bytes)?;
        let text = String::from_utf8(bytes.split_off(6)).expect("a text");
        assert_eq!(bytes, b"before");
        assert!(xxh3.is_none_or(|xxh3| xxh3 == xxh3_64(text.as_bytes())));
        Ok(xxh3.map(|_| text))
    }

    #[test]
    fn a_small_file_is_read_as_it_was_found_or_not_at_all() {
        let rewrite = |text: &'static str| {
            move |path: &Path| {
                let time = std::fs::metadata(path).and_then(|found| found.modified()).expect("a time");
                std::fs::write(path, text).expect("write");
                File::options()
                    .write(true)
                    .open(path)
                    .and_then(|file| file.set_modified(time))
                    .expect("a time");
            }
        };
        let text = |read: Result<Option<String>>| read.expect("read").expect("text");
        assert_eq!(text(read_after("a", |_| {})), "text");
        // Another ctime with the same size and mtime: the content decides.
        assert_eq!(text(read_after("a", rewrite("text"))), "text");
        let link = |path: &Path| std::fs::hard_link(path, path.with_extension("b")).expect("a link");
        assert_eq!(text(read_after("a", link)), "text");
        let fifo = |path: &Path| {
            std::fs::remove_file(path).expect("remove");
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                .expect("a FIFO");
        };
        let other = |path: &Path| {
            std::fs::write(path.with_extension("b"), "text").expect("write");
            std::fs::rename(path.with_extension("b"), path).expect("rename");
        };
        let in_place = |path: &Path| std::fs::write(path, "text").expect("write");
        let changes: [(&str, Change<'_>); 5] = [
            ("longer", &rewrite("texts")),
            ("shorter", &rewrite("tex")),
            ("in place", &in_place),
            ("a FIFO", &fifo),
            ("another file", &other),
        ];
        for (what, change) in changes {
            let read = read_after("a", change);
            assert!(matches!(read, Err(Error::InputChanged { .. })), "{what}: {read:?}");
        }
        // With its times put back, before it was opened: what is read is the file.
        assert_eq!(text(read_after("a", rewrite("taxt"))), "taxt");
        let missing = read_after("a", |path| std::fs::remove_file(path).expect("remove"));
        assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    }

    #[test]
    fn only_small_files_that_are_named_as_text_are_supposed_to_be_text() {
        let dir = tempfile::tempdir().expect("a directory");
        let (roots, devices) = (access::Roots::default(), Devices::default());
        let supposed = |name: &str, devices: &Devices| {
            let path = dir.path().join(name);
            std::fs::write(&path, "{\"a\": 1}").expect("write");
            Source::suppose(&path, &mut Nearby::new(&roots), InputFormat::Auto, 8, devices).is_some()
        };
        assert!(!supposed("a", &devices), "its file system was not looked at");
        inspect(&File::open(dir.path().join("a")).expect("open"), dir.path(), &devices).expect("a device");
        assert!(supposed("a", &devices) && supposed("a.txt", &devices));
        assert!(!supposed("a.jsonl", &devices) && !supposed("a.txt.gz", &devices));
        std::fs::write(dir.path().join("long"), "123456789").expect("write");
        let long = &dir.path().join("long");
        let (nearby, format) = (&mut Nearby::new(&roots), InputFormat::Auto);
        assert!(Source::suppose(long, nearby, format, 8, &devices).is_none());
        let folder = &dir.path().join("folder");
        std::fs::create_dir(folder).expect("mkdir");
        assert!(Source::suppose(folder, nearby, format, 8, &devices).is_none());
    }
}
