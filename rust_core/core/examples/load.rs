//! What loading GPT-2's vocabulary costs: `cargo run --release --example load`

use std::time::Instant;
fn main() {
    for _ in 0..5 {
        let t0 = Instant::now();
        let vocab = tokend_core::Vocabulary::gpt2();
        let t1 = Instant::now();
        let pairs = tokend_core::bpe::pairs::PairTable::new(&vocab);
        let t2 = Instant::now();
        let tokenizer = tokend_core::Tokenizer::new(vocab);
        let t3 = Instant::now();
        println!("vocab {:?} pairs {:?} tokenizer {:?} {}", t1 - t0, t2 - t1, t3 - t2, pairs.n_priorities() + tokenizer.is_ok() as u32);
    }
}
