//! `vocab.json` + `merges.txt`: tokens by id and a merge list, both in GPT-2's printable alphabet.
//!
//! ```text
//! vocab.json   {"!": 0, ..., "Ġthe": 262, ..., "<|endoftext|>": 50256}
//! merges.txt   #version: 0.2        (optional, first line only)
//!              Ġ t                  two parts per line; the line's place is the merge's priority
//! ```
//!
//! Entries that are not spelled in the alphabet, and `<|endoftext|>`, are special tokens. Ids may
//! stand in any order; the list alone decides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::gpt2::{END_OF_TEXT, alphabet};
use super::{Merges, Parts, Reference, SpecialOrder, SpecialToken, Vocabulary, name_of, read_text};
use crate::error::{Error, Result};
use crate::pretokenize::gpt2::PATTERN;

/// The two files of a path that is their folder or one of them.
fn pair(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    for (vocab, merges) in [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")] {
        let files = (folder.join(vocab), folder.join(merges));
        let named = path.is_dir() || path == files.0 || path == files.1;
        if named && files.0.exists() && files.1.exists() {
            return Ok(files);
        }
    }
    if !path.exists() {
        return Err(Error::NotFound { path: path.to_owned() });
    }
    let what = "there is no vocab.json with a merges.txt beside it".to_owned();
    Err(Error::BadTokenizer { name: path.display().to_string(), what })
}

pub(super) fn load(path: &Path) -> Result<Vocabulary> {
    let (vocab_path, merges_path) = pair(path)?;
    let entries: BTreeMap<String, u32> = serde_json::from_str(&read_text(&vocab_path)?).map_err(|error| {
        Error::BadLine { path: vocab_path.clone(), line: error.line(), what: error.to_string() }
    })?;
    let bytes: FxHashMap<char, u8> = alphabet().into_iter().zip(0..=255).collect();
    let (mut tokens, mut specials) = (BTreeMap::new(), Vec::new());
    let mut names: FxHashMap<u32, &str> = FxHashMap::default();
    for (text, &id) in &entries {
        if let Some(other) = names.insert(id, text) {
            let what = format!("{other:?} and {text:?} share id {id}");
            return Err(Error::BadTokenizer { name: vocab_path.display().to_string(), what });
        }
        let token: Option<Vec<u8>> = text.chars().map(|c| bytes.get(&c).copied()).collect();
        match token.filter(|_| text != END_OF_TEXT) {
            Some(token) => {
                tokens.insert(id, token);
            }
            None => specials.push(SpecialToken { text: text.clone(), id }),
        }
    }
    specials.sort_by_key(|special| special.id);
    let list = merges(&merges_path, &entries)?;
    let parts = Parts {
        name: name_of(vocab_path.parent().unwrap_or(path)),
        tokens: tokens.into_iter().collect(),
        merges: Merges::List(list),
        specials,
        special_order: SpecialOrder::Longest,
        pattern: PATTERN.to_owned(),
        reference: Reference::Tiktoken,
    };
    parts.build()
}

fn merges(path: &Path, entries: &BTreeMap<String, u32>) -> Result<Vec<(u32, u32, u32)>> {
    let text = read_text(path)?;
    let mut list = Vec::new();
    let mut seen: FxHashMap<(u32, u32), usize> = FxHashMap::default();
    // Not `lines`: some parts contain U+0085 and its like, and only \n separates.
    for (at, line) in text.split('\n').enumerate() {
        let refuse = |what: String| Err(Error::BadLine { path: path.to_owned(), line: at + 1, what });
        let line = line.strip_suffix('\r').unwrap_or(line);
        if (at == 0 && line.starts_with("#version")) || (line.is_empty() && at > 0) {
            continue;
        }
        let Some((left, right)) =
            line.split_once(' ').filter(|(l, r)| !l.is_empty() && !r.is_empty() && !r.contains(' '))
        else {
            return refuse(format!("expected two parts with one space between, found {line:?}"));
        };
        let joined = format!("{left}{right}");
        let id = |part: &str| entries.get(part).copied();
        let (Some(l), Some(r), Some(result)) = (id(left), id(right), id(&joined)) else {
            let missing = [left, right, &joined].into_iter().find(|part| id(part).is_none()).unwrap_or(line);
            return refuse(format!("{missing:?} is not in the vocabulary"));
        };
        if let Some(first) = seen.insert((l, r), at + 1) {
            return refuse(format!("repeats the merge of line {first}"));
        }
        list.push((l, r, result));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(merges: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let vocab = r#"{"a": 5, "b": 1, "Ġ": 0, "ab": 2, "Ġab": 7, "<|endoftext|>": 9, "日": 11}"#;
        std::fs::write(dir.path().join("vocab.json"), vocab).expect("write");
        std::fs::write(dir.path().join("merges.txt"), merges).expect("write");
        dir
    }

    #[test]
    fn reads_tokens_specials_and_merges_in_order() {
        let dir = write("#version: 0.2\na b\nĠ ab\n");
        let vocab = load(dir.path()).expect("valid");
        assert_eq!(*vocab.merges(), Merges::List(vec![(5, 1, 2), (0, 2, 7)]));
        assert_eq!(vocab.token(7), Some(&b" ab"[..]));
        assert_eq!(vocab.eot_id(), Some(9));
        assert_eq!(vocab.specials().len(), 2, "a character outside the alphabet is special");
        let by_file = load(&dir.path().join("merges.txt")).expect("valid");
        assert_eq!(by_file.fingerprint(), vocab.fingerprint());
    }

    #[test]
    fn broken_lines_are_named() {
        for (merges, line, what) in [
            ("a b\na b c\n", 2, "two parts"),
            ("a b\nb a\n", 2, "is not in the vocabulary"),
            ("a b\n\na b\n", 3, "repeats the merge of line 1"),
            ("a b\n#version: 0.2\n", 2, "is not in the vocabulary"),
        ] {
            let dir = write(merges);
            match load(dir.path()) {
                Err(Error::BadLine { line: at, what: why, .. }) => {
                    assert_eq!(at, line, "{merges:?}: {why}");
                    assert!(why.contains(what), "{merges:?}: {why}");
                }
                other => panic!("{merges:?}: {other:?}"),
            }
        }
    }
}
