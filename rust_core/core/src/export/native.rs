//! Reads a finished set of ours back, document by document, with bounded memory.
//!
//! Ids and ends are read with `pread` into two buffers: nothing is mapped, so a file that shrinks is an
//! error and not a signal. A set is `OUT.bin` with its manifest, or a sealed stream's directory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::staging::Known;
use super::{Ids, Origin};
use crate::documents::Eot;
use crate::error::{Error, Result};

/// Ends read at a time.
const ENDS_BLOCK: u64 = 1 << 13;
/// Bytes of ids handed on at a time.
const IDS_BYTES: usize = 1 << 20;

/// A part of the ids, in files of its own.
struct Segment {
    tokens: File,
    tokens_path: PathBuf,
    ends: File,
    ends_path: PathBuf,
    first_token: u64,
    n_tokens: u64,
    first_document: u64,
    n_documents: u64,
}

/// A finished set.
pub(super) struct NativeSet {
    segments: Vec<Segment>,
    pub(crate) ids: Ids,
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
    /// The manifest, as it stands in the file.
    pub(super) manifest: Value,
    /// Path of each source, and the documents up to its end.
    sources: Vec<(PathBuf, u64)>,
    /// Documents are asked for out of order: nothing is read ahead.
    pub(crate) at_random: bool,
    /// Ends of documents `block_start` and on, with the one before them first.
    block: Vec<u64>,
    block_start: u64,
    /// Ids from `held` on, of one segment.
    buffer: Vec<u8>,
    held: std::ops::Range<u64>,
}

