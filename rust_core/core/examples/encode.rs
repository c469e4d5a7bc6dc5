//! Encodes a text file with a tokenizer and reports counts, a round-trip check and speed.
//!
//! ```text
//! cargo run --release -p tokend-core --example encode -- gpt2 corpus.txt
//! ```
//!
//! The first argument is what `Vocabulary::load` takes. Special tokens count as ordinary text. The
//! time is that of one call in memory, on one thread, with a cache that knows only the vocabulary.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use tokend_core::{Lane, SpecialPolicy, Tokenizer, Vocabulary};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, path] = &arguments[..] else {
        return Err("usage: encode gpt2|MODEL TEXT_FILE".into());
    };
    let tokenizer = Tokenizer::new(Vocabulary::load(model)?)?;
    let text = std::fs::read_to_string(path)?;
    // The merge cache holds ids in the width that the vocabulary needs; the lane must be that width.
    if tokenizer.vocab().is_wide() {
        report::<u32>(&tokenizer, &text)
    } else {
        report::<u16>(&tokenizer, &text)
    }
}

fn report<L: Lane>(tokenizer: &Tokenizer, text: &str) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let ids: Vec<L> = tokenizer.encode(text, SpecialPolicy::Text)?;
    let encode_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let decoded = tokenizer.decode_bytes(&ids)?;
    let decode_s = start.elapsed().as_secs_f64();

    let n_bytes = text.len() as f64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "tokenizer    {} ({})", tokenizer.vocab().name(), tokenizer.vocab().fingerprint())?;
    writeln!(out, "tokens       {}", ids.len())?;
    writeln!(out, "bytes/token  {:.3}", n_bytes / ids.len().max(1) as f64)?;
    writeln!(out, "encode       {:.1} MB/s", n_bytes / 1e6 / encode_s)?;
    writeln!(out, "decode       {:.1} MB/s", n_bytes / 1e6 / decode_s)?;
    // A split pattern that skips text (as `findall` does) cannot give all of it back.
    writeln!(out, "round trip   {}", if decoded == text.as_bytes() { "exact" } else { "DIFFERS" })?;
    Ok(())
}
