//! Encoding with `scan::words`: the scanner, and the plain way for what it gives up.

use std::ops::Range;

use super::{Encoder, Open, Part, at_offset};
use crate::encode::splitter::Splitter;
use crate::error::Result;
use crate::lane::Lane;
use crate::pretokenize::Pretokenizer as _;
use crate::pretokenize::scan::BATCH;
use crate::pretokenize::scan::words::Words;

impl Encoder<'_> {
    /// As [`Encoder::split`]. Text that is not complete is encoded up to the last place that splits it
    /// whatever follows, as if it ended there.
    pub(super) fn words<L: Lane>(
        &mut self,
        words: &Words,
        plain: &Splitter,
        part: Part<'_>,
        open: &mut Open,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let (text, bytes, offset) = (part.text(), part.text().as_bytes(), part.offset);
        let is_cut = |&at: &usize| text.is_char_boundary(at) && plain.is_border(bytes, at);
        let end = if part.complete { text.len() } else { (1..text.len()).rev().find(is_cut).unwrap_or(0) };
        if end == 0 {
            return self.split(plain, part, open, out);
        }
        let (whole, end) = (part.whole.as_bytes(), part.from + end);
        // The scanner began at `from`.
        let mut from = part.from;
        self.scratch.begin_words();
        while from + self.scratch.scan.at() < end {
            let at = from + self.scratch.scan.at();
            open.reach(at, offset)?;
            let super::Scratch { scan, work, filling, .. } = &mut *self.scratch;
            let base = open.base.wrapping_sub(from);
            let (text, starts) = (&whole[from..end], &mut filling.starts);
            let Some(n) = scan.words(work, words, self.model.kernels, text, base, starts, open.n) else {
                // Behind the scanner's beginning one pretoken is open; before it stand documents, complete.
                if at == from {
                    self.close(whole, open, at, offset, out)?;
                    open.base = at;
                }
                open.n = 0;
                from = self.plainly(plain, part, open.base..end, (at + BATCH).min(end), out)?;
                self.scratch.begin_words();
                continue;
            };
            open.n = n;
            if from + self.scratch.scan.at() < end {
                self.advance_to(whole, open, n - 1, offset, out)?;
            }
        }
        Ok(end)
    }

    /// Emits pretokens of the part from the start of `range` to `stop` or a little behind it; returns where
    /// the next one starts.
    #[cold]
    fn plainly<L: Lane>(
        &mut self,
        plain: &Splitter,
        part: Part<'_>,
        range: Range<usize>,
        stop: usize,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let Part { from, offset, .. } = part;
        let (whole, text) = (part.whole.as_bytes(), &part.whole[from..range.end]);
        let (mut at, mut open) = (range.start, Open::default());
        match plain {
            Splitter::Chain(chain) => {
                let is_cut = |&at: &usize| text.is_char_boundary(at) && chain.is_border(text.as_bytes(), at);
                let end = (stop - from..text.len()).find(is_cut).unwrap_or(text.len());
                let mut pieces = Vec::new();
                chain
                    .split(&text[at - from..end], true, &mut pieces)
                    .map_err(|error| at_offset(error, offset + range.start as u64))?;
                for piece in pieces {
                    let end = range.start + piece.end;
                    self.add(whole, &mut open, at..end, offset, out)?;
                    at = end;
                }
            }
            Splitter::Pattern(matcher) => {
                while at < stop {
                    let split = matcher
                        .next(text, at - from)
                        .map_err(|error| at_offset(error, offset + from as u64))?;
                    self.add(whole, &mut open, at..from + split.end, offset, out)?;
                    at = from + split.end;
                }
            }
            Splitter::Gpt2 { .. } | Splitter::Words { .. } => unreachable!("these are no plain ways"),
        }
        self.close(whole, &mut open, at, offset, out)?;
        Ok(at)
    }
}

impl super::Scratch {
    fn begin_words(&mut self) {
        self.scan.begin_words(&mut self.work);
    }
}
