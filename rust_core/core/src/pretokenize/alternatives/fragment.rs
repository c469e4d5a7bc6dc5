//! The kinds of alternatives, and how each is matched in one pass.
//!
//! | kind | looks like | what backtracking comes to |
//! |---|---|---|
//! | `Literal` | `'s\|'t\|'re` | first text that is there |
//! | `Run` | `P?B{m,n}T*S?`, `PB+` | with `P` if a run of `B` follows it, else without |
//! | `Cased` | `P?U*L+S?`, `\s*[\r\n]+` | all of `U`, then `L`; if none follows, up to the last `U` that is an `L` |
//! | `Ahead` | `A+(?!X)` | the run, without its last character if an `X` follows |
//! | `ToEnd` | `A+$` | the run, if the text ends there |
//!
//! `S` is an optional literal, as the contraction behind a word.

use super::Sets;
use super::table::SetTable;
use crate::pretokenize::pattern::{Mode, Node, Set};

/// One alternative. Sets are bits of the table's values.
pub(super) enum Fragment {
    Literal { first: u32, texts: Literals },
    Run { prefix: Prefix, body: u32, min: u32, max: u32, tail: u32, suffix: Option<Literals> },
    Cased { prefix: Prefix, upper: u32, lower: u32, lower_max: u32, suffix: Option<Literals> },
    Ahead { space: u32, unless: u32 },
    ToEnd { space: u32 },
}

/// A character before a run.
#[derive(Clone, Copy)]
pub(super) enum Prefix {
    None,
    Optional(u32),
    /// Taken if it is there, whatever follows.
    Possessive(u32),
    Required(u32),
}

impl Prefix {
    fn set(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Optional(set) | Self::Possessive(set) | Self::Required(set) => set,
        }
    }
}

/// Texts, the first that is there wins.
pub(super) struct Literals {
    texts: Vec<String>,
    /// Bit n: a text begins with byte n or n + 128.
    first_bytes: u128,
}

impl Literals {
    fn new(texts: Vec<String>) -> Self {
        let bit = |text: &String| 1_u128 << (text.as_bytes()[0] & 0x7F);
        Self { first_bytes: texts.iter().fold(0, |bits, text| bits | bit(text)), texts }
    }

    /// The texts, in their order.
    pub(super) fn texts(&self) -> Vec<Box<[u8]>> {
        self.texts.iter().map(|text| text.as_bytes().into()).collect()
    }

    /// The end of the text that is there.
    #[inline]
    fn end(&self, text: &[u8], at: usize, looked: &mut bool) -> Option<usize> {
        let rest = &text[at..];
        for literal in &self.texts {
            if rest.starts_with(literal.as_bytes()) {
                return Some(at + literal.len());
            }
            *looked |= literal.as_bytes().starts_with(rest);
        }
        None
    }

    /// The end of the text that is there, or `at`.
    #[inline]
    fn optional(literals: Option<&Self>, text: &[u8], at: usize, looked: &mut bool) -> usize {
        let Some(literals) = literals else { return at };
        match text.get(at) {
            None => *looked = true,
            Some(byte) if literals.first_bytes >> (byte & 0x7F) & 1 != 0 => {
                return literals.end(text, at, looked).unwrap_or(at);
            }
            Some(_) => {}
        }
        at
    }

    /// Whether the two characters stand side by side in a text.
    fn joins(&self, before: &[u8], after: &[u8]) -> bool {
        let pair = [before, after].concat();
        self.texts.iter().any(|literal| memchr::memmem::find(literal.as_bytes(), &pair).is_some())
    }

    fn begins(&self, after: &[u8]) -> bool {
        self.texts.iter().any(|literal| literal.as_bytes().starts_with(after))
    }
}

impl Fragment {
    /// The sets that a match can begin with.
    pub(super) fn first(&self) -> u32 {
        match self {
            Self::Literal { first, .. } => *first,
            Self::Run { prefix: Prefix::Required(set), .. } => *set,
            Self::Run { prefix, body, .. } => prefix.set() | body,
            Self::Cased { prefix, upper, lower, .. } => prefix.set() | upper | lower,
            Self::Ahead { space, .. } | Self::ToEnd { space } => *space,
        }
    }

