//! The texts of contractions, `'s` and `'Ll`, by the byte behind the apostrophe.
//!
//! English prose has an apostrophe in every third block of 64 bytes. Where case is ignored there are some twenty
//! texts, and comparing with one after the other took 7 % of the time of warm prose.

use std::ops::Range;

/// Texts, of which the first that a text begins with is meant.
pub(crate) struct Contractions {
    /// By second byte; those that share it in their own order.
    texts: Vec<Box<[u8]>>,
    /// By second byte.
    ranges: Box<[Range<u16>; 256]>,
}

impl Contractions {
    pub(crate) fn new(mut texts: Vec<Box<[u8]>>) -> Self {
        texts.sort_by_key(|text| text.get(1).copied());
        let n_up_to =
            |second: Option<u8>| texts.partition_point(|text| text.get(1).copied() <= second) as u16;
        let ranges = Box::new(std::array::from_fn(|second| {
            n_up_to((second as u8).checked_sub(1))..n_up_to(Some(second as u8))
        }));
        Self { texts, ranges }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.texts.iter().map(|text| &text[..])
    }

    /// Bytes of the one that `text` begins with; it begins with an apostrophe, as they all do.
    #[inline]
    pub(crate) fn len(&self, text: &[u8]) -> Option<usize> {
        let range = &self.ranges[usize::from(*text.get(1)?)];
        let known = &self.texts[usize::from(range.start)..usize::from(range.end)];
        // Bytes in a loop: there is one, or none.
        let is = |known: &[u8]| {
            known.len() <= text.len() && known[2..].iter().zip(&text[2..]).all(|(a, b)| a == b)
        };
        known.iter().find(|known| is(known)).map(|known| known.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_a_text_begins_with() {
        let texts = ["'s", "'t", "'re", "'Re", "'r", "'rex", "'ſ", "'ll"].map(|text| text.as_bytes().into());
        let contractions = Contractions::new(texts.to_vec());
        assert_eq!(contractions.iter().count(), texts.len());
        let texts_behind =
            ["s", "sx", "t", "re", "rex", "r", "rx", "R", "Re", "ſ", "\u{17e}", "l", "lx", "ll", "", "é"];
        for text in texts_behind.map(|text| format!("'{text}")) {
            let expected =
                texts.iter().find(|known| text.as_bytes().starts_with(known)).map(|known| known.len());
            assert_eq!(contractions.len(text.as_bytes()), expected, "{text}");
        }
    }
}
