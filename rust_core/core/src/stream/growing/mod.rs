//! The native stream as a sink: a directory that is committed to again and again.
//!
//! ```text
//! commit:  fdatasync segments ─► fdatasync checkpoint ─► (new segments: fsync directory)
//!          ─► write the manifest's next version, fsync ─► rename over manifest.json ─► fsync directory
//! ```
//!
//! The checkpoint is synced before the manifest, so a resumed job always finds a record at or behind
//! the watermark that readers saw, and goes on without taking anything back. A job that fails says so
//! in the manifest; what was committed stays. The directory is locked (`flock`) while it is written.
//!
//! What stands in the directory before and after is in [`directory`].

mod directory;

use std::ffi::OsStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use directory::{SKIPPED, There, checkpoint_name, look, retire, temporary};
pub(crate) use directory::{check, checkpoint, discard, read_manifest, tidy, up_to_date};

use crate::error::{Error, Result};
use crate::job::checkpoint::{self as log, Log, Progress, Resumed};
use crate::job::sink::{Begun, Sink, Target};
use crate::job::{Control, setting};
use crate::stream::folder::{Folder, partial, suffixed};
use crate::stream::manifest::{FileInfo, Report, hex};
use crate::stream::native::{Failure, MANIFEST, State, StreamManifest, segment_names, sidecar_names};
use crate::stream::parts::{Mark, Named, Order, Part, Parts, Piece, Place, Sidecar};
use crate::stream::{retirement, skipped};

/// Ids of a segment, in bytes, before it is closed.
const SEGMENT_BYTES: u64 = 256 << 20;

/// A stream under way.
struct Growing<'a> {
    target: &'a Target<'a>,
    control: &'a Control,
    folder: Arc<Folder>,
    key: &'a str,
    parts: Parts,
    stream_id: String,
    /// The last manifest that was put in place.
    announced: Mutex<StreamManifest>,
    /// Segments whose names are durable.
    n_synced: AtomicUsize,
}

/// Makes the directory and its first manifest, or takes up those of an interrupted run.
pub(crate) fn begin<'a>(target: &'a Target<'a>, control: &'a Control) -> Result<Begun<'a>> {
    let spec = target.spec;
    let key = spec.key()?;
    let (parent, name) = Folder::of(&spec.roots, &spec.output)?;
    parent.make_directory(&name)?;
    let folder = Arc::new(Folder::open(&spec.roots, &spec.output)?);
    folder.lock()?;
    match look(spec)? {
        There::Stream(manifest)
            if spec.resume
                && manifest.is_of(key)
                // A job that failed for good has no checkpoint, and is made anew by `force`.
                && !(spec.force && folder.stat(&checkpoint_name(key))?.is_none()) =>
        {
            return take_up(target, &folder, key, *manifest, control);
        }
        There::Stream(_) if spec.force => retire(&folder, &parent, &name)?,
        There::Remains => retire(&folder, &parent, &name)?,
        There::Nothing | There::Empty => {}
        There::Stream(_) => return Err(Error::OutputExists { path: spec.output.clone() }),
        There::Other => return Err(Error::ForeignOutput { path: spec.output.clone() }),
    }
    let begin = || {
        let path = folder.path(&checkpoint_name(key));
        folder.remove(&checkpoint_name(key))?;
        let log = Log::create(folder.create(&checkpoint_name(key))?, path, &target.header())?;
        let part = make_part(&folder, 0, sidecars(target))?;
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| Error::io(&spec.output, "getrandom", errno.into()))?;
        let stream_id = format!("{:032x}", u128::from_le_bytes(bytes));
        let fresh = Resumed::nothing(log, target.sources.len());
        let manifest = StreamManifest::growing(target, &fresh.progress, &stream_id, 0, key);
        folder.replace(OsStr::new(MANIFEST), &temporary(key), manifest.to_json()?.as_bytes())?;
        Ok((part, manifest, fresh))
    };
    let (part, manifest, fresh) = begin().inspect_err(|_| {
        let _ = retire(&folder, &parent, &name).and_then(|()| parent.remove_directory(&name));
    })?;
    let Resumed { log, progress, order, texts } = fresh;
    let sink = Box::new(Growing::new(target, control, &folder, key, order, part, manifest));
    Ok(Begun { sink, log, progress, texts })
}

