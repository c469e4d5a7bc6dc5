//! Where the time goes: a tier whose kernels count the processor's ticks and call those of another.
//!
//! For `examples/stages.rs`; not part of the crate's interface.

use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::OnceLock;

use crate::bpe::medium::Symbols;
use crate::bpe::short::{ShortPairs, Word};
use crate::cache::{CACHE_BYTES, Key, Slots};
use crate::encode::probe::Miss;
use crate::error::Result;
use crate::pretokenize::scan::ScanTables;
use crate::special::SpecialPolicy;
use crate::tier::{self, Kernels};
use crate::tokenizer::Tokenizer;
use crate::vocab::Vocabulary;

/// Stages that are told apart; the rest is what the orchestration and the long pretokens cost.
const NAMES: [&str; 6] = ["classify", "starts", "keys", "probe", "merge", "medium"];

/// The kernels that are timed. (A table is seeded by several threads.)
static INNER: OnceLock<&'static Kernels> = OnceLock::new();

thread_local! {
    static TICKS: Cell<[u64; NAMES.len()]> = const { Cell::new([0; NAMES.len()]) };
}

/// Ticks of the time stamp counter per pretoken, by stage, for the second half of `text` when the first
/// has been encoded: one line of text.
///
/// # Errors
/// What [`Tokenizer::new`] fails with.
pub fn measure(text: &str) -> Result<String> {
    let inner = tier::kernels()?;
    INNER.get_or_init(|| inner);
    let timed: &'static Kernels = Box::leak(Box::new(Kernels {
        name: inner.name,
        classify,
        starts,
        planes: inner.planes,
        algebra: inner.algebra,
        cuts: inner.cuts,
        flatten: inner.flatten,
        keys,
        probe,
        widen: inner.widen,
        merge,
        medium,
        hash: inner.hash,
    }));
    let tokenizer = Tokenizer::with_kernels(Vocabulary::gpt2(), timed, CACHE_BYTES)?;
    let half = text.floor_char_boundary(text.len() / 2);
    let mut lines = format!("{:8}", inner.name);
    let mut ids: Vec<u16> = Vec::new();
    tokenizer.encode_into(&text[..half], SpecialPolicy::Text, &mut ids)?;
    for name in ["unseen", "warm"] {
        ids.clear();
        TICKS.set([0; _]);
        let before = tokenizer.cache_stats();
        let started = ticks();
        tokenizer.encode_into(&text[half..], SpecialPolicy::Text, &mut ids)?;
        let total = ticks() - started;
        let after = tokenizer.cache_stats();
        let units = (after.hits + after.misses - before.hits - before.misses) as f64;
        let stages = TICKS.get();
        let _ = write!(lines, " {name}: {:.1} ticks a pretoken (", total as f64 / units);
        for (name, ticks) in NAMES.iter().zip(stages) {
            let _ = write!(lines, "{name} {:.1}, ", ticks as f64 / units);
        }
        let _ = write!(lines, "rest {:.1})", (total - stages.iter().sum::<u64>()) as f64 / units);
    }
    Ok(lines)
}

#[cfg(target_arch = "x86_64")]
fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
}

fn timed<T>(stage: usize, run: impl FnOnce(&Kernels) -> T) -> T {
    let inner = INNER.get().unwrap_or_else(|| unreachable!("`measure` set it"));
    let started = ticks();
    let result = run(inner);
    let mut all = TICKS.get();
    all[stage] += ticks() - started;
    TICKS.set(all);
    result
}

// SAFETY, for all of them: the caller's promises are passed on.
unsafe fn classify(t: &ScanTables, src: *const u8, n_blocks: usize, classes: *mut u8) -> u64 {
    // SAFETY: see above.
    timed(0, |inner| unsafe { (inner.classify)(t, src, n_blocks, classes) })
}

unsafe fn starts(
    t: &ScanTables,
    src: *const u8,
    classes: *mut u8,
    n_blocks: usize,
    wide: u64,
    rel: u32,
    out: *mut u32,
) -> usize {
    // SAFETY: see above.
    timed(1, |inner| unsafe { (inner.starts)(t, src, classes, n_blocks, wide, rel, out) })
}

unsafe fn keys(base: *const u8, starts: &[u32], table: Slots, keys: &mut [Key], slots: &mut [u32]) {
    // SAFETY: see above.
    timed(2, |inner| unsafe { (inner.keys)(base, starts, table, keys, slots) });
}

unsafe fn probe(
    table: Slots,
    keys: &[Key],
    slots: &[u32],
    next: &[u32],
    out: *mut u8,
    misses: &mut [Miss],
) -> (usize, usize) {
    // SAFETY: see above.
    timed(3, |inner| unsafe { (inner.probe)(table, keys, slots, next, out, misses) })
}

unsafe fn merge(pairs: &ShortPairs, words: &mut [Word]) {
    // SAFETY: see above.
    timed(4, |inner| unsafe { (inner.merge)(pairs, words) });
}

unsafe fn medium(pairs: &ShortPairs, piece: &[u8]) -> Symbols {
    // SAFETY: see above.
    timed(5, |inner| unsafe { (inner.medium)(pairs, piece) })
}
