//! A vocabulary's fingerprint: the SHA-256 of everything that decides ids, in this order, numbers
//! little-endian, texts and byte strings with their length as u32 before them:
//!
//! ```text
//! "tokend vocabulary 1"
//! reference            u8   0 tiktoken, 1 Python regex, 2 Hugging Face
//! rule                 u8   0 ranks, 1 merge list
//! pattern              text
//! class tables' hash   text
//! tokens               u32 count, then for each ordinary token, by id: u32 id, bytes
//! merges               u32 count, then for each: u32 left, u32 right, u32 result   (0 for ranks)
//! order of specials    u8   0 as listed, 1 longest first
//! special tokens       u32 count, then for each, as listed (longest first: by id): text, u32 id
//! Han                  u32 first, u32 last of each range of `\p{Han}`, where the pattern has it
//! pipeline             text as `pipeline` writes it, then the ranges of `Digits`; Hugging Face only
//! ```
//!
//! Names and paths are not in it: the same tokenizer from another file has the same fingerprint.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::{Merges, Reference, SpecialOrder, Vocabulary};
use crate::pretokenize::unicode::classes;

impl Vocabulary {
    pub(super) fn compute_fingerprint(&self) -> String {
        let mut hash = Fingerprint(Sha256::new());
        hash.0.update(b"tokend vocabulary 1");
        hash.0.update([
            match self.reference {
                Reference::Tiktoken => 0,
                Reference::PythonRegex => 1,
                Reference::HuggingFace => 2,
            },
            u8::from(matches!(self.merges, Merges::List(_))),
        ]);
        hash.bytes(self.pattern.as_bytes());
        hash.bytes(classes(self.reference).hash().as_bytes());
        hash.number(self.ordinary().count() as u32);
        for (id, token) in self.ordinary() {
            hash.number(id);
            hash.bytes(token);
        }
        let list = if let Merges::List(list) = &self.merges { &list[..] } else { &[] };
        hash.number(list.len() as u32);
        for &(left, right, result) in list {
            for number in [left, right, result] {
                hash.number(number);
            }
        }
        hash.0.update([u8::from(self.special_order == SpecialOrder::Longest)]);
        hash.number(self.specials.len() as u32);
        let mut specials: Vec<_> = self.specials.iter().collect();
        if self.special_order == SpecialOrder::Longest {
            // Where length decides, the order of the list does not.
            specials.sort_by_key(|special| special.id);
        }
        for special in specials {
            hash.bytes(special.text.as_bytes());
            hash.number(special.id);
        }
        if self.pattern.contains("Han}") {
            for (first, last) in classes(self.reference).han() {
                hash.number(first.into());
                hash.number(last.into());
            }
        }
        if let Some(pipeline) = &self.pipeline {
            hash.bytes(&pipeline.canonical());
            for (first, last) in classes(self.reference).digits() {
                hash.number(first.into());
                hash.number(last.into());
            }
        }
        let mut text = String::with_capacity(64);
        for byte in hash.0.finalize() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

struct Fingerprint(Sha256);

impl Fingerprint {
    fn number(&mut self, number: u32) {
        self.0.update(number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u32);
        self.0.update(bytes);
    }
}
