//! OLMo-core and dolma: raw `.npy` files, each with a list of its documents.
//!
//! ```text
//! part-0-NNNNN.npy      ids, little-endian, uint16 or uint32; despite its name without NumPy's header
//! part-0-NNNNN.csv.gz   a line for each document, no header:  start,end,id,src,loc
//!                       start and end in ids (end exclusive, end-of-text id included); id: number of the
//!                       document in the set, src: path of its source, loc: its number there, from 1
//! ```
//!
//! An end-of-text id ends each document: OLMo-core finds documents in local files by it. Its dtype
//! must be the smallest that holds `vocab_size - 1`, which is the one written.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::staging::Staged;
use super::{Origin, Plan, Writer};
use crate::error::{Error, Result};

pub(super) struct Olmo<'a> {
    plan: Plan<'a>,
    /// Ids (`None`: linked) and list of the shard under way.
    shard: Option<(Option<Staged>, GzEncoder<Vec<u8>>, Staged)>,
    n_ids: u64,
    n_documents: u64,
    number: u32,
}

impl<'a> Olmo<'a> {
    pub(super) fn new(plan: Plan<'a>) -> Result<Self> {
        let mut made = Self { plan, shard: None, n_ids: 0, n_documents: 0, number: 0 };
        made.open()?;
        Ok(made)
    }

    fn open(&mut self) -> Result<()> {
        let stem = format!("{}part-0-{:05}", self.plan.split.folder(), self.number);
        let data = match self.plan.link {
            Some(existing) => {
                self.plan.staging.link(existing, &format!("{stem}.npy"))?;
                None
            }
            None => Some(self.plan.staging.create(&format!("{stem}.npy"))?),
        };
        let list = self.plan.staging.create(&format!("{stem}.csv.gz"))?;
        self.shard = Some((data, GzEncoder::new(Vec::new(), Compression::fast()), list));
        (self.n_ids, self.n_documents, self.number) = (0, 0, self.number + 1);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some((data, gzip, mut list)) = self.shard.take() else { return Ok(()) };
        if let Some(data) = data {
            self.plan.staging.close(data)?;
        }
        let rest = gzip.finish().map_err(|error| Error::io("csv.gz", "compressing", error))?;
        list.write(&rest)?;
        self.plan.staging.close(list)
    }
}

/// A field of a CSV line, quoted where it must be.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

impl Writer for Olmo<'_> {
    fn begin(&mut self, n_ids: u64, origin: Origin<'_>) -> Result<()> {
        if self.plan.is_full(self.n_ids, self.n_documents, n_ids) {
            self.close()?;
            self.open()?;
        }
        let (start, end) = (self.n_ids, self.n_ids + n_ids);
        self.n_ids = end;
        self.n_documents += 1;
        let source = origin.source.map_or_else(String::new, |path| field(&path.to_string_lossy()));
        let Some((_, gzip, list)) = &mut self.shard else { return Ok(()) };
        writeln!(gzip, "{start},{end},{},{source},{}", origin.index, origin.number)
            .map_err(|error| Error::io("csv.gz", "compressing", error))?;
        let ready = gzip.get_mut();
        if ready.len() > 1 << 16 {
            list.write(ready)?;
            ready.clear();
        }
        Ok(())
    }

    fn ids(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.shard {
            Some((Some(data), _, _)) => data.write(bytes),
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.close()
    }
}
