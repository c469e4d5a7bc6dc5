//! Goes through an interrupted job's log and finds the last record that its partial files bear out.
//!
//! From record to record the files are read on and hashed, and the hashes compared with those of the record: what the
//! log says counts only as far as the bytes are there. The hashes are running ones, so that the job goes
//! on with them.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustc_hash::FxHashSet;
use xxhash_rust::xxh3::Xxh3;

use super::{Header, Log, Progress, READ_BYTES, Record};
use crate::error::{Error, Result};
use crate::job::{Control, records};
use crate::stream::parts::{Mark, Named, Order, Part};

/// A job found interrupted.
pub(crate) struct Resumed {
    pub(crate) log: Log,
    pub(crate) progress: Progress,
    /// The part under way, its hashes running.
    pub(crate) order: Order,
    /// Hashes of the output's texts, where duplicates are left out.
    pub(crate) texts: FxHashSet<u128>,
}

impl Resumed {
    /// What a job starts from of which nothing is there.
    pub(crate) fn nothing(log: Log, n_sources: usize) -> Self {
        let progress = Progress::new(n_sources);
        Self { log, progress, order: Order::default(), texts: FxHashSet::default() }
    }
}

/// Finds out how far an interrupted job got; `None` if it did not get as far as a header.
///
/// `part` opens the files of a part, if they are there; of the first `n_retired`, which are gone on
/// purpose, the log is believed. The log is cut behind the record that the job
/// goes on from.
pub(crate) fn replay(
    file: File,
    path: PathBuf,
    header: &Header,
    id_bytes: u64,
    control: &Control,
    n_retired: usize,
    part: impl Fn(usize) -> Result<Option<Part>>,
) -> Result<Result<Resumed, File>> {
    let failed = |error| Error::io(&path, "reading", error);
    (&file).rewind().map_err(failed)?;
    let mut lines = BufReader::new(&file);
    let mut line = Vec::new();
    let mut next = || -> Result<Option<(usize, Vec<u8>)>> {
        line.clear();
        let n = lines.read_until(b'\n', &mut line).map_err(failed)?;
        Ok(line.ends_with(b"\n").then(|| (n, line.clone())))
    };
    let Some((n, first)) = next()? else { return Ok(Err(file)) };
    let Ok(then) = serde_json::from_slice::<Header>(&first) else { return Ok(Err(file)) };
    header.check(&then, &path)?;

    let mut progress = Progress::new(header.sources.len());
    let mut texts = FxHashSet::default();
    let mut at = n as u64;
    let mut good = (at, Order::default());
    let begin = |index: usize| -> Result<PartReader> {
        let files = if index < n_retired {
            Files::Retired
        } else {
            part(index)?.map_or(Files::Missing, Files::There)
        };
        Ok(PartReader { order: Order::start(index), files, id_bytes })
    };
    let mut reader = begin(0)?;
    // Records behind which a job cannot go on are added with the next one behind which it can.
    let mut waiting = Vec::new();
    while let Some((n, line)) = next()? {
        control.check()?;
        let Ok(record) = serde_json::from_slice::<Record>(&line) else { break };
        if record.mark.part == reader.order.part + 1 {
            reader = begin(record.mark.part)?;
        }
        if !reader.reach(&record.mark)? {
            break;
        }
        at += n as u64;
        let resumable = record.next.is_some();
        waiting.push(record);
        if resumable {
            for record in waiting.drain(..) {
                progress.apply(&record);
                texts.extend(records::hashes(&record.texts));
            }
            good = (at, reader.order.clone());
        }
    }
    let failed = |error| Error::io(&path, "writing", error);
    file.set_len(good.0).map_err(failed)?;
    (&file).seek(SeekFrom::End(0)).map_err(failed)?;
    Ok(Ok(Resumed { log: Log { file, path }, progress, order: good.1, texts }))
}

/// Reads a part's files from mark to mark.
struct PartReader {
    order: Order,
    files: Files,
    id_bytes: u64,
}

enum Files {
    There(Part),
    Missing,
    Retired,
}

impl PartReader {
    /// Reads on to `mark`; whether the bytes there are those that it tells of.
    fn reach(&mut self, mark: &Mark) -> Result<bool> {
        let order = &mut self.order;
        if mark.part != order.part || mark.n_tokens < order.n_tokens || mark.n_documents < order.n_documents {
            return Ok(false);
        }
        let files = match &self.files {
            Files::There(files) => files,
            Files::Missing => return Ok(false),
            Files::Retired => {
                (order.n_tokens, order.n_documents) = (mark.n_tokens, mark.n_documents);
                return Ok(true);
            }
        };
        let read = hash_on(
            &files.tokens,
            &mut order.tokens,
            order.n_tokens * self.id_bytes,
            mark.n_tokens * self.id_bytes,
        )? && hash_on(&files.ends, &mut order.ends, order.n_documents * 8, mark.n_documents * 8)?
            && self.sidecars(mark)?;
        let order = &mut self.order;
        (order.n_tokens, order.n_documents) = (mark.n_tokens, mark.n_documents);
        Ok(read && order.mark() == *mark)
    }

    fn sidecars(&mut self, mark: &Mark) -> Result<bool> {
        let Files::There(files) = &self.files else { return Ok(false) };
        for (at, (n_bytes, hash)) in self.order.sidecars.iter_mut().enumerate() {
            let to = mark.sidecars[at].map_or(*n_bytes, |tail| tail.n_bytes);
            let read = match &files.sidecars[at] {
                _ if to == *n_bytes => true,
                Some(file) if to > *n_bytes => hash_on(file, hash, *n_bytes, to)?,
                _ => false,
            };
            if !read {
                return Ok(false);
            }
            *n_bytes = to;
        }
        Ok(true)
    }
}

/// Adds the bytes `from..to` of a file to a hash; false if it ends before.
fn hash_on(file: &Named, hash: &mut Xxh3, mut from: u64, to: u64) -> Result<bool> {
    let mut buffer = vec![0; READ_BYTES.min((to - from) as usize)];
    while from < to {
        let len = buffer.len().min((to - from) as usize);
        match file.file.read_exact_at(&mut buffer[..len], from) {
            Ok(()) => hash.update(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(Error::io(&file.path, "reading", error)),
        }
        from += len as u64;
    }
    Ok(true)
}
