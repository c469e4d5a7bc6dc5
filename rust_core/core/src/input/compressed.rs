//! Compressed files as plain bytes, streamed: members and frames that follow each other are one text.
//!
//! Memory is what the decoder needs (up to 8 MiB for xz and for zstd's usual windows, 128 MiB for a
//! zstd file made with a long one), whatever the file's size. A file that is cut off or damaged is an
//! error that names the byte of the file that the decoder had come to. The bytes that are read are
//! hashed on the way, so that a source's checksum is that of the file on disk.
//!
//! This is the plain way, one thread from the file's start to its end. [`ahead`](super::ahead) decodes parts
//! of a file side by side, takes this one wherever that cannot be done, and is tested against it.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use super::Opened;
use super::detect::Compression;
use crate::error::{Error, Result};

/// Bytes of the file that are read at a time, from multiples of it: how far a decoder has come when it
/// fails depends on what it was handed.
const READ_BYTES: usize = 1 << 18;
/// Largest window of a zstd frame that is accepted: 2^27 bytes, what `zstd --long` makes.
pub(super) const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Memory that an xz decoder may take, in bytes; `xz -9` needs 65 MiB.
const XZ_MEMORY_MAX: u64 = 256 << 20;

/// The first bytes of a file, hashed.
#[derive(Default)]
pub(super) struct Hashed {
    pub(super) n_bytes: u64,
    pub(super) hash: Xxh3,
}

impl Hashed {
    /// Adds those of `bytes`, which stand at `offset` in the file, that were not added before.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8]) {
        let known = self.n_bytes.saturating_sub(offset) as usize;
        if let Some(new) = bytes.get(known..) {
            self.hash.update(new);
            self.n_bytes += new.len() as u64;
        }
    }
}

/// What of a file was read so far.
struct Taken {
    /// Where the next read starts.
    at: u64,
    hashed: Hashed,
    error: Option<Error>,
}

/// An opened source as a reader.
struct Raw {
    source: Arc<Opened>,
    buffer: Vec<u8>,
    taken: Arc<Mutex<Taken>>,
}

impl Read for Raw {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let start = taken.at;
        let end = (start + out.len() as u64)
            .min((start / READ_BYTES as u64 + 1) * READ_BYTES as u64)
            .min(self.source.size_bytes());
        if let Err(error) = self.source.read(start, end, &mut self.buffer) {
            taken.error = Some(error);
            return Err(io::Error::other("reading the source failed"));
        }
        out[..self.buffer.len()].copy_from_slice(&self.buffer);
        taken.hashed.add(start, &self.buffer);
        taken.at = end;
        Ok(self.buffer.len())
    }
}

/// A decoder of any kind over compressed bytes.
pub(super) enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Bzip2(bzip2::bufread::MultiBzDecoder<R>),
    Xz(liblzma::bufread::XzDecoder<R>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(raw: R, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(raw),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(raw))),
            Compression::Bzip2 => Self::Bzip2(bzip2::bufread::MultiBzDecoder::new(raw)),
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    XZ_MEMORY_MAX,
                    liblzma::stream::CONCATENATED,
                )?;
                Self::Xz(liblzma::bufread::XzDecoder::new_stream(raw, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(raw)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Self::Zstd(decoder)
            }
        })
    }

    /// Makes it end with the first frame, if it is one of zstd.
    fn single_frame(self) -> Self {
        match self {
            Self::Zstd(decoder) => Self::Zstd(decoder.single_frame()),
            other => other,
        }
    }

    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(out),
            Self::Gzip(reader) => reader.read(out),
            Self::Bzip2(reader) => reader.read(out),
            Self::Xz(reader) => reader.read(out),
            Self::Zstd(reader) => reader.read(out),
        }
    }

    fn raw(&self) -> &R {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(reader) => reader.get_ref(),
            Self::Bzip2(reader) => reader.get_ref(),
            Self::Xz(reader) => reader.get_ref(),
            Self::Zstd(reader) => reader.get_ref(),
        }
    }
}

/// The content of a source, decompressed from its start on.
pub(crate) struct Unpacked {
    decoder: Decoder<BufReader<Raw>>,
    taken: Arc<Mutex<Taken>>,
    source: Arc<Opened>,
    compression: Compression,
    /// Bytes of the content that were given out.
    n_bytes: u64,
}

impl Unpacked {
    pub(crate) fn new(source: Arc<Opened>, compression: Compression) -> Result<Self> {
        Self::at(source, compression, 0, Hashed::default())
    }

    /// Begins at byte `at` of the file, where a frame, member or stream does; of the bytes before `hashed`
    /// is known.
    pub(super) fn at(source: Arc<Opened>, compression: Compression, at: u64, hashed: Hashed) -> Result<Self> {
        let taken = Arc::new(Mutex::new(Taken { at, hashed, error: None }));
        let raw = Raw { source: Arc::clone(&source), buffer: Vec::new(), taken: Arc::clone(&taken) };
        let decoder = Decoder::new(BufReader::with_capacity(READ_BYTES, raw), compression)
            .map_err(|error| Error::io(&source.path, "starting a decoder", error))?;
        Ok(Self { decoder, taken, source, compression, n_bytes: 0 })
    }

