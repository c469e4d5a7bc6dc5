//! The fast path against the naive twin, over vocabularies that no training would give.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use tokend_core::bpe::reference;
use tokend_core::pretokenize::Pretokenizer;
use tokend_core::pretokenize::machine::Machine;
use tokend_core::vocab::{Reference, SpecialToken};
use tokend_core::{SpecialPolicy, StreamEncoder, Tokenizer, Vocabulary};

const PATTERNS: [&str; 3] = [
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"\p{L}+|\s+",
    r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|\s+(?!\S)|\s|[^\s\p{L}\p{N}]+",
];

type Merge = (Vec<u8>, Vec<u8>);

/// Texts over few characters, so that merges chain, and sometimes long, so that all three merges run.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => "[abc]{1,12}",
        3 => "[ \n]{1,3}",
        2 => "[1é中']{1,3}",
        1 => Just("a".repeat(150)),
        1 => Just("abcab".repeat(60)),
        1 => Just("<|x|>".to_owned()),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// Tokens made by joining earlier ones at random; merges in the order made, or shuffled.
fn merges() -> impl Strategy<Value = (Vec<Merge>, bool)> {
    (proptest::collection::vec((any::<u16>(), any::<u16>()), 0..60), any::<bool>()).prop_map(
        |(picks, shuffled)| {
            let mut parts: Vec<Vec<u8>> = "abc 1é中".bytes().map(|byte| vec![byte]).collect();
            let mut merges = Vec::new();
            for (left, right) in picks {
                let left = parts[usize::from(left) % parts.len()].clone();
                let right = parts[usize::from(right) % parts.len()].clone();
                if left.len() + right.len() <= 24 && !merges.contains(&(left.clone(), right.clone())) {
                    parts.push([&left[..], &right].concat());
                    merges.push((left, right));
                }
            }
            (merges, shuffled)
        },
    )
}

fn vocabulary(merges: &[Merge], shuffled: bool, pattern: &str) -> Vocabulary {
    let mut tokens: BTreeMap<u32, Vec<u8>> = (0..=255_u8).map(|byte| (u32::from(byte), vec![byte])).collect();
    let joined: BTreeSet<Vec<u8>> = merges.iter().map(|(left, right)| [&left[..], right].concat()).collect();
    for token in joined {
        tokens.insert(tokens.len() as u32, token);
    }
    let mut merges = merges.to_vec();
    if shuffled {
        // Merges that come before what they are made of: the general way must take over.
        merges.reverse();
    }
    let special = SpecialToken { text: "<|x|>".to_owned(), id: tokens.len() as u32 };
    Vocabulary::from_merges(tokens, merges, vec![special], pattern).unwrap()
}

fn rank_file(merges: &[Merge], extra: &[Vec<u8>]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut tokens: Vec<Vec<u8>> = (0..=255_u8).map(|byte| vec![byte]).collect();
    for token in merges.iter().map(|(left, right)| [&left[..], right].concat()).chain(extra.iter().cloned()) {
        if !token.is_empty() && !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    let base64 = |bytes: &[u8]| -> String {
        bytes
            .chunks(3)
            .flat_map(|chunk| {
                let bits = chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte))
                    << (8 * (3 - chunk.len()));
                (0..4).map(move |at| {
                    if at > chunk.len() {
                        '='
                    } else {
                        char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize])
                    }
                })
            })
            .collect()
    };
    let lines: Vec<_> =
        tokens.iter().zip(0..).map(|(token, rank)| format!("{} {rank}", base64(token))).collect();
    lines.join("\n")
}

fn check(vocab: Vocabulary, text: &str) -> Result<(), TestCaseError> {
    let splitter = Machine::new(vocab.pattern(), Reference::PythonRegex).unwrap();
    let splitter: &dyn Pretokenizer = &splitter;
    let tokenizer = Arc::new(Tokenizer::new(vocab).unwrap());
    for policy in [SpecialPolicy::Text, SpecialPolicy::Token] {
        let slow = reference::encode(tokenizer.vocab(), splitter, text, policy).unwrap();
        // Twice: cold, and out of the cache.
        for _ in 0..2 {
            let fast: Vec<u16> = tokenizer.encode(text, policy).unwrap();
            prop_assert_eq!(fast.iter().map(|&id| u32::from(id)).collect::<Vec<_>>(), slow.clone());
        }
        // Any texts together are what they are alone.
        let texts: Vec<&str> = text.split('b').chain([text, "", text]).collect();
        let (together, ends) = tokenizer.encode_batch::<u16>(&texts, policy).unwrap();
        let mut alone: Vec<u16> = Vec::new();
        for (text, end) in texts.iter().zip(ends) {
            tokenizer.encode_into(text, policy, &mut alone).unwrap();
            prop_assert_eq!(alone.len() as u64, end);
        }
        prop_assert_eq!(together, alone);
        let mut stream = StreamEncoder::new(Arc::clone(&tokenizer), policy);
        let mut pieces: Vec<u16> = Vec::new();
        for c in text.chars() {
            pieces.extend(stream.push::<u16>(c.encode_utf8(&mut [0; 4])).unwrap());
        }
        pieces.extend(stream.finish::<u16>().unwrap());
        prop_assert_eq!(pieces.iter().map(|&id| u32::from(id)).collect::<Vec<_>>(), slow);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn merge_lists((merges, shuffled) in merges(), text in text(), pattern in 0..PATTERNS.len()) {
        check(vocabulary(&merges, shuffled, PATTERNS[pattern]), &text)?;
    }

    #[test]
    fn ranks((merges, _) in merges(), extra in proptest::collection::vec("[abc ]{2,6}", 0..6), text in text()) {
        // The extra tokens are often unreachable by merging: found as whole pretokens, or not at all.
        let extra: Vec<Vec<u8>> = extra.into_iter().map(String::into_bytes).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tiktoken");
        std::fs::write(&path, rank_file(&merges, &extra)).unwrap();
        let special = SpecialToken { text: "<|x|>".to_owned(), id: 5000 };
        let vocab = Vocabulary::from_tiktoken(&path, PATTERNS[0], vec![special], "x").unwrap();
        check(vocab, &text)?;
    }
}

#[test]
fn a_lane_of_the_wrong_width_is_refused() {
    let tokenizer = Tokenizer::new(Vocabulary::gpt2()).unwrap();
    assert!(tokenizer.encode::<u32>("a", SpecialPolicy::Text).is_err());
}
