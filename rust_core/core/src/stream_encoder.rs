//! Encoding text that arrives in pieces, exactly as if it had come whole.
//!
//! A pretoken is given out once no further text can change it: the splitter says whether its
//! decision looked at the end of what there is. The rest waits for the next piece. Splitting a
//! waiting pretoken again for every small piece would be quadratic, so it is tried again only when
//! the text waiting has doubled; at most twice the longest pretoken and special token waits.

use std::sync::Arc;

use crate::documents::{DocumentEncoder, Eot, Rules, TextEnd};
use crate::error::Result;
use crate::lane::Lane;
use crate::special::SpecialPolicy;
use crate::tokenizer::Tokenizer;

/// Waiting text below this many bytes is always tried again.
const RETRY_BYTES: usize = 4096;

/// An encoder for one text in pieces.
pub struct StreamEncoder {
    tokenizer: Arc<Tokenizer>,
    special: SpecialPolicy,
    waiting: String,
    retry_bytes: usize,
    offset: u64,
}

impl StreamEncoder {
    /// Starts a text.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, special: SpecialPolicy) -> Self {
        Self { tokenizer, special, waiting: String::new(), retry_bytes: 0, offset: 0 }
    }

    /// Adds a piece and returns the ids that are certain by now.
    pub fn push<L: Lane>(&mut self, piece: &str) -> Result<Vec<L>> {
        self.waiting.push_str(piece);
        if self.waiting.len() < self.retry_bytes {
            return Ok(Vec::new());
        }
        let ids = self.run(TextEnd::More)?;
        self.retry_bytes = if self.waiting.len() < RETRY_BYTES { 0 } else { 2 * self.waiting.len() };
        Ok(ids)
    }

    /// Ends the text and returns the ids that were still open.
    pub fn finish<L: Lane>(&mut self) -> Result<Vec<L>> {
        let ids = self.run(TextEnd::Source)?;
        (self.offset, self.retry_bytes) = (0, 0);
        Ok(ids)
    }

    fn run<L: Lane>(&mut self, end: TextEnd) -> Result<Vec<L>> {
        self.tokenizer.check_lane::<L>()?;
        let rules = Rules {
            separator: None,
            eot: Eot::None,
            eot_id: 0,
            special: self.special,
            finder: self.tokenizer.finder(),
        };
        let (used, ids) = self.tokenizer.with_encoder(|encoder| {
            let encoder = encoder.reborrow();
            let mut documents = DocumentEncoder::new(encoder, &rules);
            let used = documents.push(&self.waiting, self.offset, end)?;
            Ok((used, documents.ids))
        })?;
        self.waiting.drain(..used);
        self.offset += used as u64;
        Ok(ids)
    }
}
