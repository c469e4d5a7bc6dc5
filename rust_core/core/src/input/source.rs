//! An input that was found: what it is, where it is opened, and what it is called.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::compressed::Unpacked;
use super::detect::{self, Compression, Content, InputFormat, Kind};
use super::field_path::FieldPath;
use super::filesystem::{self, Devices};
use super::identity::{Identity, changed, inspect};
use super::{Nearby, Opened, access};
use crate::error::{Error, Result};

/// A longer first line is not looked at to find out what a file is.
const FIRST_LINE_MAX_BYTES: usize = 64 << 20;

/// An input as a job is given it: where it is opened, and what it is called in manifests, lists and errors.
/// They are the same but for a file that holds what came through stdin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'g> {
    pub(crate) file: &'g Path,
    pub(crate) name: &'g Path,
}

impl<'g> Given<'g> {
    /// A file that is called by its path.
    pub(crate) fn by_path(path: &'g Path) -> Self {
        Self { file: path, name: path }
    }
}

/// An input that was found to be a regular file.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is called.
    pub path: PathBuf,
    /// Where it is opened, if that is elsewhere.
    elsewhere: Option<PathBuf>,
    pub identity: Identity,
    pub kind: Kind,
    /// The kind is what the name lets suppose; whoever reads the file will see.
    pub(crate) is_supposed: bool,
}

impl Source {
    fn new(given: Given<'_>, identity: Identity) -> Self {
        let elsewhere = (given.file != given.name).then(|| given.file.to_owned());
        let path = given.name.to_owned();
        Self { path, elsewhere, identity, kind: Kind::default(), is_supposed: false }
    }

    /// Where it is opened.
    pub(crate) fn file(&self) -> &Path {
        self.elsewhere.as_deref().unwrap_or(&self.path)
    }

    /// Looks a path up; its bytes are taken for text as they are.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], [`Error::NotRegular`], [`Error::PathDenied`], or
    /// [`Error::Io`] where it cannot be read.
    pub fn find(path: &Path, roots: &access::Roots) -> Result<Self> {
        let file = roots.open_input(path)?;
        let identity = inspect(&file, path, &Devices::default())?;
        Ok(Self::new(Given::by_path(path), identity))
    }

    /// Looks a path up without opening the file, if it is a regular one of `max_bytes` at most, whose name lets
    /// suppose that it holds plain text. `None` otherwise, and whenever there is a doubt.
    pub(crate) fn suppose(
        given: Given<'_>,
        nearby: &mut Nearby<'_>,
        format: InputFormat,
        max_bytes: u64,
        devices: &Devices,
    ) -> Option<Self> {
        if !detect::may_be_text(given.name, format) {
            return None;
        }
        let stat = nearby.stat(given.file)?;
        let identity = Identity::first(Identity::of_stat(&stat));
        if identity.size_bytes > max_bytes || devices.known(identity.device) != Some(filesystem::Kind::Local)
        {
            return None;
        }
        Some(Self { is_supposed: true, ..Self::new(given, identity) })
    }

    /// Looks a path up and finds out what it holds; `field` is where a JSON line's text would be, `devices`
    /// what is known of file systems from the files before.
    ///
    /// # Errors
    /// As [`Source::find`]; [`Error::DamagedInput`] for what cannot even be begun to be decompressed.
    pub(crate) fn detect(
        given: Given<'_>,
        roots: &access::Roots,
        format: InputFormat,
        field: &FieldPath,
        devices: &Devices,
    ) -> Result<Self> {
        let path = given.name;
        let file = roots.open_input(given.file)?;
        let identity = inspect(&file, path, devices)?;
        let mut head = [0; detect::HEAD_BYTES];
        let len = head.len().min(identity.size_bytes as usize);
        file.read_exact_at(&mut head[..len], 0).map_err(|error| Error::io(path, "reading", error))?;
        let compression = detect::compression(&head[..len]);
        let mut source = Self::new(given, identity);
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
        let file = roots.open_input(self.file())?;
        let identity = inspect(&file, &self.path, &Devices::default())?;
        if !identity.is_same(&self.identity) {
            return Err(changed(&self.path, &self.identity, &identity));
        }
        let identity = Identity { fresh: self.identity.fresh, ..identity };
        Ok(Opened::new(self.path.clone(), identity, file))
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
        let file = nearby.open(self.file())?;
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