    /// [`Unpacked::at`], for one zstd frame.
    pub(super) fn frame_at(source: Arc<Opened>, at: u64, hashed: Hashed) -> Result<Self> {
        let all = Self::at(source, Compression::Zstd, at, hashed)?;
        Ok(Self { decoder: all.decoder.single_frame(), ..all })
    }

    /// Appends up to `n_bytes` of the content to `out`; fewer only at its end. Returns their number.
    pub(crate) fn read(&mut self, n_bytes: usize, out: &mut Vec<u8>) -> Result<usize> {
        let before = out.len();
        out.resize(before + n_bytes, 0);
        let mut len = before;
        while len < before + n_bytes {
            match self.decoder.read(&mut out[len..]) {
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
        self.n_bytes += (len - before) as u64;
        Ok(len - before)
    }

    /// Reads over the content up to `offset_bytes`, where an interrupted run had come to.
    pub(crate) fn skip_to(&mut self, offset_bytes: u64) -> Result<()> {
        let mut buffer = Vec::new();
        while self.n_bytes < offset_bytes {
            buffer.clear();
            let wanted = (offset_bytes - self.n_bytes).min(1 << 20);
            if self.read(wanted as usize, &mut buffer)? == 0 {
                return Err(is_shorter(&self.source));
            }
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Error {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = taken.error.take() {
            return error;
        }
        let name = self.compression.name().unwrap_or("plain");
        let offset = taken.at - self.n_ahead();
        let what = if error.kind() == io::ErrorKind::UnexpectedEof && offset == self.source.size_bytes() {
            format!("the {name} data ends too early,")
        } else {
            // What zstd calls the same damage depends on how much of the frame it has before it: where it would decode all
            // at one go, content that does not fit is a buffer that is too small.
            let error =
                error.to_string().replace("Destination buffer is too small", "Data corruption detected");
            format!("the {name} data is damaged ({error})")
        };
        Error::DamagedInput { path: self.source.path.clone(), offset, what }
    }

    /// Bytes that were read from the file and that the decoder has not come to.
    fn n_ahead(&self) -> u64 {
        self.decoder.raw().buffer().len() as u64
    }

    /// Bytes of the file that the decoder has come to.
    pub(crate) fn n_file_bytes(&self) -> u64 {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).at - self.n_ahead()
    }

    /// Bytes of the file that were read so far, and their XXH3-64.
    pub(crate) fn taken(&self) -> (u64, u64) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        (taken.hashed.n_bytes, taken.hashed.hash.digest())
    }

    /// What was hashed; to be asked for at the end.
    pub(super) fn into_hashed(self) -> Hashed {
        std::mem::take(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner).hashed)
    }
}

/// The error of a file whose content ends before the place that an interrupted run had come to.
pub(super) fn is_shorter(source: &Opened) -> Error {
    let what = "since the interrupted run: its content is shorter".to_owned();
    Error::InputChanged { path: source.path.clone(), what }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::input::tests::opened;

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
        let text: Vec<u8> =
            (0..200_000_u32).flat_map(|n| format!("line {}\n", n.wrapping_mul(n)).into_bytes()).collect();
        for kind in
            [Compression::None, Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd]
        {
            let (first, second) = text.split_at(1_234_567);
            let file = [compress(kind, first), compress(kind, second)].concat();
            let (_folder, source) = opened(&file);
            let mut content = Unpacked::new(Arc::clone(&source), kind).expect("content");
            let mut all = Vec::new();
            while content.read(100_000, &mut all).expect("read") > 0 {}
            assert!(all == text, "{kind:?}");
            assert_eq!(content.taken(), (file.len() as u64, xxhash_rust::xxh3::xxh3_64(&file)), "{kind:?}");
            let mut again = Unpacked::new(source, kind).expect("content");
            again.skip_to(1_234_000).expect("skipped");
            let mut rest = Vec::new();
            while again.read(100_000, &mut rest).expect("read") > 0 {}
            assert!(rest == text[1_234_000..], "{kind:?}");
            if kind == Compression::None {
                continue;
            }
            let (_folder, cut) = opened(&file[..file.len() - 9]);
            let mut content = Unpacked::new(cut, kind).expect("content");
            let mut all = Vec::new();
            let error = loop {
                match content.read(100_000, &mut all) {
                    Ok(0) => panic!("{kind:?}: a cut file ended without an error"),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert!(
                matches!(error, Error::DamagedInput { offset, .. } if offset == file.len() as u64 - 9),
                "{kind:?}: {error}"
            );
            assert!(text.starts_with(&all), "{kind:?}");
        }
    }
}