impl NativeSet {
    /// Opens `OUT.bin`, its manifest, or a sealed stream's directory.
    ///
    /// # Errors
    /// [`Error::Damaged`] for what is no finished set or has files of the wrong length.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let is_stream_manifest = path.file_name().is_some_and(|name| name == "manifest.json");
        let path = path.parent().filter(|_| is_stream_manifest).unwrap_or(path);
        let is_stream = path.is_dir();
        let text = path.to_string_lossy();
        let data_path = text.strip_suffix(".json").map_or_else(|| path.to_owned(), PathBuf::from);
        let manifest_path = if is_stream {
            path.join("manifest.json")
        } else {
            crate::stream::manifest::with_suffix(&data_path, ".json")
        };
        let bytes =
            std::fs::read(&manifest_path).map_err(|error| Error::io(&manifest_path, "reading", error))?;
        let broken = |what: &str| Error::Damaged { path: manifest_path.clone(), what: what.to_owned() };
        let manifest: Value = serde_json::from_slice(&bytes).map_err(|_| broken("not a manifest"))?;
        let number =
            |value: &Value| value.as_u64().ok_or_else(|| broken("a count is missing in the manifest"));
        let string = |value: &Value| {
            value.as_str().map(str::to_owned).ok_or_else(|| broken("a name is missing in the manifest"))
        };
        match (manifest["format"].as_str(), manifest["state"].as_str()) {
            (Some("tokend-bin"), _) | (Some("tokend-stream"), Some("sealed")) => {}
            (Some("tokend-stream"), state) => {
                let what = format!(
                    "{} is {}; only a sealed stream is complete",
                    path.display(),
                    state.unwrap_or("broken")
                );
                return Err(Error::BadOption { option: "input", what });
            }
            _ => return Err(broken("not the manifest of a token set")),
        }
        let id_bytes = match manifest["dtype"].as_str() {
            Some("uint16") => 2,
            Some("uint32") => 4,
            _ => return Err(broken("unknown dtype")),
        };
        let (n_tokens, n_documents) = (number(&manifest["n_tokens"])?, number(&manifest["n_documents"])?);
        let folder = if is_stream { path } else { data_path.parent().unwrap_or(Path::new(".")) };
        let mut segments = Vec::new();
        let mut open = |tokens: &Value, ends: &Value, n_tokens: u64, n_documents: u64| -> Result<()> {
            let last = segments.last();
            let (first_token, first_document) = last.map_or((0, 0), |last: &Segment| {
                (last.first_token + last.n_tokens, last.first_document + last.n_documents)
            });
            let (tokens_path, ends_path) = (folder.join(string(tokens)?), folder.join(string(ends)?));
            let tokens = open_long_enough(&tokens_path, n_tokens * id_bytes)?;
            let ends = open_long_enough(&ends_path, n_documents * 8)?;
            segments.push(Segment {
                tokens,
                tokens_path,
                ends,
                ends_path,
                first_token,
                n_tokens,
                first_document,
                n_documents,
            });
            Ok(())
        };
        if is_stream {
            for segment in manifest["segments"].as_array().into_iter().flatten() {
                if segment["retired"] == true {
                    return Err(broken("some of its segments were retired: their tokens are gone"));
                }
                let (n_tokens, n_documents) =
                    (number(&segment["n_tokens"])?, number(&segment["n_documents"])?);
                open(&segment["tokens"], &segment["ends"], n_tokens, n_documents)?;
            }
        } else {
            open(&manifest["data"]["file"], &manifest["ends"]["file"], n_tokens, n_documents)?;
        }
        let ids = Ids {
            id_bytes: id_bytes as usize,
            tokenizer: string(&manifest["tokenizer"]["name"])?,
            eot_id: manifest["options"]["eot_id"].as_u64().and_then(|id| u32::try_from(id).ok()),
            eot: Eot::parse(&string(&manifest["options"]["eot"])?)?,
        };
        let listed = manifest["sources"].as_array().into_iter().flatten();
        let sources = listed
            .scan(0, |n_documents, source| {
                *n_documents += source["n_documents"].as_u64().unwrap_or(0);
                Some((PathBuf::from(source["path"].as_str().unwrap_or_default()), *n_documents))
            })
            .collect();
        let (block, block_start) = (Vec::new(), 0);
        Ok(Self {
            segments,
            ids,
            n_tokens,
            n_documents,
            manifest,
            sources,
            block,
            block_start,
            at_random: false,
            buffer: Vec::new(),
            held: 0..0,
        })
    }

    /// The one file that holds all ids and nothing else, if there is one; a stream's file may be longer
    /// than what is committed.
    pub(crate) fn single_file(&self) -> Option<Known> {
        let [only] = &self.segments[..] else { return None };
        let size_bytes = only.tokens.metadata().ok()?.len();
        let listed = [&self.manifest["data"]["xxh3"], &self.manifest["segments"][0]["tokens_xxh3"]];
        let xxh3 = listed.into_iter().find_map(Value::as_str)?.to_owned();
        (size_bytes == self.n_tokens * self.ids.id_bytes as u64).then(|| Known {
            path: only.tokens_path.clone(),
            size_bytes,
            xxh3,
        })
    }

    /// Where a document's ids lie: their range in the whole set, end-of-text ids included.
    pub(crate) fn range(&mut self, document: u64) -> Result<std::ops::Range<u64>> {
        let held = self.block_start..self.block_start + self.block.len().saturating_sub(1) as u64;
        if !held.contains(&document) {
            let (from, length) =
                if self.at_random { (document, 1) } else { (document - document % ENDS_BLOCK, ENDS_BLOCK) };
            self.read_block(from, length)?;
        }
        let at = (document - self.block_start) as usize;
        let (start, end) = (self.block[at], self.block[at + 1]);
        if start > end || end > self.n_tokens {
            let path = self.segments.first().map(|segment| segment.ends_path.clone()).unwrap_or_default();
            let what = format!("document {document} runs from id {start} to {end} of {}", self.n_tokens);
            return Err(Error::Damaged { path, what });
        }
        Ok(start..end)
    }

    /// How many ids a document has, end-of-text ids included.
    pub(crate) fn n_ids(&mut self, document: u64) -> Result<u64> {
        self.range(document).map(|range| range.end - range.start)
    }

    /// Reads the ends of a block of documents, which may lie in several segments.
    fn read_block(&mut self, from: u64, length: u64) -> Result<()> {
        self.block.clear();
        self.block_start = from;
        let first = from.saturating_sub(1);
        if from == 0 {
            self.block.push(0);
        }
        let last = (from + length).min(self.n_documents);
        let mut bytes = Vec::new();
        for segment in &self.segments {
            let low = first.max(segment.first_document);
            let high = last.min(segment.first_document + segment.n_documents);
            if low >= high {
                continue;
            }
            bytes.resize((high - low) as usize * 8, 0);
            segment
                .ends
                .read_exact_at(&mut bytes, (low - segment.first_document) * 8)
                .map_err(|error| Error::io(&segment.ends_path, "reading", error))?;
            let ends =
                bytes.chunks_exact(8).map(|end| u64::from_le_bytes(end.try_into().unwrap_or_default()));
            self.block.extend(ends);
        }
        Ok(())
    }

    /// Gives the bytes of the ids `range` to `take`, piece by piece. Where documents come in order, what
    /// follows is read with them.
    pub(crate) fn read(
        &mut self,
        range: std::ops::Range<u64>,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let width = self.ids.id_bytes as u64;
        for segment in &self.segments {
            let mut at = range.start.max(segment.first_token);
            let end = range.end.min(segment.first_token + segment.n_tokens);
            while at < end {
                if !self.held.contains(&at) {
                    let last = if self.at_random { end } else { segment.first_token + segment.n_tokens };
                    let n_ids = (last - at).min(IDS_BYTES as u64 / width);
                    self.buffer.resize((n_ids * width) as usize, 0);
                    self.held = 0..0;
                    segment
                        .tokens
                        .read_exact_at(&mut self.buffer, (at - segment.first_token) * width)
                        .map_err(|error| Error::io(&segment.tokens_path, "reading", error))?;
                    self.held = at..at + n_ids;
                }
                let stop = end.min(self.held.end);
                let byte = |id: u64| ((id - self.held.start) * width) as usize;
                take(&self.buffer[byte(at)..byte(stop)])?;
                at = stop;
            }
        }
        Ok(())
    }

    /// Where a document came from.
    pub(crate) fn origin(&self, document: u64) -> Origin<'_> {
        let at = self.sources.partition_point(|(_, end)| *end <= document);
        let before = at.checked_sub(1).map_or(0, |at| self.sources[at].1);
        let source = self.sources.get(at).map(|(path, _)| &**path);
        Origin { index: document, source, number: document - before + 1 }
    }
}

fn open_long_enough(path: &Path, n_bytes: u64) -> Result<File> {
    let file = File::open(path).map_err(|error| Error::io(path, "opening", error))?;
    let found = file.metadata().map_err(|error| Error::io(path, "stat", error))?.len();
    if found < n_bytes {
        let what = format!("it has {found} bytes, and {n_bytes} are in the manifest; it is cut off");
        return Err(Error::Damaged { path: path.to_owned(), what });
    }
    Ok(file)
}
