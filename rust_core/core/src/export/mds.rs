//! `MosaicML` Streaming: MDS shards with one column, `tokens`.
//!
//! ```text
//! shard.NNNNN.mds
//!     0  uint32            N, the number of samples
//!     4  (N + 1) x uint32  where each sample starts, and the last one ends, from the shard's start
//!        JSON              the shard's columns, as in index.json
//!        samples           rows of one length: ids, little-endian, uint16 or uint32
//!                          documents: uint32 size of what follows; uint8 (1 << 2 | 2) for one dimension
//!                          with a uint32 length; uint32 number of ids; ids
//! index.json               {"version": 2, "shards": [...]}
//! ```
//!
//! A sample is a document, or, with rows of one length as llm-foundry wants them, so many ids of the
//! documents back to back; what does not fill the last row is left out and counted in `tokend.json`.
//! Offsets are uint32: a shard stays below 4 GiB.

use serde_json::{Value, json};

use super::{Origin, Plan, Writer};
use crate::error::{Error, Result};

/// Most bytes of a shard, its header included.
const SHARD_MAX_BYTES: u64 = (1 << 32) - 1;

pub(super) struct Mds<'a> {
    plan: Plan<'a>,
    shard_bytes: usize,
    /// Bytes of a sample of one length.
    row_bytes: Option<usize>,
    /// The shard under way: its samples and where they end.
    samples: Vec<u8>,
    ends: Vec<usize>,
    shards: Vec<Value>,
}

impl<'a> Mds<'a> {
    pub(super) fn new(plan: Plan<'a>) -> Result<Self> {
        let width = plan.ids.id_bytes;
        let shard_bytes = plan.shard_tokens.clamp(1, (1 << 28) / width as u64) as usize * width;
        let row_bytes = plan.row_tokens.map(|row| row as usize * width);
        if row_bytes.is_some_and(|row| row == 0 || row > 1 << 28) {
            let what = "a row has at least one id and at most 256 MiB".to_owned();
            return Err(Error::BadOption { option: "row_tokens", what });
        }
        Ok(Self { plan, shard_bytes, row_bytes, samples: Vec::new(), ends: Vec::new(), shards: Vec::new() })
    }

    fn encoding(&self) -> String {
        let dtype = if self.plan.ids.id_bytes == 2 { "uint16" } else { "uint32" };
        match self.plan.row_tokens {
            Some(row) => format!("ndarray:{dtype}:{row}"),
            None => format!("ndarray:{dtype}"),
        }
    }

    fn flush(&mut self) -> Result<()> {
        let Some(&end) = self.ends.last() else { return Ok(()) };
        let n_samples = self.ends.len();
        let name = format!("shard.{:05}.mds", self.shards.len());
        let mut info = json!({
            "column_encodings": [self.encoding()],
            "column_names": ["tokens"],
            "column_sizes": [self.row_bytes],
            "compression": null,
            "format": "mds",
            "hashes": [],
            "size_limit": null,
            "version": 2,
        });
        let columns = info.to_string();
        let first = 4 * (n_samples + 2) + columns.len();
        let n_bytes = (first + end) as u64;
        if n_bytes > SHARD_MAX_BYTES {
            let what = format!("a document fills a shard of {n_bytes} bytes, and MDS counts in uint32");
            return Err(Error::BadOption { option: "format", what });
        }
        let mut header = (n_samples as u32).to_le_bytes().to_vec();
        for offset in std::iter::once(0).chain(self.ends.drain(..)) {
            header.extend(((first + offset) as u32).to_le_bytes());
        }
        let mut file = self.plan.staging.create(&format!("{}{name}", self.plan.split.folder()))?;
        file.write(&header)?;
        file.write(columns.as_bytes())?;
        file.write(&self.samples[..end])?;
        info["raw_data"] = json!({"basename": name, "bytes": n_bytes, "hashes": {}});
        info["samples"] = n_samples.into();
        info["zip_data"] = Value::Null;
        self.shards.push(info);
        self.plan.staging.close(file)?;
        self.samples.drain(..end);
        Ok(())
    }
}

impl Writer for Mds<'_> {
    fn begin(&mut self, n_ids: u64, origin: Origin<'_>) -> Result<()> {
        if self.row_bytes.is_some() {
            return Ok(());
        }
        let n_bytes = n_ids * self.plan.ids.id_bytes as u64;
        if n_ids == 0 || n_bytes > SHARD_MAX_BYTES - (1 << 16) {
            let index = origin.index;
            let what = format!(
                "document {index} has {n_ids} ids; an MDS sample has at least one and less than 4 GiB"
            );
            return Err(Error::BadOption { option: "format", what });
        }
        let too_long = self.samples.len() as u64 + n_bytes > self.shard_bytes as u64;
        if too_long || self.ends.len() as u64 >= self.plan.shard_documents {
            self.flush()?;
        }
        self.samples.extend((5 + n_bytes as u32).to_le_bytes());
        self.samples.push(1 << 2 | 2);
        self.samples.extend((n_ids as u32).to_le_bytes());
        Ok(())
    }

    fn ids(&mut self, bytes: &[u8]) -> Result<()> {
        self.samples.extend_from_slice(bytes);
        let Some(row) = self.row_bytes else { return Ok(()) };
        loop {
            let end = self.ends.last().copied().unwrap_or(0) + row;
            if end > self.samples.len() {
                return Ok(());
            }
            self.ends.push(end);
            if end + row > self.shard_bytes {
                self.flush()?;
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        if self.row_bytes.is_none() {
            self.ends.push(self.samples.len());
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        let index = json!({"version": 2, "shards": self.shards});
        let text = serde_json::to_vec(&index).map_err(|error| Error::Internal { what: error.to_string() })?;
        self.plan.staging.write(&format!("{}index.json", self.plan.split.folder()), &text)
    }
}
