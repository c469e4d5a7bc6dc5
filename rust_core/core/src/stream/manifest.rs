//! The manifest of a token set, `OUT.bin.json`: what is in the set and what it was made of.
//!
//! ```text
//! OUT.bin        n_tokens ids, little-endian, uint16 or uint32 (`dtype`), nothing else
//! OUT.bin.ends   n_documents uint64, little-endian: tokens up to the end of each document, its
//!                end-of-text id included
//! OUT.bin.docs   where each document of a source that has places (see `job::records`) comes from
//! OUT.bin.ids    the documents' ids, where they are kept
//! OUT.bin.skipped.jsonl  records that were left out, if there are any
//! OUT.bin.json   this manifest; published last, so a set without it is not there
//! ```
//!
//! The layouts of `.docs`, `.ids` and `.skipped.jsonl` stand in `job::records`.
//!
//! The manifest holds no times and no host names: the same input gives the same bytes. Checksums
//! are XXH3-64 of whole files, as 16 hexadecimal digits.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::native::StreamManifest;
use super::parts::{Sidecar, Tail};
use crate::documents::Eot;
use crate::error::{Error, Result};
use crate::input::Source;
use crate::input::access::Roots;
use crate::input::detect::InputFormat;
use crate::input::field_path::FieldPath;
use crate::job::checkpoint::{Progress, SourceTotals};
use crate::job::sink::Target;
use crate::job::{Control, Counts, JobSpec};
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docs: Option<FileInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<FileInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<FileInfo>,
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
    /// Of text that is not taken apart into records.
    pub special: String,
    pub errors: String,
    /// How records became documents; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<RecordInfo>,
}

/// What decides which documents the records of an input become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordInfo {
    pub input_format: InputFormat,
    pub field: String,
    pub id_field: Option<String>,
    /// Of JSON lines and columns.
    pub special: String,
    pub bad_documents: String,
    pub min_tokens: u64,
    pub max_tokens: Option<u64>,
    pub truncate_tokens: Option<u64>,
    pub deduplicate: bool,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    pub path: PathBuf,
    pub size_bytes: u64,
    pub xxh3: String,
    pub n_tokens: u64,
    pub n_documents: u64,
    /// What the file is: `"jsonl"`, `"text+gzip"`, `"parquet"` ...; absent for plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The account of its records; absent for text that is not taken apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Counts>,
    /// Its documents are no records and have places in `.docs` all the same.
    #[serde(default, skip_serializing_if = "is_false")]
    pub places: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
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
    pub(crate) fn of(spec: &JobSpec, sources: &[Source]) -> Self {
        let records = &spec.records;
        let name = |field: &FieldPath| field.name().to_owned();
        Self {
            separator: spec.separator.clone(),
            eot: spec.eot.name().to_owned(),
            eot_id: spec.eot_id.filter(|_| spec.eot != Eot::None),
            special: spec.special.unwrap_or(SpecialPolicy::Raise).name().to_owned(),
            errors: if spec.replace_invalid { "replace" } else { "strict" }.to_owned(),
            records: sources.iter().any(|source| records.are_of(source)).then(|| RecordInfo {
                input_format: records.input_format,
                field: name(&records.text_field()),
                id_field: records.id_field.as_ref().map(name),
                special: spec.special.unwrap_or(SpecialPolicy::Text).name().to_owned(),
                bad_documents: if records.skip_bad { "skip" } else { "fail" }.to_owned(),
                min_tokens: records.min_tokens,
                max_tokens: records.max_tokens,
                truncate_tokens: records.truncate_tokens,
                deduplicate: records.deduplicate,
            }),
        }
    }

    /// The options but for what is done about bad documents: as long as there was none it is all the same.
    pub(crate) fn without_bad_documents(&self) -> Self {
        let records =
            self.records.clone().map(|records| RecordInfo { bad_documents: String::new(), ..records });
        Self { records, ..self.clone() }
    }
}

/// What a manifest says of a source beside counts and checksum: what it is, the account of its records, and
/// whether its documents have places without being records.
pub(crate) fn kind_and_account(
    target: &Target<'_>,
    source: &Source,
    totals: &SourceTotals,
) -> (Option<String>, Option<Counts>, bool) {
    let format = (!source.kind.is_plain_text()).then(|| source.kind.name());
    let are_records = target.spec.records.are_of(source);
    let places = !are_records && target.separator_bytes().is_some();
    (format, are_records.then_some(totals.counts), places)
}

