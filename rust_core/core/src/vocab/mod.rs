//! Vocabularies: which bytes an id stands for, how bytes merge, how text is split.
//!
//! One file per format: [`simple_bpe`] (`.model`), [`merges_txt`] (`vocab.json` + `merges.txt`),
//! [`rank_file`] (tiktoken), [`named`] (published rank files), [`tekken`] (Mistral's), [`hf_json`]
//! (`tokenizer.json`), [`gpt2`] (the bundled one);
//! `from_merges` stands here. Every loader
//! checks what it reads and names the line of what it refuses; afterwards a vocabulary is immutable.
//! What decides ids is in the [`fingerprint`]; names and paths are not.

mod files;
mod fingerprint;
pub mod gpt2;
mod hf_json;
mod merges_txt;
pub mod named;
mod parts;
pub mod pipeline;
pub(crate) mod rank_file;
mod simple_bpe;
mod tekken;

use std::collections::BTreeMap;
use std::path::Path;

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use files::{json_path, name_of, read_file, read_text, within_limit};
use parts::{KnownParts, Parts};
use pipeline::{Pipeline, TokenFlags};

/// Whose results are the truth for a vocabulary: its class tables come from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    Tiktoken,
    PythonRegex,
    HuggingFace,
}

/// How merges are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merges {
    /// tiktoken's rule: a pretoken that is a token is that token; else any two neighbours whose
    /// joined bytes are a token merge, lowest id first, leftmost first.
    Ranks,
    /// A list in order of priority: left id, right id, result.
    List(Vec<(u32, u32, u32)>),
}

/// Which of two special tokens that begin at the same place is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialOrder {
    Listed,
    Longest,
}

/// A token that text only contains by permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    pub text: String,
    pub id: u32,
}

/// A vocabulary with its rules.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    name: String,
    /// By id; `None` where there is none, or a special token.
    tokens: Vec<Option<Box<[u8]>>>,
    bytes: Box<[Option<u32>; 256]>,
    merges: Merges,
    specials: Vec<SpecialToken>,
    special_order: SpecialOrder,
    pattern: String,
    reference: Reference,
    n_tokens: usize,
    len_ids: u32,
    fingerprint: String,
    /// Merging the bytes of any token is known to give that token.
    reaches_all: bool,
    pipeline: Option<Box<Pipeline>>,
    /// Ids that no text gives, but that decode: entries of a `tokenizer.json` that are not spelled in
    /// bytes.
    unreachable: BTreeMap<u32, Vec<u8>>,
}

impl Vocabulary {
    /// Loads a vocabulary by name (`gpt2`), by name and rank file (`cl100k_base=PATH`) or by path: a `.model` file, a `tokenizer.json` or a folder with
    /// one, a `tekken.json`, or a folder with `vocab.json` and `merges.txt` (or either of these files; `encoder.json` and
    /// `vocab.bpe` are accepted as well).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::BadLine`] with the line, [`Error::BadTokenizer`].
    pub fn load(name_or_path: &str) -> Result<Self> {
        let path = Path::new(name_or_path);
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if name_or_path == "gpt2" {
            return Ok(Self::gpt2());
        }
        if let Some((name, path)) = named::split(name_or_path) {
            return named::load(name, path);
        }
        if extension == "model" {
            return simple_bpe::load(path);
        }
        if let Some(json) = json_path(path) {
            let text = read_text(&json)?;
            return if tekken::is_one(&text) {
                tekken::load(&json, &text)
            } else {
                hf_json::load(&json, &text)
            };
        }
        if path.is_dir() || matches!(extension, "json" | "txt" | "bpe") {
            return merges_txt::load(path);
        }
        if extension == "tiktoken" {
            let what = "a rank file says nothing of its pattern and special tokens; \
                        name it (cl100k_base=PATH), or load it with \
                        Tokenizer.from_tiktoken(path, pattern=..., special_tokens=...)";
            return Err(Error::BadTokenizer { name: name_or_path.to_owned(), what: what.to_owned() });
        }
        if name_or_path.contains('/') && !path.exists() {
            return Err(Error::NotFound { path: path.to_owned() });
        }
        let what = format!(
            "unknown tokenizer; give `gpt2`, a tokenizer.json, a tekken.json, a .model file, a folder with \
             vocab.json and merges.txt, or NAME=RANK_FILE with one of {}",
            named::names()
        );
        Err(Error::BadTokenizer { name: name_or_path.to_owned(), what })
    }

    /// GPT-2's vocabulary, which the crate carries.
    #[must_use]
    pub fn gpt2() -> Self {
        gpt2::bundled()
    }

    /// Loads a tiktoken rank file (`base64 rank` lines).
    ///
    /// # Errors
    /// [`Error::BadLine`] for a line that is broken or repeats a token or a rank.
    pub fn from_tiktoken(
        path: &Path,
        pattern: &str,
        specials: Vec<SpecialToken>,
        name: &str,
    ) -> Result<Self> {
        rank_file::load(path, pattern, specials, name)
    }

