//! The directory of a stream before and after its job: what stands there, what may be done with it, and its removal.
//!
//! ```text
//! retiring:  rename manifest.json to .manifest.json.retired.partial ─► fsync directory
//!            ─► remove the segments ─► remove the retired manifest
//! ```
//!
//! Whoever is killed in between leaves a directory that is known by the retired manifest; the next job
//! there, with or without `force`, goes on with the removal.

use std::ffi::{OsStr, OsString};
use std::io::BufReader;
use std::path::Path;

use crate::error::{Error, Result};
use crate::input::Source;
use crate::input::access::Roots;
use crate::job::JobSpec;
use crate::job::sink::Target;
use crate::stream::folder::{Folder, partial, suffixed};
use crate::stream::manifest::{hash_file, is_plain_name, same_sources};
use crate::stream::native::{self, MANIFEST, State, StreamManifest, segment_names, sidecar_names};

/// What the list of what was left out is called, behind the stream's name.
pub(super) const SKIPPED: &str = ".skipped.jsonl";

/// What stands where a stream is to be made.
pub(super) enum There {
    Nothing,
    /// A directory with nothing in it but what the job `key` may have left before its first commit.
    Empty,
    Stream(Box<StreamManifest>),
    /// What is left of a stream whose removal was begun: it has no manifest any more.
    Remains,
    Other,
}

/// What a manifest is called once its stream is given up.
pub(super) const RETIRED: &str = ".manifest.json.retired.partial";

pub(super) fn look(spec: &JobSpec) -> Result<There> {
    let (parent, name) = Folder::of(&spec.roots, &spec.output)?;
    if parent.stat(&name)?.is_none() {
        return Ok(There::Nothing);
    }
    let folder = match Folder::open(&spec.roots, &spec.output) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
            return Ok(There::Other);
        }
        opened => opened?,
    };
    if let Some(manifest) = read_manifest(&spec.roots, &spec.output)? {
        return Ok(There::Stream(Box::new(manifest)));
    }
    let names = folder.names()?;
    // A user who removed the manifest by hand means what is left of it by `force`.
    let is_stream = || [0, 1].iter().all(|&file| names.contains(&OsString::from(&segment_names(0)[file])));
    if names.iter().all(is_own) && (names.contains(&OsString::from(RETIRED)) || (spec.force && is_stream())) {
        return Ok(There::Remains);
    }
    let key = spec.key()?;
    let first = segment_names(0).into_iter().chain(sidecar_names(0)).map(OsString::from).collect::<Vec<_>>();
    let ours = [temporary(key), checkpoint_name(key)];
    let fresh = names.contains(&ours[1]);
    let known = |name: &OsString| ours.contains(name) || (fresh && first.contains(name));
    Ok(if names.iter().all(known) { There::Empty } else { There::Other })
}

/// Reads a stream's manifest; `None` where there is none that is one.
pub(crate) fn read_manifest(roots: &Roots, output: &Path) -> Result<Option<StreamManifest>> {
    let Some(text) = roots.read_output(&output.join(MANIFEST))? else { return Ok(None) };
    Ok(serde_json::from_slice::<StreamManifest>(&text)
        .ok()
        .filter(|found| (&*found.format, found.version) == (native::FORMAT, native::VERSION)))
}

pub(super) fn temporary(key: &str) -> OsString {
    partial(OsStr::new(MANIFEST), key)
}

/// The log of the unfinished job `KEY`, if there is one.
pub(crate) fn checkpoint(spec: &JobSpec) -> Result<Option<std::fs::File>> {
    Folder::open(&spec.roots, &spec.output)?.reopen(&checkpoint_name(spec.key()?))
}

pub(super) fn checkpoint_name(key: &str) -> OsString {
    partial(OsStr::new("checkpoint"), key)
}

/// Checks an output before any work: what is there, and whether an input lies in it.
pub(crate) fn check(spec: &JobSpec, sources: &[Source]) -> Result<()> {
    for source in sources {
        if source.file().starts_with(&spec.output) {
            return Err(Error::OutputIsInput { path: spec.output.clone() });
        }
    }
    match look(spec)? {
        There::Nothing | There::Empty | There::Remains => {
            let (parent, name) = Folder::of(&spec.roots, &spec.output)?;
            let list = suffixed(&name, SKIPPED);
            if parent.stat(&list)?.is_some() && !spec.force {
                return Err(Error::OutputExists { path: parent.path(&list) });
            }
            Ok(())
        }
        There::Stream(manifest) => {
            let key = spec.key()?;
            // A complete stream may turn out to be up to date.
            if spec.force || manifest.state == State::Sealed || (spec.resume && manifest.is_of(key)) {
                Ok(())
            } else {
                Err(Error::OutputExists { path: spec.output.clone() })
            }
        }
        There::Other => Err(Error::ForeignOutput { path: spec.output.clone() }),
    }
}

