//! One pass over the inputs: outputs begun, threads at work, outputs published one after the other.
//!
//! Whatever fails, on whatever thread, the pass ends as a whole: committers and gate are told, every thread is
//! joined, and of several failures the one that stands first in the input is what the job reports.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashSet;
use xxhash_rust::xxh3::Xxh3;

use super::sink::{self, Begun, Target};
use super::{Format, checkpoint, chunk_bytes, commit, default_threads, known_texts, plan, work};
use crate::documents::{Eot, Rules};
use crate::error::{Error, Result};
use crate::input::lease::Leases;
use crate::lane::Lane;
use crate::special::SpecialPolicy;
use crate::stream::manifest::Report;
use crate::stream::{bin, growing};
use crate::tokenizer::Tokenizer;

/// An output that is being made.
struct Making<'a> {
    target: &'a Target<'a>,
    sink: Box<dyn sink::Sink + 'a>,
    /// What was there already when the job began.
    is_resumed: bool,
}

/// Makes the outputs in one pass over their inputs, which are the same, and publishes one after the other.
pub(super) fn pass<L: Lane>(
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

/// The rules of whole documents.
fn record_rules<'a>(rules: &Rules<'a>, special: SpecialPolicy) -> Rules<'a> {
    Rules { separator: None, special, ..*rules }
}

/// How far an output is: its log, its progress, the hash of what was read of the source under way, and the
/// texts that are in it.
type Begins = (checkpoint::Log, checkpoint::Progress, Xxh3, FxHashSet<u128>);

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
fn read_so_far(target: &Target<'_>, progress: &checkpoint::Progress) -> Result<Xxh3> {
    let position = &progress.position;
    let (Some(source), 1..) = (target.sources.get(position.source), position.offset_bytes) else {
        return Ok(Xxh3::new());
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
