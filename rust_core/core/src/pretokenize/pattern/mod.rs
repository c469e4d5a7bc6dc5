//! Split patterns as trees.
//!
//! The supported subset is what tokenizers use: literals, classes, `\p{..}` of general categories,
//! `\s \S \d \D`, `.`, groups, alternation, quantifiers (greedy, lazy, possessive), atomic groups,
//! look-ahead, case-insensitive ASCII (`(?i:..)`, `(?i)`), `$` where it has one meaning only, and for
//! tiktoken and Hugging Face nested classes with `&&` and `\p{Han}`.
//! Everything else is refused here by its name, at load: a pattern is matched exactly or not at all.
//!
//! Engines read the same text differently. Hugging Face's is Oniguruma with Ruby's syntax, where
//! `{1,3}+` is a repetition of a repetition and not possessive, `$` and `^` are ends of lines, `\pL`
//! is three literals, `(?i)` inside an alternative takes the rest of the alternatives with it, and
//! `(?i:ss)` matches `ß`: the first is read as it is meant there, the others are refused. Properties and
//! negated classes under `(?i)` are refused for all: they are closed under folding, which makes U+0345,
//! a mark, a letter.

mod class;

use std::iter::Peekable;
use std::str::CharIndices;

use super::unicode::{CategorySet, Classes, classes};
use crate::error::{Error, Result};
use crate::vocab::Reference;

/// A pattern or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// One character of a set.
    Set(Set),
    Sequence(Vec<Node>),
    /// The first that matches, in this order.
    Choice(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
        mode: Mode,
    },
    /// Matched without ever giving anything back.
    Atomic(Box<Node>),
    /// Look-ahead.
    Look {
        node: Box<Node>,
        negative: bool,
    },
    /// The end of the text.
    End,
}

/// How a repetition gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Greedy,
    Lazy,
    Possessive,
}

/// A set of characters: the union of its parts, or everything else if `negated`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub negated: bool,
    pub ranges: Vec<(char, char)>,
    /// Categories that are in, and (from `\P{..}`) those outside of which everything is in.
    pub categories: Vec<(CategorySet, bool)>,
    pub space: bool,
    pub not_space: bool,
    /// Classes inside the class.
    pub nested: Vec<Set>,
    /// What stands behind `&&`: both must have a character.
    pub and: Option<Box<Set>>,
}

impl Set {
    fn of(c: char) -> Self {
        Self { ranges: vec![(c, c)], ..Self::default() }
    }

    /// Whether the set has `c`.
    #[must_use]
    pub fn has(&self, classes: &Classes, c: char) -> bool {
        let inside = self.ranges.iter().any(|&(first, last)| (first..=last).contains(&c))
            || self.categories.iter().any(|(set, inside)| set.has(classes.category(c)) == *inside)
            || (self.space && classes.is_space(c))
            || (self.not_space && !classes.is_space(c))
            || self.nested.iter().any(|set| set.has(classes, c));
        let inside = inside && self.and.as_ref().is_none_or(|set| set.has(classes, c));
        inside != self.negated
    }
}

impl Node {
    /// The number of steps of a program for it, about.
    fn size(&self) -> u64 {
        match self {
            Self::Set(_) | Self::End => 1,
            Self::Sequence(nodes) | Self::Choice(nodes) => nodes.iter().map(|node| node.size() + 2).sum(),
            Self::Repeat { node, .. } if matches!(**node, Self::Set(_)) => 1,
            Self::Repeat { node, min, max, .. } => u64::from(max.unwrap_or(min + 1)) * (node.size() + 1) + 2,
            Self::Atomic(node) | Self::Look { node, .. } => node.size() + 2,
        }
    }

    /// The least number of characters that the node can match.
    fn min_len(&self) -> u64 {
        match self {
            Self::Set(_) => 1,
            Self::Sequence(nodes) => nodes.iter().map(Self::min_len).sum(),
            Self::Choice(nodes) => nodes.iter().map(Self::min_len).min().unwrap_or(0),
            Self::Repeat { node, min, .. } => u64::from(*min) * node.min_len(),
            Self::Atomic(node) => node.min_len(),
            Self::Look { .. } | Self::End => 0,
        }
    }
}

/// Reads a pattern.
///
/// # Errors
/// [`Error::BadPattern`] names what is not supported, and where.
pub fn parse(pattern: &str, reference: Reference) -> Result<Node> {
    let classes = classes(reference);
    let mut parser = Parser { pattern, chars: pattern.char_indices().peekable(), classes, reference };
    let mut fold = false;
    let node = parser.choice(&mut fold)?;
    if parser.peek().is_some() {
        return parser.refuse("a `)` without its `(`");
    }
    if node.min_len() == 0 {
        return parser.refuse("the pattern can match nothing at all");
    }
    if node.size() > 1 << 16 {
        return parser.refuse("it is too large");
    }
    Ok(node)
}

