//! Any texts together: a batch gives what each gives alone.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokend_core::{SpecialPolicy, Tokenizer, Vocabulary};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::with_cache(Vocabulary::gpt2(), 1 << 16).unwrap());

fuzz_target!(|input: (Vec<u8>, &str)| {
    let (lengths, text) = input;
    let (mut texts, mut at) = (Vec::new(), 0);
    for length in lengths {
        let end = text.ceil_char_boundary((at + usize::from(length)).min(text.len()));
        texts.push(&text[at..end]);
        at = end;
    }
    texts.push(&text[at..]);
    let (ids, ends) = TOKENIZER.encode_batch::<u16>(&texts, SpecialPolicy::Token).unwrap();
    let mut alone: Vec<u16> = Vec::new();
    for (text, end) in texts.into_iter().zip(ends) {
        TOKENIZER.encode_into(text, SpecialPolicy::Token, &mut alone).unwrap();
        assert_eq!(alone.len() as u64, end);
    }
    assert_eq!(ids, alone);
});
