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
            || self.changes.iter().all(|change| match change {
                Ready::Form(form) => form.is_stable(c),
                _ => false,
            })
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
    fn apply(self, text: &str) -> Option<String> {
        if text.is_ascii() || self.quick(text.chars()) == IsNormalized::Yes {
            return None;
        }
        Some(match self {
            Self::Nfc => text.nfc().map(|(c, _)| c).collect(),
            Self::Nfd => text.nfd().map(|(c, _)| c).collect(),
            Self::Nfkc => text.nfkc().map(|(c, _)| c).collect(),
            Self::Nfkd => text.nfkd().map(|(c, _)| c).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

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
