//! Putting results in order.
//!
//! Workers finish in any order; the output has one. A finished block whose turn has not come is
//! parked. Whoever brings the block whose turn it is commits it and all parked ones that follow:
//! under the lock it only assigns places and runs the checksums (memory speed); the writes happen
//! after the lock is released, side by side.
//!
//! Once a block and all before it are written, its record goes to the checkpoint log. A thread of its
//! own ([`Committer::keep`]) makes what was written durable every so many bytes or seconds, so that
//! no worker ever waits for the disk's caches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;
use xxhash_rust::xxh3::Xxh3;

use super::buffers::{Buffers, Pool};
use super::checkpoint::{Log, Position, Progress, Record, Share};
use super::places::Places;
use super::records::Made;
use super::sink::Sink;
use super::work::STREAM_BYTES;
use super::{Control, setting};
use crate::documents::DocumentEncoder;
use crate::error::Result;
use crate::input::Opened;
use crate::lane::{Lane, as_bytes};
use crate::stream::parts::{self, Piece, Place};

/// Finished blocks that may wait for their turn; a worker that would add one more waits itself.
const PARKED_MAX: usize = 32;
/// Input between two commits, at most about.
const COMMIT_BYTES: u64 = 64 << 20;
/// Time between two commits of a job that makes progress.
const COMMIT_MS: u64 = 2000;
/// Chunks after which the disk is asked to begin writing, so that the last fsync finds little to do.
const WRITE_BACK_CHUNKS: u64 = 4;

/// The result of one piece of work.
pub(super) struct Block<L> {
    /// Ids, ends, and the text that they were made of.
    pub(super) made: Buffers<L>,
    pub(super) shares: Vec<Share>,
    /// `made.text` is the bytes of the one source in `shares`, whose hash is not known yet.
    pub(super) is_to_be_hashed: bool,
    pub(super) n_bytes: u64,
    /// Where the input stands behind the block, if a job can go on from there.
    pub(super) next: Option<Position>,
    /// The source of the text, if this is its end.
    pub(super) ended: Option<Arc<Opened>>,
    /// What else there is if these are records of the one source in `shares`.
    pub(super) records: Option<Box<Made>>,
    /// Of text that is no records: where each document's text ended in its source.
    pub(super) text_ends: Vec<u64>,
}

impl<L: Lane> Block<L> {
    /// Takes the ids and ends out of `documents`; `text` is what they were made of.
    pub(super) fn new(
        documents: &mut DocumentEncoder<'_, L>,
        text: Vec<u8>,
        shares: Vec<Share>,
        n_bytes: u64,
    ) -> Self {
        let (ids, ends) = (std::mem::take(&mut documents.ids), std::mem::take(&mut documents.ends));
        let made = Buffers { text, ids, ends, scratch: Vec::new() };
        let text_ends = std::mem::take(&mut documents.text_ends);
        Self {
            made,
            shares,
            is_to_be_hashed: false,
            n_bytes,
            next: None,
            ended: None,
            records: None,
            text_ends,
        }
    }
}

pub(super) struct Committer<'a, L> {
    sink: &'a dyn Sink,
    control: &'a Control,
    pool: Pool<L>,
    state: Mutex<State<L>>,
    turn: Condvar,
    stopped: AtomicBool,
    written: Mutex<Written>,
    /// Wakes the keeper: there is something to write back, or the end has come.
    wake: Condvar,
    /// Input that an earlier run had read.
    began_bytes: u64,
    /// Input after which writing back is asked for.
    write_back_bytes: u64,
    /// Whether this is the output whose progress is the job's.
    is_counted: bool,
}

/// What was put in order.
struct State<L> {
    next: u64,
    n_tokens: u64,
    n_blocks: u64,
    source_hash: Xxh3,
    hashing: usize,
    /// A source, and its lines that are done.
    lines: (usize, u64),
    /// Where documents of text stand, if that is kept.
    places: Option<Places>,
    /// An end-of-text id that goes before the first document of the output.
    leading_id: Option<u32>,
    /// Hashes of the texts that are in the output, where duplicates are left out.
    texts: FxHashSet<u128>,
    /// Blocks whose turn has not come; `None`: one that is not needed.
    parked: BTreeMap<u64, Option<Block<L>>>,
}