/// The manifest of a sealed stream made from the same inputs in the same way, whose files and inputs
/// still have the bytes that it says.
pub(crate) fn up_to_date(target: &Target<'_>) -> Result<Option<StreamManifest>> {
    let output = &target.spec.output;
    let Some(manifest) =
        read_manifest(&target.spec.roots, output)?.filter(|found| found.state == State::Sealed)
    else {
        return Ok(None);
    };
    let hash = |name: &str| {
        let path = output.join(name);
        if !is_plain_name(name) {
            return Err(Error::PathDenied { path });
        }
        hash_file(&target.spec.roots.open_output(&path)?, &path, target.control)
    };
    let sources = manifest
        .sources
        .iter()
        .map(|source| (&*source.path, source.size_bytes, source.xxh3.as_deref().unwrap_or_default()));
    let same = manifest.tokenizer.fingerprint == target.tokenizer.fingerprint
        && manifest.options == target.options
        && manifest.segments.iter().all(|segment| {
            if segment.retired {
                // A finished job is found finished; who wants the tokens again must make them again.
                return target.spec.resume;
            }
            hash(&segment.tokens).is_ok_and(|xxh3| xxh3 == segment.tokens_xxh3)
                && hash(&segment.ends).is_ok_and(|xxh3| xxh3 == segment.ends_xxh3)
                && [&segment.docs, &segment.ids]
                    .into_iter()
                    .flatten()
                    .all(|sidecar| hash(&sidecar.file).is_ok_and(|xxh3| xxh3 == sidecar.xxh3))
        })
        && same_sources(target, sources)?;
    if same { Ok(Some(manifest)) } else { Err(Error::OutputExists { path: output.clone() }) }
}

/// Removes the stream that the job `key` began and did not seal; false if there is none.
pub(crate) fn discard(spec: &JobSpec) -> Result<bool> {
    let key = spec.key()?;
    match look(spec)? {
        There::Empty | There::Remains => {}
        There::Stream(manifest) if manifest.is_of(key) => {}
        _ => return Ok(false),
    }
    let folder = Folder::open(&spec.roots, &spec.output)?;
    folder.lock()?;
    let (parent, name) = Folder::of(&spec.roots, &spec.output)?;
    retire(&folder, &parent, &name)?;
    parent.remove(&partial(&suffixed(&name, SKIPPED), key))?;
    parent.remove_directory(&name)?;
    parent.sync()?;
    Ok(true)
}

/// Removes the files of the stream `name`, the manifest first: without it the rest is nothing. The list beside it goes
/// if the manifest, which is kept under another name until all is gone, says that it is the stream's.
pub(super) fn retire(folder: &Folder, parent: &Folder, name: &OsStr) -> Result<()> {
    if folder.stat(OsStr::new(MANIFEST))?.is_some() {
        folder.rename(OsStr::new(MANIFEST), OsStr::new(RETIRED), true)?;
        folder.sync()?;
    }
    for name in folder.names()?.iter().filter(|name| is_own(name) && **name != RETIRED) {
        folder.remove(name)?;
    }
    if let Some(file) = folder.reopen(OsStr::new(RETIRED))? {
        let list = suffixed(name, SKIPPED);
        let retired: Option<StreamManifest> = serde_json::from_reader(BufReader::new(file)).ok();
        let has_list =
            retired.and_then(|retired| retired.skipped).is_some_and(|skipped| *skipped.file == *list);
        if has_list && parent.remove(&list)? {
            parent.sync()?;
        }
    }
    folder.remove(OsStr::new(RETIRED))?;
    Ok(())
}

/// Whether a name in the directory is one that the writer of a stream gives.
pub(super) fn is_own(name: &OsString) -> bool {
    let text = name.to_string_lossy();
    let numbered = |start, end| {
        let number = text.strip_prefix(start).and_then(|rest: &str| rest.strip_suffix(end));
        number.is_some_and(|number| number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let private = text.starts_with(".checkpoint.") || text.starts_with(".manifest.json.");
    numbered("tokens-", ".bin")
        || numbered("ends-", ".u64")
        || numbered("docs-", ".u64")
        || numbered("ids-", ".jsonl")
        || numbered("skipped-", ".jsonl")
        || numbered("texts-", ".u128")
        || (private && text.ends_with(".partial"))
}

/// Removes what a job that was killed right after it had sealed its stream did not come to removing.
pub(crate) fn tidy(spec: &JobSpec) -> Result<()> {
    let folder = Folder::open(&spec.roots, &spec.output)?;
    let key = spec.key()?;
    folder.remove(&checkpoint_name(key))?;
    folder.remove(&temporary(key))?;
    Ok(())
}
