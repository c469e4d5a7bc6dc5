//! Splitting in steps, as `tokenizer.json` files do: each step splits the pieces of the one before.
//!
//! A step finds matches in a piece, leftmost first, and says what becomes of them and of the *gaps*
//! between them (unlike `findall`, a gap is a piece as well):
//!
//! ```text
//! "a-b--" with the pattern "-"      Isolated           a | - | b | - | -
//!                                   Removed            a | b
//!                                   MergedWithPrevious a- | b- | -
//!                                   MergedWithNext     a | -b | - | -
//!                                   Contiguous         a | - | b | --
//! ```
//!
//! `invert` exchanges matches and gaps. A piece is a text of its own for the next step: it ends where
//! the piece ends, which look-ahead notices.
//!
//! Text may come in parts. A piece is given out once nothing that follows can change it; a gap is
//! given out as far as it is known to be one, because searching on from inside a gap finds the match
//! that searching from its beginning finds.

use super::alternatives::Alternatives;
use super::alternatives::grammar::{CharClasses, IRREGULAR};
use super::scan::words::{Grammar, LETTER, LOOSE, LOWER, NUMBER, OTHER, OWN, SPACE};
use super::{Matcher, Pretokenizer as _};
use crate::error::Result;
use crate::pretokenize::gpt2::PATTERN;
use crate::pretokenize::pattern::{Mode, Node, Set};
use crate::pretokenize::unicode::classes;
use crate::vocab::Reference;

/// What becomes of the matches of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A pattern, or a text that is searched for as it is.
    Split { pattern: String, is_literal: bool, behavior: Behavior, invert: bool },
    /// Numbers, each character on its own or a run of them.
    Digits { individual: bool },
}

impl Step {
    /// GPT-2's pattern, which the step `ByteLevel` brings along.
    #[must_use]
    pub fn byte_level() -> Self {
        Self::Split {
            pattern: PATTERN.to_owned(),
            is_literal: false,
            behavior: Behavior::Isolated,
            invert: false,
        }
    }

    /// The pattern of a step that only isolates its matches.
    #[must_use]
    pub fn plain_pattern(&self) -> Option<&str> {
        match self {
            Self::Split { pattern, is_literal: false, behavior: Behavior::Isolated, invert: false } => {
                Some(pattern)
            }
            _ => None,
        }
    }

    fn ready(&self) -> Result<Ready> {
        let reference = Reference::HuggingFace;
        Ok(match self {
            Self::Split { pattern, is_literal, behavior, invert } => {
                let matcher = if *is_literal {
                    let set = |c| Node::Set(Set { ranges: vec![(c, c)], ..Set::default() });
                    Matcher::of(&Node::Sequence(pattern.chars().map(set).collect()), reference)
                } else {
                    Matcher::new(pattern, reference)?
                };
                Ready { matcher, behavior: *behavior, invert: *invert }
            }
            Self::Digits { individual } => {
                let ranges = classes(reference).digits().collect();
                let digit = Box::new(Node::Set(Set { ranges, ..Set::default() }));
                let max = individual.then_some(1);
                let run = Node::Repeat { node: digit, min: 1, max, mode: Mode::Greedy };
                Ready { matcher: Matcher::of(&run, reference), behavior: Behavior::Isolated, invert: false }
            }
        })
    }
}

struct Ready {
    matcher: Matcher,
    behavior: Behavior,
    invert: bool,
}

impl Ready {
    /// Whether each match and gap is a piece whatever its neighbours are.
    fn is_simple(&self) -> bool {
        matches!(self.behavior, Behavior::Isolated | Behavior::Removed)
    }

    fn drops(&self, is_match: bool) -> bool {
        self.behavior == Behavior::Removed && is_match != self.invert
    }

