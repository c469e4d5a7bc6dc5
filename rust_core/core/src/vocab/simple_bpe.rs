//! `simple-bpe v1` models, the format of the Python class that tokend grew out of.
//!
//! ```text
//! simple-bpe v1
//! <split pattern>
//! <number of special tokens N>
//! <token> <id>            N lines; the token may contain spaces
//! <left id> <right id>    one merge per line; the k-th (from 0) makes id 256 + k
//! ```
//!
//! Ids 0..255 are the bytes. Merging is by pair of ids; the reference is that class with Python's
//! `regex`, its special tokens matched leftmost, then in file order.

use std::path::Path;

use rustc_hash::FxHashMap;

use super::parts::TOKEN_MAX_BYTES;
use super::{Merges, Parts, Reference, SpecialOrder, SpecialToken, Vocabulary, name_of, read_text};
use crate::error::{Error, Result};

pub(super) fn load(path: &Path) -> Result<Vocabulary> {
    let text = read_text(path)?;
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).zip(1_usize..);
    let refuse = |line: usize, what: String| Err(Error::BadLine { path: path.to_owned(), line, what });
    match lines.next() {
        Some(("simple-bpe v1", _)) => {}
        other => {
            return refuse(
                1,
                format!("expected `simple-bpe v1`, found {:?}", other.map_or("", |line| line.0)),
            );
        }
    }
    let Some((pattern, _)) = lines.next().filter(|(pattern, _)| !pattern.is_empty()) else {
        return refuse(2, "the split pattern is missing".into());
    };
    let Some(Ok(n_specials)) = lines.next().map(|(line, _)| line.trim().parse::<usize>()) else {
        return refuse(3, "expected the number of special tokens".into());
    };
    let mut specials = Vec::new();
    for (line, at) in lines.by_ref().take(n_specials) {
        let parsed = line.rsplit_once(' ').and_then(|(text, id)| Some((text, id.parse::<u32>().ok()?)));
        let Some((text, id)) = parsed.filter(|(text, _)| !text.is_empty()) else {
            return refuse(at, format!("expected a special token and its id, found {line:?}"));
        };
        specials.push(SpecialToken { text: text.to_owned(), id });
    }
    if specials.len() < n_specials {
        return refuse(
            4 + specials.len(),
            format!("the file ends before special token {}", specials.len() + 1),
        );
    }
    let mut tokens: Vec<Vec<u8>> = (0..=255_u8).map(|byte| vec![byte]).collect();
    let mut list = Vec::new();
    let mut seen: FxHashMap<(u32, u32), usize> = FxHashMap::default();
    for (line, at) in lines {
        if line.trim().is_empty() {
            continue;
        }
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse::<u32>().ok());
        let (Some(Some(left)), Some(Some(right)), None) = (numbers.next(), numbers.next(), numbers.next())
        else {
            return refuse(at, format!("expected a merge of two ids, found {line:?}"));
        };
        let id = tokens.len() as u32;
        let (Some(first), Some(second)) = (tokens.get(left as usize), tokens.get(right as usize)) else {
            return refuse(
                at,
                format!("the merge that makes id {id} uses id {}, which is not made yet", left.max(right)),
            );
        };
        if let Some(before) = seen.insert((left, right), at) {
            return refuse(at, format!("repeats the merge of line {before}"));
        }
        if first.len() + second.len() > TOKEN_MAX_BYTES {
            return refuse(at, format!("the token that it makes is longer than {TOKEN_MAX_BYTES} bytes"));
        }
        let joined = [&first[..], second].concat();
        tokens.push(joined);
        list.push((left, right, id));
    }
    if let Some((at, special)) =
        specials.iter().enumerate().find(|(_, special)| (special.id as usize) < tokens.len())
    {
        return refuse(
            4 + at,
            format!("special token {:?} takes id {} of a merge or byte", special.text, special.id),
        );
    }
    let parts = Parts {
        name: name_of(path),
        tokens: (0..).zip(tokens).collect(),
        merges: Merges::List(list),
        specials,
        special_order: SpecialOrder::Listed,
        pattern: pattern.to_owned(),
        reference: Reference::PythonRegex,
    };
    parts.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Vocabulary> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.model");
        std::fs::write(&path, text).expect("write");
        load(&path)
    }

    #[test]
    fn reads_a_model() {
        let vocab = load_text("simple-bpe v1\n\\S+|\\s+\n1\n<| end |> 300\n97 98\n256 99\n").expect("valid");
        assert_eq!(vocab.token(257), Some(&b"abc"[..]));
        assert_eq!(vocab.specials()[0].text, "<| end |>");
        assert_eq!(vocab.len_ids(), 301);
    }

    #[test]
    fn broken_lines_are_named() {
        let head = "simple-bpe v1\n\\S+\n";
        for (text, line) in [
            ("simple v2\n", 1),
            ("simple-bpe v1\n", 2),
            ("simple-bpe v1\n\\S+\nmany\n", 3),
            (&format!("{head}1\n<|x|>\n"), 4),
            (&format!("{head}1\n<|x|> 256\n97 98\n"), 4),
            (&format!("{head}0\n97 98\n97\n"), 5),
            (&format!("{head}0\n97 256\n"), 4),
            (&format!("{head}0\n97 98\n97 98\n"), 5),
        ] {
            let error = load_text(text).expect_err(text);
            assert!(matches!(error, Error::BadLine { line: at, .. } if at == line), "{text:?}: {error}");
        }
    }
}
