//! Duplicates of texts that other jobs encoded, where several jobs make one set (`tokend encode --watch`).
//!
//! ```text
//! OUT.texts   XXH3-128 of each document's text, 16 bytes little-endian, in the order of the output
//! ```
//!
//! A job that is given such files leaves out what is in them as it leaves out its own duplicates, and writes one
//! for its own documents, before its output is published. Without `deduplicate` nothing is compared and the file
//! is empty.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;

use super::JobSpec;
use super::checkpoint::Log;
use crate::error::{Error, Result};
use crate::stream::manifest::with_suffix;

/// Where a job writes its own.
fn place(spec: &JobSpec) -> PathBuf {
    with_suffix(&spec.output, ".texts")
}

/// Adds what is in files of texts to `seen`.
pub(super) fn read(paths: &[PathBuf], seen: &mut FxHashSet<u128>) -> Result<()> {
    for path in paths {
        let file = File::open(path).map_err(|error| Error::io(path, "opening", error))?;
        let n_bytes = file.metadata().map_err(|error| Error::io(path, "stat", error))?.len();
        if n_bytes % 16 != 0 {
            let what = format!("{n_bytes} bytes are no whole number of hashes; it is cut off");
            return Err(Error::Damaged { path: path.clone(), what });
        }
        seen.reserve((n_bytes / 16) as usize);
        let mut hashes = BufReader::with_capacity(1 << 18, file);
        let mut hash = [0; 16];
        for _ in 0..n_bytes / 16 {
            hashes.read_exact(&mut hash).map_err(|error| Error::io(path, "reading", error))?;
            seen.insert(u128::from_le_bytes(hash));
        }
    }
    Ok(())
}

/// Writes the texts of a job's own documents, as its checkpoint has them.
pub(super) fn write(spec: &JobSpec, log: &Log) -> Result<()> {
    let path = place(spec);
    let failed = |error| Error::io(&path, "writing", error);
    let mut out = BufWriter::new(File::create(&path).map_err(|error| Error::io(&path, "creating", error))?);
    log.each_text(|hash| out.write_all(&hash.to_le_bytes()).map_err(failed))?;
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(|error| Error::io(&path, "fsync", error))
}

/// Refuses files of texts where paths are restricted: they are for the user's own commands.
pub(super) fn check(spec: &JobSpec) -> Result<()> {
    match &spec.known_texts {
        Some(_) if !spec.roots.are_none() => {
            let what = "a daemon with --root takes no files of texts".to_owned();
            Err(Error::BadOption { option: "known_texts", what })
        }
        Some(paths) if paths.iter().any(|path| !Path::is_absolute(path)) => {
            let what = "a path is not absolute".to_owned();
            Err(Error::BadOption { option: "known_texts", what })
        }
        _ => Ok(()),
    }
}
