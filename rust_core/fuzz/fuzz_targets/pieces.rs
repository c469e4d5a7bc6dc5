//! Any text in any pieces: a stream encoder gives what the whole gives.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tokend_core::{SpecialPolicy, StreamEncoder, Tokenizer, Vocabulary};

static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::new(Vocabulary::gpt2()).unwrap()));

fuzz_target!(|input: (Vec<u8>, &str)| {
    let (lengths, text) = input;
    let whole: Vec<u16> = TOKENIZER.encode(text, SpecialPolicy::Token).unwrap();
    let mut stream = StreamEncoder::new(Arc::clone(&TOKENIZER), SpecialPolicy::Token);
    let (mut ids, mut at): (Vec<u16>, usize) = (Vec::new(), 0);
    for length in lengths {
        let end = text.ceil_char_boundary((at + usize::from(length)).min(text.len()));
        ids.extend(stream.push::<u16>(&text[at..end]).unwrap());
        at = end;
    }
    ids.extend(stream.push::<u16>(&text[at..]).unwrap());
    ids.extend(stream.finish::<u16>().unwrap());
    assert_eq!(ids, whole);
});
