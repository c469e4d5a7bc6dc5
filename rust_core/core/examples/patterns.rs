//! Splitting rate of patterns in memory, one thread: `cargo run --release --example patterns -- FILE...`
//!
//! For each pattern: the matcher that it is compiled to, and the machine, its naive twin.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::process::ExitCode;

use tokend_core::pretokenize::machine::Machine;
use tokend_core::pretokenize::pattern::parse;
use tokend_core::pretokenize::{Matcher, Pretokenizer, Split};
use tokend_core::vocab::{Reference, named};

fn main() -> ExitCode {
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        };
        for name in ["r50k_base", "cl100k_base", "o200k_base", "llama3"] {
            let Some((pattern, ..)) = named::published(name) else { continue };
            let Ok(node) = parse(pattern, Reference::Tiktoken) else { continue };
            let Matcher::Alternatives(fast) = Matcher::of(&node, Reference::Tiktoken) else { continue };
            let fast = rate(|at| Some(fast.find(text.as_bytes(), at)), &text);
            let head = &text[..text.floor_char_boundary(text.len() / 8)];
            let machine = Machine::of(&node, Reference::Tiktoken);
            let slow = rate(|at| machine.next(head, at).ok(), head);
            println!("{path}: {name} {fast:.0} MB/s, machine {slow:.0} MB/s");
        }
    }
    ExitCode::SUCCESS
}

fn rate(next: impl Fn(usize) -> Option<Split>, text: &str) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..3 {
        let started = cpu_seconds();
        let (mut at, mut n) = (0, 0_usize);
        while at < text.len() {
            let Some(split) = next(at) else { return 0.0 };
            at = split.end;
            n += 1;
        }
        best = best.max(text.len() as f64 / (cpu_seconds() - started) / 1e6);
        std::hint::black_box(n);
    }
    best
}

/// Time that this thread has spent on a processor.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).map_or(0.0, |ns| ns / 1e9)
}
