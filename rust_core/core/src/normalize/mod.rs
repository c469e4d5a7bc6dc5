//! Changing text before it is split, as a `tokenizer.json` asks for.
//!
//! Supported are the Unicode normal forms, replacements and a prefix, in sequence. The forms come
//! from the crate that the reference itself uses, which froze Unicode 9: a newer table would give
//! other text for the marks that came later. Text that is in its form already is not copied.
//!
//! A long text is cut for reading and for the threads. With a normal form that is exact at places
//! that [`Normalizer::is_stable`] knows; with a replacement or a prefix nowhere, and such a text is
//! normalized as a whole.

use std::borrow::Cow;
use std::sync::OnceLock;

use unicode_normalization_alignments::{
    IsNormalized, UnicodeNormalization as _, is_nfc_quick, is_nfd_quick, is_nfkc_quick, is_nfkd_quick,
};

use crate::error::Result;
use crate::pretokenize::{Matcher, Pretokenizer as _};
use crate::vocab::Reference;

/// A Unicode normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

/// One change of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Form(Form),
    /// Every occurrence of a text, or every match of a pattern, becomes `content`.
    Replace {
        pattern: String,
        is_literal: bool,
        content: String,
    },
    /// Text that is not empty gets this in front of it.
    Prepend(String),
}

/// Changes in their order, ready to be made.
pub struct Normalizer {
    changes: Vec<Ready>,
}

enum Ready {
    Form(Form),
    Literal { text: String, content: String },
    Pattern { matcher: Matcher, content: String },
    Prepend(String),
}

impl Normalizer {
    /// Prepares changes; `None` where there are none.
    ///
    /// # Errors
    /// [`Error::BadPattern`](crate::Error::BadPattern) for a pattern that is not supported.
    pub fn new(changes: &[Change]) -> Result<Option<Self>> {
        let ready = |change: &Change| {
            Ok(match change {
                Change::Form(form) => Ready::Form(*form),
                Change::Prepend(text) => Ready::Prepend(text.clone()),
                Change::Replace { pattern, is_literal: true, content } => {
                    Ready::Literal { text: pattern.clone(), content: content.clone() }
                }
                Change::Replace { pattern, content, .. } => Ready::Pattern {
                    matcher: Matcher::new(pattern, Reference::HuggingFace)?,
                    content: content.clone(),
                },
            })
        };
        let changes: Vec<_> = changes.iter().map(ready).collect::<Result<_>>()?;
        Ok((!changes.is_empty()).then_some(Self { changes }))
    }

    /// The changed text; borrowed if nothing changes.
    pub fn apply<'t>(&self, text: &'t str) -> Result<Cow<'t, str>> {
        let mut text = Cow::Borrowed(text);
        for change in &self.changes {
            if let Some(changed) = change.apply(&text)? {
                text = Cow::Owned(changed);
            }
        }
        Ok(text)
    }

    /// Whether there are normal forms only, so that text can be cut somewhere.
    #[must_use]
    pub fn has_cuts(&self) -> bool {
        self.changes.iter().all(|change| matches!(change, Ready::Form(_)))
    }

    /// Whether a character stays what it is and keeps apart what stands before it from what follows:
    /// it neither decomposes, nor combines with what is before it, nor is moved.
    #[must_use]
    pub fn is_stable(&self, c: char) -> bool {
        c.is_ascii()
            || self.changes.iter().all(|change| matches!(change, Ready::Form(form) if form.stable().has(c)))
    }
}

impl Ready {
    /// The changed text, or `None` if nothing changes.
    fn apply(&self, text: &str) -> Result<Option<String>> {
        Ok(match self {
            Self::Form(form) => form.apply(text),
            Self::Literal { text: old, content } => text.contains(old).then(|| text.replace(old, content)),
            Self::Prepend(prefix) => (!text.is_empty()).then(|| format!("{prefix}{text}")),
            Self::Pattern { matcher, content } => {
                let (mut changed, mut at) = (String::with_capacity(text.len()), 0);
                while at < text.len() {
                    let found = matcher.next(text, at)?;
                    changed.push_str(if found.matched { content } else { &text[at..found.end] });
                    at = found.end;
                }
                Some(changed)
            }
        })
    }
}

impl Form {
    /// The text in this form, or `None` if it is already.
    ///
    /// A stable character keeps apart what stands before it from what follows. Stretches of stable
    /// characters are therefore copied as they are, and only what stands between them is normalized, with
    /// the stable character before it, with which it may combine.
    fn apply(self, text: &str) -> Option<String> {
        let stable = self.stable();
        let is_stable = |c: char| c.is_ascii() || stable.has(c);
        let mut changed = String::new();
        // `done`: what is in `changed` already; `last`: the last stable character, if nothing followed it.
        let (mut done, mut last, mut at) = (0, 0, 0);
        while let Some(unstable) = next_wide(text, at) {
            let c = text[unstable..].chars().next().unwrap_or_default();
            if is_stable(c) {
                (last, at) = (unstable, unstable + c.len_utf8());
                continue;
            }
            if unstable > at {
                // Only ASCII since; its last character is stable.
                last = unstable - 1;
            }
            let rest = &text[unstable..];
            let end = unstable + rest.find(is_stable).unwrap_or(rest.len());
            changed.push_str(&text[done..last]);
            self.normalize(&text[last..end], &mut changed);
            (done, last, at) = (end, end, end);
        }
        if done == 0 {
            return None;
        }
        changed.push_str(&text[done..]);
        Some(changed)
    }

