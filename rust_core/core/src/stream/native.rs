//! The native stream (`--format stream`): a directory that can be read while it grows.
//!
//! ```text
//! OUT/manifest.json        what is there; replaced as a whole at each commit
//! OUT/tokens-00000.bin     ids of segment 0, little-endian, uint16 or uint32 (`dtype`), nothing else
//! OUT/ends-00000.u64       uint64, little-endian: for each document that ends within segment 0, the
//!                          tokens of the WHOLE stream up to its end, its end-of-text id included
//! OUT/docs-00000.u64       where each document that ends within segment 0, of a source that has places, comes
//!                          from; only if there are such sources
//! OUT/ids-00000.jsonl      their ids, where they are kept; the layouts of both stand in `job::records`
//! OUT/tokens-00001.bin     segment 1, and so on; numbers have at least five digits
//! OUT/skipped-00000.jsonl  only of a stream that is made by several jobs, one a segment (`tokend encode
//! OUT/texts-00000.u128     --watch`): records that the segment's job left out, hashes of those it did not
//!                          (layouts: `job::records`, `job::known_texts`)
//! OUT/.*.partial           the writer's own: checkpoint, and the manifest's next version
//! OUT.skipped.jsonl        beside the directory, once the stream is sealed: records that were left out
//! ```
//!
//! # What a reader may rely on
//!
//! * Only the counts in the manifest count. Files may be longer, and more files may be there, than it
//!   says: what lies behind a count is not there yet. Map the committed lengths and no more.
//! * A committed byte never changes, and no committed length shrinks. Each manifest extends the one
//!   before it; `commit` is one higher.
//! * `tokens_xxh3` and `ends_xxh3` of a segment are of its committed bytes, XXH3-64 as 16 hexadecimal
//!   digits. So each state of the stream can be verified for itself.
//! * A document may go over several segments; its end stands in the segment that holds its last
//!   token. A block of the writer never does: a segment is closed by the first block that fills it
//!   (256 MiB of ids by default), so equal jobs make equal segments.
//! * Segments at the start of a stream may be retired, if whoever asked for it allowed that: their counts
//!   and checksums stay in the manifest, marked, and then their files are removed. The last segment never is.
//!
//! # The manifest
//!
//! ```text
//! format           "tokend-stream"
//! version          1
//! state            "growing"; "sealed": complete, will not change again; "failed": see `error`
//! dtype            "uint16" or "uint32"
//! stream_id        32 hexadecimal digits, random, the same for the life of the stream
//! commit           counts the manifests of this stream, from 0
//! n_tokens, n_documents   the committed watermark
//! tokenizer        {name, fingerprint, vocab_size, eot_id}
//! options          {separator, eot, eot_id, special, errors}, and `records` of a job that has records
//! sources          [{path, size_bytes, xxh3, n_tokens, n_documents}], the last three null until the
//!                  source is finished; `format` if it is no plain text, `records` (the account) if it is
//!                  made of records
//! segments         [{tokens, ends, first_token, n_tokens, n_documents, tokens_xxh3, ends_xxh3}], `docs`
//!                  `ids`, `skipped` and `texts` ({file, size_bytes, xxh3}) where there are such files, and "retired": true in
//!                  those whose files are gone
//! skipped          {file, size_bytes, xxh3} of OUT.skipped.jsonl, if there is one
//! error            null, or {code, message, hint} of a stream that failed
//! resume           the writer's own; null once there is nothing to resume
//! tokend_version
//! ```

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use super::manifest::{FileInfo, Options, TokenizerInfo, hex, is_false, kind_and_account};
use super::parts::Sidecar;
use crate::error::{Error, Result};
use crate::job::Counts;
use crate::job::checkpoint::Progress;
use crate::job::sink::Target;

pub(crate) const FORMAT: &str = "tokend-stream";
pub(crate) const VERSION: u32 = 1;
/// The manifest's name in the directory.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The manifest; field for field what stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamManifest {
    pub format: String,
    pub version: u32,
    pub state: State,
    pub dtype: String,
    pub stream_id: String,
    pub commit: u64,
    pub n_tokens: u64,
    pub n_documents: u64,
    pub tokenizer: TokenizerInfo,
    pub options: Options,
    pub sources: Vec<StreamSource>,
    pub segments: Vec<Segment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<FileInfo>,
    pub error: Option<Failure>,
    pub resume: Option<Resume>,
    pub tokend_version: String,
}

