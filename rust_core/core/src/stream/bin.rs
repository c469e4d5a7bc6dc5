//! The set `OUT.bin` as a sink: how it comes to be on disk whole, or not at all.
//!
//! ```text
//! create .OUT.bin.KEY.partial, .OUT.bin.ends.KEY.partial, .OUT.bin.checkpoint.KEY.partial
//! write ─► fsync data, ends, manifest ─► note in the checkpoint that publishing begins
//!       ─► rename data, ends ─► fsync directory ─► rename manifest ─► fsync directory ─► remove checkpoint
//! ```
//!
//! KEY is the job's partial key, so that whoever recovers after a crash finds exactly its own files. Jobs
//! with different keys do not make one output at the same time either: each holds its [`Claim`].
//! Renames do not replace: if another program puts a file there meanwhile, the job fails and that
//! file stays. With `force` the old manifest is removed first, so that at no moment a manifest stands
//! beside data that it does not describe. A failed fsync is not tried again: the kernel may have
//! dropped what it could not write, and the files are given up.
//!
//! A kill between the renames leaves data under its final name without a manifest, which is a set that
//! is not there. The note in the checkpoint holds the inodes of the two files; by it they are known as
//! ours and get their partial names back ([`undo`]) when the job is taken up again or discarded.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::folder::{Claim, Folder, partial, suffixed};
use super::manifest::{Manifest, Report, with_suffix};
use super::parts::{Mark, Named, Order, Part, Parts, Place};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::job::checkpoint::{self, Log, Progress};
use crate::job::sink::{Begun, Sink, Target};
use crate::job::{Control, JobSpec};

/// The names of a set that is being made.
struct Names {
    /// Final names of data, ends and manifest.
    finals: [OsString; 3],
    partials: [OsString; 3],
    checkpoint: OsString,
}

impl Names {
    fn new(name: &OsStr, key: &str) -> Self {
        let finals = ["", ".ends", ".json"].map(|suffix| suffixed(name, suffix));
        let partials = finals.clone().map(|name| partial(&name, key));
        Self { finals, partials, checkpoint: partial(&suffixed(name, ".checkpoint"), key) }
    }
}

/// Checks an output before any work: what is there, and whether it is an input.
pub(crate) fn check(spec: &JobSpec, sources: &[Source]) -> Result<()> {
    let (folder, name) = Folder::of(&spec.roots, &spec.output)?;
    let names = Names::new(&name, spec.key()?);
    let ours = published_inodes(&folder, &names)?;
    let data = folder.stat(&names.finals[0])?;
    for (at, suffix) in ["", ".ends", ".json"].into_iter().enumerate() {
        let path = with_suffix(&spec.output, suffix);
        let Some((device, inode)) = folder.stat(&names.finals[at])? else { continue };
        let is_input = |source: &Source| (source.identity.device, source.identity.inode) == (device, inode);
        if spec.inputs.contains(&path) || sources.iter().any(is_input) {
            return Err(Error::OutputIsInput { path });
        }
        let is_ours = ours.is_some_and(|inodes| inodes.get(at) == Some(&inode));
        // A complete set may turn out to be up to date; anything else is in the way.
        if !spec.force
            && !is_ours
            && (data.is_none() || Manifest::read_beside(&spec.roots, &spec.output)?.is_none())
        {
            return Err(Error::OutputExists { path });
        }
    }
    Ok(())
}

/// The inodes of data and ends, if the job `KEY` was stopped while it gave them their final names.
fn published_inodes(folder: &Folder, names: &Names) -> Result<Option<[u64; 2]>> {
    if folder.stat(&names.finals[2])?.is_some() {
        return Ok(None);
    }
    match folder.reopen(&names.checkpoint)? {
        Some(file) => checkpoint::publishing(&file, &folder.path(&names.checkpoint)),
        None => Ok(None),
    }
}

