//! A matcher for any pattern of the supported subset.
//!
//! Patterns become a short program for a backtracking machine with the rules of the reference
//! engines: alternatives in order, quantifiers as written, the first way that works wins. Three
//! things differ from a general regex engine and are why this one exists:
//!
//! * classes come from the reference's own tables (see `unicode`);
//! * it reports whether the end of the text was looked at (`hit_end`), which makes streaming exact;
//! * the stack is on the heap and a repetition of one class is one entry however long it is, so that
//!   a megabyte of spaces neither overflows nor takes a megabyte of entries. Steps are bounded.

use super::pattern::{Mode, Node, Set, parse};
use super::unicode::{Classes, classes};
use super::{Pretokenizer, Split};
use crate::error::{Error, Result};
use crate::vocab::Reference;

/// Steps allowed per attempt: this, and so many per byte that is left.
const STEPS: usize = 1 << 20;
const STEPS_PER_BYTE: usize = 64;

#[derive(Debug)]
enum Op {
    /// One character of a set.
    Set(usize),
    /// A run of one set's characters.
    Run {
        set: usize,
        min: usize,
        max: usize,
        mode: Mode,
    },
    /// Go on at the first, and if that fails at the second.
    Split(usize, usize),
    Jump(usize),
    /// The sub-program that follows, up to its `Accept`, matched once and for all; then `next`.
    Atomic {
        next: usize,
    },
    /// The sub-program that follows must match, or must not; then `next`, where it began.
    Look {
        negative: bool,
        next: usize,
    },
    End,
    Accept,
}

/// A set with its ASCII part worked out.
struct FastSet {
    ascii: u128,
    set: Set,
}

/// A compiled pattern.
pub struct Machine {
    ops: Vec<Op>,
    sets: Vec<FastSet>,
    classes: &'static Classes,
}

/// Where to go on when a way fails.
enum Retry {
    At {
        op: usize,
        at: usize,
    },
    /// A greedy run that can still give characters back, down to `least`.
    Shrink {
        op: usize,
        least: usize,
        at: usize,
    },
    /// A lazy run that can still take up to `more` characters.
    Grow {
        op: usize,
        set: usize,
        more: usize,
        at: usize,
    },
}

impl Machine {
    /// Compiles a pattern for a reference's classes.
    ///
    /// # Errors
    /// [`Error::BadPattern`] names what is not supported.
    pub fn new(pattern: &str, reference: Reference) -> Result<Self> {
        Ok(Self::of(&parse(pattern, reference)?, reference))
    }

    /// Compiles a tree.
    #[must_use]
    pub fn of(node: &Node, reference: Reference) -> Self {
        let mut machine = Self { ops: Vec::new(), sets: Vec::new(), classes: classes(reference) };
        machine.compile(node);
        machine.ops.push(Op::Accept);
        machine
    }

    fn set(&mut self, set: &Set) -> usize {
        if let Some(known) = self.sets.iter().position(|fast| fast.set == *set) {
            return known;
        }
        let ascii = (0..128_u8).filter(|&byte| set.has(self.classes, char::from(byte)));
        let ascii = ascii.fold(0, |bits, byte| bits | 1_u128 << byte);
        self.sets.push(FastSet { ascii, set: set.clone() });
        self.sets.len() - 1
    }

    fn compile(&mut self, node: &Node) {
        match node {
            Node::Set(set) => {
                let set = self.set(set);
                self.ops.push(Op::Set(set));
            }
            Node::Sequence(nodes) => nodes.iter().for_each(|node| self.compile(node)),
            Node::Choice(branches) => {
                let mut jumps = Vec::new();
                for (at, branch) in branches.iter().enumerate() {
                    if at + 1 == branches.len() {
                        self.compile(branch);
                        break;
                    }
                    let split = self.ops.len();
                    self.ops.push(Op::Split(split + 1, 0));
                    self.compile(branch);
                    jumps.push(self.ops.len());
                    self.ops.push(Op::Jump(0));
                    self.ops[split] = Op::Split(split + 1, self.ops.len());
                }
                let end = self.ops.len();
                for jump in jumps {
                    self.ops[jump] = Op::Jump(end);
                }
            }
            Node::Repeat { node, min, max, mode } => self.repeat(node, *min, *max, *mode),
            Node::Atomic(node) => {
                let at = self.ops.len();
                self.ops.push(Op::Accept);
                self.compile(node);
                self.ops.push(Op::Accept);
                self.ops[at] = Op::Atomic { next: self.ops.len() };
            }
            Node::Look { node, negative } => {
                let at = self.ops.len();
                self.ops.push(Op::Accept);
                self.compile(node);
                self.ops.push(Op::Accept);
                self.ops[at] = Op::Look { negative: *negative, next: self.ops.len() };
            }
            Node::End => self.ops.push(Op::End),
        }
    }

