//! What a `tokenizer.json` says beyond tokens and merges.

use crate::normalize::{Change, Form};
use crate::pretokenize::steps::{Behavior, Step};

/// How text becomes pretokens, in the order in which it happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pipeline {
    /// Which texts the added tokens are found in, and how; as many as there are special tokens.
    pub flags: Vec<TokenFlags>,
    pub changes: Vec<Change>,
    /// Text gets a space in front of it unless it has one.
    pub prefix_space: bool,
    pub steps: Vec<Step>,
    /// A pretoken that is a token is that token, whatever merges make of it.
    pub ignore_merges: bool,
}

/// How an added token is found.
#[expect(clippy::struct_excessive_bools, reason = "the format's own five switches")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenFlags {
    /// A special token: `special="text"` makes it ordinary text, `"raise"` refuses it. Others are
    /// always found.
    pub special: bool,
    /// Only where no word character touches it.
    pub single_word: bool,
    /// Takes the whitespace before it.
    pub lstrip: bool,
    /// Takes the whitespace behind it.
    pub rstrip: bool,
    /// Found in the normalized text, not in the text as it is.
    pub normalized: bool,
}

impl TokenFlags {
    /// A special token of the formats that have no flags.
    pub const SPECIAL: Self =
        Self { special: true, single_word: false, lstrip: false, rstrip: false, normalized: false };
}

impl TokenFlags {
    /// Whether what stands around a token decides how it is found.
    #[must_use]
    pub fn looks_around(self) -> bool {
        self.single_word || self.lstrip || self.rstrip
    }
}

impl Pipeline {
    /// Everything that decides ids, one way to write it, for the fingerprint.
    pub(super) fn canonical(&self) -> Vec<u8> {
        let mut text = Text(Vec::new());
        text.number(self.flags.len());
        for flags in &self.flags {
            let TokenFlags { special, single_word, lstrip, rstrip, normalized } = *flags;
            for flag in [special, single_word, lstrip, rstrip, normalized] {
                text.0.push(flag.into());
            }
        }
        text.number(self.changes.len());
        for change in &self.changes {
            match change {
                Change::Form(form) => text.0.push(match form {
                    Form::Nfc => 0,
                    Form::Nfd => 1,
                    Form::Nfkc => 2,
                    Form::Nfkd => 3,
                }),
                Change::Replace { pattern, is_literal, content } => {
                    text.0.push(4 + u8::from(*is_literal));
                    text.text(pattern);
                    text.text(content);
                }
                Change::Prepend(prefix) => {
                    text.0.push(6);
                    text.text(prefix);
                }
            }
        }
        text.0.push(self.prefix_space.into());
        text.number(self.steps.len());
        for step in &self.steps {
            match step {
                Step::Split { pattern, is_literal, behavior, invert } => {
                    let behavior = match behavior {
                        Behavior::Removed => 0,
                        Behavior::Isolated => 1,
                        Behavior::MergedWithPrevious => 2,
                        Behavior::MergedWithNext => 3,
                        Behavior::Contiguous => 4,
                    };
                    text.0.extend([u8::from(*is_literal), behavior, u8::from(*invert)]);
                    text.text(pattern);
                }
                Step::Digits { individual } => text.0.push(2 + u8::from(*individual)),
            }
        }
        text.0.push(self.ignore_merges.into());
        text.0
    }
}

struct Text(Vec<u8>);

impl Text {
    fn number(&mut self, number: usize) {
        self.0.extend((number as u32).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.extend(text.as_bytes());
    }
}
