//! litData: chunks for `StreamingDataset` with `TokensLoader`.
//!
//! ```text
//! chunk-0-K.bin
//!     0  uint32            N, the number of items; an item is a document
//!     4  (N + 1) x uint32  where each item starts, and the last one ends, from the chunk's start
//!        ids               little-endian, item after item, nothing between
//! index.json              chunks with their sizes, and how to read them
//! ```
//!
//! `TokensLoader` ignores where items begin; it reads blocks of each chunk and drops what is left at
//! the chunk's end, so few big chunks lose less than many small ones. Ids are torch's uint16 (code 20)
//! or, above 65,536 of them, int32 (code 16). Offsets are uint32: a chunk stays below 4 GiB, and a
//! document of more than [`ITEM_MAX_BYTES`] becomes several items.

use serde_json::{Value, json};

use super::{Origin, Plan, Writer};
use crate::error::{Error, Result};

const ITEM_MAX_BYTES: usize = 1 << 28;

pub(super) struct LitData<'a> {
    plan: Plan<'a>,
    chunk_bytes: usize,
    /// The chunk under way: its ids and where its items end.
    ids: Vec<u8>,
    ends: Vec<usize>,
    chunks: Vec<Value>,
}

impl<'a> LitData<'a> {
    pub(super) fn new(plan: Plan<'a>) -> Self {
        let width = plan.ids.id_bytes;
        let most = (ITEM_MAX_BYTES / width) as u64;
        let chunk_bytes = plan.shard_tokens.clamp(1, most) as usize * width;
        Self { plan, chunk_bytes, ids: Vec::new(), ends: Vec::new(), chunks: Vec::new() }
    }

    fn item_start(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Writes the complete items as a chunk and keeps the one under way.
    fn flush(&mut self) -> Result<()> {
        let n_items = self.ends.len();
        if n_items == 0 {
            return Ok(());
        }
        let end = self.item_start();
        let name = format!("chunk-0-{}.bin", self.chunks.len());
        let first = 4 * (n_items + 2);
        let mut header = (n_items as u32).to_le_bytes().to_vec();
        for offset in std::iter::once(0).chain(self.ends.drain(..)) {
            header.extend(((first + offset) as u32).to_le_bytes());
        }
        let mut file = self.plan.staging.create(&format!("{}{name}", self.plan.split.folder()))?;
        file.write(&header)?;
        file.write(&self.ids[..end])?;
        self.chunks.push(json!({
            "chunk_bytes": file.n_bytes(),
            "chunk_size": n_items,
            "dim": end / self.plan.ids.id_bytes,
            "filename": name,
        }));
        self.plan.staging.close(file)?;
        self.ids.drain(..end);
        Ok(())
    }
}

impl Writer for LitData<'_> {
    fn begin(&mut self, n_ids: u64, _origin: Origin<'_>) -> Result<()> {
        let waiting = self.item_start() as u64;
        let too_long = waiting + n_ids * self.plan.ids.id_bytes as u64 > self.chunk_bytes as u64;
        if too_long || self.ends.len() as u64 >= self.plan.shard_documents {
            self.flush()?;
        }
        Ok(())
    }

    fn ids(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.item_start() + ITEM_MAX_BYTES - self.ids.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.ids.extend_from_slice(now);
            bytes = later;
            if !bytes.is_empty() {
                self.ends.push(self.ids.len());
                self.flush()?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.ends.push(self.ids.len());
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        let code = if self.plan.ids.id_bytes == 2 { 20 } else { 16 };
        let index = json!({
            "chunks": self.chunks,
            "config": {
                "chunk_bytes": self.chunk_bytes,
                "chunk_size": null,
                "compression": null,
                "data_format": [format!("no_header_tensor:{code}")],
                "data_spec": r#"[1, {"type": null, "context": null, "children_spec": []}]"#,
                "encryption": null,
                "item_loader": "TokensLoader",
            },
            "updated_at": "0",
        });
        let text = serde_json::to_vec(&index).map_err(|error| Error::Internal { what: error.to_string() })?;
        self.plan.staging.write(&format!("{}index.json", self.plan.split.folder()), &text)
    }
}