    fn repeat(&mut self, node: &Node, min: u32, max: Option<u32>, mode: Mode) {
        if let Node::Set(set) = node {
            let set = self.set(set);
            let max = max.map_or(usize::MAX, |max| max as usize);
            self.ops.push(Op::Run { set, min: min as usize, max, mode });
            return;
        }
        if mode == Mode::Possessive {
            let greedy = Node::Repeat { node: Box::new(node.clone()), min, max, mode: Mode::Greedy };
            return self.compile(&Node::Atomic(Box::new(greedy)));
        }
        for _ in 0..min {
            self.compile(node);
        }
        let split = |ops: &mut Vec<Op>, at: usize, end: usize| {
            ops[at] = if mode == Mode::Lazy { Op::Split(end, at + 1) } else { Op::Split(at + 1, end) };
        };
        match max {
            None => {
                let at = self.ops.len();
                self.ops.push(Op::Split(0, 0));
                self.compile(node);
                self.ops.push(Op::Jump(at));
                let end = self.ops.len();
                split(&mut self.ops, at, end);
            }
            Some(max) => {
                let mut splits = Vec::new();
                for _ in min..max {
                    splits.push(self.ops.len());
                    self.ops.push(Op::Split(0, 0));
                    self.compile(node);
                }
                let end = self.ops.len();
                for at in splits {
                    split(&mut self.ops, at, end);
                }
            }
        }
    }
}

/// One attempt at one place.
struct Attempt<'a> {
    machine: &'a Machine,
    text: &'a str,
    hit_end: bool,
    steps_left: usize,
}

impl Attempt<'_> {
    /// Length of the character at `at` if the set has it; 0 if not.
    #[inline]
    fn one(&mut self, set: usize, at: usize) -> usize {
        let set = &self.machine.sets[set];
        match self.text.as_bytes().get(at) {
            None => {
                self.hit_end = true;
                0
            }
            Some(&byte) if byte < 128 => (set.ascii >> byte & 1) as usize,
            Some(_) => match self.text[at..].chars().next() {
                Some(c) if set.set.has(self.machine.classes, c) => c.len_utf8(),
                _ => 0,
            },
        }
    }

    /// The end of the first way from `op` and `at` to an `Accept`.
    fn run(&mut self, mut op: usize, mut at: usize) -> Result<Option<usize>> {
        let mut stack: Vec<Retry> = Vec::new();
        loop {
            let Some(left) = self.steps_left.checked_sub(1) else {
                return Err(Error::TooMuchBacktracking { offset: at as u64 });
            };
            self.steps_left = left;
            let next = match self.machine.ops[op] {
                Op::Accept => return Ok(Some(at)),
                Op::Set(set) => match self.one(set, at) {
                    0 => None,
                    len => Some((op + 1, at + len)),
                },
                Op::Run { set, min, max, mode } => self.take(&mut stack, op, at, (set, min, max, mode)),
                Op::Split(first, second) => {
                    stack.push(Retry::At { op: second, at });
                    Some((first, at))
                }
                Op::Jump(to) => Some((to, at)),
                Op::Atomic { next } => self.run(op + 1, at)?.map(|end| (next, end)),
                Op::Look { negative, next } => {
                    (self.run(op + 1, at)?.is_some() != negative).then_some((next, at))
                }
                Op::End => {
                    let is_end = at == self.text.len();
                    self.hit_end |= is_end;
                    is_end.then_some((op + 1, at))
                }
            };
            match next.or_else(|| self.retry(&mut stack)) {
                Some(next) => (op, at) = next,
                None => return Ok(None),
            }
        }
    }

    fn take(
        &mut self,
        stack: &mut Vec<Retry>,
        op: usize,
        start: usize,
        (set, min, max, mode): (usize, usize, usize, Mode),
    ) -> Option<(usize, usize)> {
        let (mut at, mut n, mut least) = (start, 0, start);
        let wanted = if mode == Mode::Lazy { min } else { max };
        while n < wanted {
            let len = self.one(set, at);
            if len == 0 {
                break;
            }
            at += len;
            n += 1;
            if n == min {
                least = at;
            }
        }
        if n < min {
            return None;
        }
        match mode {
            Mode::Greedy if at > least => stack.push(Retry::Shrink { op: op + 1, least, at }),
            Mode::Lazy if n < max => stack.push(Retry::Grow { op: op + 1, set, more: max - n, at }),
            _ => {}
        }
        Some((op + 1, at))
    }

    fn retry(&mut self, stack: &mut Vec<Retry>) -> Option<(usize, usize)> {
        loop {
            match stack.pop()? {
                Retry::At { op, at } => return Some((op, at)),
                Retry::Shrink { op, least, at } => {
                    let at = self.text[..at].char_indices().next_back().map_or(0, |(at, _)| at);
                    if at > least {
                        stack.push(Retry::Shrink { op, least, at });
                    }
                    return Some((op, at));
                }
                Retry::Grow { op, set, more, at } => {
                    let len = self.one(set, at);
                    if len == 0 {
                        continue;
                    }
                    if more > 1 {
                        stack.push(Retry::Grow { op, set, more: more - 1, at: at + len });
                    }
                    return Some((op, at + len));
                }
            }
        }
    }
}