    /// Whether a character of this value begins a match whatever follows.
    pub(super) fn covers(&self, value: u32) -> bool {
        let (prefix, must) = match self {
            Self::Run { prefix, body, min: 1, .. } => (*prefix, *body),
            Self::Cased { prefix, lower, .. } => (*prefix, *lower),
            _ => return false,
        };
        match prefix {
            Prefix::None | Prefix::Optional(_) => value & must != 0,
            Prefix::Possessive(set) => value & must != 0 && value & set == 0,
            Prefix::Required(_) => false,
        }
    }

    /// Whether the sets are such that one pass is exact.
    pub(super) fn is_sound(&self, table: &SetTable) -> bool {
        match self {
            // Given its last character back, the run is followed by one of its own.
            Self::Ahead { space, unless } => {
                table.values().all(|value| value & space == 0 || value & unless == 0)
            }
            _ => true,
        }
    }

    /// The end of the match that starts at `start`. `looked` is set when the end of the text had a say.
    #[inline]
    pub(super) fn end(
        &self,
        table: &SetTable,
        text: &[u8],
        start: usize,
        looked: &mut bool,
    ) -> Option<usize> {
        match self {
            Self::Literal { texts, .. } => texts.end(text, start, looked),
            Self::Run { prefix, body, min, max, tail, suffix } => {
                let run = |at: usize, looked: &mut bool| {
                    let mut end = count(table, text, at, *body, (*min, *max), looked)?;
                    if *tail != 0 {
                        end = table.run(text, end, *tail);
                        *looked |= end == text.len();
                    }
                    Some(Literals::optional(suffix.as_ref(), text, end, looked))
                };
                with_prefix(table, text, start, *prefix, looked, run)
            }
            Self::Cased { prefix, upper, lower, lower_max, suffix } => {
                let run = |at: usize, looked: &mut bool| {
                    let end = cased(table, text, at, *upper, *lower, *lower_max, looked)?;
                    Some(Literals::optional(suffix.as_ref(), text, end, looked))
                };
                with_prefix(table, text, start, *prefix, looked, run)
            }
            Self::Ahead { space, unless } => {
                let end = table.run(text, start, *space);
                if end == text.len() {
                    *looked = true;
                    return Some(end);
                }
                if table.at(text, end).0 & unless == 0 {
                    return Some(end);
                }
                let last = (start..end).rev().find(|&at| text[at] & 0xC0 != 0x80).unwrap_or(start);
                (last > start).then_some(last)
            }
            Self::ToEnd { space } => {
                let end = table.run(text, start, *space);
                *looked |= end == text.len();
                (end == text.len()).then_some(end)
            }
        }
    }

    /// Whether a match may contain two characters side by side (values `left` and `right`), or ends with
    /// the left one only because of what follows.
    pub(super) fn joins(&self, left: u32, right: u32, before: &[u8], after: &[u8]) -> bool {
        let pair = |l: u32, r: u32| left & l != 0 && right & r != 0;
        let in_suffix = |suffix: &Option<Literals>, ends: u32| {
            suffix.as_ref().is_some_and(|suffix| {
                suffix.joins(before, after) || (left & ends != 0 && suffix.begins(after))
            })
        };
        match self {
            Self::Literal { texts, .. } => texts.joins(before, after),
            Self::Run { prefix, body, max, tail, suffix, .. } => {
                pair(prefix.set(), *body)
                    || (*max > 1 && pair(*body, *body))
                    || pair(body | tail, *tail)
                    || in_suffix(suffix, body | tail)
            }
            Self::Cased { prefix, upper, lower, suffix, .. } => {
                pair(prefix.set() | upper, upper | lower) || pair(*lower, *lower) || in_suffix(suffix, *lower)
            }
            Self::Ahead { space, .. } | Self::ToEnd { space } => left & space != 0,
        }
    }
}

/// Matches with the prefix, and if that fails and the prefix may be left out, without.
#[inline]
fn with_prefix(
    table: &SetTable,
    text: &[u8],
    start: usize,
    prefix: Prefix,
    looked: &mut bool,
    run: impl Fn(usize, &mut bool) -> Option<usize>,
) -> Option<usize> {
    let mut at = start;
    if prefix.set() != 0 {
        let (value, len) = table.at(text, start);
        if value & prefix.set() != 0 {
            at += len;
        } else if matches!(prefix, Prefix::Required(_)) {
            return None;
        }
    }
    loop {
        let end = run(at, looked);
        if end.is_some() || at == start || !matches!(prefix, Prefix::Optional(_)) {
            return end;
        }
        at = start;
    }
}

