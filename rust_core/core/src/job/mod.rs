//! A job: files in, one token set out; or several in one pass, each of another field ([`many`]).
//!
//! ```text
//! plan (in order, under a lock) ─► chunks ─► workers: copy, validate, encode ─► commit (in order) ─► publish
//! ```
//!
//! * [`spec`]: what it is told; [`control`]: how it is watched and steered meanwhile;
//! * [`prepare`]: what is found out before it starts;
//! * [`pass`]: one pass over the inputs, with all its threads;
//! * [`plan`]: hands out the work in the order of the input: batches of small files, pieces of big ones;
//! * [`work`]: what a worker does with one of them;
//! * [`lumps`], [`records`]: how inputs whose documents are lines, rows or looked at whole are cut and
//!   encoded, and the account of what was left out;
//! * [`gate`]: how many of them may work at a time;
//! * [`buffers`]: what blocks are made in, lent again once they are written;
//! * [`commit`]: puts results in order, hashes, gives them their places; the writes themselves overlap;
//! * [`sink`]: where they go, one implementation for each format;
//! * [`checkpoint`]: how far the job got, so that a killed one can go on.
//!
//! Memory is bounded by the number of threads: a worker holds one chunk and its ids, and at most
//! as many finished ones as there are workers wait for their turn.

mod buffers;
pub(crate) mod checkpoint;
mod commit;
mod control;
mod gate;
mod known_texts;
mod lumps;
mod many;
mod pass;
mod places;
mod plan;
mod prepare;
pub(crate) mod records;
pub(crate) mod sink;
mod spec;
mod work;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use memchr::memmem;

pub use control::Control;
pub use prepare::check;
pub use records::{Counts, RecordOptions};
pub use spec::{FieldOutput, Format, JobSpec};

use crate::documents::{Eot, Rules};
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::special::SpecialPolicy;
use crate::stream::manifest::{Options, Report, TokenizerInfo};
use crate::stream::{bin, growing};
use crate::tokenizer::Tokenizer;
use pass::pass;
use prepare::{may_suppose, prepare, up_to_date};
use sink::Target;

/// Nominal size of a chunk: its text and its ids fit a core's L2 cache together.
const CHUNK_BYTES: u64 = 1 << 20;
/// Of a small job, so that there is work for everybody from the start, and nobody waits long for who is last.
const CHUNK_MIN_BYTES: u64 = 1 << 17;
/// Chunks of a job whose chunks are smaller than they could be.
const CHUNKS: u64 = 32;

/// What a job made.
#[derive(Debug)]
pub struct Outcome {
    pub manifest: Report,
    /// The output was there already, made from the same inputs in the same way, and it verified.
    pub up_to_date: bool,
    /// What became of the outputs of [`JobSpec::more`], in their order.
    pub more: Vec<Outcome>,
}

/// The number of workers that leaves one core to others.
#[must_use]
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

/// Removes what an unfinished job with the partial key of `spec` left of its output; false if there
/// was nothing. A finished output is not touched, nor are files of other keys.
///
/// # Errors
/// [`Error::OutputBusy`] while the job runs, [`Error::Io`].
pub fn discard_partials(spec: &JobSpec) -> Result<bool> {
    let mut found = false;
    for one in &many::outputs(spec)? {
        found |= match spec.format {
            Format::Bin => bin::discard(one)?,
            Format::Stream => growing::discard(one)?,
        };
    }
    Ok(found)
}

