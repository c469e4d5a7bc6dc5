//! Splitting text into pretokens, the units that merges never leave.
//!
//! * [`unicode`]: character classes, per reference;
//! * [`pattern`]: split patterns as trees, and what is refused;
//! * [`machine`]: a matcher for any pattern of the supported subset;
//! * [`alternatives`]: a faster one for the patterns that tokenizers have;
//! * [`matcher`]: the fastest matcher that a pattern permits;
//! * [`steps`]: patterns one after the other, each splitting the pieces of the one before;
//! * [`gpt2`]: a hand-written scanner for GPT-2's pattern, the plain one: it knows borders;
//! * `scan`: the fast one, a kilobyte at a time.

pub mod alternatives;
pub mod gpt2;
pub mod machine;
pub mod matcher;
pub mod pattern;
pub(crate) mod scan;
pub mod steps;
pub mod unicode;

pub use matcher::Matcher;

use crate::error::Result;

/// What a splitter found at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Where the pretoken (or the skipped text) ends.
    pub end: usize,
    /// False for text that the pattern does not match; it is dropped, as `findall` drops it.
    pub matched: bool,
    /// Whether the decision looked at the end of the text, so that more text could change it.
    pub hit_end: bool,
}

/// Splits text from a given place on; where a pretoken ends depends only on the text from its start.
pub trait Pretokenizer: Send + Sync {
    /// The pretoken or skipped text at `start`, a character border before the end of `text`.
    fn next(&self, text: &str, start: usize) -> Result<Split>;
}
