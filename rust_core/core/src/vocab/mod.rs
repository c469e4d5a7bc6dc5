//! Vocabularies: which bytes an id stands for, how bytes merge, how text is split.
//!
//! One file per format: [`simple_bpe`] (`.model`), [`merges_txt`] (`vocab.json` + `merges.txt`),
//! [`rank_file`] (tiktoken), [`named`] (published rank files), [`tekken`] (Mistral's), [`hf_json`]
//! (`tokenizer.json`), [`gpt2`] (the bundled one);
//! `from_merges` stands here. Every loader
//! checks what it reads and names the line of what it refuses; afterwards a vocabulary is immutable.
//!
//! The **fingerprint** is the SHA-256 of this, numbers little-endian, texts and byte strings with
//! their length as u32 before them:
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

pub mod gpt2;
mod hf_json;
mod merges_txt;
pub mod named;
pub mod pipeline;
pub(crate) mod rank_file;
mod simple_bpe;
mod tekken;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use crate::bpe::pairs::MISSING;
use crate::error::{Error, Result};
use crate::input::access::Roots;
use crate::pretokenize::unicode::classes;
use pipeline::{Pipeline, TokenFlags};

/// A larger file is none of a vocabulary's; the largest that are published have some 35 MB.
const FILE_MAX_BYTES: u64 = 256 << 20;

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

/// What a loader has read; [`Parts::build`] checks what all formats have in common.
struct Parts {
    name: String,
    /// By ascending id.
    tokens: Vec<(u32, Vec<u8>)>,
    merges: Merges,
    specials: Vec<SpecialToken>,
    special_order: SpecialOrder,
    pattern: String,
    reference: Reference,
}

/// Ids from here on would make tables of gigabytes; no tokenizer has them by intent.
const ID_MAX: u32 = 1 << 24;

/// Longer tokens only come from models made to exhaust memory: forty merges can double that often.
const TOKEN_MAX_BYTES: usize = 65_535;

/// What is known of a vocabulary that never changes, and takes milliseconds to find out.
#[derive(Clone, Copy)]
struct KnownParts {
    fingerprint: &'static str,
    reaches_all: bool,
}

impl Parts {
    fn build(self) -> Result<Vocabulary> {
        self.build_with(None, BTreeMap::new())
    }

    fn build_with(
        self,
        pipeline: Option<Pipeline>,
        unreachable: BTreeMap<u32, Vec<u8>>,
    ) -> Result<Vocabulary> {
        self.build_knowing(None, pipeline, unreachable)
    }

    fn build_knowing(
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

    /// SHA-256 of everything that decides ids, in hexadecimal digits (see the module header).
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether ids need 32 bits.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.len_ids > 1 << 16
    }

    fn compute_fingerprint(&self) -> String {
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

/// The JSON file with everything in it that a path means: any other `.json` than those of a pair of
/// files, or the `tokenizer.json` in a folder.
fn json_path(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.join("tokenizer.json")).filter(|json| json.exists());
    }
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let name = path.file_name()?;
    (is_json && name != "vocab.json" && name != "encoder.json" && path.exists()).then(|| path.to_owned())
}

/// Bytes for a message.
fn show(bytes: &[u8]) -> String {
    format!("b\"{}\"", bytes.escape_ascii())
}

/// Reads a file as text whose broken lines can be named.
fn read_text(path: &Path) -> Result<String> {
    let bytes = read_file(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(offset).copied().unwrap_or_default();
        Error::InvalidUtf8 { path: path.to_owned(), offset: offset as u64, byte }
    })
}

/// The bytes of a regular file that is not too large for a vocabulary.
///
/// A daemon loads what anybody names: a FIFO would keep it waiting, a device would fill its memory.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |error| Error::io(path, "reading", error);
    let file = Roots::default().open_output(path)?;
    let n_bytes = file.metadata().map_err(fail)?.len();
    let mut bytes = Vec::new();
    if n_bytes <= FILE_MAX_BYTES {
        bytes.reserve_exact(n_bytes as usize + 1);
        // Counted as it is read: of a file of the kernel's the size says nothing.
        file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    }
    within_limit(path, bytes, n_bytes)
}

/// Refuses what is too large for a vocabulary's file.
fn within_limit(path: &Path, bytes: Vec<u8>, n_bytes: u64) -> Result<Vec<u8>> {
    if n_bytes.max(bytes.len() as u64) <= FILE_MAX_BYTES {
        return Ok(bytes);
    }
    let what = format!("more than {FILE_MAX_BYTES} bytes, which no vocabulary has");
    Err(Error::BadTokenizer { name: path.display().to_string(), what })
}

/// The name of a vocabulary that was loaded from a file: its absolute path.
fn name_of(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
