//! Where a big file is cut into chunks.
//!
//! A cut must be exact: what stands left of it and what stands right of it, each encoded on its own,
//! give the ids of the whole. The splitter knows which places are borders whatever stands around
//! them (see `Splitter::is_border`), of which a normalizer may permit fewer; the document rules exclude places that a separator or a special
//! token reaches over. The last such place before a chunk's nominal end is taken. A chunk without
//! any, one enormous word say, grows until there is one or the file ends.

use super::Opened;
use crate::documents::Rules;
use crate::encode::splitter::Splitter;
use crate::error::Result;
use crate::staged::Stage;

/// Bytes searched for a border before a whole chunk's worth is.
const WINDOW_BYTES: u64 = 4096;

/// Knows the places at which the text of a tokenizer can be cut.
#[derive(Clone, Copy)]
pub(crate) struct Cuts<'a> {
    splitter: &'a Splitter,
    stage: Option<&'a Stage>,
}

impl<'a> Cuts<'a> {
    /// `None` where no such place is known.
    pub(crate) fn new(splitter: &'a Splitter, stage: Option<&'a Stage>) -> Option<Self> {
        splitter.has_borders().then_some(Self { splitter, stage })
    }

    fn permits(&self, text: &[u8], at: usize) -> bool {
        self.splitter.is_border(text, at) && self.stage.is_none_or(|stage| stage.permits(text, at))
    }
}

/// A border near `start + chunk_bytes`, or the end of the file.
pub(crate) fn chunk_end(
    source: &Opened,
    cuts: Cuts<'_>,
    rules: &Rules<'_>,
    start: u64,
    chunk_bytes: u64,
) -> Result<u64> {
    let size = source.size_bytes();
    let target = start + chunk_bytes;
    if target >= size {
        return Ok(size);
    }
    let search = Search { source, cuts, rules, start };
    let window = target.saturating_sub(WINDOW_BYTES).max(start);
    for (low, high) in [(window, target), (start, window)] {
        if let Some(at) = search.last_in(low, high)? {
            return Ok(at);
        }
    }
    let mut low = target;
    while low < size {
        let high = (low + chunk_bytes.max(WINDOW_BYTES)).min(size);
        if let Some(at) = search.last_in(low, high)? {
            return Ok(at);
        }
        low = high;
    }
    Ok(size)
}

/// The last border within the first `limit` bytes of a text, of which as many more are known as have a
/// say in it.
pub(crate) fn last_in_text(text: &[u8], limit: usize, cuts: Cuts<'_>, rules: &Rules<'_>) -> Option<usize> {
    (1..=limit).rev().find(|&at| cuts.permits(text, at) && !rules.bridges(text, at))
}

struct Search<'a> {
    source: &'a Opened,
    cuts: Cuts<'a>,
    rules: &'a Rules<'a>,
    start: u64,
}

impl Search<'_> {
    /// The last border in `(low, high]`.
    fn last_in(&self, low: u64, high: u64) -> Result<Option<u64>> {
        let context = self.rules.context_bytes() as u64;
        let from = low.saturating_sub(context).max(self.start);
        let mut text = Vec::new();
        self.source.read(from, (high + context).min(self.source.size_bytes()), &mut text)?;
        Ok((low + 1..=high).rev().find(|&at| {
            let at = (at - from) as usize;
            self.cuts.permits(&text, at) && !self.rules.bridges(&text, at)
        }))
    }
}
