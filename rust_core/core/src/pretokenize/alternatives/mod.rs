//! The fast matcher for the patterns that tokenizers use: lists of simple alternatives.
//!
//! Patterns of cl100k, o200k, Llama, Qwen and their like are alternatives of a few kinds, the
//! *fragments* (see [`fragment`]): an optional character before a run, a run with a tail, upper case
//! before lower case, contractions, whitespace that gives its last character away. Each kind can be
//! matched in one pass without going back, and exactly: what backtracking would find is known
//! beforehand. A pattern is taken apart into its fragments by its tree, not by its text; a single
//! alternative that is of no known kind sends the whole pattern to the `machine`, the naive twin that
//! this one is tested against.
//!
//! The first fragment that matches wins. Which ones can begin with a character at all stands in the
//! table beside the sets that it is in, so that most places ask one fragment only.
//!
//! **Borders.** Between two characters that stand side by side in no match of any fragment, a
//! pretoken ends whatever surrounds them; and unless the left one belongs to whitespace that looks
//! ahead, what stands left of the border splits as if the text ended there. So text can be cut there.

mod fragment;
pub(crate) mod grammar;
mod table;

use super::gpt2::{first_char, last_char};
use super::pattern::{Node, Set};
use super::unicode::classes;
use super::{Pretokenizer, Split};
use crate::error::Result;
use crate::vocab::Reference;
use fragment::{Fragment, Reader};
use table::SetTable;

/// Fragments and sets of a pattern, at most: half of a table's value each.
const MAX: usize = 16;

/// A compiled pattern.
pub struct Alternatives {
    table: SetTable,
    fragments: Vec<Fragment>,
    covers_all: bool,
}

impl Alternatives {
    /// Takes a pattern apart; `None` if it has an alternative that is no known fragment.
    #[must_use]
    pub fn of(node: &Node, reference: Reference) -> Option<Self> {
        let classes = classes(reference);
        let mut sets = Sets(Vec::new());
        let mut reader = Reader { sets: &mut sets, fragments: Vec::new() };
        reader.read(node)?;
        let fragments = reader.fragments;
        if sets.0.len() > MAX || fragments.len() > MAX {
            return None;
        }
        let beginnings = |bits: u32| {
            let begin = fragments.iter().enumerate().filter(|(_, fragment)| fragment.first() & bits != 0);
            begin.fold(0, |mask, (at, _)| mask | 1 << at)
        };
        let table = SetTable::new(&sets.0, classes, beginnings);
        if !fragments.iter().all(|fragment| fragment.is_sound(&table)) {
            return None;
        }
        let covers_all = table.values().all(|value| fragments.iter().any(|fragment| fragment.covers(value)));
        Some(Self { table, fragments, covers_all })
    }

    /// Whether every character is in some match, so that there is no text between matches.
    #[must_use]
    pub fn covers_all(&self) -> bool {
        self.covers_all
    }

    /// Whether no match contains both characters around `at`, nor depends on what stands behind it if it
    /// ends there. With `gaps`, text between matches counts as one, too. `text` need not be valid UTF-8
    /// as a whole; both neighbours must be.
    #[must_use]
    pub fn is_border(&self, text: &[u8], at: usize, gaps: bool) -> bool {
        let (Some(before), Some(after)) = (last_char(&text[..at]), first_char(&text[at..])) else {
            return false;
        };
        let (left, right) = (self.table.at(before, 0).0, self.table.at(after, 0).0);
        let covered = |value| self.fragments.iter().any(|fragment| fragment.covers(value));
        (!gaps || covered(left) || covered(right))
            && !self.fragments.iter().any(|fragment| fragment.joins(left, right, before, after))
    }
}

impl Alternatives {
    /// The match or the unmatched character at `start`, as [`Pretokenizer::next`], which cannot fail here.
    #[inline]
    #[must_use]
    pub fn find(&self, text: &[u8], start: usize) -> Split {
        let (value, len) = self.table.at(text, start);
        let mut looked = false;
        let mut left = value >> 16;
        while left != 0 {
            let fragment = &self.fragments[left.trailing_zeros() as usize];
            if let Some(end) = fragment.end(&self.table, text, start, &mut looked) {
                return Split { end, matched: true, hit_end: looked };
            }
            left &= left - 1;
        }
        Split { end: start + len, matched: false, hit_end: looked }
    }
}

impl Pretokenizer for Alternatives {
    fn next(&self, text: &str, start: usize) -> Result<Split> {
        Ok(self.find(text.as_bytes(), start))
    }
}

/// The sets of a pattern, each once.
struct Sets(Vec<Set>);

