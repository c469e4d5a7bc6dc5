//! `tokenizer.json`, the file of Hugging Face's tokenizers, of the byte-level BPE kind.
//!
//! ```text
//! added_tokens   id, content, special, single_word, lstrip, rstrip, normalized
//! normalizer     NFC NFD NFKC NFKD Replace Prepend Sequence
//! pre_tokenizer  ByteLevel Split Digits Sequence; ByteLevel comes last
//! model          BPE: vocab and merges in GPT-2's printable alphabet, ignore_merges
//! ```
//!
//! The reference is that library: `encode(text, add_special_tokens=False)`. What a file says beyond
//! this and what would change ids is refused by its name; post-processors add ids around a text and
//! are never applied, decoders only concern the way back.

mod added;
mod model;
mod normalizer;
mod pre_tokenizer;

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::pipeline::Pipeline;
use super::{Parts, Reference, SpecialOrder, Vocabulary, name_of};
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct File {
    version: Option<String>,
    truncation: Option<Value>,
    padding: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<added::Token>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    model: model::Model,
}

/// What a part of the file says that is not supported.
type Refusal = String;

pub(super) fn load(path: &Path, text: &str) -> Result<Vocabulary> {
    let name = name_of(path);
    let refuse = |what: Refusal| Error::BadTokenizer { name: name.clone(), what };
    // The kind first: another one has other fields, whose absence would be the wrong thing to name.
    let kind: Kind = serde_json::from_str(text).map_err(|error| broken(path, &error))?;
    kind.check().map_err(refuse)?;
    let file: File = serde_json::from_str(text).map_err(|error| broken(path, &error))?;
    if let Some(version) = file.version.filter(|version| version != "1.0") {
        return Err(refuse(format!("version {version:?} of the format (1.0 is supported)")));
    }
    for (option, value) in [("truncation", &file.truncation), ("padding", &file.padding)] {
        if value.is_some() {
            return Err(refuse(format!("`{option}` is set, which changes ids; set it to null in the file")));
        }
    }
    let mut pipeline = Pipeline { ignore_merges: file.model.ignore_merges, ..Pipeline::default() };
    pipeline.changes = normalizer::read(file.normalizer.as_ref()).map_err(refuse)?;
    (pipeline.prefix_space, pipeline.steps) =
        pre_tokenizer::read(file.pre_tokenizer.as_ref()).map_err(refuse)?;
    file.model.check().map_err(refuse)?;
    let merges = file.model.merges().map_err(refuse)?;
    let (tokens, mut unreachable) = file.model.tokens().map_err(refuse)?;
    let (specials, flags) = added::read(file.added_tokens, &file.model).map_err(refuse)?;
    unreachable.retain(|id, _| specials.iter().all(|special| special.id != *id));
    pipeline.flags = flags;
    let pattern = match &pipeline.steps[..] {
        [step] => step.plain_pattern(),
        _ => None,
    };
    let pattern = pattern.map_or_else(|| pre_tokenizer::describe(&pipeline.steps), str::to_owned);
    let parts = Parts {
        name,
        tokens: tokens.into_iter().collect(),
        merges,
        specials,
        special_order: SpecialOrder::Longest,
        pattern,
        reference: Reference::HuggingFace,
    };
    parts.build_with(Some(pipeline), unreachable)
}

fn broken(path: &Path, error: &serde_json::Error) -> Error {
    Error::BadLine { path: path.to_owned(), line: error.line(), what: error.to_string() }
}

/// The least that tells what kind of tokenizer a file holds.
#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Files of old versions have no `type`.
    merges: Option<serde::de::IgnoredAny>,
}

impl Kind {
    fn check(&self) -> Result<(), Refusal> {
        match self.model.kind.as_deref() {
            Some("BPE") => Ok(()),
            None if self.model.merges.is_some() => Ok(()),
            Some(kind) => Err(format!("the model {kind} is not supported (byte-level BPE is)")),
            None => Err("a model without `type` and merges (byte-level BPE is supported)".into()),
        }
    }
}

/// The `type` of a part.
fn type_of(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("without a type")
}

/// A switch of a part; `default` where the file does not mention it.
fn switch(value: &Value, name: &str, default: bool) -> Result<bool, Refusal> {
    match value.get(name) {
        None => Ok(default),
        Some(Value::Bool(on)) => Ok(*on),
        Some(other) => Err(format!("`{name}` of {} is {other}, not true or false", type_of(value))),
    }
}

/// The `pattern` of a part: its text, and whether it is meant as it is.
fn pattern_of(value: &Value) -> Result<(String, bool), Refusal> {
    let pattern = value.get("pattern");
    let text = |kind: &str| pattern.and_then(|pattern| pattern.get(kind)).and_then(Value::as_str);
    match (text("Regex"), text("String")) {
        (_, Some("")) | (Some(""), _) => Err(format!("an empty pattern of {}", type_of(value))),
        (Some(regex), None) => Ok((regex.to_owned(), false)),
        (None, Some(literal)) => Ok((literal.to_owned(), true)),
        _ => Err(format!("{} without a pattern that is a Regex or a String", type_of(value))),
    }
}

/// The parts of a `Sequence`, or the one part that there is.
fn sequence<'v>(value: Option<&'v Value>, list: &str) -> Result<Vec<&'v Value>, Refusal> {
    let Some(value) = value else { return Ok(Vec::new()) };
    if type_of(value) != "Sequence" {
        return Ok(vec![value]);
    }
    let Some(Value::Array(parts)) = value.get(list) else {
        return Err(format!("a Sequence without `{list}`"));
    };
    let mut flat = Vec::new();
    for part in parts {
        flat.extend(sequence(Some(part), list)?);
    }
    Ok(flat)
}
