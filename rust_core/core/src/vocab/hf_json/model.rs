//! The model of a `tokenizer.json`: BPE over bytes in GPT-2's printable alphabet.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use serde::Deserialize;

use super::Refusal;
use crate::vocab::Merges;
use crate::vocab::gpt2::alphabet;

#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) vocab: FxHashMap<String, u32>,
    merges: Vec<Merge>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    pub(super) ignore_merges: bool,
}

/// `["a", "b"]` as files say since version 0.20, or `"a b"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Text(String),
}

type Tokens = BTreeMap<u32, Vec<u8>>;

impl Model {
    /// Refuses what would change ids. `fuse_unk`, `unk_token` and `byte_fallback` only matter for
    /// characters that have no token, and in a byte-level vocabulary with all bytes there are none.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err("`dropout` is set, which makes ids random".into());
        }
        for (name, value) in [
            ("continuing_subword_prefix", &self.continuing_subword_prefix),
            ("end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if value.as_ref().is_some_and(|value| !value.is_empty()) {
                return Err(format!("`{name}` is set"));
            }
        }
        let missing = self.missing_bytes();
        if self.unk_token.is_some() && !missing.is_empty() {
            return Err(format!("`unk_token` is set and the vocabulary lacks the byte 0x{:02x}", missing[0]));
        }
        if self.byte_fallback == Some(true) && !missing.is_empty() {
            return Err(format!(
                "`byte_fallback` is set and the vocabulary lacks the byte 0x{:02x}",
                missing[0]
            ));
        }
        Ok(())
    }

    /// Bytes that occur in UTF-8 and have no token.
    fn missing_bytes(&self) -> Vec<u8> {
        let alphabet = alphabet();
        (0..=0xF4_u8)
            .filter(|byte| !matches!(byte, 0xC0 | 0xC1))
            .filter(|&byte| !self.vocab.contains_key(&*alphabet[usize::from(byte)].to_string()))
            .collect()
    }

    /// Tokens by id: those spelled in the alphabet, and others, which no text can give.
    pub(super) fn tokens(&self) -> Result<(Tokens, Tokens), Refusal> {
        let bytes: FxHashMap<char, u8> = alphabet().into_iter().zip(0..=255).collect();
        let (mut tokens, mut others) = (Tokens::new(), Tokens::new());
        let mut names: FxHashMap<u32, &str> = FxHashMap::default();
        for (text, &id) in &self.vocab {
            if let Some(other) = names.insert(id, text) {
                let (a, b) = if *other < **text { (other, &**text) } else { (&**text, other) };
                return Err(format!("{a:?} and {b:?} share id {id}"));
            }
            if text.is_empty() {
                return Err(format!("token {id} is empty"));
            }
            match text.chars().map(|c| bytes.get(&c).copied()).collect() {
                Some(token) => tokens.insert(id, token),
                None => others.insert(id, text.clone().into_bytes()),
            };
        }
        Ok((tokens, others))
    }

    /// The merges by id. Of merges that are given twice the library keeps the last.
    pub(super) fn merges(&self) -> Result<Merges, Refusal> {
        let mut list = Vec::with_capacity(self.merges.len());
        let mut latest: FxHashMap<(u32, u32), usize> = FxHashMap::default();
        for (at, merge) in self.merges.iter().enumerate() {
            let (left, right) = match merge {
                Merge::Pair(left, right) => (&**left, &**right),
                Merge::Text(text) => match text.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => (left, right),
                    _ => return Err(format!("merge {at} is {text:?}, not two parts with a space between")),
                },
            };
            let joined = [left, right].concat();
            let id = |part: &str| self.vocab.get(part).copied();
            let (Some(l), Some(r), Some(result)) = (id(left), id(right), id(&joined)) else {
                let missing = [left, right, &joined].into_iter().find(|part| id(part).is_none());
                let missing = missing.unwrap_or_default();
                return Err(format!("merge {at} needs the token {missing:?}, which the vocabulary lacks"));
            };
            latest.insert((l, r), at);
            list.push((l, r, result));
        }
        let mut at = 0..;
        list.retain(|&(l, r, _)| at.next() == latest.get(&(l, r)).copied());
        Ok(Merges::List(list))
    }
}
