//! Many short documents at once.
//!
//! A document of a kilobyte or two, encoded on its own, fills one batch or two, and each waits for the memory
//! that the next would have given it time for. So documents that stand in one buffer share batches:
//!
//! ```text
//! buffer    |The cat sat.|\n\n|It  purred|
//! units      The  cat  sat .   It "  "purred      pretokens, found document by document
//!                            ↑              ↑     and after each document a mark
//! ```
//!
//! Each document is scanned alone: the scanner begins with its first byte and ends with its last, so that no
//! pretoken can reach over. The pretokens then go on in common. A *mark* is a unit that is no pretoken: it
//! covers whatever stands between two documents, often nothing, and its key is one that no table has. So it
//! comes by among the misses, where the ids that stand between documents are put in its place, and where it
//! is known how many ids came before.

use super::Encoder;
use super::{CARRIED, Open, Part};
use crate::error::Result;
use crate::lane::Lane;
use std::ops::Range;

/// Ids between two documents: first those that end the one, then those that begin the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Between {
    ids: [u32; 2],
    n_before: usize,
    n_behind: usize,
}

impl Between {
    pub(crate) fn new(before: Option<u32>, behind: Option<u32>) -> Self {
        let (mut ids, mut n) = ([0; 2], 0);
        for id in [before, behind].into_iter().flatten() {
            ids[n] = id;
            n += 1;
        }
        Self { ids, n_before: usize::from(before.is_some()), n_behind: usize::from(behind.is_some()) }
    }

    pub(super) fn ids(&self) -> &[u32] {
        &self.ids[..self.n_before + self.n_behind]
    }

    /// Ids that belong to the document behind.
    pub(super) fn n_behind(&self) -> usize {
        self.n_behind
    }
}

impl Encoder<'_> {
    /// Appends the ids of documents, each as if it were alone and complete, and `between` after each of
    /// them, the last one included. `documents` are parts of `text`, in rising order. Behind `ends` goes the
    /// number of ids in `out` at the end of each document.
    ///
    /// After an error `out` and `ends` are as they were; which document it comes from, and where, is found
    /// by encoding them one by one.
    pub(crate) fn documents<L: Lane>(
        &mut self,
        text: &str,
        documents: &[Range<usize>],
        between: Between,
        out: &mut Vec<L>,
        ends: &mut Vec<u64>,
    ) -> Result<()> {
        let n_before = out.len();
        self.scratch.between = between;
        self.scratch.ends.clear();
        let result = self.all(text, documents, out);
        match &result {
            Ok(()) => ends.append(&mut self.scratch.ends),
            Err(_) => out.truncate(n_before),
        }
        result
    }

    fn all<L: Lane>(&mut self, text: &str, documents: &[Range<usize>], out: &mut Vec<L>) -> Result<()> {
        let (model, whole) = (self.model, text.as_bytes());
        let mut open = self.begin();
        let mut end = 0;
        for &Range { start: from, end: to } in documents {
            // What stood before belongs to the mark before.
            if open.n > CARRIED - 1 {
                self.close(whole, &mut open, from, 0, out)?;
            }
            let part = Part { whole: text, from, to, complete: true, offset: 0 };
            self.split(&model.splitter, part, &mut open, out)?;
            self.mark(&mut open, to);
            end = to;
        }
        self.close(whole, &mut open, end, 0, out)?;
        self.finish(whole, 0, out)
    }

    /// Adds the mark of a document's end to the batch under way.
    fn mark(&mut self, open: &mut Open, at: usize) {
        let filling = &mut *self.scratch.filling;
        filling.starts[open.n] = open.start(at);
        filling.marks.push(open.n as u32);
        open.n += 1;
    }
}
