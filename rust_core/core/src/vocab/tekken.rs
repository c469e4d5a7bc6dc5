//! Mistral's `tekken.json`: ranks, a pattern and special tokens in one file.
//!
//! ```text
//! config          pattern, default_vocab_size, default_num_special_tokens
//! vocab           [{rank, token_bytes (base64), token_str}]   ordinary tokens; the first ones are used
//! special_tokens  [{rank, token_str, is_control}]             (old files: a list known by heart)
//! ```
//!
//! The special tokens come first: an ordinary token's id is its rank plus their number. The reference
//! is tiktoken over the ranks, as in Mistral's own library.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::rank_file::decode_base64;
use super::{Merges, Parts, Reference, SpecialOrder, SpecialToken, Vocabulary, name_of};
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vec<Token>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct Token {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: u32,
    token_str: String,
}

/// The special tokens of files that do not list them.
const OLD: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// Whether a JSON text is such a file.
pub(super) fn is_one(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Probe {
        #[expect(dead_code, reason = "only its presence matters")]
        config: ProbeConfig,
    }
    #[derive(Deserialize)]
    struct ProbeConfig {
        #[expect(dead_code, reason = "only its presence matters")]
        default_num_special_tokens: usize,
    }
    text.contains("default_num_special_tokens") && serde_json::from_str::<Probe>(text).is_ok()
}

pub(super) fn load(path: &Path, text: &str) -> Result<Vocabulary> {
    let name = name_of(path);
    let refuse = |what: String| Err(Error::BadTokenizer { name: name.clone(), what });
    let file: File = serde_json::from_str(text).map_err(|error| Error::BadLine {
        path: path.to_owned(),
        line: error.line(),
        what: error.to_string(),
    })?;
    let n_specials = file.config.default_num_special_tokens;
    let n_tokens = file.config.default_vocab_size.saturating_sub(n_specials);
    if n_tokens > file.vocab.len() {
        return refuse(format!("{} tokens where its config says {n_tokens}", file.vocab.len()));
    }
    let mut tokens = BTreeMap::new();
    for (at, token) in file.vocab.iter().take(n_tokens).enumerate() {
        let bytes = decode_base64(token.token_bytes.as_bytes()).filter(|bytes| !bytes.is_empty());
        let Some(bytes) = bytes.filter(|_| token.rank == at) else {
            return refuse(format!("token {at} has rank {} and bytes {:?}", token.rank, token.token_bytes));
        };
        tokens.insert((at + n_specials) as u32, bytes);
    }
    let listed = file.special_tokens.map_or_else(
        || OLD.iter().map(|text| (*text).to_owned()).zip(0..).collect::<Vec<_>>(),
        |listed| listed.into_iter().map(|special| (special.token_str, special.rank)).collect(),
    );
    if listed.len() > n_specials {
        return refuse(format!("{} special tokens where its config says {n_specials}", listed.len()));
    }
    let filled = (listed.len()..n_specials).map(|id| (format!("<SPECIAL_{id}>"), id as u32));
    let specials: Vec<_> = listed.into_iter().chain(filled).collect();
    if let Some((text, id)) = specials.iter().find(|special| special.1 as usize >= n_specials) {
        return refuse(format!("special token {text:?} has id {id}, where ordinary tokens are"));
    }
    let parts = Parts {
        name: name.clone(),
        tokens: tokens.into_iter().collect(),
        merges: Merges::Ranks,
        specials: specials.into_iter().map(|(text, id)| SpecialToken { text, id }).collect(),
        special_order: SpecialOrder::Longest,
        pattern: file.config.pattern,
        reference: Reference::Tiktoken,
    };
    parts.build()
}
