//! Character classes, per reference engine.
//!
//! Engines freeze different versions of Unicode: tiktoken's and Python's `regex` disagree on
//! thousands of code points. A class table therefore belongs to the reference whose ids are to be
//! matched; it is generated from that engine itself (`tools/gen_unicode.py`) and enters the
//! tokenizer's fingerprint.

mod python_regex;
mod tiktoken;

use std::fmt::Write as _;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::vocab::Reference;

/// The general categories, in the order of the tables' indices.
pub const CATEGORIES: [&str; 29] = [
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf",
    "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn",
];

/// Index of "unassigned", the category of everything that the tables do not list.
const UNASSIGNED: u8 = 28;
const SPACE_FLAG: u8 = 0x80;
const BLOCK: usize = 128;

/// A set of categories, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CategorySet(u32);

impl CategorySet {
    /// The categories of a name: `Lu`, or `L` for all that begin with it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut bits = 0;
        for (index, category) in CATEGORIES.iter().enumerate() {
            if *category == name || (name.len() == 1 && category.starts_with(name)) {
                bits |= 1 << index;
            }
        }
        (bits != 0).then_some(Self(bits))
    }

    /// Whether it has the category of this index.
    #[inline]
    #[must_use]
    pub fn has(self, category: u8) -> bool {
        self.0 >> category & 1 == 1
    }
}

/// The classes of one reference: two table look-ups per character.
pub struct Classes {
    index: Vec<u16>,
    /// Category in the low bits, [`SPACE_FLAG`] above.
    blocks: Vec<[u8; BLOCK]>,
    folds: &'static [(char, u32)],
    hash: String,
}

impl Classes {
    fn new(ranges: &[(u32, u32, u8)], spaces: &[(u32, u32)], folds: &'static [(char, u32)]) -> Self {
        let mut flat = vec![UNASSIGNED; 0x11_0000];
        for &(first, last, category) in ranges {
            flat[first as usize..=last as usize].fill(category);
        }
        for &(first, last) in spaces {
            for class in &mut flat[first as usize..=last as usize] {
                *class |= SPACE_FLAG;
            }
        }
        let mut digest = Sha256::new();
        digest.update(&flat);
        for (letter, other) in folds {
            digest.update(u32::from(*letter).to_le_bytes());
            digest.update(other.to_le_bytes());
        }
        let mut hash = String::new();
        for byte in digest.finalize() {
            let _ = write!(hash, "{byte:02x}");
        }
        let mut blocks: Vec<[u8; BLOCK]> = Vec::new();
        let mut known = rustc_hash::FxHashMap::default();
        let (chunks, _) = flat.as_chunks::<BLOCK>();
        let index = chunks
            .iter()
            .map(|block| {
                *known.entry(*block).or_insert_with(|| {
                    blocks.push(*block);
                    (blocks.len() - 1) as u16
                })
            })
            .collect();
        Self { index, blocks, folds, hash }
    }

    #[inline]
    fn class(&self, c: char) -> u8 {
        let code = c as usize;
        self.blocks[usize::from(self.index[code / BLOCK])][code % BLOCK]
    }

    /// A table of another class of each character, which its category and `\s` decide: row numbers by
    /// code point / 64, and the rows.
    pub(crate) fn rows(&self, class: impl Fn(u8, bool) -> u8) -> (Box<[u16]>, Vec<[u8; 64]>) {
        const HALVES: usize = BLOCK / 64;
        let classes = self
            .blocks
            .iter()
            .map(|block| block.map(|flagged| class(flagged & !SPACE_FLAG, flagged & SPACE_FLAG != 0)));
        let rows = classes.flat_map(|block| {
            let (halves, _) = block.as_chunks::<64>();
            [halves[0], halves[1]]
        });
        let index = self.index.iter().flat_map(|&block| [0, 1].map(|half| block * HALVES as u16 + half));
        (index.collect(), rows.collect())
    }

    /// Index of a character's general category in [`CATEGORIES`].
    #[inline]
    #[must_use]
    pub fn category(&self, c: char) -> u8 {
        self.class(c) & !SPACE_FLAG
    }

    /// `\p{L}`.
    #[inline]
    #[must_use]
    pub fn is_letter(&self, c: char) -> bool {
        is_letter(self.category(c))
    }

    /// `\p{N}`.
    #[inline]
    #[must_use]
    pub fn is_number(&self, c: char) -> bool {
        is_number(self.category(c))
    }

    /// `\s`.
    #[inline]
    #[must_use]
    pub fn is_space(&self, c: char) -> bool {
        self.class(c) & SPACE_FLAG != 0
    }

    /// What `(?i:letter)` matches, for an ASCII letter in lower case.
    pub fn fold(&self, letter: char) -> impl Iterator<Item = char> + '_ {
        let others = self.folds.iter().filter(move |fold| fold.0 == letter);
        [letter, letter.to_ascii_uppercase()]
            .into_iter()
            .chain(others.filter_map(|fold| char::from_u32(fold.1)))
    }

    /// SHA-256 of the whole table, in hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// Whether a category is one of `\p{L}`.
#[inline]
pub(crate) fn is_letter(category: u8) -> bool {
    category < 5
}

/// Whether a category is one of `\p{N}`.
#[inline]
pub(crate) fn is_number(category: u8) -> bool {
    (8..11).contains(&category)
}

/// The classes of a reference; built at the first call, about two milliseconds.
pub fn classes(reference: Reference) -> &'static Classes {
    static TIKTOKEN: OnceLock<Classes> = OnceLock::new();
    static PYTHON_REGEX: OnceLock<Classes> = OnceLock::new();
    match reference {
        Reference::Tiktoken => {
            TIKTOKEN.get_or_init(|| Classes::new(tiktoken::CATEGORIES, tiktoken::SPACES, tiktoken::FOLDS))
        }
        Reference::PythonRegex => PYTHON_REGEX.get_or_init(|| {
            Classes::new(python_regex::CATEGORIES, python_regex::SPACES, python_regex::FOLDS)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_differ_where_they_are_known_to() {
        let (t, p) = (classes(Reference::Tiktoken), classes(Reference::PythonRegex));
        for c in ['a', 'Ж', '中', 'ª'] {
            assert!(t.is_letter(c) && p.is_letter(c));
        }
        for c in ['1', '²', 'Ⅷ', '٣'] {
            assert!(t.is_number(c) && p.is_number(c));
        }
        for c in [' ', '\u{b}', '\u{85}', '\u{3000}'] {
            assert!(t.is_space(c) && p.is_space(c));
        }
        assert!(!t.is_space('\u{1c}') && !t.is_space('\u{200b}'));
        assert_ne!(t.hash(), p.hash());
        assert_eq!(t.fold('s').collect::<String>(), "sSſ");
        assert!(CategorySet::named("L").is_some_and(|set| set.has(4) && !set.has(5)));
        assert_eq!(CategorySet::named("Han"), None);
    }
}
