//! datatrove and nanotron: `.ds` files with an index and a note of what made them.
//!
//! ```text
//! NNN_NAME.ds            ids, little-endian: uint16, or uint32 where there are more than 65,536
//! NNN_NAME.ds.index      uint64, little-endian: ids up to the end of each document
//! NNN_NAME.ds.metadata   TOKENIZER|BYTES OF AN ID, number of ids, the same for people: three lines
//! ```
//!
//! An end-of-text id ends each document. `DatatroveFolderDataset` takes the width of an id as an
//! argument (`token_size`, 2 or 4) and reads windows of each file; what is left at a file's end is
//! dropped by it.

use super::staging::Staged;
use super::{Origin, Plan, Writer};
use crate::error::Result;

pub(super) struct Datatrove<'a> {
    plan: Plan<'a>,
    /// Ids (`None`: linked) and index of the shard under way.
    shard: Option<(Option<Staged>, Staged)>,
    n_ids: u64,
    n_documents: u64,
    number: u32,
    pending: u64,
}

impl<'a> Datatrove<'a> {
    pub(super) fn new(plan: Plan<'a>) -> Result<Self> {
        let mut made = Self { plan, shard: None, n_ids: 0, n_documents: 0, number: 0, pending: 0 };
        made.open()?;
        Ok(made)
    }

    fn name(&self) -> String {
        format!("{}{:03}_{}.ds", self.plan.split.folder(), self.number, self.plan.name)
    }

    fn open(&mut self) -> Result<()> {
        let name = self.name();
        let data = match self.plan.link {
            Some(existing) => {
                self.plan.staging.link(existing, &name)?;
                None
            }
            None => Some(self.plan.staging.create(&name)?),
        };
        self.shard = Some((data, self.plan.staging.create(&format!("{name}.index"))?));
        (self.n_ids, self.n_documents) = (0, 0);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some((data, index)) = self.shard.take() else { return Ok(()) };
        if let Some(data) = data {
            self.plan.staging.close(data)?;
        }
        self.plan.staging.close(index)?;
        // The reader splits the first line at the bar.
        let tokenizer = self.plan.ids.tokenizer.replace(['|', '\n'], "_");
        let text = format!("{tokenizer}|{}\n{}\n{}", self.plan.ids.id_bytes, self.n_ids, metric(self.n_ids));
        self.plan.staging.write(&format!("{}.metadata", self.name()), text.as_bytes())?;
        self.number += 1;
        Ok(())
    }
}

/// A count with three significant digits, e.g. `1.23 GT`.
fn metric(count: u64) -> String {
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 && unit < 5 {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value >= 100.0 { 0 } else { 1 + usize::from(value < 10.0) };
    format!("{value:.digits$} {}T", ["", "k", "M", "G", "T", "P"][unit])
}

impl Writer for Datatrove<'_> {
    fn begin(&mut self, n_ids: u64, _origin: Origin<'_>) -> Result<()> {
        if self.plan.is_full(self.n_ids, self.n_documents, n_ids) {
            self.close()?;
            self.open()?;
        }
        self.pending = n_ids;
        Ok(())
    }

    fn ids(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.shard {
            Some((Some(data), _)) => data.write(bytes),
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<()> {
        self.n_ids += self.pending;
        self.n_documents += 1;
        match &mut self.shard {
            Some((_, index)) => index.write(&self.n_ids.to_le_bytes()),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_for_people() {
        for (count, text) in [(0, "0.00 T"), (999, "999 T"), (1234, "1.23 kT"), (12_345_678, "12.3 MT")] {
            assert_eq!(super::metric(count), text);
        }
    }
}
