//! Reading an output again: lengths, checksums, ids, document ends.
//!
//! Files are read in the order of the manifest and the first fault ends it. An id that no vocabulary
//! of that size has, or an end that goes backwards, is named by its place; any other damage is known
//! by the checksum of its file only.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use super::growing;
use super::manifest::{FileInfo, Manifest, hex, is_plain_name, with_suffix};
use super::native::{MANIFEST, State, StreamManifest};
use crate::error::{Error, Result};
use crate::input::access::Roots;

/// What was verified.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    pub path: PathBuf,
    pub format: String,
    /// `"complete"`, or a stream's state.
    pub state: String,
    pub n_tokens: u64,
    pub n_documents: u64,
    /// Bytes read.
    pub n_bytes: u64,
}

/// Verifies a set (by its data file or its manifest) or a stream (by its directory or its manifest).
/// Of a growing or failed stream, what is committed is verified, of retired segments nothing; of a set in a foreign format, its files
/// against the checksums in its `tokend.json`. Only files beneath `roots` are opened, and foreign sets only
/// where there are none.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Damaged`] with the first fault, [`Error::PathDenied`], [`Error::Io`].
pub fn verify(roots: &Roots, path: &Path) -> Result<Verified> {
    let is_native = path.join(MANIFEST).exists() || with_suffix(path, ".json").exists();
    if let Some(note) = crate::export::verify::note_of(path).filter(|_| !is_native && roots.are_none()) {
        return crate::export::verify::verify(&note);
    }
    let is_stream_manifest = path.file_name().is_some_and(|name| name == MANIFEST);
    match path.parent() {
        _ if roots.open_directory(path).is_ok() => stream(roots, path),
        Some(parent) if is_stream_manifest => stream(roots, parent),
        _ => set(roots, path),
    }
}

fn set(roots: &Roots, path: &Path) -> Result<Verified> {
    let text = path.to_string_lossy();
    let data = text.strip_suffix(".json").map_or_else(|| path.to_owned(), PathBuf::from);
    let json = with_suffix(&data, ".json");
    let manifest = match Manifest::read_beside(roots, &data) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => {
            roots.open_output(&data)?;
            return Err(damaged(&json, "the manifest is missing"));
        }
        Err(Error::OutputExists { path }) => return Err(damaged(&path, "is no manifest of a token set")),
        Err(error) => return Err(error),
    };
    let beside = Beside { roots, folder: data.parent().unwrap_or(Path::new("/")), manifest: &json };
    let id_bytes = id_bytes(&json, &manifest.dtype)?;
    let mut ends = Ends::default();
    let ids = Ids { id_bytes, n_ids: manifest.tokenizer.vocab_size };
    let files = [
        (&manifest.data, manifest.n_tokens.checked_mul(id_bytes)),
        (&manifest.ends, manifest.n_documents.checked_mul(8)),
    ];
    for (file, size_bytes) in files {
        if Some(file.size_bytes) != size_bytes {
            return Err(damaged(
                &json,
                &format!("{} bytes of {} are not what its counts say", file.size_bytes, file.file),
            ));
        }
    }
    ids.check(&beside, &manifest.data.file, manifest.data.size_bytes, true, &manifest.data.xxh3, 0)?;
    ends.check(
        &beside,
        &manifest.ends.file,
        manifest.ends.size_bytes,
        true,
        &manifest.ends.xxh3,
        manifest.n_tokens,
    )?;
    ends.complete(&json, manifest.n_tokens, manifest.n_documents)?;
    let with_places = manifest.sources.iter().filter(|source| source.records.is_some() || source.places);
    let n_places = with_places.map(|source| source.n_documents).fold(0, u64::saturating_add);
    for beside_them in manifest.files().skip(2) {
        sidecar(&beside, beside_them, true)?;
    }
    places(&json, manifest.docs.as_ref().map(|docs| docs.size_bytes), n_places)?;
    sums(
        &json,
        (manifest.n_tokens, manifest.n_documents),
        manifest.sources.iter().map(|source| (source.n_tokens, source.n_documents)),
    )?;
    Ok(Verified {
        path: data,
        format: manifest.format,
        state: "complete".to_owned(),
        n_tokens: manifest.n_tokens,
        n_documents: manifest.n_documents,
        n_bytes: manifest.data.size_bytes + manifest.ends.size_bytes,
    })
}

