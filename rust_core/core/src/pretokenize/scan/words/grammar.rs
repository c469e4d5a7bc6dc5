//! What a pattern of the family says, as data for the algebra.
//!
//! `alternatives::grammar` reads it from a pattern's fragments, and `steps` from a chain of patterns.

use super::contractions::Contractions;

/// Whether a word takes `'s` and the like: on its own, or behind a word.
pub(crate) enum Contraction {
    None,
    Own(Contractions),
    Suffix(Contractions),
}

/// Switches of the algebra; a word of ones is yes, zero is no.
pub(crate) struct Grammar {
    /// Any whitespace but a line break may precede letters, not the space only.
    pub(crate) any_blank: u64,
    /// A character of punctuation may precede letters.
    pub(crate) other_prefix: u64,
    /// ASCII punctuation may precede ASCII letters, which then are a word of their own.
    pub(crate) ascii_prefix: u64,
    /// Capitals and small letters are told apart.
    pub(crate) cased: u64,
    /// Numbers of a pretoken, at most; `u32::MAX` is no limit.
    pub(crate) number_max: u32,
    /// A space may precede numbers.
    pub(crate) blank_number: u64,
    /// Punctuation takes the line breaks behind it, and slashes with them.
    pub(crate) tail: u64,
    pub(crate) slash_tail: u64,
    /// Before numbers, or runs of their own, a text ends: whitespace stays whole.
    pub(crate) number_ends_text: u64,
    pub(crate) own_ends_text: u64,
    /// Whitespace at the end of the text stays whole even behind a line break.
    pub(crate) to_end: bool,
    pub(crate) contraction: Contraction,
}

impl Grammar {
    /// Bytes of the contraction that begins a text.
    pub(crate) fn contraction_len(&self, text: &[u8]) -> Option<usize> {
        let (Contraction::Own(texts) | Contraction::Suffix(texts)) = &self.contraction else { return None };
        texts.len(text)
    }

    pub(crate) fn is_suffix(&self) -> bool {
        matches!(self.contraction, Contraction::Suffix(_))
    }
}
