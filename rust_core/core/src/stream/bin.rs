//! The set `OUT.bin` as a sink: how it comes to be on disk whole, or not at all.
//!
//! ```text
//! create .OUT.bin.KEY.partial, .OUT.bin.ends.KEY.partial, .OUT.bin.checkpoint.KEY.partial; of records
//!        also .OUT.bin.docs.KEY.partial, .OUT.bin.ids.KEY.partial, .OUT.bin.skipped.jsonl.KEY.partial
//! write ─► note in the checkpoint that publishing begins ─► fsync data, ends, manifest, note (side by side)
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
//! is not there. The note in the checkpoint holds the inodes of the files; by it they are known as
//! ours and get their partial names back ([`undo`]) when the job is taken up again or discarded.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::folder::{Claim, Folder, partial, suffixed};
use super::manifest::{Manifest, Report, with_suffix};
use super::parts::{Mark, Named, Part, Parts, Piece, Place, Sidecar, sync_all};
use super::skipped;
use crate::error::{Error, Result};
use crate::input::Source;
use crate::job::checkpoint::{self, Log, Progress, Publishing, Resumed};
use crate::job::sink::{Begun, Sink, Target};
use crate::job::{Control, JobSpec};

/// What each file of a set is called, behind the name of its data; the manifest is the last.
const SUFFIXES: [&str; 6] = ["", ".ends", ".docs", ".ids", ".skipped.jsonl", ".json"];
const DATA: usize = 0;
const ENDS: usize = 1;
const SKIPPED: usize = 4;
const MANIFEST: usize = 5;
/// Where the sidecars stand among the files of a set.
const SIDECARS: [usize; 2] = [2, 3];

/// The names of a set that is being made.
struct Names {
    finals: [OsString; 6],
    partials: [OsString; 6],
    checkpoint: OsString,
}

impl Names {
    fn new(name: &OsStr, key: &str) -> Self {
        let finals = SUFFIXES.map(|suffix| suffixed(name, suffix));
        let partials = finals.clone().map(|name| partial(&name, key));
        Self { finals, partials, checkpoint: partial(&suffixed(name, ".checkpoint"), key) }
    }
}

/// Checks an output before any work: what is there, and whether it is an input.
pub(crate) fn check(spec: &JobSpec, sources: &[Source]) -> Result<()> {
    let (folder, name) = Folder::of(&spec.roots, &spec.output)?;
    let names = Names::new(&name, spec.key()?);
    let ours = publishing(&folder, &names)?;
    let data = folder.stat(&names.finals[DATA])?;
    for (at, suffix) in SUFFIXES.into_iter().enumerate() {
        let path = with_suffix(&spec.output, suffix);
        let Some((device, inode)) = folder.stat(&names.finals[at])? else { continue };
        let is_input = |source: &Source| (source.identity.device, source.identity.inode) == (device, inode);
        if spec.inputs.contains(&path) || sources.iter().any(is_input) {
            return Err(Error::OutputIsInput { path });
        }
        let is_ours = ours.as_ref().is_some_and(|note| {
            note.publishing.contains(&inode) || (at < MANIFEST && note.retired.contains(&inode))
        });
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

/// What the job `KEY` noted, if it was stopped while it gave its files their final names.
fn publishing(folder: &Folder, names: &Names) -> Result<Option<Publishing>> {
    if folder.stat(&names.finals[MANIFEST])?.is_some() {
        return Ok(None);
    }
    match folder.reopen(&names.checkpoint)? {
        Some(file) => checkpoint::publishing(&file, &folder.path(&names.checkpoint)),
        None => Ok(None),
    }
}

/// Takes back final names that a killed run had given without coming to the manifest, and brings to its end the removal
/// of what belonged to a set that is gone.
fn undo(folder: &Folder, names: &Names) -> Result<()> {
    let Some(note) = publishing(folder, names)? else { return Ok(()) };
    for at in 0..MANIFEST {
        let Some((_, inode)) = folder.stat(&names.finals[at])? else { continue };
        if note.publishing.contains(&inode) {
            folder.rename(&names.finals[at], &names.partials[at], true)?;
        } else if note.retired.contains(&inode) {
            folder.remove(&names.finals[at])?;
        }
    }
    folder.sync()
}

/// The log of the unfinished job `KEY`, if there is one.
pub(crate) fn checkpoint(spec: &JobSpec) -> Result<Option<File>> {
    let (folder, name) = Folder::of(&spec.roots, &spec.output)?;
    folder.reopen(&Names::new(&name, spec.key()?).checkpoint)
}

/// Removes what the unfinished job `KEY` left of a set; false if there was nothing.
pub(crate) fn discard(spec: &JobSpec) -> Result<bool> {
    let (folder, name) = Folder::of(&spec.roots, &spec.output)?;
    let names = Names::new(&name, spec.key()?);
    let folder = Arc::new(folder);
    if folder.stat(&names.checkpoint)?.is_none() {
        // Killed before the first partial file or after the last: no more than the lock file is left.
        return Claim::clear(&folder, &name);
    }
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
    /// Data, ends and sidecars, with their places among the files of a set.
    files: Vec<(usize, Named)>,
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
        if index > 0 {
            return Ok(None);
        }
        part(target, &folder, &names, |name| folder.reopen(name))
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
            for (sidecar, (n_bytes, _)) in part.sidecars.iter().zip(&resumed.order.sidecars) {
                sidecar.as_ref().map_or(Ok(()), |sidecar| cut(sidecar, *n_bytes))?;
            }
            return BinSink::begun(target, claim, names, checkpoint, part, resumed);
        }
    }
    let begin = || {
        names.partials.iter().try_for_each(|name| folder.remove(name).map(|_| ()))?;
        let log = Log::create(handle(&checkpoint)?, path.clone(), &target.header())?;
        let part = part(target, &folder, &names, |name| folder.create(name).map(Some))?;
        part.map(|part| (log, part)).ok_or(Error::Internal { what: "a new file is not there".to_owned() })
    };
    let (log, part) = begin().inspect_err(|_| {
        let _ = remove(&folder, &names);
    })?;
    BinSink::begun(target, claim, names, checkpoint, part, Resumed::nothing(log, target.sources.len()))
}

