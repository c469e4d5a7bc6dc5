//! Any merge list on any text: the fast path agrees with the definition, whatever the vocabulary is.
#![no_main]

use std::collections::{BTreeMap, HashSet};

use libfuzzer_sys::fuzz_target;
use tokend_core::bpe::reference;
use tokend_core::pretokenize::gpt2::{Gpt2, PATTERN};
use tokend_core::pretokenize::unicode::classes;
use tokend_core::vocab::Reference;
use tokend_core::{SpecialPolicy, Tokenizer, Vocabulary};

fuzz_target!(|input: (Vec<(u16, u16)>, &str)| {
    let (choices, text) = input;
    let mut vocab: BTreeMap<u32, Vec<u8>> = (0..256).map(|id| (id, vec![id as u8])).collect();
    let (mut merges, mut seen) = (Vec::new(), HashSet::new());
    for (left, right) in choices.into_iter().take(300) {
        let token = |choice: u16| vocab[&(u32::from(choice) % vocab.len() as u32)].clone();
        let (left, right) = (token(left), token(right));
        let joined = [&left[..], &right].concat();
        if joined.len() <= 40 && !vocab.values().any(|token| *token == joined) && seen.insert((left.clone(), right.clone())) {
            vocab.insert(vocab.len() as u32, joined);
            merges.push((left, right));
        }
    }
    let vocab = Vocabulary::from_merges(vocab, merges, Vec::new(), PATTERN).unwrap();
    let plain = Gpt2::new(classes(Reference::PythonRegex));
    let expected = reference::encode(&vocab, &plain, text, SpecialPolicy::Text).unwrap();
    let tokenizer = Tokenizer::with_cache(vocab, 1 << 14).unwrap();
    let ids: Vec<u16> = tokenizer.encode(text, SpecialPolicy::Text).unwrap();
    assert!(ids.iter().map(|&id| u32::from(id)).eq(expected));
});
