//! Any text, GPT-2: the ids of the fast path are those of the definition, and decode to the text.
//!
//! `TOKEND_CPU` chooses the tier. The cache is small, so that much of it is full and worn.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokend_core::bpe::reference;
use tokend_core::pretokenize::gpt2::Gpt2;
use tokend_core::pretokenize::unicode::classes;
use tokend_core::vocab::Reference;
use tokend_core::{SpecialPolicy, Tokenizer, Vocabulary};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::with_cache(Vocabulary::gpt2(), 1 << 16).unwrap());
static NAIVE: LazyLock<reference::Naive<'static>> = LazyLock::new(|| reference::Naive::new(TOKENIZER.vocab()));
static PLAIN: LazyLock<Gpt2> = LazyLock::new(|| Gpt2::new(classes(Reference::Tiktoken)));

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let ids: Vec<u16> = TOKENIZER.encode(&text, SpecialPolicy::Token).unwrap();
    let expected = NAIVE.encode(&*PLAIN, &text, SpecialPolicy::Token).unwrap();
    assert!(ids.iter().map(|&id| u32::from(id)).eq(expected));
    assert_eq!(TOKENIZER.decode_bytes(&ids).unwrap(), text.as_bytes());
});