impl Pretokenizer for Machine {
    fn next(&self, text: &str, start: usize) -> Result<Split> {
        let steps_left = STEPS + STEPS_PER_BYTE * (text.len() - start);
        let mut attempt = Attempt { machine: self, text, hit_end: false, steps_left };
        let found = attempt.run(0, start)?;
        let hit_end = attempt.hit_end;
        Ok(if let Some(end) = found {
            Split { end, matched: true, hit_end }
        } else {
            let len = text[start..].chars().next().map_or(1, char::len_utf8);
            Split { end: start + len, matched: false, hit_end }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretokenize::gpt2::{Gpt2, PATTERN};
    use proptest::prelude::*;

    fn split<'t>(pattern: &str, text: &'t str) -> Vec<&'t str> {
        let machine = Machine::new(pattern, Reference::Tiktoken).expect(pattern);
        let (mut parts, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let found = machine.next(text, at).expect("a match");
            if found.matched {
                parts.push(&text[at..found.end]);
            }
            at = found.end;
        }
        parts
    }

    #[test]
    fn quantifiers_groups_and_looks_do_what_they_say() {
        assert_eq!(split(r"\d{1,3}", "12345"), ["123", "45"]);
        assert_eq!(split(r"a+?b|c", "aabcab"), ["aab", "c", "ab"]);
        assert_eq!(split(r"a++a|b", "aab"), ["b"]);
        assert_eq!(split(r"(?:ab)+c?", "ababcab"), ["ababc", "ab"]);
        assert_eq!(split(r"(?>a|ab)c|b", "abc"), ["b"]);
        assert_eq!(split(r"x(?=y)|y(?!x)", "xyx"), ["x"]);
        assert_eq!(split(r"(?i:'s|k)", "'S'ſ\u{212a}k"), ["'S", "'ſ", "\u{212a}", "k"]);
        assert_eq!(split(r"[^\r\n\p{L}\p{N}]?+\p{L}++|\s", "!word \tx"), ["!word", " ", "\tx"]);
        assert_eq!(split(r"\s++$|\s+(?!\S)|\s", "a  b  "), [" ", " ", "  "]);
    }

    #[test]
    fn a_million_spaces_are_no_trouble() {
        let text = " ".repeat(1_000_000) + "x";
        let parts = split(r"\s*[\r\n]+|\s+(?!\S)|\s+|x", &text);
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [999_999, 1, 1]);
    }

    proptest! {
        #[test]
        fn the_gpt2_scanner_and_the_machine_agree(
            text in proptest::collection::vec(
                prop_oneof![
                    Just("'"), Just("s"), Just("ll"), Just("re"), Just(" "), Just("  "), Just("\n"),
                    Just("\u{a0}"), Just("\u{3000}"), Just("a"), Just("é"), Just("中"), Just("1"),
                    Just("²"), Just("!"), Just("\u{301}"), Just("😀"), Just("\0"), Just("\u{1c}"),
                ],
                0..40,
            ),
        ) {
            let text = text.concat();
            let machine = Machine::new(PATTERN, Reference::Tiktoken).expect("supported");
            let scanner = Gpt2::new(classes(Reference::Tiktoken));
            let mut at = 0;
            while at < text.len() {
                let slow = machine.next(&text, at).expect("a match");
                let fast = scanner.next(&text, at).expect("a match");
                prop_assert_eq!((slow.end, slow.matched), (fast.end, fast.matched));
                // The scanner must never claim certainty that the machine does not have.
                prop_assert!(fast.hit_end || !slow.hit_end || more_text_is_harmless(&text, at, fast.end));
                at = fast.end;
            }
        }
    }

    /// The machine looks further than it must in some places; there any continuation gives the same.
    fn more_text_is_harmless(text: &str, at: usize, end: usize) -> bool {
        let scanner = Gpt2::new(classes(Reference::Tiktoken));
        ["s", "e", "l", " ", "\n", "1", "!", "'"]
            .iter()
            .all(|more| scanner.pretoken((text.to_owned() + more).as_bytes(), at).0 == end)
    }
}
