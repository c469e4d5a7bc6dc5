//! A job: files in, one token set out; or several in one pass, each of another field ([`many`]).
//!
//! ```text
//! plan (in order, under a lock) ─► chunks ─► workers: copy, validate, encode ─► commit (in order) ─► publish
//! ```
//!
//! * [`spec`]: what it is told; [`control`]: how it is watched and steered meanwhile;
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
mod places;
mod plan;
pub(crate) mod records;
pub(crate) mod sink;
mod spec;
mod work;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use memchr::memmem;
use rustc_hash::FxHashSet;

pub use control::Control;
pub use records::{Counts, RecordOptions};
pub use spec::{FieldOutput, Format, JobSpec};

use crate::documents::{Eot, Rules};
use crate::error::{Error, Result};
use crate::input::lease::Leases;
use crate::input::{Devices, Given, Nearby, Source};
use crate::lane::Lane;
use crate::special::SpecialPolicy;
use crate::stream::folder::Folder;
use crate::stream::manifest::{Manifest, Options, Report, TokenizerInfo};
use crate::stream::{bin, growing};
use crate::tokenizer::Tokenizer;
use sink::{Begun, Target};

/// Nominal size of a chunk: its text and its ids fit a core's L2 cache together.
const CHUNK_BYTES: u64 = 1 << 20;
/// Of a small job, so that there is work for everybody from the start, and nobody waits long for who is last.
const CHUNK_MIN_BYTES: u64 = 1 << 17;
/// Chunks of a job whose chunks are smaller than they could be.
const CHUNKS: u64 = 32;
/// Output bytes per input byte that must be free before a job starts: about what European text
/// needs as uint16. Denser text may still run out of space; that is then an error that a resumed run
/// can overcome.
const FREE_PER_INPUT_BYTE: f64 = 0.5;

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

/// Checks everything that can be checked before a job starts; returns the inputs' total bytes.
///
/// # Errors
/// Whatever [`encode_files`] would fail with at once: inputs that are not there or not regular
/// files, an output that exists (unless `force`, or unless its manifest says that it may be up to
/// date) or is one of the inputs, paths outside the roots, too little free space.
pub fn check(spec: &JobSpec) -> Result<u64> {
    let specs = many::outputs(spec)?;
    let prepared: Vec<_> = specs.iter().map(|spec| prepare(spec, false)).collect::<Result<_>>()?;
    many::check(&specs, &prepared)?;
    Ok(prepared.first().map_or(0, |(_, total)| *total))
}

/// Whether small inputs can be taken for what their names let suppose, until they are read: nothing of the
/// output may depend on what they are, and nobody may see of it before they were read.
fn may_suppose(spec: &JobSpec) -> bool {
    let RecordOptions {
        field, id_field, skip_bad, min_tokens, max_tokens, truncate_tokens, deduplicate, ..
    } = &spec.records;
    let looks_at_documents =
        *skip_bad || *min_tokens > 0 || max_tokens.is_some() || truncate_tokens.is_some() || *deduplicate;
    let is_of_fields = field.is_some() || id_field.is_some();
    spec.format == Format::Bin
        && !spec.resume
        && !looks_at_documents
        && !is_of_fields
        && spec.known_texts.is_none()
}

fn prepare(spec: &JobSpec, supposes: bool) -> Result<(Vec<Source>, u64)> {
    if spec.inputs.is_empty() {
        return Err(Error::BadOption { option: "inputs", what: "no input files given".into() });
    }
    if spec.separator.as_deref() == Some("") {
        return Err(Error::BadOption { option: "separator", what: "it is empty".into() });
    }
    if spec.retire && spec.format != Format::Stream {
        return Err(Error::BadOption { option: "retire", what: "it needs format stream".into() });
    }
    known_texts::check(spec)?;
    let (format, field) = (spec.records.input_format, spec.records.text_field());
    let (devices, mut nearby) = (Devices::default(), Nearby::new(&spec.roots));
    let max_bytes = if supposes { chunk_bytes(0) } else { 0 };
    let mut suppose = |given: Given<'_>| Source::suppose(given, &mut nearby, format, max_bytes, &devices);
    let sources: Vec<_> = spec
        .given()
        .map(|given| match suppose(given).filter(|_| supposes) {
            Some(source) => Ok(source),
            None => Source::detect(given, &spec.roots, format, &field, &devices),
        })
        .collect::<Result<_>>()?;
    spec.records.check(&sources)?;
    let total = sources.iter().map(|source| source.identity.size_bytes).sum();
    match spec.format {
        Format::Bin => bin::check(spec, &sources)?,
        Format::Stream => growing::check(spec, &sources)?,
    }
    let (folder, name) = Folder::of(&spec.roots, &spec.output)?;
    let free = folder.free_bytes()?;
    let needed = (total as f64 * FREE_PER_INPUT_BYTE) as u64;
    // What is there already may be up to date; what is being resumed has its space in part.
    if free < needed && !spec.resume && !spec.retire && folder.stat(&name)?.is_none() {
        let what = format!("about {needed} bytes are needed for {total} bytes of input, {free} are free");
        return Err(Error::NoSpace { path: spec.output.clone(), what });
    }
    Ok((sources, total))
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

/// An output that is being made.
struct Making<'a> {
    target: &'a Target<'a>,
    sink: Box<dyn sink::Sink + 'a>,
    /// What was there already when the job began.
    is_resumed: bool,
}

