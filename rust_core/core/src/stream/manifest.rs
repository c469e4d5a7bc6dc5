//! The manifest of a token set, `OUT.bin.json`: what is in the set and what it was made of.
//!
//! ```text
//! OUT.bin        n_tokens ids, little-endian, uint16 or uint32 (`dtype`), nothing else
//! OUT.bin.ends   n_documents uint64, little-endian: tokens up to the end of each document, its
//!                end-of-text id included
//! OUT.bin.json   this manifest; published last, so a set without it is not there
//! ```
//!
//! The manifest holds no times and no host names: the same input gives the same bytes. Checksums
//! are XXH3-64 of whole files, as 16 hexadecimal digits.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::native::StreamManifest;
use crate::documents::Eot;
use crate::error::{Error, Result};
use crate::job::JobSpec;
use crate::job::checkpoint::Progress;
use crate::job::sink::Target;
use crate::lane::Lane;
use crate::special::SpecialPolicy;
use crate::vocab::Vocabulary;

const FORMAT: &str = "tokend-bin";
const VERSION: u32 = 1;

/// The manifest; field for field what stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    pub dtype: String,
    pub n_tokens: u64,
    pub n_documents: u64,
    pub tokenizer: TokenizerInfo,
    pub options: Options,
    pub sources: Vec<SourceInfo>,
    pub data: FileInfo,
    pub ends: FileInfo,
    pub tokend_version: String,
}

/// Which tokenizer made the ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    pub name: String,
    pub fingerprint: String,
    pub vocab_size: u32,
    pub eot_id: Option<u32>,
    #[serde(skip)]
    pub(crate) dtype: String,
}

/// What changes the ids of given inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub separator: Option<String>,
    pub eot: String,
    pub eot_id: Option<u32>,
    pub special: String,
    pub errors: String,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    pub path: PathBuf,
    pub size_bytes: u64,
    pub xxh3: String,
    pub n_tokens: u64,
    pub n_documents: u64,
}

/// One file of the set, named relative to the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub file: String,
    pub size_bytes: u64,
    pub xxh3: String,
}

/// What a job made: the manifest of one format or another.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Report {
    Set(Manifest),
    Stream(StreamManifest),
}

impl TokenizerInfo {
    pub(crate) fn of<L: Lane>(vocab: &Vocabulary) -> Self {
        Self {
            name: vocab.name().to_owned(),
            fingerprint: vocab.fingerprint().to_owned(),
            vocab_size: vocab.len_ids(),
            eot_id: vocab.eot_id(),
            dtype: format!("uint{}", 8 * L::BYTES),
        }
    }
}

impl Options {
    pub(crate) fn of(spec: &JobSpec) -> Self {
        let eot = match spec.eot {
            Eot::Append => "append",
            Eot::Prepend => "prepend",
            Eot::Both => "both",
            Eot::None => "none",
        };
        let special = match spec.special {
            SpecialPolicy::Raise => "raise",
            SpecialPolicy::Text => "text",
            SpecialPolicy::Token => "token",
        };
        Self {
            separator: spec.separator.clone(),
            eot: eot.to_owned(),
            eot_id: spec.eot_id.filter(|_| spec.eot != Eot::None),
            special: special.to_owned(),
            errors: if spec.replace_invalid { "replace" } else { "strict" }.to_owned(),
        }
    }
}

impl Manifest {
    /// The manifest of a finished set whose data file is called `name`.
    pub(crate) fn new(target: &Target<'_>, progress: &Progress, name: &str) -> Self {
        let sources = target.sources.iter().zip(&progress.sources).map(|(source, totals)| SourceInfo {
            path: source.path.clone(),
            size_bytes: source.identity.size_bytes,
            xxh3: hex(totals.xxh3),
            n_tokens: totals.n_tokens,
            n_documents: totals.n_documents,
        });
        let mark = progress.parts.last().copied().unwrap_or_default();
        let file = |file: String, size_bytes, hash| FileInfo { file, size_bytes, xxh3: hex(hash) };
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            dtype: target.tokenizer.dtype.clone(),
            n_tokens: progress.n_tokens,
            n_documents: progress.n_documents,
            tokenizer: target.tokenizer.clone(),
            options: target.options.clone(),
            sources: sources.collect(),
            data: file(name.to_owned(), progress.n_tokens * target.id_bytes, mark.tokens_xxh3),
            ends: file(format!("{name}.ends"), progress.n_documents * 8, mark.ends_xxh3),
            tokend_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The manifest as JSON, a line per field.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Internal { what: error.to_string() })
    }

    /// The manifest of an existing output, if that was made from the same inputs in the same way and
    /// its files and inputs still have the bytes that the manifest says.
    pub(crate) fn up_to_date(target: &Target<'_>) -> Result<Option<Self>> {
        let spec = target.spec;
        let Some(manifest) = Self::read_beside(&spec.output)? else { return Ok(None) };
        let sources = manifest.sources.iter().map(|source| (&*source.path, source.size_bytes, &*source.xxh3));
        let directory = spec.output.parent().unwrap_or(Path::new("/"));
        let same = manifest.tokenizer.fingerprint == target.tokenizer.fingerprint
            && manifest.options == target.options
            && [&manifest.data, &manifest.ends].iter().all(|file| {
                let path = directory.join(&file.file);
                File::open(&path)
                    .map_err(|error| Error::io(&path, "opening", error))
                    .is_ok_and(|opened| hash_file(&opened, &path).is_ok_and(|xxh3| xxh3 == file.xxh3))
            })
            && same_sources(target, sources)?;
        if same { Ok(Some(manifest)) } else { Err(Error::OutputExists { path: spec.output.clone() }) }
    }

    /// Reads the manifest that belongs to a data file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if something else stands in its place.
    pub fn read_beside(data: &Path) -> Result<Option<Self>> {
        let path = with_suffix(data, ".json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, "reading", error)),
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(manifest) if manifest.format == FORMAT && manifest.version == VERSION => Ok(Some(manifest)),
            _ => Err(Error::OutputExists { path }),
        }
    }
}

/// Whether the inputs of a job are those, by path, size and hash, that a manifest names.
pub(crate) fn same_sources<'m>(
    target: &Target<'_>,
    then: impl ExactSizeIterator<Item = (&'m Path, u64, &'m str)> + Clone,
) -> Result<bool> {
    let now = || target.sources.iter();
    if then.len() != now().len()
        || !then
            .clone()
            .zip(now())
            .all(|((path, size_bytes, _), now)| path == now.path && size_bytes == now.identity.size_bytes)
    {
        return Ok(false);
    }
    for ((path, _, xxh3), _) in then.zip(now()) {
        if hash_file(&target.spec.roots.open_input(path)?, path)? != xxh3 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `path` with a suffix behind its whole name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(crate) fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

pub(crate) fn hash_file(mut file: &File, path: &Path) -> Result<String> {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(|error| Error::io(path, "reading", error))?;
        if n == 0 {
            return Ok(hex(hash.digest()));
        }
        hash.update(&buffer[..n]);
    }
}
