//! From what a loader has read to a vocabulary: the checks that all formats have in common.
//!
//! An id has one token, a token at least one byte; special tokens have texts and, but for a few published
//! encodings, ids of their own. What breaks this is refused by name.

use std::collections::BTreeMap;

use super::pipeline::Pipeline;
use super::{Merges, Reference, SpecialOrder, SpecialToken, Vocabulary, named};
use crate::bpe::pairs::MISSING;
use crate::error::{Error, Result};
use crate::lane::Lane;

/// What a loader has read; [`Parts::build`] checks what all formats have in common.
pub(super) struct Parts {
    pub(super) name: String,
    /// By ascending id.
    pub(super) tokens: Vec<(u32, Vec<u8>)>,
    pub(super) merges: Merges,
    pub(super) specials: Vec<SpecialToken>,
    pub(super) special_order: SpecialOrder,
    pub(super) pattern: String,
    pub(super) reference: Reference,
}

/// Ids from here on would make tables of gigabytes; no tokenizer has them by intent.
const ID_MAX: u32 = 1 << 24;
// The word cache packs them (see `lane`).
const _: () = assert!(ID_MAX as u64 <= 1 << (8 * u32::PACKED_BYTES));

/// Longer tokens only come from models made to exhaust memory: forty merges can double that often.
pub(super) const TOKEN_MAX_BYTES: usize = 65_535;

/// What is known of a vocabulary that never changes, and takes milliseconds to find out.
#[derive(Clone, Copy)]
pub(super) struct KnownParts {
    pub(super) fingerprint: &'static str,
    pub(super) reaches_all: bool,
}

impl Parts {
    pub(super) fn build(self) -> Result<Vocabulary> {
        self.build_with(None, BTreeMap::new())
    }

    pub(super) fn build_with(
        self,
        pipeline: Option<Pipeline>,
        unreachable: BTreeMap<u32, Vec<u8>>,
    ) -> Result<Vocabulary> {
        self.build_knowing(None, pipeline, unreachable)
    }

    pub(super) fn build_knowing(
        self,
        known: Option<KnownParts>,
        pipeline: Option<Pipeline>,
        unreachable: BTreeMap<u32, Vec<u8>>,
    ) -> Result<Vocabulary> {
        let name = self.name;
        let refuse = |what: String| Err(Error::BadTokenizer { name: name.clone(), what });
        let special_ids = self.specials.iter().map(|special| special.id);
        let largest = self
            .tokens
            .iter()
            .map(|token| token.0)
            .chain(unreachable.keys().copied())
            .chain(special_ids)
            .max();
        let Some(largest) = largest else { return refuse("it has no tokens".into()) };
        if largest >= ID_MAX.min(MISSING) {
            return refuse(format!("id {largest} is too large (the limit is {ID_MAX})"));
        }
        let mut tokens = vec![None; largest as usize + 1];
        let mut bytes = Box::new([None; 256]);
        for (id, token) in self.tokens {
            if token.is_empty() {
                return refuse(format!("token {id} is empty"));
            }
            if token.len() > TOKEN_MAX_BYTES {
                return refuse(format!(
                    "token {id} has {} bytes (the limit is {TOKEN_MAX_BYTES})",
                    token.len()
                ));
            }
            if let [byte] = token[..] {
                bytes[usize::from(byte)] = Some(id);
            }
            tokens[id as usize] = Some(token.into_boxed_slice());
        }
        for (at, special) in self.specials.iter().enumerate() {
            if special.text.is_empty() {
                return refuse(format!("special token {} is empty", special.id));
            }
            if let Some(twin) = self.specials[..at].iter().find(|other| other.text == special.text) {
                return refuse(format!(
                    "special token {:?} is given twice ({} and {})",
                    twin.text, twin.id, special.id
                ));
            }
            if let Some(other) = self.specials[..at].iter().find(|other| other.id == special.id)
                && !named::may_share(&name, special.id)
            {
                return refuse(format!(
                    "special tokens {:?} and {:?} share id {}",
                    other.text, special.text, other.id
                ));
            }
            // An ordinary token of that id is tolerated where it has the same bytes: the special
            // token then is that token under permission.
            let slot = &mut tokens[special.id as usize];
            if slot.as_ref().is_some_and(|token| **token != *special.text.as_bytes()) {
                return refuse(format!(
                    "special token {:?} takes id {} of another token",
                    special.text, special.id
                ));
            }
        }
        let n_tokens = tokens.iter().flatten().count()
            + unreachable.len()
            + self.specials.iter().filter(|special| tokens[special.id as usize].is_none()).count();
        let mut vocab = Vocabulary {
            name,
            tokens,
            bytes,
            merges: self.merges,
            specials: self.specials,
            special_order: self.special_order,
            pattern: self.pattern,
            reference: self.reference,
            n_tokens,
            len_ids: largest + 1,
            fingerprint: known.map_or_else(String::new, |known| known.fingerprint.to_owned()),
            reaches_all: known.is_some_and(|known| known.reaches_all),
            pipeline: pipeline.map(Box::new),
            unreachable,
        };
        if known.is_none() {
            vocab.fingerprint = vocab.compute_fingerprint();
        }
        Ok(vocab)
    }
}
