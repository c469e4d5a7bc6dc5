//! Published encodings whose rank file says nothing of their pattern and special tokens.
//!
//! A rank file is given by its path, `cl100k_base=PATH`, and must be the published one: its SHA-256 is
//! compared, so that the name in a manifest can be trusted. What is known here by heart, patterns and
//! special tokens, is what the publishers' own libraries say.

use std::ops::Range;
use std::path::Path;

use super::{SpecialToken, Vocabulary, name_of, rank_file};
use crate::error::{Error, Result};

const R50K: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s";
const CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const END: &str = "<|endoftext|>";

struct Encoding {
    name: &'static str,
    pattern: &'static str,
    sha256: &'static str,
    specials: fn() -> Vec<(String, u32)>,
}

const R50K_SHA256: &str = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930";
const P50K_SHA256: &str = "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069";
const CL100K_SHA256: &str = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7";
const O200K_SHA256: &str = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d";
const LLAMA3_SHA256: &str = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55";
const LLAMA4_SHA256: &str = "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed";

static ENCODINGS: [Encoding; 8] = [
    Encoding { name: "r50k_base", pattern: R50K, sha256: R50K_SHA256, specials: || list(&[(END, 50_256)]) },
    Encoding { name: "p50k_base", pattern: R50K, sha256: P50K_SHA256, specials: || list(&[(END, 50_256)]) },
    Encoding { name: "p50k_edit", pattern: R50K, sha256: P50K_SHA256, specials: p50k_edit },
    Encoding { name: "cl100k_base", pattern: CL100K, sha256: CL100K_SHA256, specials: cl100k_base },
    Encoding { name: "o200k_base", pattern: O200K, sha256: O200K_SHA256, specials: o200k_base },
    Encoding { name: "o200k_harmony", pattern: O200K, sha256: O200K_SHA256, specials: o200k_harmony },
    Encoding { name: "llama3", pattern: LLAMA3, sha256: LLAMA3_SHA256, specials: llama3 },
    Encoding { name: "llama4", pattern: O200K, sha256: LLAMA4_SHA256, specials: llama4 },
];

/// The name and the path of `NAME=PATH`, if the name is a published encoding's.
pub(super) fn split(text: &str) -> Option<(&str, &Path)> {
    let (name, path) = text.split_once('=')?;
    ENCODINGS.iter().any(|encoding| encoding.name == name).then_some((name, Path::new(path)))
}

/// The names, for a message.
pub(super) fn names() -> String {
    ENCODINGS.iter().map(|encoding| encoding.name).collect::<Vec<_>>().join(", ")
}

/// Pattern, SHA-256 of the rank file, and special tokens.
pub type Published = (&'static str, &'static str, Vec<(String, u32)>);

/// What is known of a published encoding by heart, for the tests.
#[must_use]
pub fn published(name: &str) -> Option<Published> {
    let encoding = ENCODINGS.iter().find(|encoding| encoding.name == name)?;
    Some((encoding.pattern, encoding.sha256, (encoding.specials)()))
}

/// Whether a vocabulary was published with two special tokens of one id: `o200k_harmony` calls 200018
/// both `<|endofprompt|>` and `<|reserved_200018|>`. It decodes to the first.
pub(super) fn may_share(name: &str, id: u32) -> bool {
    name.starts_with("o200k_harmony=") && id == 200_018
}

pub(super) fn load(name: &str, path: &Path) -> Result<Vocabulary> {
    let full = format!("{name}={}", name_of(path));
    let refuse = |what: String| Error::BadTokenizer { name: full.clone(), what };
    let encoding = ENCODINGS.iter().find(|encoding| encoding.name == name);
    let Some(encoding) = encoding else {
        return Err(refuse(format!("the encodings known by name are {}", names())));
    };
    let (text, sha256) = rank_file::read(path)?;
    if sha256 != encoding.sha256 {
        return Err(refuse(format!(
            "not the published file of {name} (its SHA-256 is {sha256}, not {})",
            encoding.sha256
        )));
    }
    let specials = (encoding.specials)();
    let specials = specials.into_iter().map(|(text, id)| SpecialToken { text, id }).collect();
    rank_file::parse(path, &text, encoding.pattern, specials, &full)
}

fn list(tokens: &[(&str, u32)]) -> Vec<(String, u32)> {
    tokens.iter().map(|&(text, id)| (text.to_owned(), id)).collect()
}

fn numbered(prefix: &str, numbers: Range<u32>, first_id: u32) -> impl Iterator<Item = (String, u32)> {
    let start = numbers.start;
    numbers.map(move |n| (format!("<|{prefix}_{n}|>"), first_id + n - start))
}