/// The end of a run of at least `min` and at most `max` characters.
#[inline]
fn count(
    table: &SetTable,
    text: &[u8],
    start: usize,
    body: u32,
    (min, max): (u32, u32),
    looked: &mut bool,
) -> Option<usize> {
    if min <= 1 && max == u32::MAX {
        let end = table.run(text, start, body);
        *looked |= end == text.len();
        return (end > start).then_some(end);
    }
    let (mut at, mut n) = (start, 0);
    while n < max {
        if at == text.len() {
            *looked = true;
            break;
        }
        let (value, len) = table.at(text, at);
        if value & body == 0 {
            break;
        }
        at += len;
        n += 1;
    }
    (n >= min).then_some(at)
}

/// The end of `U*L{1,max}`.
#[inline]
fn cased(
    table: &SetTable,
    text: &[u8],
    start: usize,
    upper: u32,
    lower: u32,
    lower_max: u32,
    looked: &mut bool,
) -> Option<usize> {
    let (mut at, mut last) = (start, None);
    while at < text.len() {
        let (value, len) = table.at(text, at);
        if value & upper == 0 {
            break;
        }
        at += len;
        if value & lower != 0 {
            last = Some(at);
        }
    }
    // Behind all of U an L; else the last U that is an L itself, of which there is exactly one.
    count(table, text, at, lower, (1, lower_max), looked).or(last)
}

/// Reads a pattern's fragments from its tree.
pub(super) struct Reader<'a> {
    pub(super) sets: &'a mut Sets,
    pub(super) fragments: Vec<Fragment>,
}

impl Reader<'_> {
    /// Appends the fragments of a node; `None` if one is of no known kind.
    pub(super) fn read(&mut self, node: &Node) -> Option<()> {
        if let Some(texts) = literals(node) {
            let mut first = Set::default();
            for c in texts.iter().filter_map(|text| text.chars().next()) {
                if !first.ranges.contains(&(c, c)) {
                    first.ranges.push((c, c));
                }
            }
            let first = self.sets.bit(&first);
            if let Some(Fragment::Literal { first: bits, texts: known }) = self.fragments.last_mut() {
                *bits |= first;
                *known = Literals::new([std::mem::take(&mut known.texts), texts].concat());
            } else {
                self.fragments.push(Fragment::Literal { first, texts: Literals::new(texts) });
            }
            return Some(());
        }
        if let Node::Choice(branches) = node {
            return branches.iter().try_for_each(|branch| self.read(branch));
        }
        let mut items = Vec::new();
        flatten(node, &mut items);
        let fragment = self.sequence(&items)?;
        self.fragments.push(fragment);
        Some(())
    }

    fn sequence(&mut self, items: &[&Node]) -> Option<Fragment> {
        let (suffix, items) = match items.split_last()? {
            (Node::Repeat { node, min: 0, max: Some(1), mode: Mode::Greedy }, rest)
                if literals(node).is_some() =>
            {
                // An optional small set is a prefix or a suffix; only behind something is it a suffix.
                if rest.is_empty() { (None, items) } else { (literals(node).map(Literals::new), rest) }
            }
            _ => (None, items),
        };
        let runs: Vec<Run<'_>> =
            items.iter().map(|item| Run::of(item)).collect::<Option<_>>().unwrap_or_default();
        if runs.is_empty() {
            return match (items, suffix) {
                ([run, Node::Look { node, negative: true }], None) => {
                    let (Node::Set(unless), Run { set, min: 1, max: u32::MAX, mode: Mode::Greedy }) =
                        (&**node, Run::of(run)?)
                    else {
                        return None;
                    };
                    Some(Fragment::Ahead { space: self.sets.bit(set), unless: self.sets.bit(unless) })
                }
                ([run, Node::End], None) => {
                    let Run { set, min: 1, max: u32::MAX, .. } = Run::of(run)? else { return None };
                    Some(Fragment::ToEnd { space: self.sets.bit(set) })
                }
                _ => None,
            };
        }
        let (prefix, runs) = match &runs[..] {
            [Run { set, min: 0, max: 1, mode }, rest @ ..] if !rest.is_empty() => {
                let set = self.sets.bit(set);
                let is_possessive = *mode == Mode::Possessive;
                (if is_possessive { Prefix::Possessive(set) } else { Prefix::Optional(set) }, rest)
            }
            [Run { set, min: 1, max: 1, .. }, rest @ ..] if rest.first().is_some_and(|run| run.min > 0) => {
                (Prefix::Required(self.sets.bit(set)), rest)
            }
            runs => (Prefix::None, runs),
        };
        Some(match *runs {
            [Run { set, min: min @ 1.., max, .. }] => {
                Fragment::Run { prefix, body: self.sets.bit(set), min, max, tail: 0, suffix }
            }
            [Run { set, min: min @ 1.., max, .. }, Run { set: tail, min: 0, max: u32::MAX, .. }] => {
                let (body, tail) = (self.sets.bit(set), self.sets.bit(tail));
                Fragment::Run { prefix, body, min, max, tail, suffix }
            }
            [
                Run { set: upper, min: 0, max: u32::MAX, mode: Mode::Greedy },
                Run { set: lower, min: 1, max: lower_max @ (1 | u32::MAX), .. },
            ] if !matches!(prefix, Prefix::Required(_)) => {
                let (upper, lower) = (self.sets.bit(upper), self.sets.bit(lower));
                Fragment::Cased { prefix, upper, lower, lower_max, suffix }
            }
            _ => return None,
        })
    }
}

