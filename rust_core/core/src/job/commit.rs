//! Putting results in order.
//!
//! Workers finish in any order; the output has one. A finished block whose turn has not come is
//! parked. Whoever brings the block whose turn it is commits it and all parked ones that follow:
//! under the lock it only assigns offsets and runs the checksums (memory speed); the writes happen
//! after the lock is released, at their offsets, side by side.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use super::Control;
use crate::documents::DocumentEncoder;
use crate::error::Result;
use crate::lane::{Lane, as_bytes};
use crate::stream::publish::OutputSet;

/// Finished blocks that may wait for their turn; a worker that would add one more waits itself.
const PARKED_MAX: usize = 32;

/// What a block holds of one source.
pub(super) struct Share {
    pub(super) index: usize,
    pub(super) n_tokens: u64,
    pub(super) n_documents: u64,
    /// Hash of the source's bytes, where the block holds the whole source.
    pub(super) xxh3: Option<u64>,
}

/// The result of one piece of work.
pub(super) struct Block<L> {
    ids: Vec<L>,
    ends: Vec<u64>,
    shares: Vec<Share>,
    /// The source's bytes, where its hash is not known yet.
    text: Vec<u8>,
    n_bytes: u64,
}

impl<L: Lane> Block<L> {
    /// Takes the ids and ends out of `documents`.
    pub(super) fn new(
        documents: &mut DocumentEncoder<'_, L>,
        shares: Vec<Share>,
        text: Vec<u8>,
        n_bytes: u64,
    ) -> Self {
        let ids = std::mem::take(&mut documents.ids);
        Self { ids, ends: std::mem::take(&mut documents.ends), shares, text, n_bytes }
    }
}

/// What is known of a source once it is done.
#[derive(Clone, Default)]
pub(crate) struct SourceTotals {
    pub(crate) xxh3: u64,
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
}

/// What is known of an output once it is written.
pub(crate) struct Totals {
    pub(crate) n_tokens: u64,
    pub(crate) n_documents: u64,
    pub(crate) data_xxh3: u64,
    pub(crate) ends_xxh3: u64,
    pub(crate) sources: Vec<SourceTotals>,
}

pub(super) struct Committer<'a, L> {
    output: &'a OutputSet,
    control: &'a Control,
    state: Mutex<State<L>>,
    turn: Condvar,
    stopped: AtomicBool,
}

struct State<L> {
    next: u64,
    n_tokens: u64,
    n_documents: u64,
    data_hash: Xxh3,
    ends_hash: Xxh3,
    source_hash: Xxh3,
    hashing: usize,
    sources: Vec<SourceTotals>,
    parked: BTreeMap<u64, Block<L>>,
}

/// A committed block on its way to the disk.
struct Write<L> {
    ids: Vec<L>,
    ends: Vec<u64>,
    first_token: u64,
    first_document: u64,
    n_bytes: u64,
}

impl<'a, L: Lane> Committer<'a, L> {
    pub(super) fn new(output: &'a OutputSet, n_sources: usize, control: &'a Control) -> Self {
        let state = State {
            next: 0,
            n_tokens: 0,
            n_documents: 0,
            data_hash: Xxh3::new(),
            ends_hash: Xxh3::new(),
            source_hash: Xxh3::new(),
            hashing: usize::MAX,
            sources: vec![SourceTotals::default(); n_sources],
            parked: BTreeMap::new(),
        };
        Self {
            output,
            control,
            state: Mutex::new(state),
            turn: Condvar::new(),
            stopped: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every worker stop after a failure.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let _state = self.lock();
        self.turn.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Commits a block, or parks it until its turn.
    pub(super) fn commit(&self, sequence: u64, block: Block<L>) -> Result<()> {
        let mut writes = Vec::new();
        {
            let mut state = self.lock();
            while sequence != state.next && state.parked.len() >= PARKED_MAX && !self.is_stopped() {
                state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if sequence != state.next {
                state.parked.insert(sequence, block);
                return Ok(());
            }
            writes.push(state.take(block));
            self.advance(&mut state, &mut writes);
        }
        self.write(&writes)
    }

    /// Ends the present turn and takes the parked blocks that follow.
    fn advance(&self, state: &mut State<L>, writes: &mut Vec<Write<L>>) {
        state.next += 1;
        while let Some(block) = {
            let next = state.next;
            state.parked.remove(&next)
        } {
            writes.push(state.take(block));
            state.next += 1;
        }
        self.turn.notify_all();
    }

    /// Waits until it is `sequence`'s turn; false when the job has failed meanwhile.
    pub(super) fn await_turn(&self, sequence: u64) -> bool {
        let mut state = self.lock();
        while state.next != sequence && !self.is_stopped() {
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !self.is_stopped()
    }

    /// Commits a block of the present turn without ending it.
    pub(super) fn append(&self, block: Block<L>) -> Result<()> {
        let write = self.lock().take(block);
        self.write(&[write])
    }

    /// Ends the present turn.
    pub(super) fn pass_on(&self) -> Result<()> {
        let mut writes = Vec::new();
        self.advance(&mut self.lock(), &mut writes);
        self.write(&writes)
    }

    fn write(&self, writes: &[Write<L>]) -> Result<()> {
        for write in writes {
            self.output.write_data(as_bytes(&write.ids), write.first_token * L::BYTES as u64)?;
            let ends: Vec<u8> = write.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
            self.output.write_ends(&ends, write.first_document * 8)?;
            self.control.bytes_done.fetch_add(write.n_bytes, Ordering::Relaxed);
            self.control.n_tokens.fetch_add(write.ids.len() as u64, Ordering::Relaxed);
            self.control.n_documents.fetch_add(write.ends.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What was written, once every worker has returned without an error.
    pub(super) fn finish(self) -> Result<Totals> {
        self.control.check()?;
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.end_source_hash();
        Ok(Totals {
            n_tokens: state.n_tokens,
            n_documents: state.n_documents,
            data_xxh3: state.data_hash.digest(),
            ends_xxh3: state.ends_hash.digest(),
            sources: state.sources,
        })
    }
}

impl<L: Lane> State<L> {
    fn take(&mut self, block: Block<L>) -> Write<L> {
        let Block { ids, mut ends, shares, text, n_bytes } = block;
        self.data_hash.update(as_bytes(&ids));
        for end in &mut ends {
            *end += self.n_tokens;
            self.ends_hash.update(&end.to_le_bytes());
        }
        for share in shares {
            let source = &mut self.sources[share.index];
            source.n_tokens += share.n_tokens;
            source.n_documents += share.n_documents;
            match share.xxh3 {
                Some(xxh3) => source.xxh3 = xxh3,
                None => self.hash_source(share.index, &text),
            }
        }
        let write =
            Write { first_token: self.n_tokens, first_document: self.n_documents, n_bytes, ids, ends };
        self.n_tokens += write.ids.len() as u64;
        self.n_documents += write.ends.len() as u64;
        write
    }

    fn hash_source(&mut self, index: usize, text: &[u8]) {
        if self.hashing != index {
            self.end_source_hash();
            self.hashing = index;
        }
        self.source_hash.update(text);
    }

    fn end_source_hash(&mut self) {
        if let Some(source) = self.sources.get_mut(self.hashing) {
            source.xxh3 = self.source_hash.digest();
        }
        self.source_hash.reset();
    }
}