fn stream(roots: &Roots, folder: &Path) -> Result<Verified> {
    let json = folder.join(MANIFEST);
    let Some(manifest) = growing::read_manifest(roots, folder)? else {
        let is_there = roots.read_output(&json)?.is_some();
        return Err(damaged(
            &json,
            if is_there { "is no manifest of a stream" } else { "the manifest is missing" },
        ));
    };
    let beside = Beside { roots, folder, manifest: &json };
    let sealed = manifest.state == State::Sealed;
    let id_bytes = id_bytes(&json, &manifest.dtype)?;
    let ids = Ids { id_bytes, n_ids: manifest.tokenizer.vocab_size };
    let mut ends = Ends::default();
    let (mut n_tokens, mut n_documents, mut retired_bytes) = (0u64, 0u64, 0u64);
    for segment in &manifest.segments {
        if segment.first_token != n_tokens {
            return Err(damaged(
                &json,
                &format!("{} starts at token {}, not {n_tokens}", segment.tokens, segment.first_token),
            ));
        }
        let counted = segment.n_tokens.checked_mul(id_bytes).zip(segment.n_documents.checked_mul(8));
        let Some((token_bytes, end_bytes)) =
            counted.filter(|_| segment.n_tokens <= manifest.n_tokens - n_tokens)
        else {
            return Err(damaged(&json, &format!("{} has more tokens than the stream", segment.tokens)));
        };
        if segment.retired {
            (n_tokens, n_documents) = (n_tokens + segment.n_tokens, n_documents + segment.n_documents);
            (ends.n_documents, retired_bytes) = (n_documents, retired_bytes + token_bytes + end_bytes);
            continue;
        }
        ids.check(&beside, &segment.tokens, token_bytes, sealed, &segment.tokens_xxh3, n_tokens)?;
        n_tokens += segment.n_tokens;
        ends.check(&beside, &segment.ends, end_bytes, sealed, &segment.ends_xxh3, n_tokens)?;
        let besides = [&segment.docs, &segment.ids, &segment.skipped, &segment.texts];
        for beside_them in besides.into_iter().flatten() {
            sidecar(&beside, beside_them, sealed)?;
        }
        n_documents += segment.n_documents;
    }
    if (n_tokens, n_documents) != (manifest.n_tokens, manifest.n_documents) {
        return Err(damaged(
            &json,
            &format!(
                "the segments hold {n_tokens} tokens and {n_documents} documents, it says {} and {}",
                manifest.n_tokens, manifest.n_documents
            ),
        ));
    }
    if let (Some(skipped), Some(folder)) = (&manifest.skipped, folder.parent()) {
        sidecar(&Beside { roots, folder, manifest: &json }, skipped, true)?;
    }
    if sealed {
        ends.complete(&json, n_tokens, n_documents)?;
        let known = |source: &super::native::StreamSource| {
            (source.n_tokens.unwrap_or_default(), source.n_documents.unwrap_or_default())
        };
        sums(&json, (n_tokens, n_documents), manifest.sources.iter().map(known))?;
    }
    Ok(report(folder, manifest, n_tokens * id_bytes + n_documents * 8 - retired_bytes))
}

/// A file beside ids and ends: its bytes are those that the manifest tells of.
fn sidecar(beside: &Beside<'_>, file: &FileInfo, whole: bool) -> Result<()> {
    let path = beside.path(&file.file)?;
    read(beside.roots, &path, file.size_bytes, whole, &file.xxh3, |_| Ok(()))
}

/// There is a place for each document of a source that has places.
fn places(json: &Path, size_bytes: Option<u64>, n_places: u64) -> Result<()> {
    match size_bytes {
        Some(size_bytes) if Some(size_bytes) != n_places.checked_mul(16) => {
            Err(damaged(json, &format!("{size_bytes} bytes are not the places of {n_places} documents")))
        }
        _ => Ok(()),
    }
}