    fn normalize(self, text: &str, out: &mut String) {
        match self {
            Self::Nfc => out.extend(text.nfc().map(|(c, _)| c)),
            Self::Nfd => out.extend(text.nfd().map(|(c, _)| c)),
            Self::Nfkc => out.extend(text.nfkc().map(|(c, _)| c)),
            Self::Nfkd => out.extend(text.nfkd().map(|(c, _)| c)),
        }
    }

    /// The stable characters; found out at the first call, a few milliseconds.
    fn stable(self) -> &'static Stable {
        static ALL: [OnceLock<Stable>; 4] = [const { OnceLock::new() }; 4];
        ALL[self as usize].get_or_init(|| {
            let mut bits = vec![0_u64; Stable::N_CODES / 64];
            for (code, c) in
                (0..Stable::N_CODES).filter_map(|code| Some((code, char::from_u32(code as u32)?)))
            {
                bits[code / 64] |= u64::from(self.is_stable(c)) << (code % 64);
            }
            Stable(bits)
        })
    }

    fn quick(self, chars: impl Iterator<Item = char>) -> IsNormalized {
        match self {
            Self::Nfc => is_nfc_quick(chars),
            Self::Nfd => is_nfd_quick(chars),
            Self::Nfkc => is_nfkc_quick(chars),
            Self::Nfkd => is_nfkd_quick(chars),
        }
    }

    fn is_stable(self, c: char) -> bool {
        use unicode_normalization_alignments::char::canonical_combining_class;
        canonical_combining_class(c) == 0 && self.quick(std::iter::once(c)) == IsNormalized::Yes
    }
}

/// A bit for each character of the planes that have any; others are looked at anew each time.
struct Stable(Vec<u64>);

impl Stable {
    const N_CODES: usize = 0x3_2000;

    fn has(&self, c: char) -> bool {
        let code = c as usize;
        self.0.get(code / 64).is_some_and(|bits| bits >> (code % 64) & 1 != 0)
    }
}

/// The first character beyond ASCII at or after `at`.
fn next_wide(text: &str, at: usize) -> Option<usize> {
    let bytes = &text.as_bytes()[at..];
    let (words, _) = bytes.as_chunks::<16>();
    let skipped = words.iter().take_while(|word| word.is_ascii()).count() * 16;
    bytes[skipped..].iter().position(|byte| !byte.is_ascii()).map(|found| at + skipped + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMS: [Form; 4] = [Form::Nfc, Form::Nfd, Form::Nfkc, Form::Nfkd];

    fn full(form: Form, text: &str) -> String {
        match form {
            Form::Nfc => text.nfc().map(|(c, _)| c).collect(),
            Form::Nfd => text.nfd().map(|(c, _)| c).collect(),
            Form::Nfkc => text.nfkc().map(|(c, _)| c).collect(),
            Form::Nfkd => text.nfkd().map(|(c, _)| c).collect(),
        }
    }

    #[test]
    fn what_the_quick_check_passes_is_unchanged_and_stable_characters_cut() {
        let before = ["e", "\u{1100}", "\u{ac00}", "\u{301}", "\u{9c7}", "か"];
        // Planes 3 to 13 are empty.
        for code in (0..0x3_2000).chain(0xE_0000..0xE_1000) {
            let Some(c) = char::from_u32(code) else { continue };
            let text = c.to_string();
            for form in FORMS {
                if form.quick(text.chars()) == IsNormalized::Yes {
                    assert_eq!(full(form, &text), text, "{form:?} U+{code:04X}");
                }
                if form.is_stable(c) {
                    for left in before {
                        let whole = full(form, &format!("{left}{c}"));
                        assert_eq!(whole, full(form, left) + &text, "{form:?} {left:?} U+{code:04X}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn stretches_give_what_the_whole_gives(
            parts in proptest::collection::vec(
                prop_oneof![
                    prop::sample::select(vec![
                        "a", "e", " ", "ab cd ef gh ij kl mn", "\u{301}", "\u{323}", "é", "ﬁ", "Å", "중", "\u{1100}",
                        "\u{1161}", "\u{11a8}", "中", "か", "\u{3099}", "²", "\u{345}", "\u{f73}", "\u{9c7}", "\u{9be}",
                    ]).prop_map(str::to_owned),
                    any::<char>().prop_map(|c| c.to_string()),
                ],
                0..30,
            ),
        ) {
            let text = parts.concat();
            for form in FORMS {
                let whole = full(form, &text);
                prop_assert_eq!(form.apply(&text).unwrap_or(text.clone()), whole, "{:?}", form);
            }
        }
    }

    #[test]
    fn changes_are_made_in_order() {
        let replace = |pattern: &str, is_literal, content: &str| Change::Replace {
            pattern: pattern.into(),
            is_literal,
            content: content.into(),
        };
        let changes = [
            Change::Prepend("_".into()),
            replace(" ", true, "_"),
            replace(r"\d+", false, "#"),
            Change::Form(Form::Nfc),
        ];
        let normalizer = Normalizer::new(&changes).expect("supported").expect("not empty");
        assert_eq!(normalizer.apply("a 12e\u{301}").expect("changes"), "_a_#é");
        assert_eq!(normalizer.apply("").expect("changes"), "");
        assert!(!normalizer.has_cuts());
        let nfc = Normalizer::new(&[Change::Form(Form::Nfc)]).expect("supported").expect("not empty");
        assert!(matches!(nfc.apply("é中"), Ok(Cow::Borrowed(_))) && nfc.has_cuts());
        assert!(
            nfc.is_stable('中')
                && nfc.is_stable('e')
                && !nfc.is_stable('\u{301}')
                && !nfc.is_stable('\u{1161}')
        );
        assert!(Normalizer::new(&[]).expect("nothing").is_none());
    }
}
