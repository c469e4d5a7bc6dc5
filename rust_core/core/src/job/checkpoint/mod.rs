//! How far a job got: a log beside its partial files, from which a killed job goes on.
//!
//! ```text
//! line 1   header: what the job is (format, tokenizer, options, inputs with their identities)
//! line n   one record for each block, in order, appended once the block and all before it are written
//! ```
//!
//! Each line is a JSON object and a newline; a line without its newline was cut off by the kill and
//! is not there. A record says how many ids and document ends there are, how far into which source
//! the input was read, and the hashes of all of these *up to that point*. Nothing is assumed about
//! what a crash left on disk: a resumed job reads the partial files again, and goes on behind the last
//! record up to which their bytes have the recorded hashes. So records need no sync of their own, and
//! after a kill at most the blocks that were in the workers' hands are made again. After a power
//! failure it is those since the last commit, for which files and log were synced, in that order.
//!
//! The log costs about 250 bytes for each MiB of input, one line for each record that was left out, and
//! 32 bytes for each document where duplicates are.

mod replay;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::records::{self, Counts, Skip};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::stream::manifest::{Options, TokenizerInfo};
use crate::stream::parts::{Mark, Named, Order};
pub(crate) use replay::{Resumed, replay};

const FORMAT: &str = "tokend-checkpoint";
/// 2: with the places of documents of text.
const VERSION: u32 = 2;
/// Bytes read at a time when partial files are checked.
const READ_BYTES: usize = 1 << 20;

/// Where the input stands: everything before is in the output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Index of the source.
    pub(crate) source: usize,
    /// Bytes of it that were read.
    pub(crate) offset_bytes: u64,
    /// Bytes of its content, or rows, that are done, where those are not the bytes of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<u64>,
    /// What a streamed source holds between two steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) carry: Option<Carry>,
    /// Where in the content a document of text began that is still open, where places are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) document_bytes: Option<u64>,
}

impl Position {
    /// What puts positions in order: the source, and the place in it.
    pub(crate) fn order(&self) -> (usize, u64) {
        (self.source, self.content.unwrap_or(self.offset_bytes))
    }
}

/// The state between two steps of a streamed source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Carry {
    /// Text that was read and not yet encoded.
    pub(crate) text: String,
    /// Where it starts in the text of the source.
    pub(crate) text_offset_bytes: u64,
    pub(crate) is_open: bool,
    pub(crate) is_untouched: bool,
}

/// What a block holds of one source; `xxh3` is the hash of what was read of it so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) source: usize,
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
    pub(crate) xxh3: u64,
    /// The account, of a source of records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) counts: Option<Counts>,
}

/// One block, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) n_bytes: u64,
    pub(crate) mark: Mark,
    pub(crate) shares: Vec<Share>,
    /// Where a job can go on behind this block; `None` where it cannot.
    pub(crate) next: Option<Position>,
    /// Records that are not in the output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) skips: Vec<Skip>,
    /// Hashes of the block's texts, 32 digits each, where duplicates are left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) texts: String,
}

/// What is known of a source: finished if it lies before the position.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceTotals {
    pub(crate) xxh3: u64,
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
    pub(crate) counts: Counts,
}

/// The sum of all records up to some point.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) n_bytes: u64,
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
    pub(crate) sources: Vec<SourceTotals>,
    /// One for each part, the last one under way.
    pub(crate) parts: Vec<Mark>,
    pub(crate) position: Position,
}

impl Progress {
    /// Nothing done yet.
    pub(crate) fn new(n_sources: usize) -> Self {
        let sources = vec![SourceTotals::default(); n_sources];
        Self { sources, parts: vec![Mark { ..Order::default().mark() }], ..Self::default() }
    }

    /// Adds the next record.
    pub(crate) fn apply(&mut self, record: &Record) {
        for share in &record.shares {
            let Some(source) = self.sources.get_mut(share.source) else { continue };
            source.n_tokens += share.n_tokens;
            source.n_documents += share.n_documents;
            source.xxh3 = share.xxh3;
            if let Some(counts) = &share.counts {
                source.counts.add(counts);
            }
            self.n_tokens += share.n_tokens;
            self.n_documents += share.n_documents;
        }
        self.n_bytes += record.n_bytes;
        if self.parts.len() == record.mark.part {
            self.parts.push(record.mark);
        } else if let Some(last) = self.parts.last_mut() {
            *last = record.mark;
        }
        if let Some(next) = &record.next {
            self.position.clone_from(next);
        }
    }

    /// Records that are not in the output.
    pub(crate) fn n_skipped(&self) -> u64 {
        self.sources.iter().map(|source| source.counts.n_skipped()).sum()
    }

    /// Index of the part under way.
    pub(crate) fn last_part(&self) -> usize {
        self.parts.len().saturating_sub(1)
    }
}

/// What the job is: a resumed one must be the same.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    format: String,
    version: u32,
    output_format: String,
    tokenizer: TokenizerInfo,
    options: Options,
    sources: Vec<SourceIdentity>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceIdentity {
    path: PathBuf,
    size_bytes: u64,
    mtime_ns: i64,
    inode: u64,
}