fn report(folder: &Path, manifest: StreamManifest, n_bytes: u64) -> Verified {
    let state = match manifest.state {
        State::Growing => "growing",
        State::Sealed => "sealed",
        State::Failed => "failed",
    };
    Verified {
        path: folder.to_owned(),
        format: manifest.format,
        state: state.to_owned(),
        n_tokens: manifest.n_tokens,
        n_documents: manifest.n_documents,
        n_bytes,
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::Damaged { path: path.to_owned(), what: what.to_owned() }
}

fn id_bytes(json: &Path, dtype: &str) -> Result<u64> {
    match dtype {
        "uint16" => Ok(2),
        "uint32" => Ok(4),
        _ => Err(damaged(json, &format!("dtype {dtype:?} is none of uint16, uint32"))),
    }
}

/// The sources' counts add up to the output's.
fn sums(json: &Path, whole: (u64, u64), parts: impl Iterator<Item = (u64, u64)>) -> Result<()> {
    let sum =
        parts.fold((0u64, 0u64), |sum, part| (sum.0.saturating_add(part.0), sum.1.saturating_add(part.1)));
    if sum == whole {
        return Ok(());
    }
    let what = format!(
        "its sources have {} tokens and {} documents, it says {} and {}",
        sum.0, sum.1, whole.0, whole.1
    );
    Err(damaged(json, &what))
}

/// Where the files lie that a manifest names.
struct Beside<'a> {
    roots: &'a Roots,
    folder: &'a Path,
    manifest: &'a Path,
}

impl Beside<'_> {
    fn path(&self, name: &str) -> Result<PathBuf> {
        if is_plain_name(name) {
            return Ok(self.folder.join(name));
        }
        Err(damaged(self.manifest, &format!("{name:?} is no name of a file beside it")))
    }
}

/// Reads `len_bytes` of a file, which must be all of it if `whole`, past `look`; checks the hash.
fn read(
    roots: &Roots,
    path: &Path,
    len_bytes: u64,
    whole: bool,
    xxh3: &str,
    mut look: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let failed = |error| Error::io(path, "reading", error);
    let mut file = match roots.open_output(path) {
        Err(Error::NotFound { .. }) => return Err(damaged(path, "the file is missing")),
        opened => opened?,
    };
    let there = file.metadata().map_err(failed)?.len();
    if there < len_bytes || (whole && there > len_bytes) {
        return Err(damaged(path, &format!("{there} bytes, but the manifest says {len_bytes}")));
    }
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = len_bytes;
    while left > 0 {
        let piece = &mut buffer[..left.min(1 << 20) as usize];
        file.read_exact(piece).map_err(failed)?;
        hash.update(piece);
        look(piece)?;
        left -= piece.len() as u64;
    }
    let found = hex(hash.digest());
    if found == xxh3 {
        return Ok(());
    }
    Err(damaged(path, &format!("its {len_bytes} bytes have checksum {found}, the manifest says {xxh3}")))
}

/// Ids must be of the vocabulary.
struct Ids {
    id_bytes: u64,
    n_ids: u32,
}

impl Ids {
    fn check(
        &self,
        beside: &Beside<'_>,
        name: &str,
        len_bytes: u64,
        whole: bool,
        xxh3: &str,
        first_token: u64,
    ) -> Result<()> {
        let path = &*beside.path(name)?;
        let mut at = first_token;
        read(beside.roots, path, len_bytes, whole, xxh3, |bytes| {
            for id in bytes.chunks_exact(self.id_bytes as usize) {
                let id = match *id {
                    [a, b] => u32::from(u16::from_le_bytes([a, b])),
                    [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
                    _ => 0,
                };
                if id >= self.n_ids {
                    let what = format!(
                        "id {id} at token {at} is not below {}, the size of the vocabulary",
                        self.n_ids
                    );
                    return Err(damaged(path, &what));
                }
                at += 1;
            }
            Ok(())
        })
    }
}

/// Ends must not go backwards, nor past the tokens that are there.
#[derive(Default)]
struct Ends {
    last: u64,
    n_documents: u64,
}

impl Ends {
    fn check(
        &mut self,
        beside: &Beside<'_>,
        name: &str,
        len_bytes: u64,
        whole: bool,
        xxh3: &str,
        n_tokens: u64,
    ) -> Result<()> {
        let path = &*beside.path(name)?;
        read(beside.roots, path, len_bytes, whole, xxh3, |bytes| {
            for end in bytes.as_chunks::<8>().0 {
                let end = u64::from_le_bytes(*end);
                if end < self.last || end > n_tokens {
                    let what = format!(
                        "document {} ends at token {end}, not within {} to {n_tokens}",
                        self.n_documents, self.last
                    );
                    return Err(damaged(path, &what));
                }
                self.last = end;
                self.n_documents += 1;
            }
            Ok(())
        })
    }

    /// A complete output ends with a document, if it has any tokens.
    fn complete(&self, json: &Path, n_tokens: u64, n_documents: u64) -> Result<()> {
        if self.last == n_tokens {
            return Ok(());
        }
        let what =
            format!("its {n_documents} documents end at token {}, but there are {n_tokens}", self.last);
        Err(damaged(json, &what))
    }
}