/// Whether more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Growing,
    Sealed,
    Failed,
}

/// One input; what is known once it is finished is `None` before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSource {
    pub path: PathBuf,
    pub size_bytes: u64,
    pub xxh3: Option<String>,
    pub n_tokens: Option<u64>,
    pub n_documents: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// As far as it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Counts>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub places: bool,
}

/// The committed part of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub tokens: String,
    pub ends: String,
    pub first_token: u64,
    pub n_tokens: u64,
    pub n_documents: u64,
    pub tokens_xxh3: String,
    pub ends_xxh3: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docs: Option<FileInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<FileInfo>,
    /// What was left out while this segment was made, and the texts that were not, of a stream of several jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<FileInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<FileInfo>,
    /// Its files are gone, see [`retirement`](super::retirement).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
}

/// Why a stream failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub hint: Option<String>,
}

/// Whose the stream is while it grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    pub partial_key: String,
}

/// The file names of a segment's sidecars: places, ids of documents.
pub(crate) fn sidecar_names(index: usize) -> [String; 2] {
    [format!("docs-{index:05}.u64"), format!("ids-{index:05}.jsonl")]
}

/// The file names of a segment: ids, ends.
pub(crate) fn segment_names(index: usize) -> [String; 2] {
    [format!("tokens-{index:05}.bin"), format!("ends-{index:05}.u64")]
}

impl StreamManifest {
    /// The manifest of a growing stream at some point.
    pub(crate) fn growing(
        target: &Target<'_>,
        progress: &Progress,
        stream_id: &str,
        commit: u64,
        key: &str,
    ) -> Self {
        let finished = progress.position.source;
        let sources =
            target.sources.iter().zip(&progress.sources).enumerate().map(|(at, (source, totals))| {
                let known = at < finished;
                let (format, records, places) = kind_and_account(target, source, totals);
                StreamSource {
                    path: source.path.clone(),
                    size_bytes: source.identity.size_bytes,
                    xxh3: known.then(|| hex(totals.xxh3)),
                    n_tokens: known.then_some(totals.n_tokens),
                    n_documents: known.then_some(totals.n_documents),
                    format,
                    records,
                    places,
                }
            });
        let mut first_token = 0;
        let segments = progress.parts.iter().enumerate().map(|(index, mark)| {
            let [tokens, ends] = segment_names(index);
            let sidecar = |at: usize| {
                let tail = mark.sidecars[at].unwrap_or_default();
                target.has(Sidecar::ALL[at]).then(|| FileInfo {
                    file: sidecar_names(index)[at].clone(),
                    size_bytes: tail.n_bytes,
                    xxh3: hex(tail.xxh3),
                })
            };
            let segment = Segment {
                tokens,
                ends,
                first_token,
                n_tokens: mark.n_tokens,
                n_documents: mark.n_documents,
                tokens_xxh3: hex(mark.tokens_xxh3),
                ends_xxh3: hex(mark.ends_xxh3),
                docs: sidecar(0),
                ids: sidecar(1),
                skipped: None,
                texts: None,
                retired: false,
            };
            first_token += mark.n_tokens;
            segment
        });
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            state: State::Growing,
            dtype: target.tokenizer.dtype.clone(),
            stream_id: stream_id.to_owned(),
            commit,
            n_tokens: progress.n_tokens,
            n_documents: progress.n_documents,
            tokenizer: target.tokenizer.clone(),
            options: target.options.clone(),
            sources: sources.collect(),
            segments: segments.collect(),
            skipped: None,
            error: None,
            resume: Some(Resume { partial_key: key.to_owned() }),
            tokend_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The manifest as JSON, a line per field.
    pub(crate) fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self);
        json.map(|json| json + "\n").map_err(|error| Error::Internal { what: error.to_string() })
    }

    /// Whether the stream is being made, or can be gone on with, by the job `key`.
    pub(crate) fn is_of(&self, key: &str) -> bool {
        self.state != State::Sealed && self.resume.as_ref().is_some_and(|resume| resume.partial_key == key)
    }
}
