//! Sets of characters in a pattern: escapes, properties, ranges, and classes in brackets, which nest and meet where
//! the engine's do.

use super::super::unicode::CategorySet;
use super::{Parser, Set};
use crate::error::{Error, Result};
use crate::vocab::Reference;

impl Parser<'_> {
    /// Adds a range, with the other cases of its ASCII letters under `fold`.
    pub(super) fn add_range(&mut self, set: &mut Set, first: char, last: char, fold: bool) -> Result<()> {
        set.ranges.push((first, last));
        if fold {
            if !last.is_ascii() {
                return self.refuse("characters beyond ASCII under `(?i)`");
            }
            for letter in ('a'..='z').filter(|letter| {
                (first..=last).contains(letter) || (first..=last).contains(&letter.to_ascii_uppercase())
            }) {
                set.ranges.extend(self.classes.fold(letter).map(|c| (c, c)));
            }
        }
        Ok(())
    }

    /// An escape: adds what it stands for; returns the character if it stands for just one.
    pub(super) fn escape(&mut self, set: &mut Set, fold: bool) -> Result<Option<char>> {
        self.skip(1);
        let Some(c) = self.peek() else { return self.refuse("a `\\` at the end") };
        let literal = match c {
            's' => {
                set.space = true;
                None
            }
            'S' => {
                set.not_space = true;
                None
            }
            'd' | 'D' => {
                let digits = CategorySet::named("Nd").ok_or_else(|| Error::Internal { what: "Nd".into() })?;
                set.categories.push((digits, c == 'd'));
                None
            }
            'p' | 'P' => return self.property(set, c == 'p', fold).map(|()| None),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'f' => Some('\x0c'),
            'v' if self.reference != Reference::HuggingFace => Some('\x0b'),
            'x' | 'u' => return self.code_point(set, fold, c).map(Some),
            'b' | 'B' => return self.refuse("word borders"),
            'w' | 'W' => return self.refuse(r"`\w`"),
            '0'..='9' => return self.refuse("back-references"),
            c if c.is_ascii_alphabetic() => return self.refuse(&format!("the escape `\\{c}`")),
            c => Some(c),
        };
        self.skip(1);
        if let Some(c) = literal {
            self.add_range(set, c, c, fold)?;
        }
        Ok(literal)
    }

    /// `\x41`, `\x{41}`, `\u0041`.
    fn code_point(&mut self, set: &mut Set, fold: bool, kind: char) -> Result<char> {
        self.skip(1);
        let rest = self.rest().to_owned();
        let (digits, n_chars) =
            if let Some((digits, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                (digits, digits.chars().count() + 2)
            } else {
                let n = if kind == 'x' { 2 } else { 4 };
                (rest.get(..n).unwrap_or(""), n)
            };
        let Some(c) = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32) else {
            return self.refuse("this code point");
        };
        self.skip(n_chars);
        self.add_range(set, c, c, fold)?;
        Ok(c)
    }

    fn property(&mut self, set: &mut Set, inside: bool, fold: bool) -> Result<()> {
        self.skip(1);
        let rest = self.rest().to_owned();
        let (name, n_chars) = match rest.strip_prefix('{') {
            Some(rest) => match rest.split_once('}') {
                Some((name, _)) => (name, name.chars().count() + 2),
                None => return self.refuse(r"an unfinished `\p{`"),
            },
            None if self.reference == Reference::HuggingFace => {
                return self.refuse(r"`\p` without braces");
            }
            None => (rest.get(..1).unwrap_or(""), 1),
        };
        let (name, inside) = name.strip_prefix('^').map_or((name, inside), |name| (name, !inside));
        let short = match name {
            "Letter" => "L",
            "Mark" => "M",
            "Number" => "N",
            "Punctuation" => "P",
            "Symbol" => "S",
            "Separator" => "Z",
            "Other" => "C",
            name => name,
        };
        if short == "Han" {
            let ranges = self.classes.han().collect();
            set.nested.push(Set { negated: !inside, ranges, ..Set::default() });
            self.skip(n_chars);
            return Ok(());
        }
        let Some(categories) = CategorySet::named(short).filter(|_| short != "C" && short != "Cn") else {
            return self.refuse(&format!("the property `{name}`"));
        };
        if fold {
            return self.refuse("a property that depends on case under `(?i)`");
        }
        self.skip(n_chars);
        set.categories.push((categories, inside));
        Ok(())
    }

    pub(super) fn class(&mut self, fold: bool) -> Result<Set> {
        self.skip(1);
        let mut set = Set { negated: self.eat('^'), ..Set::default() };
        if set.negated && fold {
            return self.refuse("a negated class under `(?i)`");
        }
        self.class_items(&mut set, fold)?;
        Ok(set)
    }

    /// What stands in a class, up to and with its `]`.
    fn class_items(&mut self, set: &mut Set, fold: bool) -> Result<()> {
        let mut is_first = true;
        loop {
            let Some(c) = self.peek() else { return self.refuse("a `[` without its `]`") };
            if c == ']' && !is_first {
                self.skip(1);
                return Ok(());
            }
            if c == ']' {
                return self.refuse("an empty class, or a `]` that is not escaped");
            }
            is_first = false;
            let has_nesting = self.reference != Reference::PythonRegex;
            let rest = self.rest();
            if rest.starts_with("[:") {
                return self.refuse("POSIX classes");
            }
            if c == '[' && has_nesting {
                let nested = self.class(fold)?;
                set.nested.push(nested);
                continue;
            }
            if rest.starts_with("&&") && has_nesting {
                self.skip(2);
                let mut right = Set::default();
                self.class_items(&mut right, fold)?;
                set.and = Some(Box::new(right));
                return Ok(());
            }
            if c == '[' || ["&&", "--", "||", "~~"].iter().any(|operator| rest.starts_with(operator)) {
                return self.refuse("nested classes and set operations");
            }
            let mut one = Set::default();
            let first = if c == '\\' {
                self.escape(&mut one, fold)?
            } else {
                self.skip(1);
                Some(c)
            };
            let next_is_range = self.rest().starts_with('-') && !self.rest().starts_with("-]");
            match first {
                Some(first) if next_is_range => {
                    self.skip(1);
                    let last = match self.peek() {
                        Some('\\') => self.escape(&mut Set::default(), fold)?,
                        last => {
                            self.skip(1);
                            last
                        }
                    };
                    match last {
                        Some(last) if first <= last => self.add_range(set, first, last, fold)?,
                        _ => return self.refuse("a range whose ends are the wrong way round"),
                    }
                }
                Some(c) => self.add_range(set, c, c, fold)?,
                None if next_is_range => return self.refuse("a range that begins with a class"),
                None => {
                    set.categories.extend(one.categories);
                    set.nested.extend(one.nested);
                    set.space |= one.space;
                    set.not_space |= one.not_space;
                }
            }
        }
    }
}
