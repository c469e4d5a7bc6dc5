//! tiktoken's rank files: a token per line, `base64(bytes) rank`, in any order; gzipped ones, too.
//!
//! The rank is the id and the priority. Bytes without a token of their own are allowed here, as the
//! reference allows them: a text that needs one fails when it is encoded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use super::files::FILE_MAX_BYTES;
use super::{Merges, Parts, Reference, SpecialOrder, SpecialToken, Vocabulary, read_file, within_limit};
use crate::error::{Error, Result};

pub(super) fn load(
    path: &Path,
    pattern: &str,
    specials: Vec<SpecialToken>,
    name: &str,
) -> Result<Vocabulary> {
    parse(path, &read(path)?.0, pattern, specials, name)
}

/// The bytes of a rank file, unpacked if it is gzipped, and their SHA-256 in hexadecimal digits.
pub(super) fn read(path: &Path) -> Result<(Vec<u8>, String)> {
    let mut text = read_file(path)?;
    if text.starts_with(&[0x1F, 0x8B]) {
        let mut unpacked = Vec::new();
        let packed = flate2::read::MultiGzDecoder::new(&text[..]);
        packed
            .take(FILE_MAX_BYTES + 1)
            .read_to_end(&mut unpacked)
            .map_err(|error| Error::io(path, "reading", error))?;
        text = within_limit(path, unpacked, 0)?;
    }
    let digest = Sha256::digest(&text);
    let sha256 = digest.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    Ok((text, sha256))
}

/// Reads the lines of a rank file.
pub(crate) fn parse(
    path: &Path,
    text: &[u8],
    pattern: &str,
    specials: Vec<SpecialToken>,
    name: &str,
) -> Result<Vocabulary> {
    let mut tokens = BTreeMap::new();
    let mut lines: FxHashMap<Vec<u8>, usize> = FxHashMap::default();
    for (at, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let refuse =
            |what: &str| Err(Error::BadLine { path: path.to_owned(), line: at + 1, what: what.to_owned() });
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(token), Some(rank), None) = (fields.next(), fields.next(), fields.next()) else {
            return refuse("expected a token in base64, one space, and its rank");
        };
        let Some(token) = decode_base64(token).filter(|token| !token.is_empty()) else {
            return refuse("the token is not valid base64");
        };
        let Some(rank) = std::str::from_utf8(rank).ok().and_then(|rank| rank.parse::<u32>().ok()) else {
            return refuse("the rank is not a number");
        };
        if let Some(first) = lines.insert(token.clone(), at + 1) {
            return refuse(&format!("repeats the token of line {first}"));
        }
        if tokens.insert(rank, token).is_some() {
            return refuse(&format!("repeats rank {rank}"));
        }
    }
    let parts = Parts {
        name: name.to_owned(),
        tokens: tokens.into_iter().collect(),
        merges: Merges::Ranks,
        specials,
        special_order: SpecialOrder::Longest,
        pattern: pattern.to_owned(),
        reference: Reference::Tiktoken,
    };
    parts.build()
}

/// Standard base64 with padding, strictly.
pub(super) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (groups, rest) = text.as_chunks::<4>();
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    for (at, group) in groups.iter().enumerate() {
        let padding = if at + 1 == groups.len() {
            group.iter().rev().take_while(|&&byte| byte == b'=').count()
        } else {
            0
        };
        let mut bits = 0_u32;
        for &byte in &group[..4 - padding] {
            bits = bits << 6 | u32::from(value(byte)?);
        }
        bits <<= 6 * padding;
        if padding > 2 || bits & ((1 << (8 * padding)) - 1) != 0 {
            return None;
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..4 - padding]);
    }
    rest.is_empty().then_some(bytes)
}

/// A vocabulary of these tokens, each with its number as its rank.
#[cfg(test)]
pub(crate) fn of_tokens(tokens: impl Iterator<Item = Vec<u8>>, pattern: &str) -> Vocabulary {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut lines = String::new();
    for (rank, token) in tokens.enumerate() {
        for part in token.chunks(3) {
            let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(part.get(at).copied().unwrap_or(0)));
            let digit = |at: usize| if at > part.len() { b'=' } else { DIGITS[bits >> (18 - 6 * at) & 63] };
            lines.extend((0..4).map(|at| char::from(digit(at))));
        }
        let _ = writeln!(lines, " {rank}");
    }
    parse(Path::new("ranks"), lines.as_bytes(), pattern, vec![], "x").expect("a vocabulary")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_strict() {
        assert_eq!(decode_base64(b"aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(decode_base64(b"aA=="), Some(b"h".to_vec()));
        for broken in [&b"aGVsbG8"[..], b"a===", b"aB==", b"a!==", b"aA==aA=="] {
            assert_eq!(decode_base64(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn broken_lines_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.tiktoken");
        for (text, line) in
            [("YQ== 0\nYg==\n", 2), ("YQ== 0\nYQ== 1\n", 2), ("YQ== 0\n\nYg== 0\n", 3), ("YQ= 0\n", 1)]
        {
            std::fs::write(&path, text).expect("write");
            let error = load(&path, "a", Vec::new(), "x").expect_err("broken");
            assert!(matches!(error, Error::BadLine { line: at, .. } if at == line), "{error}");
        }
        std::fs::write(&path, "Yg== 1\nYWI= 2\nYQ== 0\n").expect("write");
        let vocab = load(&path, "[ab]+", Vec::new(), "x").expect("any order is fine");
        assert_eq!(vocab.token(2), Some(&b"ab"[..]));
    }
}
