//! A job: files in, one token set out.
//!
//! ```text
//! plan (in order, under a lock) ─► chunks ─► workers: copy, validate, encode ─► commit (in order) ─► publish
//! ```
//!
//! * [`plan`]: hands out the work in the order of the input: batches of small files, pieces of big ones;
//! * [`work`]: what a worker does with one of them;
//! * [`commit`]: puts results in order, hashes, assigns offsets; the writes themselves overlap.
//!
//! Memory is bounded by the number of threads: a worker holds one chunk and its ids, and at most
//! as many finished ones as there are workers wait for their turn.

mod commit;
mod plan;
mod work;

pub(crate) use commit::Totals;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use memchr::memmem;

use crate::documents::{Eot, Rules};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::input::access::Roots;
use crate::lane::Lane;
use crate::special::SpecialPolicy;
use crate::stream::manifest::{Manifest, Options, TokenizerInfo};
use crate::stream::publish::OutputSet;
use crate::tokenizer::Tokenizer;

/// Nominal size of a chunk: its text and its ids fit a core's L2 cache together.
const CHUNK_BYTES: u64 = 1 << 20;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// Absolute paths of the inputs, in the order of the output.
    pub inputs: Vec<PathBuf>,
    /// Absolute path of the output's data file.
    pub output: PathBuf,
    /// Text that ends a document; `None`: each input is one document.
    pub separator: Option<String>,
    pub eot: Eot,
    /// The end-of-text id; needed unless `eot` is [`Eot::None`].
    pub eot_id: Option<u32>,
    pub special: SpecialPolicy,
    /// Put U+FFFD for bytes that are not UTF-8, as Python's decoder does, instead of failing.
    pub replace_invalid: bool,
    /// Worker threads; 0: one less than there are cores.
    pub threads: usize,
    /// Replace an existing output.
    pub force: bool,
    pub roots: Roots,
}

impl JobSpec {
    /// A job with the defaults: each input one document, an end-of-text id (still to be given) after
    /// it, special tokens refused, strict UTF-8.
    #[must_use]
    pub fn new(inputs: Vec<PathBuf>, output: PathBuf) -> Self {
        Self {
            inputs,
            output,
            separator: None,
            eot: Eot::Append,
            eot_id: None,
            special: SpecialPolicy::Raise,
            replace_invalid: false,
            threads: 0,
            force: false,
            roots: Roots::default(),
        }
    }
}

/// A running job's counters and its off switch; shared between threads.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    pub bytes_done: AtomicU64,
    pub bytes_total: AtomicU64,
    pub n_tokens: AtomicU64,
    pub n_documents: AtomicU64,
}

impl Control {
    /// Asks the job to stop; it does so within a chunk and leaves nothing behind.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// What a job made.
#[derive(Debug)]
pub struct Outcome {
    pub manifest: Manifest,
    /// The output was there already, made from the same inputs in the same way, and it verified.
    pub up_to_date: bool,
}

/// The number of workers that leaves one core to others.
#[must_use]
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

/// Checks everything that can be checked before a job starts; returns the inputs' total bytes.
///
/// # Errors
/// Whatever [`encode_files`] would fail with at once: inputs that are not there or not regular
/// files, an output that exists (unless `force`, or unless its manifest says that it may be up to
/// date) or is one of the inputs, paths outside the roots, too little free space.
pub fn check(spec: &JobSpec) -> Result<u64> {
    Ok(prepare(spec)?.1)
}

fn prepare(spec: &JobSpec) -> Result<(Vec<Source>, u64)> {
    if spec.inputs.is_empty() {
        return Err(Error::BadOption { option: "inputs", what: "no input files given".into() });
    }
    if spec.separator.as_deref() == Some("") {
        return Err(Error::BadOption { option: "separator", what: "it is empty".into() });
    }
    let sources: Vec<_> =
        spec.inputs.iter().map(|path| Source::find(path, &spec.roots)).collect::<Result<_>>()?;
    let total = sources.iter().map(|source| source.identity.size_bytes).sum();
    OutputSet::check(spec, &sources, total)?;
    Ok((sources, total))
}

/// Encodes files into one token set; blocks until it is published.
///
/// # Errors
/// Any [`Error`]; nothing is left under the output's name then, nor any partial file.
pub fn encode_files(tokenizer: &Tokenizer, spec: &JobSpec, control: &Control) -> Result<Outcome> {
    if tokenizer.vocab().is_wide() {
        run::<u32>(tokenizer, spec, control)
    } else {
        run::<u16>(tokenizer, spec, control)
    }
}

fn run<L: Lane>(tokenizer: &Tokenizer, spec: &JobSpec, control: &Control) -> Result<Outcome> {
    let (sources, total) = prepare(spec)?;
    control.bytes_total.store(total, Ordering::Relaxed);
    let info = TokenizerInfo::of::<L>(tokenizer.vocab());
    let options = Options::of(spec);
    if !spec.force
        && let Some(manifest) = Manifest::up_to_date(spec, &sources, &info, &options)?
    {
        return Ok(Outcome { manifest, up_to_date: true });
    }
    let eot_id = match (spec.eot, spec.eot_id) {
        (Eot::None, _) => 0,
        (_, Some(id)) => id,
        (_, None) => {
            let what = "this tokenizer has no obvious end-of-text token; name one".to_owned();
            return Err(Error::BadOption { option: "eot_token", what });
        }
    };
    let rules = Rules {
        separator: spec.separator.as_deref().map(memmem::Finder::new),
        eot: spec.eot,
        eot_id,
        special: spec.special,
        finder: tokenizer.finder(),
    };
    let output = OutputSet::create(spec)?;
    let planner = plan::Planner::new(&sources, &spec.roots, tokenizer.cuts(), &rules, chunk_bytes());
    let committer = commit::Committer::<L>::new(&output, sources.len(), control);
    let threads = if spec.threads == 0 { default_threads() } else { spec.threads };
    let shared = work::Shared { tokenizer, spec, rules: &rules, sources: &sources, control };
    // Of several failures the one that stands first in the input is reported, whatever came first.
    let failure: Mutex<Option<(u64, Error)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(planner.n_chunks_at_most()) {
            scope.spawn(|| {
                let work = std::panic::AssertUnwindSafe(|| work::run::<L>(&shared, &planner, &committer));
                let result =
                    std::panic::catch_unwind(work).unwrap_or_else(|panic| Err((0, from_panic(&*panic))));
                if let Err(found) = result {
                    committer.stop();
                    let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|first| found.0 < first.0) {
                        *first = Some(found);
                    }
                }
            });
        }
    });
    if let Some((_, error)) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let done = committer.finish()?;
    let manifest = Manifest::new(info, options, &sources, done, &output);
    output.publish(&manifest, spec.force)?;
    Ok(Outcome { manifest, up_to_date: false })
}

fn from_panic(panic: &(dyn std::any::Any + Send)) -> Error {
    let what = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a worker panicked".to_owned());
    Error::Internal { what }
}

/// The nominal chunk size; `TOKEND_CHUNK_BYTES` changes it, for tests of borders.
fn chunk_bytes() -> u64 {
    std::env::var("TOKEND_CHUNK_BYTES")
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|&bytes| bytes > 0)
        .unwrap_or(CHUNK_BYTES)
}

/// Gives an error without a path the path of the input that it came from.
fn in_source(error: Error, path: &Path) -> Error {
    let path = Some(path.to_owned());
    match error {
        Error::SpecialToken { path: None, token, offset } => Error::SpecialToken { path, token, offset },
        Error::NoToken { path: None, byte, offset } => Error::NoToken { path, byte, offset },
        other => other,
    }
}