/// How many bytes of its inputs an unfinished job with the partial key of `spec` has noted as done, or 0: how
/// far one that was killed got. Nothing is checked; a job that goes on does that.
///
/// # Errors
/// [`Error::Io`].
pub fn logged_bytes(spec: &JobSpec) -> Result<u64> {
    let log = match spec.format {
        Format::Bin => bin::checkpoint(spec),
        Format::Stream => growing::checkpoint(spec),
    };
    match log {
        Ok(Some(file)) => checkpoint::logged_bytes(&file, &spec.output),
        Ok(None) | Err(Error::NotFound { .. }) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Encodes files into one output; blocks until it is published.
///
/// # Errors
/// Any [`Error`]. Nothing is left under the name of a set then; a stream says in its manifest that it
/// failed. Partial files stay only where a resumed run can go on from them: after
/// [`Control::suspend`], or when [`Error::is_resumable`].
pub fn encode_files(tokenizer: &Tokenizer, spec: &JobSpec, control: &Control) -> Result<Outcome> {
    if tokenizer.vocab().is_wide() {
        run::<u32>(tokenizer, spec, control)
    } else {
        run::<u16>(tokenizer, spec, control)
    }
}

fn run<L: Lane>(tokenizer: &Tokenizer, spec: &JobSpec, control: &Control) -> Result<Outcome> {
    let is_misjudged = AtomicBool::new(false);
    let outcome =
        run_once::<L>(tokenizer, spec, control, may_suppose(spec) && spec.more.is_empty(), &is_misjudged);
    if is_misjudged.load(Ordering::Relaxed) {
        // A file is not what its name let suppose: every one is looked at before the job starts, then.
        return run_once::<L>(tokenizer, spec, control, false, &is_misjudged);
    }
    outcome
}

fn run_once<L: Lane>(
    tokenizer: &Tokenizer,
    spec: &JobSpec,
    control: &Control,
    supposes: bool,
    is_misjudged: &AtomicBool,
) -> Result<Outcome> {
    let specs = many::outputs(spec)?;
    let prepared: Vec<_> = specs.iter().map(|spec| prepare(spec, supposes)).collect::<Result<_>>()?;
    many::check(&specs, &prepared)?;
    control.bytes_total.store(prepared.first().map_or(0, |(_, total)| *total), Ordering::Relaxed);
    let targets: Vec<_> = specs
        .iter()
        .zip(&prepared)
        .map(|(spec, (sources, _))| Target {
            spec,
            sources,
            tokenizer: TokenizerInfo::of::<L>(tokenizer.vocab()),
            options: Options::of(spec, sources),
            id_bytes: L::BYTES as u64,
            control,
        })
        .collect();
    let mut outcomes = Vec::new();
    for target in &targets {
        let made = up_to_date(target)?;
        outcomes.push(made.map(|manifest| Outcome { manifest, up_to_date: true, more: Vec::new() }));
    }
    let missing: Vec<_> = (0..targets.len()).filter(|&at| outcomes[at].is_none()).collect();
    if !missing.is_empty() {
        let rules = rules(tokenizer, spec)?;
        let missing: Vec<_> = missing.iter().map(|&at| &targets[at]).collect();
        let mut made = pass::<L>(tokenizer, &missing, &rules, is_misjudged)?.into_iter();
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
            let new = |manifest| Outcome { manifest, up_to_date: false, more: Vec::new() };
            *outcome = made.next().map(new);
        }
    }
    let mut outcomes = outcomes.into_iter().flatten();
    let nothing = || Error::Internal { what: "the job made nothing".to_owned() };
    let first = outcomes.next().ok_or_else(nothing)?;
    Ok(Outcome { more: outcomes.collect(), ..first })
}

fn rules<'a>(tokenizer: &'a Tokenizer, spec: &'a JobSpec) -> Result<Rules<'a>> {
    let eot_id = match (spec.eot, spec.eot_id) {
        (Eot::None, _) => 0,
        (_, Some(id)) => id,
        (_, None) => {
            let what = "this tokenizer has no obvious end-of-text token; name one".to_owned();
            return Err(Error::BadOption { option: "eot_token", what });
        }
    };
    Ok(Rules {
        separator: spec.separator.as_deref().map(memmem::Finder::new),
        eot: spec.eot,
        eot_id,
        special: spec.special.unwrap_or(SpecialPolicy::Raise),
        finder: tokenizer.finder(),
    })
}

/// Depends on the inputs alone, not on threads: a resumed job cuts where the interrupted one did.
fn chunk_bytes(total_bytes: u64) -> u64 {
    setting("TOKEND_CHUNK_BYTES", (total_bytes / CHUNKS).clamp(CHUNK_MIN_BYTES, CHUNK_BYTES))
}

/// A size or time of the job's machinery, which an environment variable changes for tests.
pub(crate) fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|&value| value > 0)
        .unwrap_or(default)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_small_jobs_are_smaller() {
        let sizes = [0, 1 << 20, 8 << 20, 32 << 20, u64::MAX].map(chunk_bytes);
        assert_eq!(sizes, [1 << 17, 1 << 17, 1 << 18, 1 << 20, 1 << 20]);
    }
}
