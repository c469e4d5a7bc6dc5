//! Fragments as a grammar for the scanner (`scan::words`), if they are of that family.
//!
//! ```text
//! K+                      runs of their own               optional
//! 's|'t|..                contractions                    optional, or behind words
//! Q[A-Za-z]+              ASCII punctuation before them   optional
//! P?L+    or  P?U*L+C? | P?U+L*C?
//! N{1,k}                                                  optional
//!  ?O+T*                  T: line breaks, perhaps the slash
//! S+$                                                     optional
//! S*R+                                                    optional
//! S+(?!\S) | S+
//! ```
//!
//! The order is this. Which characters are in which set is looked up, character by character, and whatever
//! the algebra takes for granted is checked: that sets are disjoint, that `P` is all punctuation and
//! whitespace but line breaks, or the space alone, and so on. A pattern that passes is of the family, however
//! it is written; one that does not is matched as before.

use super::Alternatives;
use super::fragment::{Fragment, Literals, Prefix};
use crate::pretokenize::scan::words::contractions::Contractions;
use crate::pretokenize::scan::words::grammar::{Contraction, Grammar};
use crate::pretokenize::scan::words::{LETTER, LOOSE, LOWER, NEWLINE, NUMBER, OTHER, OWN, SPACE, UPPER};

const MAX: u32 = u32::MAX;
const YES: u64 = u64::MAX;

/// A class byte of the scanner for each code point.
pub(crate) type CharClasses = Box<[u8]>;

/// Class of a character that only the pattern's own matcher knows how to read: no batch with one is scanned.
pub(crate) const IRREGULAR: u8 = OWN | NUMBER;

/// The sets of the parts; 0 is none.
#[derive(Default)]
struct Sets {
    own: u32,
    lower: u32,
    upper: u32,
    prefix: u32,
    is_possessive: bool,
    quoted: u32,
    quoted_letters: u32,
    number: u32,
    number_prefix: u32,
    other: u32,
    other_prefix: u32,
    tail: u32,
    space: u32,
    newline: u32,
    unless: u32,
}

impl Sets {
    /// Reads what stands behind the words; how long numbers are, and whether there is `S+$`.
    fn read_rest(&mut self, rest: &[Fragment]) -> Option<(u32, bool)> {
        let (mut next, mut rest) = rest.split_first()?;
        let mut number_max = MAX;
        if let Fragment::Run { prefix, body, min: 1, max, tail: 0, suffix: None } = next
            && matches!(*max, 1..=3 | MAX)
        {
            // Of punctuation without a tail it is told apart by what follows.
            if !matches!(rest_is_spaces(rest), Some(true)) {
                (self.number, number_max) = (*body, *max);
                self.number_prefix = if matches!(prefix, Prefix::None) { 0 } else { optional(*prefix)? };
                let (first, others) = rest.split_first()?;
                (next, rest) = (first, others);
            }
        }
        let Fragment::Run { prefix, body, min: 1, max: MAX, tail, suffix: None } = next else { return None };
        (self.other_prefix, self.other, self.tail) = (optional(*prefix)?, *body, *tail);
        let to_end = matches!(rest.first(), Some(Fragment::ToEnd { .. }));
        if let Some((Fragment::ToEnd { space }, others)) = rest.split_first() {
            (self.space, rest) = (*space, others);
        }
        if let Some((
            Fragment::Cased { prefix: Prefix::None, upper, lower, lower_max: 1 | MAX, suffix: None },
            others,
        )) = rest.split_first()
        {
            if self.space != 0 && self.space != *upper {
                return None;
            }
            (self.space, self.newline, rest) = (*upper, *lower, others);
        }
        let [
            Fragment::Ahead { space, unless },
            Fragment::Run { prefix: Prefix::None, body, min: 1, max: 1 | MAX, tail: 0, suffix: None },
        ] = rest
        else {
            return None;
        };
        if space != body || (self.space != 0 && self.space != *space) {
            return None;
        }
        (self.space, self.unless) = (*space, *unless);
        Some((number_max, to_end))
    }
}