    /// Makes a vocabulary of tokens by id and merges by bytes, in order of priority.
    ///
    /// # Errors
    /// [`Error::BadTokenizer`] names the merge whose parts or result are not in the vocabulary, or
    /// that is given twice.
    pub fn from_merges(
        vocab: BTreeMap<u32, Vec<u8>>,
        merges: Vec<(Vec<u8>, Vec<u8>)>,
        specials: Vec<SpecialToken>,
        pattern: &str,
    ) -> Result<Self> {
        let name = "custom".to_owned();
        let refuse = |what: String| Err(Error::BadTokenizer { name: name.clone(), what });
        let mut ids: FxHashMap<&[u8], u32> = FxHashMap::default();
        for (&id, token) in &vocab {
            if let Some(other) = ids.insert(token, id) {
                return refuse(format!("ids {other} and {id} stand for the same bytes {}", show(token)));
            }
        }
        let mut list = Vec::with_capacity(merges.len());
        let mut seen = FxHashMap::default();
        for (at, (left, right)) in merges.iter().enumerate() {
            let joined = [&left[..], right].concat();
            let id = |part: &[u8]| ids.get(part).copied();
            let (Some(l), Some(r), Some(result)) = (id(left), id(right), id(&joined)) else {
                let missing = [left, right, &joined].into_iter().find(|part| id(part).is_none());
                let missing = missing.map_or_else(String::new, |part| show(part));
                return refuse(format!("merge {at} needs the token {missing}, which the vocabulary lacks"));
            };
            if let Some(first) = seen.insert((l, r), at) {
                return refuse(format!("merge {at} repeats merge {first}"));
            }
            list.push((l, r, result));
        }
        // A special token keeps the id under which the vocabulary holds its bytes, but is no longer
        // an ordinary token there unless merges make it.
        let mut tokens = vocab.clone();
        for special in &specials {
            let made = list.iter().any(|merge| merge.2 == special.id);
            if !made
                && special.text.len() > 1
                && tokens.get(&special.id).is_some_and(|token| token[..] == *special.text.as_bytes())
            {
                tokens.remove(&special.id);
            }
        }
        let parts = Parts {
            name: name.clone(),
            tokens: tokens.into_iter().collect(),
            merges: Merges::List(list),
            specials,
            special_order: SpecialOrder::Longest,
            pattern: pattern.to_owned(),
            reference: Reference::PythonRegex,
        };
        parts.build()
    }

    /// How the vocabulary was called when it was loaded.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One more than the largest id, special tokens included.
    #[must_use]
    pub fn len_ids(&self) -> u32 {
        self.len_ids
    }

    /// The number of ids that stand for something.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The bytes of an id; for a special token those of its text.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        let ordinary = self.tokens.get(id as usize)?.as_deref();
        ordinary
            .or_else(|| {
                self.specials.iter().find(|special| special.id == id).map(|special| special.text.as_bytes())
            })
            .or_else(|| self.unreachable.get(&id).map(Vec::as_slice))
    }

    /// The tokens that merging can give, by id.
    pub fn ordinary(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0_u32..).zip(&self.tokens).filter_map(|(id, token)| token.as_deref().map(|token| (id, token)))
    }

    /// Whether merging the bytes of any ordinary token is known to give that token alone.
    pub(crate) fn reaches_all(&self) -> bool {
        self.reaches_all
    }

    /// The id of a single byte.
    #[must_use]
    pub fn byte_id(&self, byte: u8) -> Option<u32> {
        self.bytes[usize::from(byte)]
    }

    /// The merge rule.
    #[must_use]
    pub fn merges(&self) -> &Merges {
        &self.merges
    }

    /// The special tokens, in match order.
    #[must_use]
    pub fn specials(&self) -> &[SpecialToken] {
        &self.specials
    }

    /// Which special token is meant where several begin.
    #[must_use]
    pub fn special_order(&self) -> SpecialOrder {
        self.special_order
    }

    /// What a `tokenizer.json` says beyond tokens and merges; `None` for other formats.
    #[must_use]
    pub fn pipeline(&self) -> Option<&Pipeline> {
        self.pipeline.as_deref()
    }

    /// How the special token at a place of the list is found.
    #[must_use]
    pub fn flags(&self, at: usize) -> TokenFlags {
        self.pipeline
            .as_ref()
            .and_then(|pipeline| pipeline.flags.get(at))
            .copied()
            .unwrap_or(TokenFlags::SPECIAL)
    }

    /// Whether a pretoken that is a token is that token, whatever merges make of it.
    #[must_use]
    pub fn is_whole_first(&self) -> bool {
        self.pipeline.as_ref().map_or(self.merges == Merges::Ranks, |pipeline| pipeline.ignore_merges)
    }

    /// The split pattern, or the steps where one pattern does not say it all.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whose class tables are used.
    #[must_use]
    pub fn reference(&self) -> Reference {
        self.reference
    }

    /// The end-of-text id: that of `<|endoftext|>`, or of the only special token that looks like one.
    #[must_use]
    pub fn eot_id(&self) -> Option<u32> {
        const NAMES: [&str; 8] =
            ["</s>", "<|end_of_text|>", "<|eot|>", "<eos>", "<|eos|>", "<|im_end|>", "<|end|>", "<|eot_id|>"];
        let find = |text: &str| self.specials.iter().find(|special| special.text == text);
        if let Some(special) = find("<|endoftext|>") {
            return Some(special.id);
        }
        let mut alike = NAMES.iter().filter_map(|name| find(name));
        alike.next().filter(|_| alike.next().is_none()).map(|special| special.id)
    }

    /// SHA-256 of everything that decides ids, in hexadecimal digits (see [`fingerprint`]).
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether ids need 32 bits.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.len_ids > 1 << 16
    }
}

/// Bytes for a message.
fn show(bytes: &[u8]) -> String {
    format!("b\"{}\"", bytes.escape_ascii())
}