    /// Joins matches and gaps (`start`, `end`, whether it counts as a match) with their neighbours.
    fn join(&self, mut parts: Vec<(usize, usize, bool)>) -> Vec<(usize, usize)> {
        let backwards = self.behavior == Behavior::MergedWithNext;
        if backwards {
            parts.reverse();
        }
        let mut joined: Vec<(usize, usize)> = Vec::with_capacity(parts.len());
        let mut was_match = false;
        for (start, end, is_match) in parts {
            let joins = match self.behavior {
                Behavior::Contiguous => is_match == was_match,
                _ => is_match && !was_match,
            };
            match joined.last_mut().filter(|_| joins) {
                Some(last) if backwards => last.0 = start,
                Some(last) => last.1 = end,
                None => joined.push((start, end)),
            }
            was_match = is_match;
        }
        if backwards {
            joined.reverse();
        }
        joined
    }

    /// The fast matcher of a step that is plain.
    fn alternatives(&self) -> Option<&Alternatives> {
        match &self.matcher {
            Matcher::Alternatives(alternatives) if self.is_plain() => Some(alternatives),
            _ => None,
        }
    }

    /// Whether matches and what is between them become pieces as they are.
    fn is_plain(&self) -> bool {
        self.behavior == Behavior::Isolated && !self.invert
    }
}

/// A piece of text: it ends at byte `end`, and begins where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub end: usize,
    /// False for text that a step removes.
    pub kept: bool,
}

/// Steps, ready to be taken.
pub struct Chain {
    steps: Vec<Ready>,
}

impl Chain {
    /// Prepares steps.
    ///
    /// # Errors
    /// [`Error::BadPattern`](crate::Error::BadPattern) for a pattern that is not supported.
    pub fn new(steps: &[Step]) -> Result<Self> {
        Ok(Self { steps: steps.iter().map(Step::ready).collect::<Result<_>>()? })
    }

