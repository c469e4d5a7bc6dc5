//! The word cache on disk, so that a new process starts with what earlier ones learned.
//!
//! ```text
//! offset  bytes
//!      0      8   "tokendWC"
//!      8      4   version, u32 LE: changes whenever the same text could have other ids, or entries another form
//!     12      4   bytes of an id: 2 or 4
//!     16     32   the vocabulary's fingerprint
//!     48      8   n, the number of entries
//!     56      8   xxh3 of the entries
//!     64   32*n   entries: key (16 bytes), value (16 bytes), as in memory
//! ```
//!
//! Entries, not the table: they are inserted one by one, so the layout in memory may change, and
//! 300,000 of them take a few milliseconds. A file is written under another name and renamed, read as a
//! whole before anything of it is believed, and ignored if a byte of it is not as it should be, or if
//! it belongs to another user: it is a cache, and can be made again.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::{CLAIMED, Key, Learned, Table, Value};
use crate::error::{Error, Result};
use crate::lane::{Lane, VALUE_BYTES, unpack};

const MAGIC: &[u8; 8] = b"tokendWC";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
/// Most entries of a file: 12 MB. More would crowd the table before a job has said what it needs.
const ENTRIES_MAX: usize = 400_000;
/// How far ahead of its insertion an entry's line is asked for.
const AHEAD: usize = 32;

/// What a file must be for.
pub(crate) struct Owner<'a> {
    pub(crate) fingerprint: &'a str,
    pub(crate) id_bytes: usize,
}

impl Owner<'_> {
    fn header(&self, n_entries: usize, hash: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(self.id_bytes as u32).to_le_bytes());
        for (byte, digits) in header[16..48].iter_mut().zip(self.fingerprint.as_bytes().chunks(2)) {
            *byte =
                std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok()).unwrap_or(0);
        }
        header[48..56].copy_from_slice(&(n_entries as u64).to_le_bytes());
        header[56..].copy_from_slice(&hash.to_le_bytes());
        header
    }
}

/// Writes a table's entries; returns how many.
pub(crate) fn save(table: &Table, owner: &Owner<'_>, path: &Path) -> Result<usize> {
    let mut entries = Vec::new();
    for (key, value) in table.entries().take(ENTRIES_MAX) {
        for word in [key.lo, key.hi, value[0], value[1]] {
            entries.extend_from_slice(&word.to_le_bytes());
        }
    }
    let n_entries = entries.len() / ENTRY_BYTES;
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(&owner.header(n_entries, xxh3_64(&entries)))?;
        file.write_all(&entries)?;
        std::fs::rename(&partial, path)
    };
    write().map(|()| n_entries).map_err(|error| {
        let _ = std::fs::remove_file(&partial);
        Error::io(path, "saving the word cache", error)
    })
}

/// Inserts the entries of a file; `None` if there is none, or if it is not to be believed.
pub(crate) fn load(table: &Table, owner: &Owner<'_>, path: &Path) -> Option<usize> {
    let file = File::open(path).ok()?;
    if file.metadata().ok()?.uid() != rustix::process::getuid().as_raw() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take((HEADER_BYTES + ENTRIES_MAX * ENTRY_BYTES) as u64 + 1).read_to_end(&mut bytes).ok()?;
    let (header, entries) = bytes.split_at_checked(HEADER_BYTES)?;
    let n_entries = entries.len() / ENTRY_BYTES;
    if entries.len() % ENTRY_BYTES != 0 || header != owner.header(n_entries, xxh3_64(entries)) {
        return None;
    }
    let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
    let entries: Vec<(Key, Value)> = entries.iter().map(entry).collect();
    // A hash protects against accidents, not against a program that once wrote nonsense.
    let packed_bytes = if owner.id_bytes == u16::BYTES { u16::PACKED_BYTES } else { u32::PACKED_BYTES };
    let sound = |&(key, value): &(Key, Value)| {
        let (_, n_bytes) = unpack(value);
        key.hi >> 56 == 0xFF
            && key.hi != CLAIMED
            && n_bytes > 0
            && n_bytes.is_multiple_of(packed_bytes)
            && n_bytes < VALUE_BYTES
    };
    if !entries.iter().all(sound) {
        return None;
    }
    let mut learned = Learned::default();
    insert_all(table, &entries, &mut learned);
    table.count_seeded(learned);
    Some(n_entries)
}

fn entry(bytes: &[u8; ENTRY_BYTES]) -> (Key, Value) {
    let (words, _) = bytes.as_chunks::<8>();
    let word = |at: usize| u64::from_le_bytes(words[at]);
    (Key { lo: word(0), hi: word(1) }, [word(2), word(3)])
}

/// Inserts many entries, whose lines are on their way before their turn comes.
pub(crate) fn insert_all(table: &Table, entries: &[(Key, Value)], learned: &mut Learned) {
    for (at, &(key, value)) in entries.iter().enumerate() {
        if let Some(&(ahead, _)) = entries.get(at + AHEAD) {
            table.prefetch(table.slot(ahead));
        }
        table.insert(table.slot(key), key, value, learned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::WordCache;
    use crate::tier;

    fn table() -> std::sync::Arc<Table> {
        WordCache::with_lines(1024, tier::kernels().expect("a tier")).expect("memory").table()
    }

    #[test]
    fn what_was_saved_is_loaded_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("words");
        let fingerprint = "0123456789abcdef".repeat(4);
        let owner = Owner { fingerprint: &fingerprint, id_bytes: 2 };
        let (first, mut learned) = (table(), Learned::default());
        for n in 0..500_u64 {
            let key = Key::new(format!("word{n}").as_bytes());
            first.insert(first.slot(key), key, [n, 2 << 56], &mut learned);
        }
        let n_entries = save(&first, &owner, &path).expect("saved");
        assert_eq!(n_entries, first.entries().count());
        let second = table();
        assert_eq!(load(&second, &owner, &path), Some(n_entries));
        let key = Key::new(b"word7");
        assert_eq!(second.get(second.slot(key), key), Some([7, 2 << 56]));

        let other = Owner { fingerprint: &"f".repeat(64), id_bytes: 2 };
        assert_eq!(load(&table(), &other, &path), None, "another vocabulary");
        assert_eq!(load(&table(), &Owner { id_bytes: 4, ..owner }, &path), None, "another width");
        assert_eq!(load(&table(), &owner, &dir.path().join("none")), None);
        let good = std::fs::read(&path).expect("bytes");
        for at in (0..good.len()).step_by(61).chain([good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).expect("written");
            assert_eq!(load(&table(), &owner, &path), None, "a bit of byte {at} flipped");
            std::fs::write(&path, &good[..at]).expect("written");
            assert_eq!(load(&table(), &owner, &path), None, "cut at {at}");
        }
    }
}