/// What is in the files.
struct Written {
    log: Log,
    progress: Progress,
    /// Records of blocks that are written, from the first that is not on; `None`: not written yet.
    records: VecDeque<Option<Record>>,
    n_logged: u64,
    /// `progress.n_bytes` at which the keeper is woken to start writing back.
    write_back_at: u64,
    /// Whether a job can go on behind the last record.
    is_resumable: bool,
    is_finished: bool,
}

/// A committed block on its way to the disk.
struct Write<L> {
    made: Buffers<L>,
    number: u64,
    place: Place,
    record: Record,
    ended: Option<Arc<Opened>>,
    docs: Vec<u64>,
    id_lines: Vec<u8>,
}

impl<L: Lane> Write<L> {
    fn piece(&self) -> Piece<'_> {
        piece(&self.made, &self.docs, &self.id_lines)
    }
}

fn piece<'a, L: Lane>(made: &'a Buffers<L>, docs: &'a [u64], id_lines: &'a [u8]) -> Piece<'a> {
    Piece { ids: as_bytes(&made.ids), ends: &made.ends, sidecars: [parts::as_bytes(docs), id_lines] }
}

impl<'a, L: Lane> Committer<'a, L> {
    /// Goes on from `progress`; `source_hash` is that of the bytes read of the source under way, `texts`
    /// are those of the output so far, and blocks are of about `chunk_bytes` of text. `leading_id` goes
    /// before the first document of the output. `separator_bytes` is how long what stands between two documents of
    /// text is, if their places are kept.
    #[expect(clippy::too_many_arguments, reason = "what was found of an earlier run, piece by piece")]
    pub(super) fn new(
        sink: &'a dyn Sink,
        control: &'a Control,
        log: Log,
        progress: Progress,
        source_hash: Xxh3,
        texts: FxHashSet<u128>,
        leading_id: Option<u32>,
        separator_bytes: Option<u64>,
        chunk_bytes: u64,
        is_counted: bool,
    ) -> Self {
        let source = progress.position.source;
        let places = separator_bytes.map(|bytes| Places::new(&progress.position, bytes));
        let n_lines = progress.sources.get(source).map_or(0, |source| source.counts.n_lines());
        let state = State {
            next: 0,
            n_tokens: progress.n_tokens,
            n_blocks: 0,
            source_hash,
            hashing: source,
            lines: (source, n_lines),
            places,
            leading_id,
            texts,
            parked: BTreeMap::new(),
        };
        let write_back_bytes = chunk_bytes * WRITE_BACK_CHUNKS;
        let write_back_at = progress.n_bytes + write_back_bytes;
        Self {
            sink,
            control,
            pool: Pool::new(chunk_bytes.max(STREAM_BYTES)),
            state: Mutex::new(state),
            turn: Condvar::new(),
            stopped: AtomicBool::new(false),
            began_bytes: progress.n_bytes,
            write_back_bytes,
            is_counted,
            written: Mutex::new(Written {
                log,
                progress,
                records: VecDeque::new(),
                n_logged: 0,
                write_back_at,
                is_resumable: true,
                is_finished: false,
            }),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every worker stop after a failure.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let _state = self.lock();
        self.turn.notify_all();
    }

    /// Empty buffers for the next block.
    pub(super) fn buffers(&self) -> Buffers<L> {
        self.pool.take()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Commits a block, or parks it until its turn.
    pub(super) fn commit(&self, sequence: u64, block: Block<L>) -> Result<()> {
        self.settle(sequence, Some(block))
    }

    /// Passes over work of `n_bytes` that an interrupted run has put into the output.
    pub(super) fn skip(&self, sequence: u64, n_bytes: u64) -> Result<()> {
        if self.is_counted {
            self.control.bytes_done.fetch_add(n_bytes, Ordering::Relaxed);
        }
        self.settle(sequence, None)
    }

    fn settle(&self, sequence: u64, block: Option<Block<L>>) -> Result<()> {
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
            if let Some(block) = block {
                writes.push(state.take(block, self.sink)?);
            }
            self.advance(&mut state, &mut writes)?;
        }
        self.write(writes)
    }

    /// Ends the present turn and takes the parked blocks that follow.
    fn advance(&self, state: &mut State<L>, writes: &mut Vec<Write<L>>) -> Result<()> {
        state.next += 1;
        while let Some(block) = {
            let next = state.next;
            state.parked.remove(&next)
        } {
            if let Some(block) = block {
                writes.push(state.take(block, self.sink)?);
            }
            state.next += 1;
        }
        self.turn.notify_all();
        Ok(())
    }

    /// Waits until it is `sequence`'s turn; false when the job has failed meanwhile.
    pub(super) fn await_turn(&self, sequence: u64) -> bool {
        let mut state = self.lock();
        while state.next != sequence && !self.is_stopped() {
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !self.is_stopped()
    }

    /// Lines of a source before the present turn, which is that of one of its lumps.
    pub(super) fn n_lines_before(&self, source: usize) -> u64 {
        let (counted, n_lines) = self.lock().lines;
        if counted == source { n_lines } else { 0 }
    }

    /// Commits a block of the present turn without ending it.
    pub(super) fn append(&self, block: Block<L>) -> Result<()> {
        let write = self.lock().take(block, self.sink)?;
        self.write(vec![write])
    }

    /// Ends the present turn.
    pub(super) fn pass_on(&self) -> Result<()> {
        let mut writes = Vec::new();
        self.advance(&mut self.lock(), &mut writes)?;
        self.write(writes)
    }

    fn write(&self, writes: Vec<Write<L>>) -> Result<()> {
        for write in writes {
            // Everything before in its source has been copied: blocks are taken in order.
            if let (Some(source), Some(share)) = (&write.ended, write.record.shares.last()) {
                source.verify(share.xxh3, self.control)?;
            }
            self.sink.write(write.place, write.piece())?;
            let Write { made, number, record, .. } = write;
            if self.is_counted {
                self.control.bytes_done.fetch_add(record.n_bytes, Ordering::Relaxed);
                self.control.n_tokens.fetch_add(made.ids.len() as u64, Ordering::Relaxed);
                self.control.n_documents.fetch_add(made.ends.len() as u64, Ordering::Relaxed);
                self.control.n_skipped.fetch_add(record.skips.len() as u64, Ordering::Relaxed);
            }
            self.pool.give(made);
            let mut written = self.lock_written();
            written.add(number, record)?;
            if written.progress.n_bytes >= written.write_back_at {
                written.write_back_at = u64::MAX;
                self.wake.notify_one();
            }
        }
        Ok(())
    }

    /// Makes what was written durable and announces it, from time to time, until [`Committer::finish`];
    /// blocks. It is to run on a thread of its own.
    pub(super) fn keep(&self) -> Result<()> {
        let commit_bytes = setting("TOKEND_COMMIT_BYTES", COMMIT_BYTES);
        let commit_time = Duration::from_millis(setting("TOKEND_COMMIT_MS", COMMIT_MS));
        let pause = (commit_time / 4).clamp(Duration::from_millis(1), Duration::from_millis(100));
        // Workers may have written already when this thread begins; what an earlier run wrote it may not
        // have announced.
        let mut last = (Instant::now(), (self.began_bytes == 0).then_some(0), self.began_bytes);
        let (mut n_asked, mut n_committed) = (0, 0);
        loop {
            let mut written = self.lock_written();
            if written.is_finished {
                return Ok(());
            }
            let bytes = written.progress.n_bytes - last.2;
            let wanted = self.control.wanted.load(Ordering::Relaxed);
            let is_wanted = n_committed < wanted && wanted <= written.progress.n_tokens;
            let due = is_wanted || bytes >= commit_bytes || last.0.elapsed() >= commit_time;
            // A position is announced only where a resumed job can reach it.
            if !due || Some(written.n_logged) == last.1 || !written.is_resumable {
                if let (Some(&mark), true) = (written.progress.parts.last(), written.n_logged > n_asked) {
                    n_asked = written.n_logged;
                    written.write_back_at = written.progress.n_bytes + self.write_back_bytes;
                    drop(written);
                    self.sink.start_write_back(&mark);
                    written = self.lock_written();
                }
                // The end may have come meanwhile, with its signal.
                if !written.is_finished {
                    drop(self.wake.wait_timeout(written, pause));
                }
                continue;
            }
            let (progress, n_logged) = (written.progress.clone(), written.n_logged);
            let log = written.log.handle()?;
            drop(written);
            self.sink.sync(&progress)?;
            log.sync()?;
            self.sink.announce(&progress)?;
            last = (Instant::now(), Some(n_logged), progress.n_bytes);
            n_committed = progress.n_tokens;
        }
    }

    /// Ends [`Committer::keep`].
    pub(super) fn finish(&self) {
        self.lock_written().is_finished = true;
        self.wake.notify_all();
    }

    /// What was written, once every worker has returned without an error.
    pub(super) fn into_progress(self) -> Result<Progress> {
        self.control.check()?;
        Ok(self.written.into_inner().unwrap_or_else(PoisonError::into_inner).progress)
    }
}

impl<L: Lane> State<L> {
    fn take(&mut self, block: Block<L>, sink: &dyn Sink) -> Result<Write<L>> {
        let Block { mut made, mut shares, is_to_be_hashed, n_bytes, mut next, ended, mut records, text_ends } =
            block;
        let mut texts = String::new();
        if let (Some(records), [share]) = (&mut records, shares.as_mut_slice()) {
            texts = self.settle(records, share, &mut made);
        }
        let (mut docs, mut id_lines) = (Vec::new(), Vec::new());
        if let Some(records) = &mut records {
            (docs, id_lines) = (std::mem::take(&mut records.docs), std::mem::take(&mut records.ids));
        } else if let Some(places) = &mut self.places {
            docs = places.take(&shares, &text_ends);
            places.note(next.as_mut());
        }
        self.lead(&mut made, &mut shares);
        for end in &mut made.ends {
            *end += self.n_tokens;
        }
        let (place, mark) = sink.place(piece(&made, &docs, &id_lines))?;
        if let ([share], true) = (shares.as_mut_slice(), is_to_be_hashed) {
            if self.hashing != share.source {
                self.hashing = share.source;
                self.source_hash.reset();
            }
            self.source_hash.update(&made.text);
            share.xxh3 = self.source_hash.digest();
        }
        let number = self.n_blocks;
        self.n_blocks += 1;
        self.n_tokens += made.ids.len() as u64;
        let skips = records.as_mut().map(|records| std::mem::take(&mut records.skips)).unwrap_or_default();
        let record = Record { n_bytes, mark, shares, next, skips, texts };
        Ok(Write { made, number, place, record, ended, docs, id_lines })
    }

    /// Completes a block of records, now that its place is known: duplicates are left out, and lines are
    /// counted from the start of the source. Returns the hashes of the texts that stay.
    fn settle(&mut self, records: &mut Made, share: &mut Share, made: &mut Buffers<L>) -> String {
        let mut texts = String::new();
        if !records.texts.is_empty() {
            let Buffers { ids, ends, .. } = made;
            texts = records.leave_out_duplicates(share.source, &mut self.texts, ids, ends);
        }
        (share.n_tokens, share.n_documents) = (made.ids.len() as u64, made.ends.len() as u64);
        share.counts = Some(records.counts);
        if self.lines.0 != share.source {
            self.lines = (share.source, 0);
        }
        for skip in &mut records.skips {
            skip.line += self.lines.1;
        }
        self.lines.1 += records.counts.n_lines();
        texts
    }

    /// Puts the leading end-of-text id before the first document of the output, if it begins here.
    fn lead(&mut self, made: &mut Buffers<L>, shares: &mut [Share]) {
        let Some(id) = self.leading_id else { return };
        if self.n_tokens > 0 || (made.ids.is_empty() && made.ends.is_empty()) {
            return;
        }
        made.ids.insert(0, L::from_id(id));
        for end in &mut made.ends {
            *end += 1;
        }
        let first = shares.iter_mut().find(|share| share.n_tokens > 0 || share.n_documents > 0);
        if let Some(share) = first {
            share.n_tokens += 1;
        }
    }
}

impl Written {
    /// Logs the record of a written block, and those after it that waited for it.
    fn add(&mut self, number: u64, record: Record) -> Result<()> {
        let at = (number - self.n_logged) as usize;
        if self.records.len() <= at {
            self.records.resize(at + 1, None);
        }
        self.records[at] = Some(record);
        while let Some(Some(record)) = self.records.front() {
            self.log.append(record)?;
            self.progress.apply(record);
            self.is_resumable = record.next.is_some();
            self.records.pop_front();
            self.n_logged += 1;
        }
        Ok(())
    }
}