/// The part of a set, with the files that `open` gives; `None` if one is not there.
fn part(
    target: &Target<'_>,
    folder: &Folder,
    names: &Names,
    open: impl Fn(&OsStr) -> Result<Option<File>>,
) -> Result<Option<Part>> {
    let file = |at: usize| -> Result<Option<Named>> {
        let opened = open(&names.partials[at])?;
        Ok(opened.map(|file| Named { file, path: folder.path(&names.finals[at]) }))
    };
    let (Some(tokens), Some(ends)) = (file(DATA)?, file(ENDS)?) else { return Ok(None) };
    let mut sidecars = [None, None];
    for (at, sidecar) in Sidecar::ALL.into_iter().enumerate() {
        if target.has(sidecar) {
            sidecars[at] = file(SIDECARS[at])?;
            if sidecars[at].is_none() {
                return Ok(None);
            }
        }
    }
    Ok(Some(Part { tokens, ends, sidecars }))
}

impl<'a> BinSink<'a> {
    fn begun(
        target: &'a Target<'a>,
        claim: Claim,
        names: Names,
        checkpoint: File,
        part: Part,
        resumed: Resumed,
    ) -> Result<Begun<'a>> {
        let Resumed { log, progress, order, texts } = resumed;
        let handle = |at: usize, named: &Named| {
            named
                .file
                .try_clone()
                .map(|file| (at, Named { file, path: named.path.clone() }))
                .map_err(|error| Error::io(&named.path, "opening", error))
        };
        let mut files = vec![handle(DATA, &part.tokens)?, handle(ENDS, &part.ends)?];
        for (at, sidecar) in SIDECARS.into_iter().zip(&part.sidecars) {
            files.extend(sidecar.as_ref().map(|named| handle(at, named)).transpose()?);
        }
        let one = Box::new(|_| Err(Error::Internal { what: "a set has one part".to_owned() }));
        let parts = Parts::new(target.id_bytes, u64::MAX, one, order, Arc::new(part));
        let folder = Arc::clone(claim.folder());
        let sink = Box::new(Self { target, folder, names, files, parts, checkpoint, _claim: claim });
        Ok(Begun { sink, log, progress, texts })
    }

    /// The inodes of what the set that is to be replaced has beside data and ends, as its manifest says: nothing
    /// else that stands there goes.
    fn retired(&self) -> Result<Vec<u64>> {
        let spec = self.target.spec;
        let old = match Manifest::read_beside(&spec.roots, &spec.output) {
            Ok(Some(old)) if spec.force => old,
            Ok(_) | Err(Error::OutputExists { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut inodes = Vec::new();
        for (at, file) in [(SIDECARS[0], old.docs), (SIDECARS[1], old.ids), (SKIPPED, old.skipped)] {
            let name = &self.names.finals[at];
            if file.is_some_and(|file| *file.file == **name) {
                inodes.extend(self.folder.stat(name)?.map(|(_, inode)| inode));
            }
        }
        Ok(inodes)
    }

    /// Gives the files of a set that are `there` their final names, the manifest last. Those of a set that is replaced
    /// whose inodes are `retired` go with its manifest.
    fn rename_all(&self, there: &[usize], retired: &[u64]) -> Result<()> {
        let Names { finals, partials, .. } = &self.names;
        let force = self.target.spec.force;
        let result = (|| {
            if force && self.folder.remove(&finals[MANIFEST])? {
                self.folder.sync()?;
            }
            for at in 0..MANIFEST {
                if there.contains(&at) {
                    self.folder.rename(&partials[at], &finals[at], force)?;
                } else if self.folder.stat(&finals[at])?.is_some_and(|(_, inode)| retired.contains(&inode)) {
                    self.folder.remove(&finals[at])?;
                }
            }
            self.folder.sync()?;
            self.folder.rename(&partials[MANIFEST], &finals[MANIFEST], force)?;
            // A set whose names may not last is not there, so that a job that fails has made nothing.
            self.folder.sync().inspect_err(|_| {
                let _ = self.folder.remove(&finals[MANIFEST]);
            })
        })();
        if result.is_err() {
            let _ = undo(&self.folder, &self.names);
        }
        result
    }
}

impl Sink for BinSink<'_> {
    fn place(&self, piece: Piece<'_>) -> Result<(Place, Mark)> {
        self.parts.place(piece)
    }

    fn write(&self, place: Place, piece: Piece<'_>) -> Result<()> {
        self.parts.write(place, piece)
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

    fn publish(&self, progress: &Progress, log: &Log) -> Result<Report> {
        let create = |at: usize| {
            self.folder.remove(&self.names.partials[at])?;
            self.folder.create(&self.names.partials[at])
        };
        let inode = |file: &File| {
            let failed = |error| Error::io(&self.target.spec.output, "stat", error);
            file.metadata().map(|metadata| metadata.ino()).map_err(failed)
        };
        let mut there: Vec<_> = self.files.iter().map(|(at, _)| *at).collect();
        let mut inodes =
            self.files.iter().map(|(_, named)| inode(&named.file)).collect::<Result<Vec<_>>>()?;
        let mut skipped = None;
        if progress.n_skipped() > 0 {
            let file = create(SKIPPED)?;
            let path = self.folder.path(&self.names.finals[SKIPPED]);
            skipped = Some(skipped::write(self.target, log, &file, &path)?);
            there.push(SKIPPED);
            inodes.push(inode(&file)?);
        }
        let manifest =
            Manifest::new(self.target, progress, &self.names.finals[DATA].to_string_lossy(), skipped);
        let path = self.folder.path(&self.names.finals[MANIFEST]);
        let json = Named { file: create(MANIFEST)?, path };
        json.write((manifest.to_json()? + "\n").as_bytes(), 0)?;
        self.target.control.check()?;
        // A note of what then does not come to pass is no harm: no final name has one of these inodes.
        let note = Publishing { publishing: inodes, retired: self.retired()? };
        let path = self.folder.path(&self.names.checkpoint);
        let checkpoint = checkpoint::note_publishing(&self.checkpoint, path, &note)?;
        let files = self.files.iter().map(|(_, named)| named).chain([&json, &checkpoint]);
        sync_all(&files.collect::<Vec<_>>(), File::sync_all)?;
        self.target.control.check()?;
        self.rename_all(&there, &note.retired)?;
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