impl Manifest {
    /// The manifest of a finished set whose data file is called `name`; `skipped` is the list of what was
    /// left out, if anything was.
    pub(crate) fn new(target: &Target<'_>, progress: &Progress, name: &str, skipped: Option<Tail>) -> Self {
        let sources = target.sources.iter().zip(&progress.sources).map(|(source, totals)| {
            let (format, records, places) = kind_and_account(target, source, totals);
            SourceInfo {
                path: source.path.clone(),
                size_bytes: source.identity.size_bytes,
                xxh3: hex(totals.xxh3),
                n_tokens: totals.n_tokens,
                n_documents: totals.n_documents,
                format,
                records,
                places,
            }
        });
        let mark = progress.parts.last().copied().unwrap_or_default();
        let file = |file: String, size_bytes, hash| FileInfo { file, size_bytes, xxh3: hex(hash) };
        let tail = |suffix: &str, tail: Tail| file(format!("{name}{suffix}"), tail.n_bytes, tail.xxh3);
        let sidecar = |at: usize, suffix: &str| {
            let has = target.has(Sidecar::ALL[at]);
            has.then(|| tail(suffix, mark.sidecars[at].unwrap_or_default()))
        };
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
            docs: sidecar(0, ".docs"),
            ids: sidecar(1, ".ids"),
            skipped: skipped.map(|skipped| tail(".skipped.jsonl", skipped)),
            tokend_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Its files but for the manifest.
    pub(crate) fn files(&self) -> impl Iterator<Item = &FileInfo> {
        [Some(&self.data), Some(&self.ends), self.docs.as_ref(), self.ids.as_ref(), self.skipped.as_ref()]
            .into_iter()
            .flatten()
    }

    /// The manifest as JSON, a line per field.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Internal { what: error.to_string() })
    }

    /// The manifest of an existing output, if that was made from the same inputs in the same way and
    /// its files and inputs still have the bytes that the manifest says.
    pub(crate) fn up_to_date(target: &Target<'_>) -> Result<Option<Self>> {
        let spec = target.spec;
        let Some(manifest) = Self::read_beside(&spec.roots, &spec.output)? else { return Ok(None) };
        let sources = manifest.sources.iter().map(|source| (&*source.path, source.size_bytes, &*source.xxh3));
        let directory = spec.output.parent().unwrap_or(Path::new("/"));
        let same = manifest.tokenizer.fingerprint == target.tokenizer.fingerprint
            && manifest.options == target.options
            && manifest.files().all(|file| {
                let path = directory.join(&file.file);
                is_plain_name(&file.file)
                    && spec.roots.open_output(&path).is_ok_and(|opened| {
                        hash_file(&opened, &path, target.control).is_ok_and(|xxh3| xxh3 == file.xxh3)
                    })
            })
            && same_sources(target, sources)?;
        if same { Ok(Some(manifest)) } else { Err(Error::OutputExists { path: spec.output.clone() }) }
    }

    /// Reads the manifest that belongs to a data file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if something else stands in its place.
    pub fn read_beside(roots: &Roots, data: &Path) -> Result<Option<Self>> {
        let path = with_suffix(data, ".json");
        let text = match roots.read_output(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(Error::IsDirectory { .. } | Error::NotRegular { .. }) => {
                return Err(Error::OutputExists { path });
            }
            Err(error) => return Err(error),
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
    for ((path, _, xxh3), source) in then.zip(now()) {
        if hash_file(&target.spec.roots.open_input(source.file())?, path, target.control)? != xxh3 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a name that a manifest gives is a file beside it: a path could lead anywhere.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
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

/// The hash of a file, unless the job is cancelled meanwhile.
pub(crate) fn hash_file(mut file: &File, path: &Path, control: &Control) -> Result<String> {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        control.check()?;
        let n = file.read(&mut buffer).map_err(|error| Error::io(path, "reading", error))?;
        if n == 0 {
            return Ok(hex(hash.digest()));
        }
        hash.update(&buffer[..n]);
    }
}
