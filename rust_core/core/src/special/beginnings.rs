//! Where a special token may begin, if all of a vocabulary's begin with a few rare characters.
//!
//! Nearly all such tokens begin with `<` or `[`, one of `DeepSeek`'s 1,283 with `｜`. Each of these characters is looked
//! for by itself, at the memory's speed, and only where one stands before a byte that follows it in some token the
//! tokens are compared. (An automaton's own search looks for the bytes that it thinks rare, which in Chinese text
//! those of `｜` are not: it took half of the time.)
//!
//! Texts are searched in windows, so that what one character's search has seen ahead of the others' is little and
//! never seen twice.

use memchr::{memchr, memmem};

/// Characters, at most.
const CHARACTERS_MAX: usize = 4;
const WINDOW: usize = 4096;

/// The first characters of tokens.
pub(super) struct Beginnings(Vec<First>);

struct First {
    character: Needle,
    len: usize,
    /// Which bytes stand behind it in a token.
    behind: [bool; 256],
}

enum Needle {
    Byte(u8),
    Bytes(Box<memmem::Finder<'static>>),
}

impl First {
    fn new(character: char) -> Self {
        let needle = match u8::try_from(character).ok().filter(u8::is_ascii) {
            Some(byte) => Needle::Byte(byte),
            None => Needle::Bytes(Box::new(memmem::Finder::new(&character.to_string()).into_owned())),
        };
        Self { character: needle, len: character.len_utf8(), behind: [false; 256] }
    }

    /// The first place from `from` on, where a token may begin.
    fn find(&self, text: &[u8], mut from: usize) -> Option<usize> {
        loop {
            from += match &self.character {
                Needle::Byte(byte) => memchr(*byte, &text[from..])?,
                Needle::Bytes(finder) => finder.find(&text[from..])?,
            };
            if text.get(from + self.len).is_none_or(|&byte| self.behind[usize::from(byte)]) {
                return Some(from);
            }
            from += 1;
        }
    }
}

impl Beginnings {
    /// `None` if they are not few, or not rare: letters, numbers, whitespace.
    pub(super) fn new<'t>(tokens: impl Iterator<Item = &'t str>) -> Option<Self> {
        let mut firsts: Vec<(char, First)> = Vec::new();
        for token in tokens {
            let own = token.chars().next().filter(|c| !c.is_alphanumeric() && !c.is_whitespace())?;
            let at = firsts.iter().position(|(character, _)| *character == own).unwrap_or_else(|| {
                firsts.push((own, First::new(own)));
                firsts.len() - 1
            });
            let behind = &mut firsts[at].1.behind;
            match token.as_bytes().get(own.len_utf8()) {
                Some(&byte) => behind[usize::from(byte)] = true,
                None => behind.fill(true),
            }
        }
        (firsts.len() <= CHARACTERS_MAX).then(|| Self(firsts.into_iter().map(|(_, first)| first).collect()))
    }

    /// The first answer that `at` gives for a place from `from` on where a token may begin.
    pub(super) fn find<T>(&self, text: &[u8], from: usize, at: impl Fn(usize) -> Option<T>) -> Option<T> {
        let mut next = [0; CHARACTERS_MAX];
        let next = &mut next[..self.0.len()];
        let mut start = from;
        while start < text.len() {
            let end = (start + WINDOW).min(text.len());
            // A character, and the byte behind it, may stand behind the window in which it begins.
            let seen = &text[..(end + 4).min(text.len())];
            let search = |first: &First, from: usize| first.find(seen, from).unwrap_or(end);
            for (next, first) in next.iter_mut().zip(&self.0) {
                *next = search(first, start);
            }
            while let Some((which, &place)) = next.iter().enumerate().min_by_key(|(_, place)| **place)
                && place < end
            {
                if let Some(found) = at(place) {
                    return Some(found);
                }
                next[which] = search(&self.0[which], place + 1);
            }
            start = end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_asked_for_once_and_in_order() {
        let beginnings =
            Beginnings::new(["<a", "｜b", "<c", "［", "😀e"].into_iter()).expect("four characters");
        // A period that meets the ends of windows in every way.
        let unit = "中<文｜<a｜b，x［<<c😀e😀y｝<";
        for n_before in 0..unit.len() {
            let text = "z".repeat(n_before) + &unit.repeat(9000 / unit.len());
            let is = |&at: &usize| {
                let begins = |known: &&str| text.as_bytes()[at..].starts_with(known.as_bytes());
                at == text.len() - 1 || ["<a", "｜b", "<c", "［", "😀e"].iter().any(begins)
            };
            let expected: Vec<usize> = (0..text.len()).filter(is).collect();
            let asked = std::cell::RefCell::new(Vec::new());
            let found = beginnings.find(text.as_bytes(), 0, |at| {
                asked.borrow_mut().push(at);
                None::<()>
            });
            assert_eq!((found, asked.into_inner()), (None, expected.clone()));
            let from = expected[expected.len() / 2] + 1;
            assert_eq!(beginnings.find(text.as_bytes(), from, Some), Some(expected[expected.len() / 2 + 1]));
        }
    }

    #[test]
    fn many_or_frequent_beginnings_are_none() {
        for tokens in [&["<a", "b"][..], &[" a"], &["▁", "中"], &["<", "(", "[", "{", "｜"], &["<", ""]] {
            assert!(Beginnings::new(tokens.iter().copied()).is_none(), "{tokens:?}");
        }
    }
}