    /// Whether there are places that [`Chain::is_border`] knows.
    #[must_use]
    pub fn has_borders(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.matcher.has_borders() && step.is_plain())
    }

    /// Whether a piece starts at `at` whatever stands further left, and what stands left of it splits as
    /// if the text ended there. No step may join what is around it, and the last one not even as text
    /// between its matches.
    #[must_use]
    pub fn is_border(&self, text: &[u8], at: usize) -> bool {
        let last = self.steps.len() - 1;
        self.steps.iter().enumerate().all(|(n, step)| step.matcher.is_border(text, at, n == last))
    }

    /// The grammar for `scan::words` that finds the same pieces, and the classes of its characters: steps that
    /// isolate runs of numbers or of other characters, before a pattern of the family.
    pub(crate) fn grammar(&self) -> Option<(Grammar, CharClasses)> {
        let (last, before) = self.steps.split_last()?;
        let (mut grammar, mut classes) = last.alternatives()?.grammar(true)?;
        if before.is_empty() {
            return Some((grammar, classes));
        }
        // The piece before such a run ends there, and `$` would notice.
        if grammar.to_end {
            return None;
        }
        let mut taken = vec![0_u8; classes.len()];
        let mut used = 0;
        for step in before {
            let (has, max) = step.alternatives()?.only_run()?;
            let class = match max {
                1..=3 => NUMBER,
                u32::MAX => OWN,
                _ => return None,
            };
            if used & class != 0 {
                return None;
            }
            used |= class;
            // A piece of numbers is a match of the last step, or text between its matches; one character is
            // whatever it is.
            let number = classes[usize::from(b'0')];
            let is_whole = number == LOOSE || (number == NUMBER && grammar.number_max >= max);
            if class == NUMBER && max > 1 && !is_whole {
                return None;
            }
            let kinds: Vec<u8> =
                ('\0'..=char::MAX).filter(|&c| has(c)).map(|c| classes[c as usize]).collect();
            let letters = if grammar.cased == 0 { LOWER } else { LETTER };
            let has_letters = kinds.contains(&letters);
            for c in ('\0'..=char::MAX).filter(|&c| has(c)) {
                let at = c as usize;
                if taken[at] != 0 {
                    continue;
                }
                if (c.is_ascii() && !c.is_ascii_digit()) || classes[at] & SPACE != 0 {
                    return None;
                }
                // The last step splits the pieces of a run of their own as texts: letters from punctuation.
                taken[at] = match classes[at] {
                    kind if class == NUMBER && (max == 1 || kind == number) => NUMBER,
                    _ if class == NUMBER => IRREGULAR,
                    kind if kind == letters => OWN,
                    NUMBER if !has_letters && grammar.number_max == u32::MAX => OWN,
                    OTHER if grammar.other_prefix == 0 => OWN | LOOSE,
                    _ => IRREGULAR,
                };
            }
            if class == OWN {
                grammar.own_ends_text = u64::MAX;
            } else {
                grammar.number_ends_text = u64::MAX;
                (grammar.number_max, grammar.blank_number) = (max, 0);
                // Numbers of the pattern that the step does not have.
                classes.iter_mut().filter(|known| **known == NUMBER).for_each(|known| *known = IRREGULAR);
            }
        }
        for (class, &taken) in classes.iter_mut().zip(&taken) {
            if taken != 0 {
                *class = taken;
            }
        }
        Some((grammar, classes))
    }

    /// Appends the pieces of a text and returns how many bytes they are: all of it if `complete`.
    pub fn split(&self, text: &str, complete: bool, pieces: &mut Vec<Piece>) -> Result<usize> {
        self.step(0, text, 0, complete, pieces)
    }

    /// The pieces of `text`, which stands `base` bytes into the whole, from one step on.
    fn step(
        &self,
        level: usize,
        text: &str,
        base: usize,
        complete: bool,
        pieces: &mut Vec<Piece>,
    ) -> Result<usize> {
        let Some(step) = self.steps.get(level) else {
            if complete && !text.is_empty() {
                pieces.push(Piece { end: base + text.len(), kept: true });
            }
            return Ok(if complete { text.len() } else { 0 });
        };
        if !step.is_simple() {
            return self.joined(level, text, base, complete, pieces);
        }
        let mut take = |start: usize, end: usize, is_match: bool| {
            if start == end {
                return Ok(());
            }
            if step.drops(is_match) {
                pieces.push(Piece { end: base + end, kept: false });
                return Ok(());
            }
            self.step(level + 1, &text[start..end], base + start, true, pieces).map(|_| ())
        };
        let (mut at, mut gap) = (0, 0);
        while at < text.len() {
            let found = step.matcher.next(text, at)?;
            if found.hit_end && !complete {
                break;
            }
            if found.matched {
                take(gap, at, false)?;
                take(at, found.end, true)?;
                gap = found.end;
            }
            at = found.end;
        }
        if complete || step.drops(false) {
            // What is dropped may be dropped in parts.
            take(gap, at, false)?;
            return Ok(at);
        }
        // Up to here no attempt saw the end, and so this is known to be a gap.
        Ok(gap + self.step(level + 1, &text[gap..at], base + gap, false, pieces)?)
    }

    /// A step whose matches join their neighbours: nothing is certain before all of the text is known.
    fn joined(
        &self,
        level: usize,
        text: &str,
        base: usize,
        complete: bool,
        pieces: &mut Vec<Piece>,
    ) -> Result<usize> {
        if !complete {
            return Ok(0);
        }
        let step = &self.steps[level];
        let (mut parts, mut at, mut gap) = (Vec::new(), 0, 0);
        let mut push = |start: usize, end: usize, is_match: bool| {
            if start < end {
                parts.push((start, end, is_match != step.invert));
            }
        };
        while at < text.len() {
            let found = step.matcher.next(text, at)?;
            if found.matched {
                push(gap, at, false);
                push(at, found.end, true);
                gap = found.end;
            }
            at = found.end;
        }
        push(gap, at, false);
        for (start, end) in step.join(parts) {
            self.step(level + 1, &text[start..end], base + start, true, pieces)?;
        }
        Ok(text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pattern: &str, behavior: Behavior, invert: bool) -> Step {
        Step::Split { pattern: pattern.into(), is_literal: false, behavior, invert }
    }

    fn show<'t>(chain: &Chain, text: &'t str) -> Vec<&'t str> {
        let mut pieces = Vec::new();
        assert_eq!(chain.split(text, true, &mut pieces).expect("pieces"), text.len());
        let mut start = 0;
        let mut shown = Vec::new();
        for piece in pieces {
            if piece.kept {
                shown.push(&text[start..piece.end]);
            }
            start = piece.end;
        }
        shown
    }

    #[test]
    fn behaviours_do_what_the_reference_does() {
        for (behavior, invert, expected) in [
            (Behavior::Removed, false, "a b c"),
            (Behavior::Removed, true, "- - - - - -"),
            (Behavior::Isolated, false, "- - a - b - - c -"),
            (Behavior::MergedWithPrevious, false, "- - a- b- - c-"),
            (Behavior::MergedWithPrevious, true, "- -a -b - -c -"),
            (Behavior::MergedWithNext, false, "- -a -b - -c -"),
            (Behavior::MergedWithNext, true, "- - a- b- - c-"),
            (Behavior::Contiguous, false, "-- a - b -- c -"),
            (Behavior::Contiguous, true, "-- a - b -- c -"),
        ] {
            let chain = Chain::new(&[split("-", behavior, invert)]).expect("supported");
            assert_eq!(show(&chain, "--a-b--c-").join(" "), expected, "{behavior:?} {invert}");
        }
    }

    #[test]
    fn a_piece_is_a_text_of_its_own() {
        let chain = Chain::new(&[Step::Digits { individual: true }, Step::byte_level()]).expect("supported");
        assert_eq!(show(&chain, "a  12 b  c"), ["a", "  ", "1", "2", " b", " ", " c"]);
        let runs = Chain::new(&[Step::Digits { individual: false }]).expect("supported");
        assert_eq!(show(&runs, "a12²b"), ["a", "12²", "b"]);
        let literal = Step::Split {
            pattern: ".*".into(),
            is_literal: true,
            behavior: Behavior::Isolated,
            invert: false,
        };
        assert_eq!(show(&Chain::new(&[literal]).expect("supported"), "a.*b."), ["a", ".*", "b."]);
    }

    proptest! {
        #[test]
        fn parts_give_what_the_whole_gives(
            text in "[a-c1 .中\n]{0,40}",
            cut in 0_usize..60,
            which in 0_usize..5,
        ) {
            let chain = Chain::new(&match which {
                0 => vec![Step::Digits { individual: true }, Step::byte_level()],
                1 => vec![split(r"\p{N}{1,3}", Behavior::Isolated, false), split("[一-龥]+", Behavior::Isolated, false),
                          split(r" ?\p{L}+|\s+(?!\S)|\s", Behavior::Isolated, false)],
                2 => vec![split(r"\s", Behavior::Removed, false), split("ab|c", Behavior::Isolated, false)],
                3 => vec![split(r"\w|a".trim_start_matches(r"\w|"), Behavior::MergedWithNext, false)],
                _ => vec![split("b+", Behavior::Removed, true)],
            }).expect("supported");
            let mut whole = Vec::new();
            chain.split(&text, true, &mut whole).expect("pieces");
            let cut = text.floor_char_boundary(cut.min(text.len()));
            let mut parts = Vec::new();
            let used = chain.split(&text[..cut], false, &mut parts).expect("pieces");
            prop_assert!(used <= cut);
            let n = parts.len();
            chain.split(&text[used..], true, &mut parts).expect("pieces");
            for piece in &mut parts[n..] {
                piece.end += used;
            }
            // Removed text may come in parts; nobody sees where it was cut.
            let seen = |pieces: &[Piece]| {
                let mut start = 0;
                pieces.iter().filter_map(|piece| {
                    let at = std::mem::replace(&mut start, piece.end);
                    piece.kept.then_some((at, piece.end))
                }).collect::<Vec<_>>()
            };
            prop_assert_eq!(seen(&parts), seen(&whole));
        }
    }
}
