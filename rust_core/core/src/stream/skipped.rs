//! The list of what was left out, `OUT.skipped.jsonl`; its layout stands in `job::records`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use super::parts::Tail;
use crate::error::{Error, Result};
use crate::job::checkpoint::Log;
use crate::job::records::SkipKind;
use crate::job::sink::Target;

/// One entry.
#[derive(Serialize)]
struct Entry<'a> {
    kind: SkipKind,
    path: &'a Path,
    line: u64,
    offset_bytes: Option<u64>,
    reason: &'a str,
}

/// Writes to a file and hashes what it writes.
struct Hashed<'a> {
    file: &'a File,
    tail: Tail,
    hash: Xxh3,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = (&mut self.file).write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.tail.n_bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes the list into a new file, called `path` in messages, from a job's checkpoint; syncs it.
pub(super) fn write(target: &Target<'_>, log: &Log, file: &File, path: &Path) -> Result<Tail> {
    let failed = |error| Error::io(path, "writing", error);
    let mut out = BufWriter::new(Hashed { file, tail: Tail::default(), hash: Xxh3::new() });
    log.each_skip(|skip| {
        let source = &target.sources[skip.source];
        let entry = Entry {
            kind: skip.kind,
            path: &source.path,
            line: skip.line,
            offset_bytes: skip.offset_bytes.filter(|_| !source.kind.content.is_columnar()),
            reason: &skip.reason,
        };
        let json = serde_json::to_vec(&entry).map_err(|error| Error::Internal { what: error.to_string() })?;
        out.write_all(&json).and_then(|()| out.write_all(b"\n")).map_err(failed)
    })?;
    out.flush().map_err(failed)?;
    let Hashed { tail, hash, .. } = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(|error| Error::io(path, "fsync", error))?;
    Ok(Tail { xxh3: hash.digest(), ..tail })
}