/// Goes on with a stream behind the last record of its checkpoint that its files bear out.
fn take_up<'a>(
    target: &'a Target<'a>,
    folder: &Arc<Folder>,
    key: &'a str,
    mut manifest: StreamManifest,
    control: &'a Control,
) -> Result<Begun<'a>> {
    let damaged = |what: String| Error::Damaged { path: target.spec.output.clone(), what };
    let name = checkpoint_name(key);
    let Some(file) = folder.reopen(&name)? else {
        return Err(damaged("its checkpoint is missing".to_owned()));
    };
    let open = |index| part(folder, index, sidecars(target), |name| folder.reopen(name));
    let header = target.header();
    let n_retired = retirement::n_retired(&manifest.segments);
    // A run that was killed may not have come to removing all of them.
    retirement::remove_files(folder, 0..n_retired)?;
    let found = log::replay(file, folder.path(&name), &header, target.id_bytes, control, n_retired, open)?;
    let Ok(Resumed { log, progress, order, texts }) = found else {
        return Err(damaged("its checkpoint has no header".to_owned()));
    };
    if progress.n_tokens < manifest.n_tokens || progress.n_documents < manifest.n_documents {
        return Err(damaged(format!(
            "{} tokens are committed, but only the first {} have the bytes that were written",
            manifest.n_tokens, progress.n_tokens
        )));
    }
    let Some(part) = open(order.part)? else {
        return Err(damaged(format!("segment {} is missing", order.part)));
    };
    if manifest.state == State::Failed {
        (manifest.state, manifest.error) = (State::Growing, None);
        manifest.commit += 1;
        folder.replace(OsStr::new(MANIFEST), &temporary(key), manifest.to_json()?.as_bytes())?;
    }
    let sink = Box::new(Growing::new(target, control, folder, key, order, part, manifest));
    Ok(Begun { sink, log, progress, texts })
}

/// Which sidecars the stream has.
fn sidecars(target: &Target<'_>) -> [bool; 2] {
    Sidecar::ALL.map(|sidecar| target.has(sidecar))
}

fn make_part(folder: &Folder, index: usize, sidecars: [bool; 2]) -> Result<Part> {
    let part = part(folder, index, sidecars, |name| {
        // What an interrupted run wrote here was never committed.
        folder.remove(name)?;
        folder.create(name).map(Some)
    })?;
    part.ok_or(Error::Internal { what: "a new file is not there".to_owned() })
}

/// A segment, with the files that `open` gives; `None` if one is not there.
fn part(
    folder: &Folder,
    index: usize,
    sidecars: [bool; 2],
    open: impl Fn(&OsStr) -> Result<Option<std::fs::File>>,
) -> Result<Option<Part>> {
    let named = |name: &String| -> Result<Option<Named>> {
        let name = OsStr::new(name);
        Ok(open(name)?.map(|file| Named { file, path: folder.path(name) }))
    };
    let [tokens, ends] = segment_names(index);
    let (Some(tokens), Some(ends)) = (named(&tokens)?, named(&ends)?) else { return Ok(None) };
    let mut files = [None, None];
    for (at, name) in sidecar_names(index).iter().enumerate() {
        if sidecars[at] {
            files[at] = named(name)?;
            if files[at].is_none() {
                return Ok(None);
            }
        }
    }
    Ok(Some(Part { tokens, ends, sidecars: files }))
}

impl<'a> Growing<'a> {
    fn new(
        target: &'a Target<'a>,
        control: &'a Control,
        folder: &Arc<Folder>,
        key: &'a str,
        order: Order,
        part: Part,
        manifest: StreamManifest,
    ) -> Self {
        let segment_bytes = setting("TOKEND_SEGMENT_BYTES", SEGMENT_BYTES);
        let (maker, sidecars) = (Arc::clone(folder), sidecars(target));
        let make = Box::new(move |index| make_part(&maker, index, sidecars));
        Self {
            target,
            control,
            folder: Arc::clone(folder),
            key,
            parts: Parts::new(target.id_bytes, segment_bytes, make, order, Arc::new(part)),
            stream_id: manifest.stream_id.clone(),
            announced: Mutex::new(manifest),
            n_synced: AtomicUsize::new(0),
        }
    }