impl Header {
    pub(crate) fn new(
        output_format: &str,
        tokenizer: &TokenizerInfo,
        options: &Options,
        sources: &[Source],
    ) -> Self {
        let sources = sources.iter().map(|source| SourceIdentity {
            path: source.path.clone(),
            size_bytes: source.identity.size_bytes,
            mtime_ns: i64::try_from(source.identity.mtime_ns).unwrap_or(i64::MAX),
            inode: source.identity.inode,
        });
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            output_format: output_format.to_owned(),
            tokenizer: tokenizer.clone(),
            options: options.clone(),
            sources: sources.collect(),
        }
    }

    /// Fails unless a job with this header may go on with the partial files of one with `then`.
    fn check(&self, then: &Self, path: &Path) -> Result<()> {
        let different = |what: &str| {
            let what = format!("the interrupted run had {what}");
            Err(Error::CannotResume { path: path.to_owned(), what })
        };
        if (&then.format, then.version) != (&self.format, self.version) {
            return different("another version of the checkpoint's format");
        }
        if then.tokenizer.fingerprint != self.tokenizer.fingerprint {
            return different("another tokenizer");
        }
        if then.options.without_bad_documents() != self.options.without_bad_documents()
            || then.output_format != self.output_format
        {
            return different("other options");
        }
        let paths =
            |header: &Self| header.sources.iter().map(|source| source.path.clone()).collect::<Vec<_>>();
        if paths(then) != paths(self) {
            return different("other inputs");
        }
        match then.sources.iter().zip(&self.sources).find(|(then, now)| then != now) {
            None => Ok(()),
            Some((source, now)) => {
                let what = if source.size_bytes == now.size_bytes {
                    "since the interrupted run: it was written to or replaced".to_owned()
                } else {
                    format!(
                        "since the interrupted run: it had {} bytes and has {}",
                        source.size_bytes, now.size_bytes
                    )
                };
                Err(Error::InputChanged { path: source.path.clone(), what })
            }
        }
    }
}

/// The log, open for appending.
pub(crate) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Begins a log in an open file, whatever is in it.
    pub(crate) fn create(file: File, path: PathBuf, header: &Header) -> Result<Self> {
        let failed = |error| Error::io(&path, "writing", error);
        file.set_len(0).map_err(failed)?;
        (&file).rewind().map_err(failed)?;
        let log = Self { file, path };
        log.line(header)?;
        Ok(log)
    }

    fn line(&self, what: &impl Serialize) -> Result<()> {
        let mut line =
            serde_json::to_vec(what).map_err(|error| Error::Internal { what: error.to_string() })?;
        line.push(b'\n');
        (&self.file).write_all(&line).map_err(|error| Error::io(&self.path, "writing", error))
    }

    /// What the records say was left out, in order, one at a time.
    pub(crate) fn each_skip(&self, mut take: impl FnMut(Skip) -> Result<()>) -> Result<()> {
        self.each_record(|record| record.skips.into_iter().try_for_each(&mut take))
    }

    /// The hashes of the output's texts, in order, where duplicates are left out.
    pub(crate) fn each_text(&self, mut take: impl FnMut(u128) -> Result<()>) -> Result<()> {
        self.each_record(|record| records::hashes(&record.texts).try_for_each(&mut take))
    }

    fn each_record(&self, mut take: impl FnMut(Record) -> Result<()>) -> Result<()> {
        let failed = |error| Error::io(&self.path, "reading", error);
        // Read beside the place at which records are added.
        let mut lines = BufReader::with_capacity(READ_BYTES, At { file: &self.file, offset_bytes: 0 });
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).map_err(failed)? > 0 {
            if let Ok(record) = serde_json::from_slice(&line) {
                take(record)?;
            }
            line.clear();
        }
        Ok(())
    }

    /// Adds a record; not synced.
    pub(crate) fn append(&self, record: &Record) -> Result<()> {
        self.line(record)
    }

    /// Another handle on it, to be synced while records are added.
    pub(crate) fn handle(&self) -> Result<Self> {
        let file = self.file.try_clone().map_err(|error| Error::io(&self.path, "opening", error))?;
        Ok(Self { file, path: self.path.clone() })
    }

    /// Makes the log durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io(&self.path, "fsync", error))
    }
}

/// The input that the records of a log say is done; a line that is no record says nothing.
pub(crate) fn logged_bytes(file: &File, path: &Path) -> Result<u64> {
    #[derive(Deserialize)]
    struct Done {
        n_bytes: u64,
    }
    let failed = |error| Error::io(path, "reading", error);
    let mut lines = BufReader::with_capacity(READ_BYTES, At { file, offset_bytes: 0 });
    let (mut line, mut n_bytes) = (Vec::new(), 0_u64);
    while lines.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if let Ok(done) = serde_json::from_slice::<Done>(&line) {
            n_bytes = n_bytes.saturating_add(done.n_bytes);
        }
        line.clear();
    }
    Ok(n_bytes)
}

/// A file that is read without moving its cursor.
struct At<'a> {
    file: &'a File,
    offset_bytes: u64,
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(out, self.offset_bytes)?;
        self.offset_bytes += n as u64;
        Ok(n)
    }
}

/// The last line of a log whose job has begun to give its files their final names.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publishing {
    /// Inodes of data, ends and what else the set has, in the order of their names.
    pub(crate) publishing: Vec<u64>,
    /// Inodes of what the set that it replaces has beside data and ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) retired: Vec<u64>,
}

/// Notes which files are about to get their final names, and which then go; returns what is to be synced before they do.
pub(crate) fn note_publishing(file: &File, path: PathBuf, note: &Publishing) -> Result<Named> {
    let file = file.try_clone().map_err(|error| Error::io(&path, "opening", error))?;
    let log = Log { file, path };
    log.line(note)?;
    Ok(Named { file: log.file, path: log.path })
}

/// The note of [`note_publishing`], if that is how the log ends.
pub(crate) fn publishing(mut file: &File, path: &Path) -> Result<Option<Publishing>> {
    let failed = |error| Error::io(path, "reading", error);
    let mut tail = Vec::new();
    let len = file.metadata().map_err(failed)?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(512))).map_err(failed)?;
    file.read_to_end(&mut tail).map_err(failed)?;
    let Some(lines) = tail.strip_suffix(b"\n") else { return Ok(None) };
    let last = lines.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice(last).ok())
}