fn p50k_edit() -> Vec<(String, u32)> {
    list(&[(END, 50_256), ("<|fim_prefix|>", 50_281), ("<|fim_middle|>", 50_282), ("<|fim_suffix|>", 50_283)])
}

fn cl100k_base() -> Vec<(String, u32)> {
    list(&[
        (END, 100_257),
        ("<|fim_prefix|>", 100_258),
        ("<|fim_middle|>", 100_259),
        ("<|fim_suffix|>", 100_260),
        ("<|endofprompt|>", 100_276),
    ])
}

fn o200k_base() -> Vec<(String, u32)> {
    list(&[(END, 199_999), ("<|endofprompt|>", 200_018)])
}

/// gpt-oss. Id 200018 has two names: see [`may_share`].
fn o200k_harmony() -> Vec<(String, u32)> {
    let mut tokens = list(&[
        ("<|startoftext|>", 199_998),
        (END, 199_999),
        ("<|reserved_200000|>", 200_000),
        ("<|reserved_200001|>", 200_001),
        ("<|return|>", 200_002),
        ("<|constrain|>", 200_003),
        ("<|reserved_200004|>", 200_004),
        ("<|channel|>", 200_005),
        ("<|start|>", 200_006),
        ("<|end|>", 200_007),
        ("<|message|>", 200_008),
        ("<|reserved_200009|>", 200_009),
        ("<|reserved_200010|>", 200_010),
        ("<|reserved_200011|>", 200_011),
        ("<|call|>", 200_012),
        ("<|endofprompt|>", 200_018),
    ]);
    tokens.extend(numbered("reserved", 200_013..201_088, 200_013));
    tokens
}

fn llama3() -> Vec<(String, u32)> {
    let names = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>",
        "<|step_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
        "<|image|>",
    ];
    let mut tokens: Vec<_> = names.into_iter().map(str::to_owned).zip(128_000..).collect();
    tokens.extend(numbered("reserved_special_token", 2..246, 128_012));
    tokens
}

fn llama4() -> Vec<(String, u32)> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |list: &[&str]| names.extend(list.iter().map(|name| format!("<|{name}|>")));
    add(&["begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"]);
    add(&["header_start", "header_end", "eom", "eot", "step"]);
    let reserved = |kind: &str, numbers: Range<u32>| -> Vec<String> {
        numbers.map(|n| format!("<|{kind}reserved_special_token_{n}|>")).collect()
    };
    names.extend(reserved("text_post_train_", 0..6));
    names.extend(["python_start", "python_end", "finetune_right_pad"].map(|name| format!("<|{name}|>")));
    names.extend(reserved("text_post_train_", 8..69));
    names.extend(["image_start", "image_end"].map(|name| format!("<|{name}|>")));
    names.extend(reserved("vision_", 0..2));
    names.extend(["tile_x_separator", "tile_y_separator"].map(|name| format!("<|{name}|>")));
    names.extend(reserved("vision_", 2..6));
    names.push("<|image|>".to_owned());
    names.extend(reserved("vision_", 6..7));
    names.push("<|patch|>".to_owned());
    names.extend(reserved("vision_", 7..1048));
    names.extend(reserved("reasoning_", 0..8));
    names.extend(["reasoning_thinking_start", "reasoning_thinking_end"].map(|name| format!("<|{name}|>")));
    let n_left = 2048 - names.len() as u32;
    names.extend(reserved("", 0..n_left));
    names.into_iter().zip(200_000..).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_are_told_apart() {
        for encoding in &ENCODINGS {
            let mut specials = (encoding.specials)();
            specials.retain(|special| special.0 != "<|reserved_200018|>");
            let n = specials.len();
            specials.sort();
            specials.dedup_by(|a, b| a.0 == b.0 || a.1 == b.1);
            assert_eq!(specials.len(), n, "{}", encoding.name);
        }
        assert_eq!(llama3().last(), Some(&("<|reserved_special_token_245|>".to_owned(), 128_255)));
        assert_eq!(llama4().last().map(|token| token.1), Some(202_047));
    }

    #[test]
    fn another_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.tiktoken");
        std::fs::write(&path, "YQ== 0\n").expect("write");
        let error = load("cl100k_base", &path).expect_err("another file").to_string();
        assert!(error.contains("not the published file of cl100k_base"), "{error}");
        assert_eq!(split("cl100k_base=a=b").map(|(_, path)| path), Some(Path::new("a=b")));
        assert!(split("other=a").is_none());
    }
}