impl Alternatives {
    /// The grammar and the classes of its characters. `gaps`: characters that no alternative begins with
    /// are pretokens all the same, as between the matches of a step.
    pub(crate) fn grammar(&self, gaps: bool) -> Option<(Grammar, CharClasses)> {
        let (mut sets, contraction, rest) = self.words()?;
        let (number_max, to_end) = sets.read_rest(rest)?;
        let in_slash = self.table.of('/') & sets.tail != 0;
        let any_prefix = self.table.of('\t') & sets.prefix != 0;
        let yes = |is: bool| if is { YES } else { 0 };
        let grammar = Grammar {
            any_blank: yes(any_prefix),
            other_prefix: yes(any_prefix && sets.quoted == 0),
            ascii_prefix: yes(sets.quoted != 0),
            cased: yes(sets.upper != 0),
            number_max,
            blank_number: yes(sets.number_prefix != 0),
            tail: yes(sets.tail != 0),
            slash_tail: yes(in_slash),
            number_ends_text: 0,
            own_ends_text: 0,
            to_end,
            contraction,
        };
        // Without line breaks the class has no bit for them, and there can be no tails.
        if (sets.newline == 0 && sets.tail != 0) || (sets.quoted != 0 && !any_prefix) {
            return None;
        }
        let mut classes = vec![0; 0x11_0000].into_boxed_slice();
        for c in '\0'..=char::MAX {
            classes[c as usize] = self.class(c, &sets, &grammar, gaps)?;
        }
        Self::contractions_are_plain(&grammar, &classes).then_some((grammar, classes))
    }

    /// The sets up to the words, the contractions, and the fragments behind.
    fn words(&self) -> Option<(Sets, Contraction, &[Fragment])> {
        let mut sets = Sets::default();
        let mut rest = &self.fragments[..];
        let mut take = || {
            let (first, others) = rest.split_first()?;
            rest = others;
            Some(first)
        };
        let mut next = take()?;
        if let Fragment::Run { prefix: Prefix::None, body, min: 1, max: MAX, tail: 0, suffix: None } = next {
            sets.own = *body;
            next = take()?;
        }
        let mut contraction = Contraction::None;
        if let Fragment::Literal { texts, .. } = next {
            contraction = Contraction::Own(Contractions::new(texts.texts()));
            next = take()?;
        }
        if let Fragment::Run {
            prefix: Prefix::Required(quoted),
            body,
            min: 1,
            max: MAX,
            tail: 0,
            suffix: None,
        } = next
        {
            (sets.quoted, sets.quoted_letters) = (*quoted, *body);
            next = take()?;
        }
        match next {
            Fragment::Run { prefix, body, min: 1, max: MAX, tail: 0, suffix: None } => {
                (sets.prefix, sets.lower) = (optional(*prefix)?, *body);
                sets.is_possessive = matches!(prefix, Prefix::Possessive(_));
            }
            Fragment::Cased { prefix, upper, lower, lower_max: MAX, suffix } => {
                (sets.prefix, sets.upper, sets.lower) = (optional(*prefix)?, *upper, *lower);
                sets.is_possessive = matches!(prefix, Prefix::Possessive(_));
                let Fragment::Run { prefix: prefix_2, body, min: 1, max: MAX, tail, suffix: suffix_2 } =
                    take()?
                else {
                    return None;
                };
                let texts = suffix.as_ref().map(Literals::texts);
                if optional(*prefix_2)? != sets.prefix
                    || (*body, *tail) != (sets.upper, sets.lower)
                    || texts != suffix_2.as_ref().map(Literals::texts)
                {
                    return None;
                }
                if let Some(texts) = texts {
                    if !matches!(contraction, Contraction::None) {
                        return None;
                    }
                    contraction = Contraction::Suffix(Contractions::new(texts));
                }
            }
            _ => return None,
        }
        Some((sets, contraction, rest))
    }

