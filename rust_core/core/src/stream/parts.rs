//! Ids and document ends, written side by side at their places and hashed in order.
//!
//! An output is one part or several in a row; a part is a file of ids and a file of ends. Blocks come
//! in order to [`Parts::place`], which gives each its place and runs the hashes (memory speed, one at
//! a time), and then to [`Parts::write`], on any thread and in any order. A block never lies in two
//! parts: a part is closed by the first block that fills it, wherever commits fall, so that the same
//! job makes the same files however often it was interrupted.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

/// A file of ids and its file of document ends.
pub(crate) struct Part {
    pub(crate) tokens: Named,
    pub(crate) ends: Named,
}

/// A file and the path that messages name it by.
pub(crate) struct Named {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

impl Named {
    fn write(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset_bytes).map_err(|error| Error::io(&self.path, "writing", error))
    }

    /// Makes what was written durable; after a failure the descriptor must not be used again.
    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io(&self.path, "fsync", error))
    }
}

impl Part {
    pub(crate) fn sync(&self) -> Result<()> {
        self.tokens.sync()?;
        self.ends.sync()
    }
}

/// Where a block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) part: usize,
    /// Within the part.
    pub(crate) first_token: u64,
    pub(crate) first_document: u64,
}

/// How far a part goes, and the hashes of its files up to there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) part: usize,
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
    pub(crate) tokens_xxh3: u64,
    pub(crate) ends_xxh3: u64,
}

/// The part under way, as far as blocks were placed.
#[derive(Clone, Default)]
pub(crate) struct Order {
    pub(crate) part: usize,
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
    pub(crate) tokens: Xxh3,
    pub(crate) ends: Xxh3,
}

impl Order {
    /// The beginning of a part.
    pub(crate) fn start(part: usize) -> Self {
        Self { part, ..Self::default() }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            part: self.part,
            n_tokens: self.n_tokens,
            n_documents: self.n_documents,
            tokens_xxh3: self.tokens.digest(),
            ends_xxh3: self.ends.digest(),
        }
    }
}

/// Makes the files of a part.
type Make = Box<dyn Fn(usize) -> Result<Part> + Send + Sync>;

/// The parts of an output under way.
pub(crate) struct Parts {
    id_bytes: u64,
    part_bytes: u64,
    make: Make,
    order: Mutex<Order>,
    open: Mutex<BTreeMap<usize, Arc<Part>>>,
}

impl Parts {
    /// Goes on from `order`, whose part is `part`. A part that holds `part_bytes` of ids is closed.
    pub(crate) fn new(id_bytes: u64, part_bytes: u64, make: Make, order: Order, part: Arc<Part>) -> Self {
        let open = BTreeMap::from([(order.part, part)]);
        Self { id_bytes, part_bytes, make, order: Mutex::new(order), open: Mutex::new(open) }
    }

    fn lock_open(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<Part>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the next block its place; the mark is how far the output goes with it.
    pub(crate) fn place(&self, ids: &[u8], ends: &[u64]) -> Result<(Place, Mark)> {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.n_tokens * self.id_bytes >= self.part_bytes && !(ids.is_empty() && ends.is_empty()) {
            let part = (self.make)(order.part + 1)?;
            *order = Order::start(order.part + 1);
            self.lock_open().insert(order.part, Arc::new(part));
        }
        let place =
            Place { part: order.part, first_token: order.n_tokens, first_document: order.n_documents };
        order.tokens.update(ids);
        for end in ends {
            order.ends.update(&end.to_le_bytes());
        }
        order.n_tokens += ids.len() as u64 / self.id_bytes;
        order.n_documents += ends.len() as u64;
        Ok((place, order.mark()))
    }

    /// Writes a block at its place.
    pub(crate) fn write(&self, place: Place, ids: &[u8], ends: &[u64]) -> Result<()> {
        let part = self.lock_open().get(&place.part).map(Arc::clone);
        let Some(part) = part else {
            return Err(Error::Internal { what: format!("part {} was closed too early", place.part) });
        };
        part.tokens.write(ids, place.first_token * self.id_bytes)?;
        let ends: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        part.ends.write(&ends, place.first_document * 8)
    }

    /// Makes everything up to the part `last` durable and closes the parts before it. All blocks
    /// placed there have been written.
    pub(crate) fn sync(&self, last: usize) -> Result<()> {
        let parts: Vec<_> =
            self.lock_open().range(..=last).map(|(&index, part)| (index, Arc::clone(part))).collect();
        for (index, part) in parts {
            part.sync()?;
            if index < last {
                self.lock_open().remove(&index);
            }
        }
        Ok(())
    }
}