/// Takes back final names that a killed run had given without coming to the manifest.
fn undo(folder: &Folder, names: &Names) -> Result<()> {
    let Some(inodes) = published_inodes(folder, names)? else { return Ok(()) };
    for (at, inode) in inodes.into_iter().enumerate() {
        if folder.stat(&names.finals[at])?.is_some_and(|found| found.1 == inode) {
            folder.rename(&names.finals[at], &names.partials[at], true)?;
        }
    }
    folder.sync()
}

/// Removes what the unfinished job `KEY` left of a set; false if there was nothing.
pub(crate) fn discard(spec: &JobSpec) -> Result<bool> {
    let (folder, name) = Folder::of(&spec.roots, &spec.output)?;
    let names = Names::new(&name, spec.key()?);
    if folder.stat(&names.checkpoint)?.is_none() {
        return Ok(false);
    }
    let folder = Arc::new(folder);
    let _lock = folder.open_locked(&names.checkpoint)?;
    // Another job may be making the output; what this one left is in nobody's way. If none is, a lock
    // file that was left goes too.
    let _claim = Claim::take(&folder, &name).ok();
    undo(&folder, &names)?;
    remove(&folder, &names)?;
    folder.sync()?;
    Ok(true)
}

/// Removes partial files, the checkpoint last: it is what tells that there are any.
fn remove(folder: &Folder, names: &Names) -> Result<()> {
    for name in names.partials.iter().chain([&names.checkpoint]) {
        folder.remove(name)?;
    }
    Ok(())
}

/// A set under way.
struct BinSink<'a> {
    target: &'a Target<'a>,
    folder: Arc<Folder>,
    names: Names,
    files: [File; 2],
    parts: Parts,
    /// Keeps whoever would discard it out.
    checkpoint: File,
    _claim: Claim,
}

/// Creates the partial files, or takes up those of an interrupted run.
pub(crate) fn begin<'a>(target: &'a Target<'a>, control: &Control) -> Result<Begun<'a>> {
    let (folder, name) = Folder::of(&target.spec.roots, &target.spec.output)?;
    let folder = Arc::new(folder);
    let claim = Claim::take(&folder, &name)?;
    let names = Names::new(&name, target.spec.key()?);
    let file = folder.open_locked(&names.checkpoint)?;
    undo(&folder, &names)?;
    let path = folder.path(&names.checkpoint);
    let handle = |file: &File| file.try_clone().map_err(|error| Error::io(&path, "opening", error));
    let checkpoint = handle(&file)?;
    let open = |index: usize| -> Result<Option<Part>> {
        let tokens = folder.reopen(&names.partials[0])?;
        let ends = folder.reopen(&names.partials[1])?;
        Ok(tokens.zip(ends).filter(|_| index == 0).map(|(tokens, ends)| part(&folder, &names, tokens, ends)))
    };
    if target.spec.resume {
        let found =
            checkpoint::replay(file, path.clone(), &target.header(), target.id_bytes, control, 0, open)?;
        if let (Ok(resumed), Some(part)) = (found, open(0)?) {
            let cut = |file: &Named, len| {
                file.file.set_len(len).map_err(|error| Error::io(&file.path, "cutting", error))
            };
            cut(&part.tokens, resumed.order.n_tokens * target.id_bytes)?;
            cut(&part.ends, resumed.order.n_documents * 8)?;
            return BinSink::begun(
                target,
                claim,
                names,
                checkpoint,
                part,
                resumed.order,
                resumed.log,
                resumed.progress,
            );
        }
    }
    let begin = || {
        names.partials.iter().try_for_each(|name| folder.remove(name).map(|_| ()))?;
        let log = Log::create(handle(&checkpoint)?, path.clone(), &target.header())?;
        let (tokens, ends) = (folder.create(&names.partials[0])?, folder.create(&names.partials[1])?);
        Ok((log, part(&folder, &names, tokens, ends)))
    };
    let (log, part) = begin().inspect_err(|_| {
        let _ = remove(&folder, &names);
    })?;
    let progress = Progress::new(target.sources.len());
    BinSink::begun(target, claim, names, checkpoint, part, Order::default(), log, progress)
}