    /// Puts the next version of the manifest in place, and removes the files of what it retires.
    fn replace(&self, change: impl FnOnce(StreamManifest) -> StreamManifest) -> Result<StreamManifest> {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = change(announced.clone());
        next.commit = announced.commit + 1;
        let before = retirement::n_retired(&announced.segments);
        let after = retirement::mark(&mut next.segments, before, self.control.retire_before());
        self.folder.replace(OsStr::new(MANIFEST), &temporary(self.key), next.to_json()?.as_bytes())?;
        announced.clone_from(&next);
        retirement::remove_files(&self.folder, before..after)?;
        Ok(next)
    }

    /// Writes the list of what was left out beside the directory, if anything was.
    fn list_skipped(&self, progress: &Progress, log: &Log) -> Result<Option<FileInfo>> {
        let (parent, name) = Folder::of(&self.target.spec.roots, &self.target.spec.output)?;
        let name = suffixed(&name, SKIPPED);
        if progress.n_skipped() == 0 {
            return Ok(None);
        }
        let temporary = partial(&name, self.key);
        parent.remove(&temporary)?;
        let tail = skipped::write(self.target, log, &parent.create(&temporary)?, &parent.path(&name))
            .and_then(|tail| parent.rename(&temporary, &name, true).map(|()| tail))
            .inspect_err(|_| {
                let _ = parent.remove(&temporary);
            })?;
        parent.sync()?;
        let file = name.to_string_lossy().into_owned();
        Ok(Some(FileInfo { file, size_bytes: tail.n_bytes, xxh3: hex(tail.xxh3) }))
    }

    fn at(&self, progress: &Progress) -> StreamManifest {
        StreamManifest::growing(self.target, progress, &self.stream_id, 0, self.key)
    }
}

impl Sink for Growing<'_> {
    fn place(&self, piece: Piece<'_>) -> Result<(Place, Mark)> {
        self.parts.place(piece)
    }

    fn write(&self, place: Place, piece: Piece<'_>) -> Result<()> {
        self.parts.write(place, piece)
    }

    fn start_write_back(&self, mark: &Mark) {
        self.parts.start_write_back(mark);
    }

    fn sync(&self, progress: &Progress) -> Result<()> {
        self.parts.sync(progress.last_part())?;
        if self.n_synced.load(Ordering::Relaxed) < progress.parts.len() {
            self.folder.sync()?;
            self.n_synced.store(progress.parts.len(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn announce(&self, progress: &Progress) -> Result<()> {
        self.replace(|_| self.at(progress)).map(|_| ())
    }

    fn publish(&self, progress: &Progress, log: &Log) -> Result<Report> {
        self.sync(progress)?;
        let skipped = self.list_skipped(progress, log)?;
        let sealed = self.replace(|_| StreamManifest {
            state: State::Sealed,
            skipped,
            resume: None,
            ..self.at(progress)
        })?;
        // The stream is complete; a checkpoint that stays harms nobody.
        let _ = self.folder.remove(&checkpoint_name(self.key));
        Ok(Report::Stream(sealed))
    }

    fn abandon(&self, error: &Error, keep: bool) {
        // Suspended: whoever takes it up again goes on growing it.
        if keep && matches!(error, Error::Cancelled) {
            return;
        }
        let failure =
            Failure { code: error.code().to_owned(), message: error.to_string(), hint: error.hint() };
        let _ = self.replace(|last| {
            let resume = last.resume.clone().filter(|_| keep);
            StreamManifest { state: State::Failed, error: Some(failure), resume, ..last }
        });
        if !keep {
            let _ = self.folder.remove(&checkpoint_name(self.key));
        }
    }
}
