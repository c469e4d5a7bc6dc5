//! What each stage of the encoder costs: `cargo run --release --example stages -- FILE...`
//!
//! `TOKEND_CPU=avx512|avx2|portable` chooses the tier. Ticks are those of the time stamp counter, which
//! runs at the processor's nominal rate.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::process::ExitCode;

fn main() -> ExitCode {
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        match text.and_then(|text| tokend_core::profile::measure(&text).map_err(|error| error.to_string())) {
            Ok(line) => println!("{path}: {line}"),
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
