//! Compressed files as plain bytes, streamed: members and frames that follow each other are one text.
//!
//! Memory is what the decoder needs (up to 8 MiB for xz and for zstd's usual windows, 128 MiB for a
//! zstd file made with a long one), whatever the file's size. A file that is cut off or damaged is an
//! error that names the offset up to which it was read. The bytes that the decoder takes are counted
//! and hashed on the way, so that a source's checksum is that of the file on disk.

use std::cell::RefCell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::Opened;
use super::detect::Compression;
use crate::error::{Error, Result};

const READ_BYTES: usize = 1 << 18;
/// Largest window of a zstd frame that is accepted: 2^27 bytes, what `zstd --long` makes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What of a file was read so far.
#[derive(Default)]
struct Taken {
    n_bytes: u64,
    hash: Xxh3,
    error: Option<Error>,
}

/// An opened source as a reader.
struct Raw {
    source: Arc<Opened>,
    buffer: Vec<u8>,
    taken: Rc<RefCell<Taken>>,
}

impl Read for Raw {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut taken = self.taken.borrow_mut();
        let end = (taken.n_bytes + out.len() as u64).min(self.source.size_bytes());
        if let Err(error) = self.source.read(taken.n_bytes, end, &mut self.buffer) {
            taken.error = Some(error);
            return Err(io::Error::other("reading the source failed"));
        }
        out[..self.buffer.len()].copy_from_slice(&self.buffer);
        taken.hash.update(&self.buffer);
        taken.n_bytes = end;
        Ok(self.buffer.len())
    }
}

/// The content of a source, decompressed.
pub(crate) struct Content {
    reader: Box<dyn Read>,
    taken: Rc<RefCell<Taken>>,
    source: Arc<Opened>,
    compression: Compression,
}

// SAFETY: the `Rc` is shared only between `taken` and the reader inside the same `Content`, which
// nothing else can reach, so they move to another thread together and are used by one at a time.
unsafe impl Send for Content {}

impl Content {
    /// Opens a source's content from its start.
    pub(crate) fn new(source: Arc<Opened>, compression: Compression) -> Result<Self> {
        let taken = Rc::<RefCell<Taken>>::default();
        let raw = Raw { source: Arc::clone(&source), buffer: Vec::new(), taken: Rc::clone(&taken) };
        let raw = BufReader::with_capacity(READ_BYTES, raw);
        let reader: Box<dyn Read> = match compression {
            Compression::None => Box::new(raw),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(raw)),
            Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(raw)),
            Compression::Zstd => {
                let failed = |error| Error::io(&source.path, "starting a zstd decoder", error);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(failed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(failed)?;
                Box::new(decoder)
            }
        };
        Ok(Self { reader, taken, source, compression })
    }

    /// Appends up to `n_bytes` of the content to `out`; fewer only at its end. Returns their number.
    pub(crate) fn read(&mut self, n_bytes: usize, out: &mut Vec<u8>) -> Result<usize> {
        let before = out.len();
        out.resize(before + n_bytes, 0);
        let mut len = before;
        while len < before + n_bytes {
            match self.reader.read(&mut out[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    out.truncate(before);
                    return Err(self.failed(&error));
                }
            }
        }
        out.truncate(len);
        Ok(len - before)
    }

    fn failed(&self, error: &io::Error) -> Error {
        let mut taken = self.taken.borrow_mut();
        if let Some(error) = taken.error.take() {
            return error;
        }
        let path = self.source.path.clone();
        let name = match self.compression {
            Compression::None => "file",
            Compression::Gzip => "gzip data",
            Compression::Zstd => "zstd data",
            Compression::Bzip2 => "bzip2 data",
            Compression::Xz => "xz data",
        };
        let at_end = taken.n_bytes == self.source.size_bytes();
        let what = if error.kind() == io::ErrorKind::UnexpectedEof && at_end {
            format!("the {name} ends too early")
        } else {
            format!("the {name} is damaged ({error})")
        };
        Error::DamagedInput { path, offset: taken.n_bytes, what }
    }

    /// Bytes of the file that were read so far, and their XXH3-64.
    pub(crate) fn taken(&self) -> (u64, u64) {
        let taken = self.taken.borrow();
        (taken.n_bytes, taken.hash.digest())
    }
}

/// The first bytes of a source's content, and how it is compressed.
pub(crate) fn head(source: &Arc<Opened>) -> Result<(Compression, Vec<u8>)> {
    use super::detect::{HEAD_BYTES, compression};
    let mut head = Vec::new();
    source.read(0, source.size_bytes().min(HEAD_BYTES as u64), &mut head)?;
    let found = compression(&head);
    if found != Compression::None {
        head.clear();
        Content::new(Arc::clone(source), found)?.read(HEAD_BYTES, &mut head)?;
    }
    Ok((found, head))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::input::Source;
    use crate::input::access::Roots;

    fn opened(bytes: &[u8]) -> (tempfile::TempDir, Arc<Opened>) {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).expect("written");
        let roots = Roots::default();
        let source = Source::find(&path, &roots).and_then(|source| source.open(&roots)).expect("opened");
        (folder, Arc::new(source))
    }

    fn compress(compression: Compression, text: &[u8]) -> Vec<u8> {
        let failed = "compressed";
        match compression {
            Compression::None => text.to_vec(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(text).expect(failed);
                encoder.finish().expect(failed)
            }
            Compression::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                encoder.write_all(text).expect(failed);
                encoder.finish().expect(failed)
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(text).expect(failed);
                encoder.finish().expect(failed)
            }
            Compression::Zstd => zstd::encode_all(text, 1).expect(failed),
        }
    }

    #[test]
    fn members_are_one_text_and_damage_is_named() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| format!("line {}\n", n * n).into_bytes()).collect();
        for kind in [Compression::None, Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd] {
            let (first, second) = text.split_at(1_234_567);
            let file = [compress(kind, first), compress(kind, second)].concat();
            let (_folder, source) = opened(&file);
            assert_eq!(head(&source).expect("a head"), (kind, b"line 0\nl".to_vec()));
            let mut content = Content::new(Arc::clone(&source), kind).expect("content");
            let mut all = Vec::new();
            while content.read(100_000, &mut all).expect("read") > 0 {}
            assert!(all == text, "{kind:?}");
            assert_eq!(content.taken(), (file.len() as u64, xxhash_rust::xxh3::xxh3_64(&file)), "{kind:?}");
            if kind == Compression::None {
                continue;
            }
            let (_folder, cut) = opened(&file[..file.len() - 9]);
            let mut content = Content::new(cut, kind).expect("content");
            let mut all = Vec::new();
            let error = loop {
                match content.read(100_000, &mut all) {
                    Ok(0) => panic!("{kind:?}: a cut file ended without an error"),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::DamagedInput { offset, .. } if offset == file.len() as u64 - 9), "{error}");
            assert!(text.starts_with(&all), "{kind:?}");
        }
    }
}