/// Makes the outputs in one pass over their inputs, which are the same, and publishes one after the other.
fn pass<L: Lane>(
    tokenizer: &Tokenizer,
    targets: &[&Target<'_>],
    rules: &Rules<'_>,
    is_misjudged: &AtomicBool,
) -> Result<Vec<Report>> {
    let Some(Target { control, .. }) = targets.first() else { return Ok(Vec::new()) };
    let is_kept = |error: &Error| {
        let suspended = matches!(error, Error::Cancelled) && control.suspended.load(Ordering::Relaxed);
        suspended || error.is_resumable()
    };
    let (mut making, mut lanes) = (Vec::<Making<'_>>::new(), Vec::new());
    let begun = targets.iter().try_for_each(|target| {
        let Begun { sink, log, progress, mut texts } = match target.spec.format {
            Format::Bin => bin::begin(target, control)?,
            Format::Stream => growing::begin(target, control)?,
        };
        making.push(Making { target, sink, is_resumed: progress.n_bytes > 0 });
        let source_hash = read_so_far(target, &progress)?;
        known_texts::read(target.spec.known_texts.as_deref().unwrap_or_default(), &mut texts)?;
        lanes.push((log, progress, source_hash, texts));
        Ok(())
    });
    if let Err(error) = begun {
        for Making { sink, is_resumed, .. } in &making {
            // Nothing was done yet: once the cause is gone, the job can be resumed still.
            sink.abandon(&error, is_kept(&error) || *is_resumed);
        }
        return Err(error);
    }
    let kept: Result<Vec<_>> = lanes.iter().map(|(log, ..)| log.handle()).collect();
    let made = kept.and_then(|kept| {
        Ok(kept
            .into_iter()
            .zip(make::<L>(tokenizer, &making, lanes, rules, is_misjudged)?)
            .collect::<Vec<_>>())
    });
    let mut reports = Vec::new();
    let published = made.and_then(|made| {
        control.check()?;
        for (making, (log, progress)) in making.iter().zip(&made) {
            if making.target.spec.known_texts.is_some() {
                known_texts::write(making.target.spec, log)?;
            }
            reports.push(making.sink.publish(progress, log)?);
        }
        Ok(())
    });
    if let Err(error) = published {
        for Making { sink, .. } in &making[reports.len()..] {
            sink.abandon(&error, is_kept(&error));
        }
        return Err(error);
    }
    Ok(reports)
}

/// The manifest of an output that is there already and need not be made again.
fn up_to_date(target: &Target<'_>) -> Result<Option<Report>> {
    let spec = target.spec;
    // A job that is being resumed may have come to its end before it was interrupted.
    if spec.force && !spec.resume {
        return Ok(None);
    }
    let found = match spec.format {
        Format::Bin => Manifest::up_to_date(target).map(|found| found.map(Report::Set)),
        Format::Stream => growing::up_to_date(target).map(|found| found.map(Report::Stream)),
    };
    // A hash that was cut short says nothing.
    target.control.check()?;
    match found {
        Ok(Some(report)) => {
            let _ = match spec.format {
                Format::Bin => bin::discard(spec).map(drop),
                Format::Stream => growing::tidy(spec),
            };
            Ok(Some(report))
        }
        Err(Error::OutputExists { .. }) if spec.force => Ok(None),
        other => other,
    }
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

/// The rules of whole documents.
fn record_rules<'a>(rules: &Rules<'a>, special: SpecialPolicy) -> Rules<'a> {
    Rules { separator: None, special, ..*rules }
}

/// How far an output is: its log, its progress, the hash of what was read of the source under way, and the
/// texts that are in it.
type Begins = (checkpoint::Log, checkpoint::Progress, xxhash_rust::xxh3::Xxh3, FxHashSet<u128>);

/// Does the work that is left and writes it to the sinks; returns the whole of it, for each output.
fn make<L: Lane>(
    tokenizer: &Tokenizer,
    making: &[Making<'_>],
    begins: Vec<Begins>,
    rules: &Rules<'_>,
    is_misjudged: &AtomicBool,
) -> Result<Vec<checkpoint::Progress>> {
    let nothing = || Error::Internal { what: "a job without an output".to_owned() };
    let first = making.first().ok_or_else(nothing)?;
    let Target { spec, sources, control, .. } = *first.target;
    let least =
        begins.iter().map(|(_, progress, ..)| progress).min_by_key(|progress| progress.position.order());
    let least = least.ok_or_else(nothing)?.clone();
    let counted = &begins[0].1;
    control.bytes_done.store(least.n_bytes, Ordering::Relaxed);
    control.n_tokens.store(counted.n_tokens, Ordering::Relaxed);
    control.n_documents.store(counted.n_documents, Ordering::Relaxed);
    control.n_skipped.store(counted.n_skipped(), Ordering::Relaxed);
    let leases = Leases::default();
    let chunk_bytes = chunk_bytes(sources.iter().map(|source| source.identity.size_bytes).sum());
    let threads = if spec.threads == 0 { default_threads() } else { spec.threads };
    let cuts = tokenizer.cuts();
    let fields = making.iter().map(|making| making.target.spec.records.text_field()).collect();
    let planner =
        plan::Planner::new(sources, spec, fields, &leases, cuts, rules, chunk_bytes, threads, &least);
    let leading_id = (rules.eot == Eot::Both).then_some(rules.eot_id);
    let mut outputs = Vec::new();
    let mut committers = Vec::new();
    for (Making { target, sink, .. }, (log, progress, source_hash, texts)) in making.iter().zip(begins) {
        let begun = progress.position.order();
        outputs.push(work::Output { options: &target.spec.records, path: &target.spec.output, begun });
        committers.push(commit::Committer::<L>::new(
            &**sink,
            control,
            log,
            progress,
            source_hash,
            texts,
            leading_id,
            target.separator_bytes(),
            chunk_bytes,
            committers.is_empty(),
        ));
    }
    let field_rules = record_rules(rules, spec.special.unwrap_or(SpecialPolicy::Text));
    let text_rules = record_rules(rules, rules.special);
    let shared = work::Shared {
        tokenizer,
        spec,
        rules,
        field_rules: &field_rules,
        text_rules: &text_rules,
        sources,
        control,
        outputs,
        is_misjudged,
    };
    // Of several failures the one that stands first in the input is reported, whatever came first.
    let failure: Mutex<Option<(u64, Error)>> = Mutex::new(None);
    let guarded = |work: &dyn Fn() -> Result<(), (u64, Error)>| {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err((0, from_panic(&*panic))));
        if let Err(found) = result {
            committers.iter().for_each(commit::Committer::stop);
            control.gate.end();
            let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|first| found.0 < first.0) {
                *first = Some(found);
            }
        }
    };
    std::thread::scope(|scope| {
        let guarded = &guarded;
        let mut helpers = vec![scope.spawn(|| leases.watch())];
        for committer in &committers {
            helpers.push(scope.spawn(move || guarded(&|| committer.keep().map_err(|error| (0, error)))));
        }
        let workers: Vec<_> = (0..threads.min(planner.n_chunks_at_most()))
            .map(|_| scope.spawn(|| guarded(&|| work::run::<L>(&shared, &planner, &committers))))
            .collect();
        // Panics were caught and noted.
        for worker in workers {
            drop(worker.join());
        }
        committers.iter().for_each(commit::Committer::finish);
        leases.stop();
        for helper in helpers {
            drop(helper.join());
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => committers.into_iter().map(commit::Committer::into_progress).collect(),
    }
}

/// The hash of what was read of the source under way, after checking that it still holds that.
fn read_so_far(target: &Target<'_>, progress: &checkpoint::Progress) -> Result<xxhash_rust::xxh3::Xxh3> {
    let position = &progress.position;
    let (Some(source), 1..) = (target.sources.get(position.source), position.offset_bytes) else {
        return Ok(xxhash_rust::xxh3::Xxh3::new());
    };
    let hash = source.open(&target.spec.roots)?.hash(position.offset_bytes, target.control)?;
    if hash.digest() != progress.sources[position.source].xxh3 {
        let what = "since the interrupted run: it was written to".to_owned();
        return Err(Error::InputChanged { path: source.path.clone(), what });
    }
    Ok(hash)
}

fn from_panic(panic: &(dyn std::any::Any + Send)) -> Error {
    let what = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a worker panicked".to_owned());
    Error::Internal { what }
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