struct Parser<'a> {
    pattern: &'a str,
    chars: Peekable<CharIndices<'a>>,
    classes: &'static Classes,
    reference: Reference,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|&(_, c)| c)
    }

    fn eat(&mut self, expected: char) -> bool {
        self.chars.next_if(|&(_, c)| c == expected).is_some()
    }

    fn rest(&mut self) -> &str {
        let at = self.chars.peek().map_or(self.pattern.len(), |&(at, _)| at);
        &self.pattern[at..]
    }

    fn skip(&mut self, n_chars: usize) {
        for _ in 0..n_chars {
            self.chars.next();
        }
    }

    fn refuse<T>(&mut self, what: &str) -> Result<T> {
        let at = self.chars.peek().map_or(self.pattern.len(), |&(at, _)| at);
        let at = self.pattern[..at].chars().count();
        let (tokenizer, pattern) = (String::new(), self.pattern.to_owned());
        Err(Error::BadPattern { tokenizer, pattern, at, what: what.to_owned() })
    }

    /// Alternatives up to a `)` or the end. `fold` is the state of `(?i)` in this group.
    fn choice(&mut self, fold: &mut bool) -> Result<Node> {
        let mut branches = vec![self.sequence(fold, true)?];
        while self.eat('|') {
            branches.push(self.sequence(fold, false)?);
        }
        Ok(if branches.len() == 1 { branches.remove(0) } else { Node::Choice(branches) })
    }

    fn sequence(&mut self, fold: &mut bool, is_first: bool) -> Result<Node> {
        let mut nodes = Vec::new();
        while let Some(c) = self.peek() {
            if c == '|' || c == ')' {
                break;
            }
            if self.rest().starts_with("(?i)") {
                if self.reference == Reference::HuggingFace && !(is_first && nodes.is_empty()) {
                    return self.refuse("`(?i)` behind the beginning of its group (write `(?i:..)`)");
                }
                self.skip(4);
                *fold = true;
                continue;
            }
            let node = self.atom(*fold)?;
            if *fold && self.reference == Reference::HuggingFace {
                self.check_folds(nodes.last(), &node)?;
            }
            nodes.push(self.quantified(node)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Sequence(nodes) })
    }

    /// Refuses neighbours that Oniguruma matches with one character under `(?i)`: `ss` with `ß`.
    fn check_folds(&mut self, left: Option<&Node>, right: &Node) -> Result<()> {
        let (Some(Node::Set(left)), Node::Set(right)) = (left, right) else { return Ok(()) };
        let pairs = [('s', 's'), ('s', 't'), ('f', 'f'), ('f', 'i'), ('f', 'l')];
        if pairs.iter().any(|&(l, r)| left.has(self.classes, l) && right.has(self.classes, r)) {
            return self.refuse("letters under `(?i)` that fold together (ss, st, ff, fi, fl)");
        }
        Ok(())
    }

    fn atom(&mut self, fold: bool) -> Result<Node> {
        match self.peek() {
            Some('(') => self.group(fold),
            Some('[') => self.class(fold).map(Node::Set),
            Some('.') => {
                self.skip(1);
                Ok(Node::Set(Set { negated: true, ..Set::of('\n') }))
            }
            Some('$') => {
                match self.reference {
                    Reference::PythonRegex => {
                        return self.refuse("`$` (in Python it also matches before a final newline)");
                    }
                    Reference::HuggingFace => return self.refuse("`$` (it is the end of a line there)"),
                    Reference::Tiktoken => {}
                }
                self.skip(1);
                Ok(Node::End)
            }
            Some('^') => self.refuse("the anchor `^`"),
            Some('*' | '+' | '?') => self.refuse("a quantifier with nothing before it"),
            Some('{') => self.refuse("a bare `{`"),
            Some('\\') => {
                let mut set = Set::default();
                self.escape(&mut set, fold)?;
                Ok(Node::Set(set))
            }
            Some(c) => {
                self.skip(1);
                let mut set = Set::default();
                self.add_range(&mut set, c, c, fold)?;
                Ok(Node::Set(set))
            }
            None => self.refuse("an unfinished pattern"),
        }
    }

    fn group(&mut self, outer: bool) -> Result<Node> {
        let mut fold = outer;
        let rest = self.rest().to_owned();
        let (n_chars, kind) = match rest.as_bytes() {
            [b'(', b'?', b':', ..] => (3, "group"),
            [b'(', b'?', b'>', ..] => (3, "atomic"),
            [b'(', b'?', b'=', ..] => (3, "ahead"),
            [b'(', b'?', b'!', ..] => (3, "not ahead"),
            [b'(', b'?', b'i', b':', ..] => {
                fold = true;
                (4, "group")
            }
            [b'(', b'?', b'<', b'=' | b'!', ..] => return self.refuse("look-behind"),
            [b'(', b'?', b'P' | b'<', ..] => return self.refuse("named groups"),
            [b'(', b'?', ..] => return self.refuse("this kind of group or flag"),
            [b'(', b'*', ..] => return self.refuse("backtracking verbs"),
            _ => (1, "group"),
        };
        self.skip(n_chars);
        let node = Box::new(self.choice(&mut fold)?);
        if !self.eat(')') {
            return self.refuse("a `(` without its `)`");
        }
        Ok(match kind {
            "atomic" => Node::Atomic(node),
            "ahead" => Node::Look { node, negative: false },
            "not ahead" => Node::Look { node, negative: true },
            _ => *node,
        })
    }

    fn quantified(&mut self, node: Node) -> Result<Node> {
        let (min, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counted(node),
            _ => return Ok(node),
        };
        self.skip(1);
        self.repeat(node, min, max)
    }

    fn counted(&mut self, node: Node) -> Result<Node> {
        let rest = self.rest().to_owned();
        let Some((inside, _)) = rest[1..].split_once('}') else { return self.refuse("a bare `{`") };
        let (min, max) = inside.split_once(',').map_or((inside, Some(inside)), |(min, max)| {
            (min, if max.is_empty() { None } else { Some(max) })
        });
        let number = |text: &str| text.parse::<u32>().ok().filter(|&n| n <= 1000);
        let (Some(min), Some(max)) = (number(min), max.map_or(Some(None), |max| number(max).map(Some)))
        else {
            return self.refuse("a repetition count outside 0..1000");
        };
        if max.is_some_and(|max| max < min) {
            return self.refuse("a repetition count whose bounds are the wrong way round");
        }
        self.skip(inside.chars().count() + 2);
        if self.reference == Reference::HuggingFace {
            if inside.find(',').is_none() && self.peek() == Some('?') {
                return self.refuse("`{n}?` (it means `(?:..{n})?` there)");
            }
            if self.eat('+') {
                let once = Box::new(Node::Repeat { node: Box::new(node), min, max, mode: Mode::Greedy });
                if once.min_len() == 0 {
                    return self.refuse("a repetition of something that can match nothing");
                }
                return self.no_more(Node::Repeat { node: once, min: 1, max: None, mode: Mode::Greedy });
            }
        }
        self.repeat(node, min, max)
    }

    fn no_more(&mut self, node: Node) -> Result<Node> {
        if matches!(self.peek(), Some('*' | '+' | '?' | '{')) {
            return self.refuse("a quantifier of a quantifier");
        }
        Ok(node)
    }

    fn repeat(&mut self, node: Node, min: u32, max: Option<u32>) -> Result<Node> {
        let mode = if self.eat('+') {
            Mode::Possessive
        } else if self.eat('?') {
            Mode::Lazy
        } else {
            Mode::Greedy
        };
        if node.min_len() == 0 {
            return self.refuse("a repetition of something that can match nothing");
        }
        self.no_more(Node::Repeat { node: Box::new(node), min, max, mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (pattern, what) in [
            (r"(?<=a)b", "look-behind"),
            (r"(?P<x>a)", "named groups"),
            (r"(a)\1", "back-references"),
            (r"\bword", "word borders"),
            (r"\p{Greek}+", "the property `Greek`"),
            (r"[a&&b]", "nested classes"),
            (r"a*", "can match nothing"),
            (r"(?:a*)+", "a repetition of something"),
            (r"(?:a", "without its `)`"),
            (r"a)", "without its `(`"),
            (r"(?i:é)", "beyond ASCII"),
            (r"(?i:\p{Lu})", "depends on case"),
            (r"^a", "the anchor"),
            (r"(?i:\p{L})", "depends on case"),
            (r"(?i:[^a])", "a negated class under"),
            (r"a{2,1}", "wrong way round"),
            (r"a$", "final newline"),
        ] {
            let error = parse(pattern, Reference::PythonRegex).expect_err(pattern).to_string();
            assert!(error.contains(what), "{pattern}: {error}");
        }
        for (pattern, what) in [
            (r"a$", "end of a line"),
            (r"\pL", "without braces"),
            (r"a(?i)b", "behind the beginning"),
            (r"(?i:ss)", "fold together"),
            (r"a{2}?", "`{n}?`"),
            (r"[[:alpha:]]", "POSIX"),
            (r"[a||b]", "set operations"),
            (r"\v", "the escape"),
        ] {
            let error = parse(pattern, Reference::HuggingFace).expect_err(pattern).to_string();
            assert!(error.contains(what), "{pattern}: {error}");
        }
    }

    #[test]
    fn classes_nest_and_meet() {
        let parsed = parse(r"[\p{Lo}\p{M}&&[^\p{Han}]]", Reference::HuggingFace).expect("supported");
        let Node::Set(set) = parsed else { panic!("{parsed:?}") };
        let classes = classes(Reference::HuggingFace);
        for (c, inside) in [('中', false), ('あ', true), ('\u{301}', true), ('a', false)] {
            assert_eq!(set.has(classes, c), inside, "{c}");
        }
    }
}
