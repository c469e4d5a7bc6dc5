//! Processor tiers: which kernels run, chosen once.
//!
//! | tier | needs | `TOKEND_CPU` |
//! |---|---|---|
//! | AVX-512 | F, BW, VL, VBMI, VBMI2, VAES (Ice Lake, Zen 4 and later) | `avx512` |
//! | AVX2 | AVX2, AES, BMI (Haswell, Zen and later) | `avx2` |
//! | portable | nothing | `portable` |
//!
//! AVX-512 is only used where it is asked for: it has the same tests as the others, but no machine that has it was
//! at hand, and on an emulated processor (`make avx512`) not all of them have come to their end yet. With a green run
//! of all of them [`kernels`] may prefer it; how fast it is nobody has measured.
//!
//! A tier is a table of function pointers, one per stage; each is called once per batch of a
//! kilobyte, so that the call costs nothing. All tiers give identical ids. Another processor family
//! (NEON) gets a tier by implementing the same functions.

use std::sync::OnceLock;

use crate::bpe::medium::{self, Symbols};
use crate::bpe::seams::Seams;
use crate::bpe::seams::cuts;
use crate::bpe::short::{self, ShortPairs, Word};
use crate::cache::{Key, Slots};
use crate::encode::{keys, probe, widen};
use crate::error::{Error, Result};
use crate::pretokenize::scan::words::Grammar;
use crate::pretokenize::scan::words::algebra::{self, Blocks, State};
use crate::pretokenize::scan::words::planes::{self, PlaneTables, Planes};
use crate::pretokenize::scan::{self, ScanTables};

/// The stages of one tier. What each does, and what it asks of its caller, stands at its portable twin.
#[expect(clippy::type_complexity, reason = "each type is used once, here")]
pub(crate) struct Kernels {
    pub(crate) name: &'static str,
    /// [`scan::portable::classify`]
    pub(crate) classify: unsafe fn(&ScanTables, *const u8, usize, *mut u8) -> u64,
    /// [`scan::portable::starts`]
    pub(crate) starts: unsafe fn(&ScanTables, *const u8, *mut u8, usize, u64, u32, *mut u32) -> usize,
    /// [`planes::portable`]
    pub(crate) planes: unsafe fn(&PlaneTables, *const u8, &mut [Planes]) -> u64,
    /// [`algebra::portable`]
    pub(crate) algebra: unsafe fn(&Grammar, &mut State, &Blocks<'_>, &mut [u64]) -> bool,
    /// [`cuts::portable`]
    pub(crate) cuts: unsafe fn(&Seams, *const u8, u64) -> u64,
    /// [`planes::flatten_portable`]
    pub(crate) flatten: unsafe fn(&[u64], u32, *mut u32) -> usize,
    /// [`keys::portable`]
    pub(crate) keys: unsafe fn(*const u8, &[u32], Slots, &mut [Key], &mut [u32]),
    /// [`probe::portable`]
    pub(crate) probe: unsafe fn(Slots, &[Key], &[u32], &[u32], *mut u8, &mut [probe::Miss]) -> (usize, usize),
    /// [`widen::portable`]
    pub(crate) widen: unsafe fn(*const u8, usize, *mut u8),
    /// [`short::portable`]
    pub(crate) merge: unsafe fn(&ShortPairs, &mut [Word]),
    /// [`medium::portable`]
    pub(crate) medium: unsafe fn(&ShortPairs, &[u8]) -> Symbols,
    /// The line of a key: part of the tier because the vector tiers hash with AES rounds.
    pub(crate) hash: fn(Key) -> u32,
}

static PORTABLE: Kernels = Kernels {
    name: "portable",
    classify: scan::portable::classify,
    starts: scan::portable::starts,
    planes: planes::portable,
    algebra: algebra::portable,
    cuts: cuts::portable,
    flatten: planes::flatten_portable,
    keys: keys::portable,
    probe: probe::portable,
    widen: widen::portable,
    merge: short::portable,
    medium: medium::portable,
    hash: keys::hash_portable,
};

#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = Kernels {
    name: "avx2",
    classify: scan::avx2::classify,
    starts: scan::avx2::starts,
    planes: planes::avx2,
    algebra: algebra::avx2,
    cuts: cuts::avx2,
    flatten: planes::flatten_avx2,
    keys: keys::avx2,
    probe: probe::avx2,
    widen: widen::avx2,
    merge: short::avx2,
    medium: medium::avx2,
    hash: keys::hash_aes,
};

/// AVX2 on processors that also do AES rounds on whole registers.
#[cfg(target_arch = "x86_64")]
static AVX2_VAES: Kernels = Kernels { keys: keys::vaes, ..AVX2 };

#[cfg(target_arch = "x86_64")]
static AVX512: Kernels = Kernels {
    name: "avx512",
    classify: scan::avx512::classify,
    starts: scan::avx512::starts,
    planes: planes::avx2,
    algebra: algebra::avx2,
    cuts: cuts::avx2,
    flatten: planes::flatten_avx2,
    keys: keys::avx512,
    probe: probe::avx512,
    widen: widen::avx2,
    merge: short::avx512,
    medium: medium::avx2,
    hash: keys::hash_aes,
};

/// The tiers that this processor can run, the fastest first; of two with one name the first is used.
pub(crate) fn available() -> Vec<&'static Kernels> {
    let mut tiers = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("vaes");
        if avx512 {
            tiers.push(&AVX512);
        }
        if avx2 {
            if is_x86_feature_detected!("vaes") {
                tiers.push(&AVX2_VAES);
            }
            tiers.push(&AVX2);
        }
    }
    tiers.push(&PORTABLE);
    tiers
}

/// The tiers to be tested: on an emulated processor (`make avx512`) only the one that no other has.
#[cfg(test)]
pub(crate) fn tested() -> Vec<&'static Kernels> {
    let mut tiers = available();
    if is_emulated() {
        tiers.retain(|tier| tier.name == "avx512");
        assert!(!tiers.is_empty(), "the processor has what it takes");
    }
    tiers
}

/// So many cases, or on an emulated processor, which is slow, a part of them.
#[cfg(test)]
pub(crate) fn n_cases(n: usize) -> usize {
    if is_emulated() { n.div_ceil(8) } else { n }
}

#[cfg(test)]
fn is_emulated() -> bool {
    std::env::var_os("TOKEND_EMULATED").is_some()
}

/// The fastest tier but AVX-512 (see the module header), or the one that `TOKEND_CPU` names.
///
/// # Errors
/// [`Error::BadOption`] for a name that is none, or that this processor cannot run.
pub(crate) fn kernels() -> Result<&'static Kernels> {
    static CHOSEN: OnceLock<std::result::Result<&'static Kernels, String>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let tiers = available();
        let Some(wanted) = std::env::var_os("TOKEND_CPU").filter(|name| !name.is_empty()) else {
            let tested = tiers.iter().copied().find(|tier| tier.name != "avx512");
            return tested.ok_or_else(|| "no tier".to_owned());
        };
        tiers.iter().copied().find(|tier| wanted == tier.name).ok_or_else(|| {
            let names: Vec<_> = tiers.iter().map(|tier| tier.name).collect();
            format!("{} is none of {}, which this processor can run", wanted.display(), names.join(", "))
        })
    });
    chosen.clone().map_err(|what| Error::BadOption { option: "TOKEND_CPU", what })
}
