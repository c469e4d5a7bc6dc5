//! nanoGPT: `train.bin` and `val.bin` in the dataset's directory.
//!
//! ```text
//! train.bin   uint16 ids, little-endian, nothing else; an end-of-text id after each document
//! val.bin     likewise
//! ```
//!
//! `train.py` maps the files as uint16 whatever they hold, so wider ids are refused here. Without a
//! validation split there is no `val.bin`, and nanoGPT's `estimate_loss` would miss it.

use super::staging::Staged;
use super::{Kind, Origin, Plan, Split, Writer, too_wide};
use crate::error::Result;

pub(super) struct NanoGpt<'a> {
    plan: Plan<'a>,
    file: Option<Staged>,
}

impl<'a> NanoGpt<'a> {
    pub(super) fn new(plan: Plan<'a>) -> Result<Self> {
        if plan.ids.id_bytes != 2 {
            return Err(too_wide(Kind::NanoGpt, "nanoGPT reads nothing else"));
        }
        let name = if plan.split == Split::Val { "val.bin" } else { "train.bin" };
        let file = match plan.link {
            Some(existing) => {
                plan.staging.link(existing, name)?;
                None
            }
            None => Some(plan.staging.create(name)?),
        };
        Ok(Self { plan, file })
    }
}

impl Writer for NanoGpt<'_> {
    fn begin(&mut self, _n_ids: u64, _origin: Origin<'_>) -> Result<()> {
        Ok(())
    }

    fn ids(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write(bytes))
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), |file| self.plan.staging.close(file))
    }
}
