//! Encoding with `scan::words`: the scanner, and the plain way for what it gives up.

use super::{Encoder, Open, at_offset};
use crate::encode::splitter::Splitter;
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::pretokenize::Pretokenizer as _;
use crate::pretokenize::scan::BATCH;
use crate::pretokenize::scan::words::Words;

impl Encoder<'_> {
    /// As [`Encoder::encode`]. Text that is not complete is encoded up to the last place that splits it
    /// whatever follows, as if it ended there.
    pub(super) fn words<L: Lane>(
        &mut self,
        words: &Words,
        plain: &Splitter,
        text: &str,
        complete: bool,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let bytes = text.as_bytes();
        let is_cut = |&at: &usize| text.is_char_boundary(at) && plain.is_border(bytes, at);
        let end = if complete { text.len() } else { (1..text.len()).rev().find(is_cut).unwrap_or(0) };
        if end == 0 {
            return self.split(plain, text, complete, offset, out);
        }
        let bytes = &bytes[..end];
        // The scanner began at `from`; the pretoken that is open, at `base`.
        let (mut from, mut base, mut n) = (0, 0, 0);
        self.scratch.begin_words();
        while from + self.scratch.scan.at() < end {
            let at = from + self.scratch.scan.at();
            if at - base > i32::MAX as usize {
                return Err(Error::TooLong { offset: offset + base as u64 });
            }
            let super::Scratch { scan, work, filling, .. } = &mut *self.scratch;
            let starts = &mut filling.starts;
            let kernels = self.model.kernels;
            let Some(found) = scan.words(work, words, kernels, &bytes[from..], base - from, starts, n) else {
                base = self.plainly(plain, &text[..end], base, (at + BATCH).min(end), offset, out)?;
                (from, n) = (base, 0);
                self.scratch.begin_words();
                continue;
            };
            n = found;
            let units = if from + scan.at() < end {
                n - 1
            } else {
                starts[n] = (end - base) as u32;
                n
            };
            if units > 0 {
                let used = starts[units] as usize;
                self.advance(bytes, base, units, offset, out)?;
                base += used;
                (self.scratch.filling.starts[0], n) = (0, 1);
            }
        }
        self.finish(bytes, offset, out)?;
        Ok(end)
    }

    /// Adds pretokens from `base` to `stop` or a little behind it; returns where the next one starts.
    #[cold]
    fn plainly<L: Lane>(
        &mut self,
        plain: &Splitter,
        text: &str,
        base: usize,
        stop: usize,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let bytes = text.as_bytes();
        let (mut at, mut open) = (base, Open::default());
        match plain {
            Splitter::Chain(chain) => {
                let is_cut = |&at: &usize| text.is_char_boundary(at) && chain.is_border(bytes, at);
                let end = (stop..text.len()).find(is_cut).unwrap_or(text.len());
                let mut pieces = Vec::new();
                chain
                    .split(&text[base..end], true, &mut pieces)
                    .map_err(|error| at_offset(error, offset + base as u64))?;
                for piece in pieces {
                    self.add(bytes, &mut open, at..base + piece.end, offset, out)?;
                    at = base + piece.end;
                }
            }
            Splitter::Pattern(matcher) => {
                while at < stop {
                    let split = matcher.next(text, at).map_err(|error| at_offset(error, offset))?;
                    self.add(bytes, &mut open, at..split.end, offset, out)?;
                    at = split.end;
                }
            }
            Splitter::Gpt2 { .. } | Splitter::Words { .. } => unreachable!("these are no plain ways"),
        }
        self.close(bytes, &mut open, at, offset, out)?;
        Ok(at)
    }
}

impl super::Scratch {
    fn begin_words(&mut self) {
        self.scan.begin_words(&mut self.work);
    }
}