/// A repetition of a set; a set alone is one, too. `u32::MAX` is no maximum.
#[derive(Clone, Copy)]
struct Run<'a> {
    set: &'a Set,
    min: u32,
    max: u32,
    mode: Mode,
}

impl<'a> Run<'a> {
    /// Lazy repetitions are none of the kinds.
    fn of(node: &'a Node) -> Option<Self> {
        match node {
            Node::Set(set) => Some(Self { set, min: 1, max: 1, mode: Mode::Greedy }),
            Node::Repeat { node, min, max, mode } if *mode != Mode::Lazy => match &**node {
                Node::Set(set) => Some(Self { set, min: *min, max: max.unwrap_or(u32::MAX), mode: *mode }),
                // A run of runs of one or more is a run.
                Node::Repeat { node, min: 1, mode: Mode::Greedy, .. } if (*min, *max) == (1, None) => {
                    match &**node {
                        Node::Set(set) => Some(Self { set, min: 1, max: u32::MAX, mode: *mode }),
                        _ => None,
                    }
                }
                _ => None,
            },
            _ => None,
        }
    }
}

fn flatten<'n>(node: &'n Node, items: &mut Vec<&'n Node>) {
    match node {
        Node::Sequence(nodes) => nodes.iter().for_each(|node| flatten(node, items)),
        _ => items.push(node),
    }
}

/// The texts that a node can match, in its order, if they are few: contractions are.
fn literals(node: &Node) -> Option<Vec<String>> {
    const MOST: usize = 64;
    let texts = match node {
        Node::Set(set) => small(set)?.into_iter().map(String::from).collect(),
        Node::Choice(branches) => branches.iter().map(literals).collect::<Option<Vec<_>>>()?.concat(),
        Node::Sequence(nodes) => {
            let mut texts = vec![String::new()];
            for node in nodes {
                let parts = literals(node)?;
                if texts.len() * parts.len() > MOST {
                    return None;
                }
                texts = texts
                    .iter()
                    .flat_map(|text| parts.iter().map(move |part| format!("{text}{part}")))
                    .collect();
            }
            texts
        }
        _ => return None,
    };
    (texts.len() <= MOST && !texts.is_empty() && texts.iter().all(|text| !text.is_empty())).then_some(texts)
}

/// The characters of a set that names a few of them.
fn small(set: &Set) -> Option<Vec<char>> {
    let Set { negated: false, ranges, categories, space: false, not_space: false, nested, and: None } = set
    else {
        return None;
    };
    if !categories.is_empty() || !nested.is_empty() {
        return None;
    }
    let mut chars: Vec<char> = Vec::new();
    for &(first, last) in ranges {
        if last as u32 - first as u32 > 8 {
            return None;
        }
        chars.extend((first..=last).filter(|c| !chars.contains(c)).collect::<Vec<_>>());
    }
    (chars.len() <= 12).then_some(chars)
}
