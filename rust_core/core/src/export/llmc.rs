//! llm.c, modded-nanogpt and `NeMo` `AutoModel`: shards with a header of 256 int32, little-endian.
//!
//! ```text
//! NAME_train_000001.bin, NAME_val_000000.bin (no split: NAME_train_000000.bin and on)
//!        0  int32        20240520 (uint16 ids) or 278895051 (uint32 ids: NeMo AutoModel's)
//!        4  int32        1, the version
//!        8  int32        n, the number of ids
//!       12  int32        0 (uint16 ids) or 4 (uint32 ids: bytes of an id)
//!       16  252 x int32  0
//!     1024  ids          n x uint16 or uint32
//! NAME_train_000001.bos.idx
//!        0  int32 each   position, in ids, of each document's first id in the shard
//! ```
//!
//! One end-of-text id stands before each document. llm.c seeks with an int and counts in an int32, so
//! a shard stays below 2 GiB. A shard ends with a document; only a document that is longer than a
//! shard is cut. llm.c needs at least `num_processes * B * T + 1` ids in every shard, and modded-nanogpt
//! two training shards; a last shard may be short.

use super::staging::Staged;
use super::{Origin, Plan, Split, Writer};
use crate::error::Result;

const HEADER_BYTES: usize = 1024;
/// llm.c casts the offset of a read to int.
const SHARD_MAX_BYTES: u64 = (1 << 31) - 1 - HEADER_BYTES as u64;

pub(super) struct Llmc<'a> {
    plan: Plan<'a>,
    capacity: u64,
    /// The shard under way, its number of ids and the positions of documents' first ids.
    shard: Option<(Staged, u64, Vec<i32>)>,
    number: u32,
}

impl<'a> Llmc<'a> {
    pub(super) fn new(plan: Plan<'a>) -> Self {
        let capacity = plan.shard_tokens.clamp(1, SHARD_MAX_BYTES / plan.ids.id_bytes as u64);
        // By convention shard 0 is the validation set.
        let number = u32::from(plan.split == Split::Train);
        Self { plan, capacity, shard: None, number }
    }

    fn stem(&self) -> String {
        let split = if self.plan.split == Split::Val { "val" } else { "train" };
        format!("{}_{split}_{:06}", self.plan.name, self.number)
    }

    fn open(&mut self) -> Result<()> {
        if self.shard.is_none() {
            let mut file = self.plan.staging.create(&format!("{}.bin", self.stem()))?;
            file.write(&[0; HEADER_BYTES])?;
            self.shard = Some((file, 0, Vec::new()));
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some((mut file, n_ids, starts)) = self.shard.take() else { return Ok(()) };
        let wide = self.plan.ids.id_bytes == 4;
        let words =
            [if wide { 278_895_051 } else { 20_240_520 }, 1, n_ids as i32, if wide { 4 } else { 0_i32 }];
        let header: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.patch(&header, 0)?;
        self.plan.staging.close(file)?;
        let starts: Vec<u8> = starts.iter().flat_map(|start| start.to_le_bytes()).collect();
        self.plan.staging.write(&format!("{}.bos.idx", self.stem()), &starts)?;
        self.number += 1;
        Ok(())
    }
}

impl Writer for Llmc<'_> {
    fn begin(&mut self, n_ids: u64, _origin: Origin<'_>) -> Result<()> {
        let full = |n: u64, n_starts: usize| {
            self.plan.is_full(n, n_starts as u64, n_ids) || (n > 0 && n + n_ids > self.capacity)
        };
        if self.shard.as_ref().is_some_and(|(_, n, starts)| full(*n, starts.len())) {
            self.close()?;
        }
        self.open()?;
        if let Some((_, n, starts)) = &mut self.shard
            && n_ids > 0
        {
            starts.push(*n as i32);
        }
        Ok(())
    }

    fn ids(&mut self, mut bytes: &[u8]) -> Result<()> {
        let width = self.plan.ids.id_bytes as u64;
        while !bytes.is_empty() {
            self.open()?;
            let Some((file, n, _)) = &mut self.shard else { continue };
            let room = ((self.capacity - *n) * width).min(bytes.len() as u64) as usize;
            file.write(&bytes[..room])?;
            *n += room as u64 / width;
            bytes = &bytes[room..];
            if *n == self.capacity && !bytes.is_empty() {
                self.close()?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.close()
    }
}
