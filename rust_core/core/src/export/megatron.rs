//! Megatron-LM: `PREFIX.bin` and `PREFIX.idx` (also `NeMo`, Megatron-Bridge, Curator, datatrove).
//!
//! ```text
//! PREFIX.bin   ids back to back: uint16, or int32 where there are more than 65,536 of them
//! PREFIX.idx
//!         0  9 bytes    "MMIDIDX" and two zeros
//!         9  uint64     1, the version
//!        17  uint8      type of the ids: 8 uint16, 4 int32 (there is no uint32)
//!        18  uint64     S, the number of sequences; here each document is one
//!        26  uint64     S + 1
//!        34  S x int32  ids of each sequence
//!            S x int64  offset of each sequence in PREFIX.bin, in bytes
//!            (S + 1) x int64  0, 1, ... S: the sequence that each document starts with, and the end
//! ```
//!
//! All little-endian, without padding. An end-of-text id ends each document. Readers need both files;
//! the index is published last. The lengths wait in a file, not in memory: a billion documents are a
//! usual number.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};

use super::staging::Staged;
use super::{Origin, Plan, Writer};
use crate::error::{Error, Result};

pub(super) struct Megatron<'a> {
    plan: Plan<'a>,
    stem: String,
    data: Option<Staged>,
    lengths: BufWriter<File>,
    n_documents: u64,
}

impl<'a> Megatron<'a> {
    pub(super) fn new(plan: Plan<'a>) -> Result<Self> {
        let stem = plan.split.suffixed(plan.name);
        let name = format!("{stem}.bin");
        let data = match plan.link {
            Some(existing) => {
                plan.staging.link(existing, &name)?;
                None
            }
            None => Some(plan.staging.create(&name)?),
        };
        let lengths = BufWriter::new(tempfile()?);
        Ok(Self { plan, stem, data, lengths, n_documents: 0 })
    }
}

/// An unnamed file that is gone when it is closed.
fn tempfile() -> Result<File> {
    let folder = std::env::temp_dir();
    let failed = |errno: rustix::io::Errno| Error::io(&folder, "creating a temporary file", errno.into());
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let open = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(&folder, open, rustix::fs::Mode::from_raw_mode(0o600))
        .or_else(|_| rustix::fs::memfd_create("tokend-lengths", flags))
        .map(File::from)
        .map_err(failed)
}

impl Writer for Megatron<'_> {
    fn begin(&mut self, n_ids: u64, origin: Origin<'_>) -> Result<()> {
        let Ok(length) = i32::try_from(n_ids) else {
            let what = format!("document {} has {n_ids} ids; Megatron counts them in an int32", origin.index);
            return Err(Error::BadOption { option: "format", what });
        };
        self.n_documents += 1;
        let failed = |error| Error::io(std::env::temp_dir(), "writing a temporary file", error);
        self.lengths.write_all(&length.to_le_bytes()).map_err(failed)
    }

    fn ids(&mut self, bytes: &[u8]) -> Result<()> {
        self.data.as_mut().map_or(Ok(()), |file| file.write(bytes))
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let failed = |error| Error::io(std::env::temp_dir(), "reading a temporary file", error);
        if let Some(data) = self.data.take() {
            self.plan.staging.close(data)?;
        }
        self.lengths.flush().map_err(failed)?;
        let mut index = self.plan.staging.create(&format!("{}.idx", self.stem))?;
        let width = self.plan.ids.id_bytes as u64;
        index.write(b"MMIDIDX\0\0")?;
        index.write(&1_u64.to_le_bytes())?;
        index.write(&[if width == 2 { 8 } else { 4 }])?;
        index.write(&self.n_documents.to_le_bytes())?;
        index.write(&(self.n_documents + 1).to_le_bytes())?;
        let mut length = [0; 4];
        for with_offsets in [false, true] {
            self.lengths.get_ref().rewind().map_err(failed)?;
            let mut lengths = BufReader::new(self.lengths.get_ref());
            let mut offset = 0_u64;
            for _ in 0..self.n_documents {
                lengths.read_exact(&mut length).map_err(failed)?;
                if with_offsets {
                    index.write(&offset.to_le_bytes())?;
                    offset += u64::from(u32::from_le_bytes(length)) * width;
                } else {
                    index.write(&length)?;
                }
            }
        }
        for document in 0..=self.n_documents {
            index.write(&document.to_le_bytes())?;
        }
        self.plan.staging.close(index)
    }
}
