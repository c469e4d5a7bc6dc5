//! Reading a set of a foreign format again: each file that its `tokend.json` lists, by size and checksum.

use std::path::{Path, PathBuf};

use super::Exported;
use super::staging::hash_file;
use crate::error::{Error, Result};
use crate::stream::manifest::with_suffix;
use crate::stream::verify::Verified;

/// Where the note of a set lies, given its directory, its note, or (Megatron) its `.idx` or prefix.
pub(crate) fn note_of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.join("tokend.json")).filter(|note| note.is_file());
    }
    let text = path.to_string_lossy();
    if text.ends_with("tokend.json") {
        return Some(path.to_owned());
    }
    let prefix = text.strip_suffix(".idx").unwrap_or(&text);
    Some(with_suffix(Path::new(prefix), ".tokend.json")).filter(|note| note.is_file())
}

/// Verifies the set of a note.
///
/// # Errors
/// [`Error::Damaged`] with the first fault, [`Error::Io`].
pub(crate) fn verify(note: &Path) -> Result<Verified> {
    let damaged = |path: &Path, what: String| Err(Error::Damaged { path: path.to_owned(), what });
    let bytes = std::fs::read(note).map_err(|error| Error::io(note, "reading", error))?;
    let Ok(exported) = serde_json::from_slice::<Exported>(&bytes) else {
        return damaged(note, "is no note of a set that tokend made".to_owned());
    };
    let folder = note.parent().unwrap_or(Path::new(""));
    let mut n_bytes = 0;
    for file in &exported.files {
        let path = folder.join(&file.file);
        if !path.exists() {
            return damaged(&path, "is missing".to_owned());
        }
        let (size_bytes, xxh3) = hash_file(&path)?;
        if size_bytes != file.size_bytes {
            return damaged(&path, format!("{size_bytes} bytes, but {} were written", file.size_bytes));
        }
        if xxh3 != file.xxh3 {
            return damaged(&path, format!("its checksum is {xxh3}, not {}", file.xxh3));
        }
        n_bytes += size_bytes;
    }
    Ok(Verified {
        path: note.to_owned(),
        format: exported.kind,
        state: "complete".to_owned(),
        n_tokens: exported.n_tokens,
        n_documents: exported.n_documents,
        n_bytes,
    })
}
