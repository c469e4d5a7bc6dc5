//! Character classes, per reference engine.
//!
//! Engines freeze different versions of Unicode: tiktoken's and Python's `regex` disagree on
//! thousands of code points, and Hugging Face's is a third one. A class table therefore belongs to the reference whose ids are to be
//! matched; it is generated from that engine itself (`tools/gen_unicode.py`) and enters the
//! tokenizer's fingerprint.

mod huggingface;
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
    tables: &'static Tables,
    hash: String,
}

/// What `tools/gen_unicode.py` asked an engine.
struct Tables {
    categories: &'static [(u32, u32, u8)],
    spaces: &'static [(u32, u32)],
    folds: &'static [(char, u32)],
    han: &'static [(u32, u32)],
    /// What the step `Digits` takes for a number; only Hugging Face has it.
    digits: &'static [(u32, u32)],
}

static TIKTOKEN: Tables = Tables {
    categories: tiktoken::CATEGORIES,
    spaces: tiktoken::SPACES,
    folds: tiktoken::FOLDS,
    han: tiktoken::HAN,
    digits: &[],
};

static PYTHON_REGEX: Tables = Tables {
    categories: python_regex::CATEGORIES,
    spaces: python_regex::SPACES,
    folds: python_regex::FOLDS,
    han: python_regex::HAN,
    digits: &[],
};

static HUGGING_FACE: Tables = Tables {
    categories: huggingface::CATEGORIES,
    spaces: huggingface::SPACES,
    folds: huggingface::FOLDS,
    han: huggingface::HAN,
    digits: huggingface::DIGITS,
};

impl Classes {
    fn new(tables: &'static Tables) -> Self {
        let mut flat = vec![UNASSIGNED; 0x11_0000];
        for &(first, last, category) in tables.categories {
            flat[first as usize..=last as usize].fill(category);
        }
        for &(first, last) in tables.spaces {
            for class in &mut flat[first as usize..=last as usize] {
                *class |= SPACE_FLAG;
            }
        }
        let mut digest = Sha256::new();
        digest.update(&flat);
        for (letter, other) in tables.folds {
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
        Self { index, blocks, tables, hash }
    }

    /// Category and whitespace in one number.
    #[inline]
    pub(super) fn class(&self, c: char) -> u8 {
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
        let others = self.tables.folds.iter().filter(move |fold| fold.0 == letter);
        [letter, letter.to_ascii_uppercase()]
            .into_iter()
            .chain(others.filter_map(|fold| char::from_u32(fold.1)))
    }

    /// `\p{Han}` as ranges.
    pub fn han(&self) -> impl Iterator<Item = (char, char)> + '_ {
        chars(self.tables.han)
    }

    /// What Hugging Face's step `Digits` takes for a number, as ranges; empty for other references.
    pub fn digits(&self) -> impl Iterator<Item = (char, char)> + '_ {
        chars(self.tables.digits)
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
#[must_use]
pub fn classes(reference: Reference) -> &'static Classes {
    static BUILT: [OnceLock<Classes>; 3] = [const { OnceLock::new() }; 3];
    let (built, tables) = match reference {
        Reference::Tiktoken => (&BUILT[0], &TIKTOKEN),
        Reference::PythonRegex => (&BUILT[1], &PYTHON_REGEX),
        Reference::HuggingFace => (&BUILT[2], &HUGGING_FACE),
    };
    built.get_or_init(|| Classes::new(tables))
}

/// Whether Hugging Face takes a character for part of a word, where an added token asks for a single one.
#[must_use]
pub fn is_word(c: char) -> bool {
    let at = huggingface::WORDS.partition_point(|&(_, last)| last < u32::from(c));
    huggingface::WORDS.get(at).is_some_and(|&(first, _)| first <= u32::from(c))
}

fn chars(ranges: &'static [(u32, u32)]) -> impl Iterator<Item = (char, char)> {
    ranges.iter().filter_map(|&(first, last)| Some((char::from_u32(first)?, char::from_u32(last)?)))
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
        let h = classes(Reference::HuggingFace);
        assert!(h.digits().any(|(first, last)| (first..=last).contains(&'²')) && t.digits().next().is_none());
        assert!(is_word('a') && is_word('_') && is_word('中') && !is_word(' ') && !is_word('-'));
        assert!(h.han().any(|(first, last)| (first..=last).contains(&'中')));
    }
}