    /// The class of a character, `None` if the algebra does not hold for it.
    fn class(&self, c: char, sets: &Sets, grammar: &Grammar, gaps: bool) -> Option<u8> {
        let value = self.table.of(c);
        let is = |set: u32| value & set != 0;
        let bit = |is: bool, class: u8| if is { class } else { 0 };
        let class = bit(is(sets.lower), LOWER)
            | bit(is(sets.upper), UPPER)
            | bit(is(sets.other), OTHER)
            | bit(is(sets.space), SPACE)
            | bit(is(sets.newline), NEWLINE)
            | bit(is(sets.number), NUMBER)
            | bit(is(sets.own), OWN);
        let (class, is_loose) = if class == 0 { (LOOSE, true) } else { (class, false) };
        let is_mark = class == LETTER | OTHER && grammar.cased != 0;
        let is_letter = class & LETTER != 0 && class & !LETTER == 0;
        let is_irregular = class & OWN != 0 && matches!(class & !OWN, OTHER | NUMBER);
        let known = is_mark
            || is_letter
            || is_irregular
            || matches!(class, OTHER | SPACE | NUMBER | OWN)
            || (class == SPACE | NEWLINE && c.is_ascii())
            || (is_loose && gaps && is(sets.prefix));
        let blank = class == SPACE;
        // A letter that may precede letters changes nothing where it is given back and case does not matter.
        let is_given_back = is_mark || (is_letter && grammar.cased == 0);
        let prefix_is_free = is_irregular || (is_given_back && !sets.is_possessive);
        let prefix = if grammar.any_blank == 0 {
            c == ' '
        } else if grammar.ascii_prefix == 0 {
            blank || class == OTHER
        } else {
            blank || is_loose
        };
        let quoted = c.is_ascii() && class == OTHER;
        let agrees = (prefix_is_free || is(sets.prefix) == prefix)
            && is(sets.unless) == (class & SPACE == 0)
            && is(sets.other_prefix) == (c == ' ')
            && (sets.number_prefix == 0 || is(sets.number_prefix) == (c == ' '))
            && (sets.quoted == 0
                || (is(sets.quoted) == quoted && is(sets.quoted_letters) == (is_letter && c.is_ascii())))
            && (sets.tail == 0
                || is(sets.tail)
                    == (class & NEWLINE != 0 || (grammar.slash_tail != 0 && c == '/' && quoted)));
        let is_plain_ascii = match c {
            ' ' => blank,
            '\'' => class == OTHER,
            _ => true,
        };
        (known && agrees && is_plain_ascii).then_some(class)
    }

    fn contractions_are_plain(grammar: &Grammar, classes: &[u8]) -> bool {
        let (Contraction::Own(texts) | Contraction::Suffix(texts)) = &grammar.contraction else {
            return true;
        };
        texts.iter().all(|text| {
            let Ok(text) = std::str::from_utf8(text) else { return false };
            let is_letter = |c: char| matches!(classes[c as usize], 1..=LETTER);
            text.strip_prefix('\'')
                .is_some_and(|rest| (1..=8).contains(&rest.len()) && rest.chars().all(is_letter))
        })
    }

    /// The set and the longest run, if the pattern is nothing but runs of a set.
    pub(crate) fn only_run(&self) -> Option<(impl Fn(char) -> bool + '_, u32)> {
        let [Fragment::Run { prefix: Prefix::None, body, min: 1, max, tail: 0, suffix: None }] =
            self.fragments[..]
        else {
            return None;
        };
        Some((move |c| self.table.of(c) & body != 0, max))
    }
}

fn optional(prefix: Prefix) -> Option<u32> {
    match prefix {
        Prefix::Optional(set) | Prefix::Possessive(set) => Some(set),
        Prefix::None | Prefix::Required(_) => None,
    }
}

/// Whether what is left begins with the whitespace at the end of a pattern.
fn rest_is_spaces(rest: &[Fragment]) -> Option<bool> {
    rest.first().map(|fragment| {
        matches!(fragment, Fragment::ToEnd { .. } | Fragment::Ahead { .. })
            || matches!(fragment, Fragment::Cased { prefix: Prefix::None, .. })
    })
}
