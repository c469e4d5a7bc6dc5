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

use crate::documents::Eot;
use crate::error::{Error, Result};
use crate::input::Source;
use crate::job::JobSpec;
use crate::job::Totals;
use crate::lane::Lane;
use crate::special::SpecialPolicy;
use crate::stream::publish::OutputSet;
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
    dtype: String,
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
    pub(crate) fn new(
        tokenizer: TokenizerInfo,
        options: Options,
        sources: &[Source],
        totals: Totals,
        output: &OutputSet,
    ) -> Self {
        let width = if tokenizer.dtype == "uint16" { 2 } else { 4 };
        let sources = sources
            .iter()
            .zip(totals.sources)
            .map(|(source, totals)| SourceInfo {
                path: source.path.clone(),
                size_bytes: source.identity.size_bytes,
                xxh3: hex(totals.xxh3),
                n_tokens: totals.n_tokens,
                n_documents: totals.n_documents,
            })
            .collect();
        let file = |file: String, size_bytes, hash| FileInfo { file, size_bytes, xxh3: hex(hash) };
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            dtype: tokenizer.dtype.clone(),
            n_tokens: totals.n_tokens,
            n_documents: totals.n_documents,
            tokenizer,
            options,
            sources,
            data: file(output.data_name(), totals.n_tokens * width, totals.data_xxh3),
            ends: file(output.ends_name(), totals.n_documents * 8, totals.ends_xxh3),
            tokend_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The manifest as JSON, a line per field.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Internal { what: error.to_string() })
    }

    /// The manifest of an existing output, if that was made from the same inputs in the same way and
    /// its files and inputs still have the bytes that the manifest says.
    pub(crate) fn up_to_date(
        spec: &JobSpec,
        sources: &[Source],
        tokenizer: &TokenizerInfo,
        options: &Options,
    ) -> Result<Option<Self>> {
        let Some(manifest) = Self::read_beside(&spec.output)? else { return Ok(None) };
        let same_way = manifest.tokenizer.fingerprint == tokenizer.fingerprint
            && manifest.options == *options
            && manifest.sources.len() == sources.len()
            && manifest
                .sources
                .iter()
                .zip(sources)
                .all(|(then, now)| then.path == now.path && then.size_bytes == now.identity.size_bytes);
        let exists = || Err(Error::OutputExists { path: spec.output.clone() });
        if !same_way {
            return exists();
        }
        let directory = spec.output.parent().unwrap_or(Path::new("/"));
        for file in [&manifest.data, &manifest.ends] {
            let path = directory.join(&file.file);
            let opened = File::open(&path).map_err(|error| Error::io(&path, "opening", error))?;
            if hash_file(&opened, &path)? != file.xxh3 {
                return exists();
            }
        }
        for (then, now) in manifest.sources.iter().zip(sources) {
            if hash_file(&spec.roots.open_input(&now.path)?, &now.path)? != then.xxh3 {
                return exists();
            }
        }
        Ok(Some(manifest))
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

/// `path` with a suffix behind its whole name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

fn hash_file(mut file: &File, path: &Path) -> Result<String> {
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