fn part(folder: &Folder, names: &Names, tokens: File, ends: File) -> Part {
    Part {
        tokens: Named { file: tokens, path: folder.path(&names.finals[0]) },
        ends: Named { file: ends, path: folder.path(&names.finals[1]) },
    }
}

impl<'a> BinSink<'a> {
    #[expect(clippy::too_many_arguments, reason = "puts together what was found or made")]
    fn begun(
        target: &'a Target<'a>,
        claim: Claim,
        names: Names,
        checkpoint: File,
        part: Part,
        order: Order,
        log: Log,
        progress: Progress,
    ) -> Result<Begun<'a>> {
        let handle =
            |named: &Named| named.file.try_clone().map_err(|error| Error::io(&named.path, "opening", error));
        let files = [handle(&part.tokens)?, handle(&part.ends)?];
        let one = Box::new(|_| Err(Error::Internal { what: "a set has one part".to_owned() }));
        let parts = Parts::new(target.id_bytes, u64::MAX, one, order, Arc::new(part));
        let folder = Arc::clone(claim.folder());
        let sink = Box::new(Self { target, folder, names, files, parts, checkpoint, _claim: claim });
        Ok(Begun { sink, log, progress })
    }

    /// Gives the files their final names, the manifest last.
    fn rename_all(&self) -> Result<()> {
        let Names { finals, partials, .. } = &self.names;
        let force = self.target.spec.force;
        if force && self.folder.remove(&finals[2])? {
            self.folder.sync()?;
        }
        let result = (|| {
            self.folder.rename(&partials[0], &finals[0], force)?;
            self.folder.rename(&partials[1], &finals[1], force)?;
            self.folder.sync()?;
            self.folder.rename(&partials[2], &finals[2], force)?;
            // A set whose names may not last is not there, so that a job that fails has made nothing.
            self.folder.sync().inspect_err(|_| {
                let _ = self.folder.remove(&finals[2]);
            })
        })();
        if result.is_err() {
            let _ = undo(&self.folder, &self.names);
        }
        result
    }
}

impl Sink for BinSink<'_> {
    fn place(&self, ids: &[u8], ends: &[u64]) -> Result<(Place, Mark)> {
        self.parts.place(ids, ends)
    }

    fn write(&self, place: Place, ids: &[u8], ends: &[u64]) -> Result<()> {
        self.parts.write(place, ids, ends)
    }

    fn start_write_back(&self, mark: &Mark) {
        self.parts.start_write_back(mark);
    }

    fn sync(&self, _: &Progress) -> Result<()> {
        self.parts.sync(0)
    }

    fn announce(&self, _: &Progress) -> Result<()> {
        Ok(())
    }

    fn publish(&self, progress: &Progress) -> Result<Report> {
        let manifest = Manifest::new(self.target, progress, &self.names.finals[0].to_string_lossy());
        let path = self.folder.path(&self.names.finals[2]);
        self.folder.remove(&self.names.partials[2])?;
        let json = self.folder.create(&self.names.partials[2])?;
        json.write_all_at((manifest.to_json()? + "\n").as_bytes(), 0)
            .map_err(|error| Error::io(&path, "writing", error))?;
        for file in self.files.iter().chain([&json]) {
            file.sync_all().map_err(|error| Error::io(&self.target.spec.output, "fsync", error))?;
        }
        let inode = |file: &File| {
            file.metadata().map(|metadata| metadata.ino()).map_err(|error| Error::io(&path, "stat", error))
        };
        let inodes = [inode(&self.files[0])?, inode(&self.files[1])?];
        let checkpoint = self.folder.path(&self.names.checkpoint);
        checkpoint::note_publishing(&self.checkpoint, &checkpoint, inodes)?;
        self.rename_all()?;
        // The set is there; a checkpoint that stays is removed by the next run.
        let _ = self.folder.remove(&self.names.checkpoint);
        Ok(Report::Set(manifest))
    }

    fn abandon(&self, _: &Error, keep: bool) {
        if !keep {
            let _ = remove(&self.folder, &self.names);
        }
    }
}
