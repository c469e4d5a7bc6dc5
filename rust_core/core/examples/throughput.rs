//! Encoding rate in memory, one thread, by processor time: `cargo run --release --example throughput -- FILE...`
//!
//! For each file: its first half with a fresh tokenizer (cold), then its second half (unseen), then the
//! second half again (warm). `ROUNDS` sets how often, `CACHE_MB` the size of the merge cache, `TOKENIZER` another
//! vocabulary than GPT-2 (what `Vocabulary::load` takes).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use tokend_core::{Lane, SpecialPolicy, Tokenizer, Vocabulary};

fn main() -> ExitCode {
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        };
        let started = Instant::now();
        let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
        let cache_bytes = setting("CACHE_MB").unwrap_or(32) << 20;
        let name = std::env::var("TOKENIZER").unwrap_or_else(|_| "gpt2".to_owned());
        let vocab = Vocabulary::load(&name);
        let tokenizer = match vocab.and_then(|vocab| Tokenizer::with_cache(vocab, cache_bytes)) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        let load_ms = started.elapsed().as_secs_f64() * 1e3;
        let rounds = setting("ROUNDS").unwrap_or(2);
        let rates = if tokenizer.vocab().is_wide() {
            rates::<u32>(&tokenizer, &text, rounds)
        } else {
            rates::<u16>(&tokenizer, &text, rounds)
        };
        match rates {
            Ok(rates) => println!("{path}: load {load_ms:.1} ms;{rates}"),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn rates<L: Lane>(tokenizer: &Tokenizer, text: &str, rounds: usize) -> tokend_core::Result<String> {
    let half = text.floor_char_boundary(text.len() / 2);
    let (mut ids, mut line): (Vec<L>, _) = (Vec::new(), String::new());
    let warm = std::iter::repeat_n(("warm", &text[half..]), rounds);
    for (name, part) in [("cold", &text[..half]), ("unseen", &text[half..])].into_iter().chain(warm) {
        let before = tokenizer.cache_stats();
        let started = cpu_seconds();
        let mut n_ids = 0;
        for chunk in chunks(part) {
            ids.clear();
            tokenizer.encode_into(chunk, SpecialPolicy::Text, &mut ids)?;
            n_ids += ids.len();
        }
        let seconds = cpu_seconds() - started;
        let after = tokenizer.cache_stats();
        let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
        let rate = part.len() as f64 / seconds / 1e6;
        let percent = misses as f64 / (hits + misses).max(1) as f64 * 100.0;
        let _ = write!(
            line,
            " {name} {rate:.0} MB/s ({percent:.2} % missed, {:.2} B/unit, {n_ids} ids)",
            part.len() as f64 / (hits + misses).max(1) as f64
        );
    }
    Ok(line)
}

/// Time that this thread has spent on a processor: other programs only disturb the caches.
fn cpu_seconds() -> f64 {
    // The kernel adds up at its ticks, every 4 ms, and when a thread gives way.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

/// Pieces of a megabyte, cut at line ends.
fn chunks(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end =
            match text.as_bytes().get(1 << 20..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n'))
            {
                Some(at) => (1 << 20) + at + 1,
                None => text.len(),
            };
        let (chunk, rest) = text.split_at(end);
        text = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}