impl Sets {
    /// The bit of a set; 0 when there are too many.
    fn bit(&mut self, set: &Set) -> u32 {
        let at = self.0.iter().position(|known| known == set).unwrap_or_else(|| {
            self.0.push(set.clone());
            self.0.len() - 1
        });
        if at < MAX { 1 << at } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretokenize::machine::Machine;
    use crate::pretokenize::pattern::parse;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    const CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const DEEPSEEK: &str = r"[!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const NANOCHAT: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
    const GPT2: &str = super::super::gpt2::PATTERN;
    const PATTERNS: [(&str, Reference); 10] = [
        (CL100K, Reference::Tiktoken),
        (LLAMA3, Reference::HuggingFace),
        (QWEN3_5, Reference::PythonRegex),
        (O200K, Reference::Tiktoken),
        (KIMI, Reference::HuggingFace),
        (DEEPSEEK, Reference::HuggingFace),
        (NANOCHAT, Reference::HuggingFace),
        (GPT2, Reference::PythonRegex),
        (r"\p{N}{1,3}+|\p{L}{2,3}| ?[a-z]{2}|x*y", Reference::HuggingFace),
        (r"\p{Lu}*\p{Ll}|\p{Lu}{2,}\p{M}*|[.!]\s{1,2}", Reference::Tiktoken),
    ];

    fn both(at: usize) -> &'static (Alternatives, Machine) {
        static ALL: OnceLock<Vec<(Alternatives, Machine)>> = OnceLock::new();
        let build = |&(pattern, reference): &(&str, Reference)| {
            let node = parse(pattern, reference).expect(pattern);
            (Alternatives::of(&node, reference).expect(pattern), Machine::of(&node, reference))
        };
        &ALL.get_or_init(|| PATTERNS.iter().map(build).collect())[at]
    }

    fn texts() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            8 => prop::sample::select(vec![
                "'", "s", "S", "ſ", "ll", "LL", "Re", "ve", "'d", " ", "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{3000}",
                "a", "B", "é", "Ǆ", "ǅ", "ʰ", "ª", "中", "龥", "カ", "・", "゠", "한", "न", "ि", "\u{301}", "\u{20dd}",
                "1", "٣", "²", "Ⅷ", "!", "/", "//", "...", "😀", "\0", "\u{378}", "\u{e000}", "x", "y", "K", "\u{85}",
            ])
            .prop_map(str::to_owned),
            1 => any::<char>().prop_map(|c| c.to_string()),
        ];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn agrees_with_the_machine(text in texts(), which in 0..PATTERNS.len()) {
            let (fast, slow) = both(which);
            let mut at = 0;
            while at < text.len() {
                let (a, b) = (fast.next(&text, at).expect("fast"), slow.next(&text, at).expect("slow"));
                prop_assert_eq!((a.end, a.matched), (b.end, b.matched), "{} at {}", PATTERNS[which].0, at);
                if !a.hit_end {
                    // It claims that no further text can change this.
                    for more in ["s", "S", "a", "É", "中", " ", "\n", "1", "!", "/", "'", "\u{301}", "y", "l"] {
                        let longer = slow.next(&(text.clone() + more), at).expect("slow");
                        prop_assert_eq!((a.end, a.matched), (longer.end, longer.matched));
                    }
                }
                at = a.end;
            }
        }

        #[test]
        fn text_can_be_cut_at_borders(text in texts(), which in 0..PATTERNS.len()) {
            let (fast, slow) = both(which);
            let split = |text: &str, base: usize| {
                let (mut ends, mut at) = (Vec::new(), 0);
                while at < text.len() {
                    let found = slow.next(text, at).expect("slow");
                    at = found.end;
                    ends.push((base + at, found.matched));
                }
                ends
            };
            let whole = split(&text, 0);
            for at in (1..text.len()).filter(|&at| text.is_char_boundary(at)) {
                if fast.is_border(text.as_bytes(), at, false) {
                    let parts = [split(&text[..at], 0), split(&text[at..], at)].concat();
                    prop_assert_eq!(&parts, &whole, "{} cut at {}", PATTERNS[which].0, at);
                }
            }
        }
    }

    #[test]
    fn there_are_borders_where_text_has_them() {
        for which in 0..7 {
            let (fast, _) = both(which);
            let is = |text: &str, at: usize| fast.is_border(text.as_bytes(), at, true);
            assert!(is("a b", 1) && is("1 b", 1) && is("中。", 3) && is("a\n", 1), "{which}");
            assert!(!is("a b", 2) && !is("ab", 1) && !is("!\n", 1) && !is("\n a", 1), "{which}");
        }
    }

    #[test]
    fn what_is_covered() {
        for (at, covers) in [(0, true), (3, true), (4, true), (5, false), (7, true), (8, false), (9, false)] {
            assert_eq!(both(at).0.covers_all(), covers, "{}", PATTERNS[at].0);
        }
    }
}
