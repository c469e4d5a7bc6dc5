//! Compressed files as plain bytes, their parts decoded side by side.
//!
//! ```text
//! walker ─► parts in order ─► claimed by whoever has nothing else to do, decoded, put back ─► read in order
//! ```
//!
//! There are no threads here: a reader who finds that the next bytes are not there yet ([`Read::Starved`])
//! claims the next part ([`Ahead::claim`]), decodes it outside of any lock, and asks again. So as many
//! parts are decoded at a time as workers wait, and a job has no more threads than it was given.
//!
//! What comes out, where it fails and with which error is what [`Unpacked`] makes of the same file: a part that
//! does not decode, or not to the very end of its bytes, is given to one that starts where the part does.
//! Only what is given out before a failure may be more by one read, where that ends with a part: the plain
//! decoder looks behind a border before it returns.
//! Which files have parts: zstd with several frames, BGZF, xz with several blocks, bzip2. Any
//! other file, and any frame or block that is too large to be held, is streamed by [`Unpacked`].
//!
//! Memory: content that is decoded and not read yet, with what is being decoded, is [`BUDGET_PER_THREAD`]
//! for each thread and at most [`BUDGET_MAX_BYTES`]; it is never less than one part.

mod bzip2;
mod gzip;
#[cfg(test)]
mod tests;
mod walk;
mod xz;
mod zstd;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::Opened;
use super::compressed::{Decoder, Hashed, Unpacked, is_shorter};
use super::detect::Compression;
use crate::error::Result;
use crate::job::setting;
use walk::{Form, Limits, Part, Size, Stretch, Walker};

/// Bytes that may be held for each thread of the job.
const BUDGET_PER_THREAD: u64 = 32 << 20;
/// Bytes that may be held, however many threads there are.
const BUDGET_MAX_BYTES: u64 = 256 << 20;
/// Most content of a part whose format does not state how much it is, as a multiple of what was expected.
const UNEXPECTED: u64 = 4;
/// Rooms for content that are kept.
const IDLE_MAX: usize = 2;
/// Content that is decoded at a time: less than most frames have, for zstd decodes a frame that has room for all
/// of its content in another way, which forgives other damage.
const STEP_BYTES: usize = 128 << 10;
/// Content that is read at a time only to come behind it.
const SKIP_BYTES: usize = 1 << 20;

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// As many bytes as were asked for.
    Full,
    /// Fewer: the content ends here.
    End,
    /// Fewer: what comes next is not decoded yet.
    Starved,
}

/// What can be done about [`Read::Starved`].
pub(crate) enum Claim {
    /// Decode this.
    Decode(Claimed),
    /// Read again.
    Again,
    /// Wait until somebody has decoded what they claimed.
    Wait,
}

/// A part that was claimed.
pub(crate) struct Claimed {
    task: Arc<Task>,
    compression: Compression,
    bytes: Vec<u8>,
    /// Room for the content.
    room: Vec<u8>,
}

struct Task {
    stretch: Stretch,
    state: Mutex<State>,
}

enum State {
    Claimed,
    Decoded(Vec<u8>),
    /// It does not decode, or not as its borders promise.
    Failed,
}

/// Parts in their order.
enum Slot {
    Stretch(Arc<Task>),
    /// Content that is not needed: a resumed job has it.
    Passed(Stretch),
    Frame {
        start: u64,
    },
    Rest {
        restart: u64,
    },
}

/// Content that is being read.
#[derive(Default)]
struct Front {
    content: Vec<u8>,
    n_read: usize,
    range: Range<u64>,
    reserved: u64,
}

/// What streams a part.
struct Streamed {
    content: Box<Unpacked>,
    is_frame: bool,
}

/// The content of a source from its start on, decoded ahead where it can be.
pub(crate) struct Ahead {
    source: Arc<Opened>,
    compression: Compression,
    walker: Walker,
    /// A part that the walker gave and for which there was no room yet.
    pending: Option<Part>,
    /// The walker cannot go on before what was found last has been read.
    is_held: bool,
    is_walked: bool,
    hashed: Hashed,
    budget: u64,
    reserved: u64,
    queue: VecDeque<Slot>,
    front: Front,
    /// What earlier content was in, whose pages need not be made anew.
    idle: Vec<Vec<u8>>,
    streamed: Option<Streamed>,
    /// Bytes of the content that were given out or passed over.
    n_bytes: u64,
    /// Those before are not wanted.
    skip_to: u64,
    /// Bytes of the content before the part that the walker comes to next, where they are known.
    walked_content: Option<u64>,
    /// Where the plain decoder would have to start for what is read now: in the file, and in the content.
    restart: (u64, u64),
}

impl Ahead {
    pub(crate) fn new(source: Arc<Opened>, compression: Compression, n_threads: usize) -> Self {
        let budget = (BUDGET_PER_THREAD * n_threads as u64).clamp(BUDGET_PER_THREAD, BUDGET_MAX_BYTES);
        let limits = Limits::default();
        let min_bytes = setting("TOKEND_PART_BYTES", limits.min_bytes);
        Self::with_limits(source, compression, budget, Limits { min_bytes, ..limits })
    }

    fn with_limits(source: Arc<Opened>, compression: Compression, budget: u64, limits: Limits) -> Self {
        Self {
            walker: Walker::new(&source, compression, limits),
            source,
            compression,
            pending: None,
            is_held: false,
            is_walked: false,
            hashed: Hashed::default(),
            budget,
            reserved: 0,
            queue: VecDeque::new(),
            front: Front::default(),
            idle: Vec::new(),
            streamed: None,
            n_bytes: 0,
            skip_to: 0,
            walked_content: Some(0),
            restart: (0, 0),
        }
    }

    pub(crate) fn source(&self) -> &Arc<Opened> {
        &self.source
    }

    /// Begins behind the first `offset_bytes` of the content, where an interrupted run had come to; before
    /// anything is read.
    pub(crate) fn skip_to(&mut self, offset_bytes: u64) {
        self.skip_to = offset_bytes;
    }

    /// Appends up to `n_bytes` of the content to `out`.
    pub(crate) fn read(&mut self, n_bytes: usize, out: &mut Vec<u8>) -> Result<Read> {
        let wanted = out.len() + n_bytes;
        while self.n_bytes < self.skip_to {
            let mut passed = Vec::new();
            let left = (self.skip_to - self.n_bytes).min(SKIP_BYTES as u64) as usize;
            match self.some(left, &mut passed)? {
                Read::End => return Err(is_shorter(&self.source)),
                Read::Starved => return Ok(Read::Starved),
                Read::Full => {}
            }
        }
        while out.len() < wanted {
            let read = self.some(wanted - out.len(), out)?;
            if read != Read::Full {
                return Ok(read);
            }
        }
        Ok(Read::Full)
    }

    /// Appends some bytes, `most` at most, to `out`, or makes another step towards them.
    fn some(&mut self, most: usize, out: &mut Vec<u8>) -> Result<Read> {
        let Front { content, n_read, .. } = &mut self.front;
        if *n_read < content.len() {
            let n = most.min(content.len() - *n_read);
            out.extend_from_slice(&content[*n_read..*n_read + n]);
            *n_read += n;
            self.n_bytes += n as u64;
            return Ok(Read::Full);
        }
        if let Some(Streamed { content, is_frame }) = &mut self.streamed {
            let n = content.read(most, out)?;
            self.n_bytes += n as u64;
            if n == 0 && !*is_frame {
                return Ok(Read::End);
            }
            if n == 0 {
                self.end_frame();
            }
            return Ok(Read::Full);
        }
        self.reserved -= std::mem::take(&mut self.front.reserved);
        let room = std::mem::take(&mut self.front.content);
        self.front.n_read = 0;
        if room.capacity() > 0 && self.idle.len() < IDLE_MAX {
            self.idle.push(room);
        }
        self.next_part()
    }

    /// Goes on with the part that is next in the queue.
    fn next_part(&mut self) -> Result<Read> {
        let stretch = match self.queue.front() {
            None if self.is_walked => return Ok(Read::End),
            None => return Ok(Read::Starved),
            Some(Slot::Frame { start }) => {
                let hashed = std::mem::take(&mut self.hashed);
                let content = Box::new(Unpacked::frame_at(Arc::clone(&self.source), *start, hashed)?);
                self.streamed = Some(Streamed { content, is_frame: true });
                self.queue.clear();
                return Ok(Read::Full);
            }
            Some(Slot::Rest { restart }) => {
                let restart = *restart;
                return self.stream_from(restart);
            }
            Some(Slot::Passed(stretch)) => stretch,
            Some(Slot::Stretch(task)) => &task.stretch,
        };
        let (restart, range, size) = (stretch.restart, stretch.range.clone(), stretch.size);
        if restart != self.restart.0 {
            self.restart = (restart, self.n_bytes);
        }
        let decoded = if let Some(Slot::Stretch(task)) = self.queue.front() {
            let mut state = task.state.lock().unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *state, State::Claimed) {
                State::Claimed => return Ok(Read::Starved),
                State::Failed => None,
                State::Decoded(content) => Some(content),
            }
        } else {
            self.n_bytes += size.n_bytes;
            Some(Vec::new())
        };
        let Some(content) = decoded else { return self.stream_from(restart) };
        let is_passed = matches!(self.queue.pop_front(), Some(Slot::Passed(_)));
        let reserved = if is_passed { 0 } else { reserve(&range, size) };
        self.front = Front { content, n_read: 0, range, reserved };
        Ok(Read::Full)
    }

    /// Streams what follows with a plain decoder, which has to start at `restart`.
    fn stream_from(&mut self, restart: u64) -> Result<Read> {
        if restart != self.restart.0 {
            self.restart = (restart, self.n_bytes);
        }
        self.queue.clear();
        self.pending = None;
        self.is_held = true;
        self.reserved = 0;
        self.front = Front::default();
        let hashed = std::mem::take(&mut self.hashed);
        let mut content = Unpacked::at(Arc::clone(&self.source), self.compression, restart, hashed)?;
        content.skip_to(self.n_bytes - self.restart.1)?;
        self.streamed = Some(Streamed { content: Box::new(content), is_frame: false });
        Ok(Read::Full)
    }

    /// Walks on behind a frame that was streamed.
    fn end_frame(&mut self) {
        let Some(Streamed { content, .. }) = self.streamed.take() else { return };
        let end = content.n_file_bytes();
        self.hashed = content.into_hashed();
        self.walker.go_on_at(end);
        self.front = Front { range: end..end, ..Front::default() };
        self.walked_content = Some(self.n_bytes);
        self.is_held = false;
    }

    /// What to do when a read was starved.
    pub(crate) fn claim(&mut self) -> Result<Claim> {
        if self.is_held || self.is_walked {
            return Ok(Claim::Wait);
        }
        let part = match self.pending.take() {
            Some(part) => part,
            None => self.walker.next()?,
        };
        let stretch = match part {
            Part::Stretch(stretch) => stretch,
            Part::Frame { start } => {
                self.is_held = true;
                self.queue.push_back(Slot::Frame { start });
                return Ok(Claim::Again);
            }
            Part::Rest { restart } => {
                self.is_held = true;
                self.queue.push_back(Slot::Rest { restart });
                return Ok(Claim::Again);
            }
            Part::End => {
                self.is_walked = true;
                return Ok(Claim::Again);
            }
        };
        let needed = reserve(&stretch.range, stretch.size);
        if !self.queue.is_empty() && self.reserved + needed > self.budget {
            self.pending = Some(Part::Stretch(stretch));
            return Ok(Claim::Wait);
        }
        let mut bytes = Vec::new();
        self.source.read(stretch.range.start, stretch.range.end, &mut bytes)?;
        self.hashed.add(stretch.range.start, &bytes);
        self.walked_content = self.walked_content.filter(|_| stretch.size.is_exact);
        if let Some(content) = &mut self.walked_content {
            *content += stretch.size.n_bytes;
            // What states no content may still be damaged, and no run before need have come to it.
            if stretch.size.n_bytes > 0 && *content <= self.skip_to {
                self.queue.push_back(Slot::Passed(stretch));
                return Ok(Claim::Again);
            }
        }
        self.reserved += needed;
        let task = Arc::new(Task { stretch, state: Mutex::new(State::Claimed) });
        self.queue.push_back(Slot::Stretch(Arc::clone(&task)));
        let room = self.idle.pop().unwrap_or_default();
        Ok(Claim::Decode(Claimed { task, compression: self.compression, bytes, room }))
    }

    /// Bytes of the file that the content read so far was made of.
    pub(crate) fn n_file_bytes(&self) -> u64 {
        if let Some(streamed) = &self.streamed {
            return streamed.content.n_file_bytes();
        }
        let Front { content, n_read, range, .. } = &self.front;
        let len = range.end - range.start;
        let share = (*n_read as f64 / content.len().max(1) as f64).min(1.0);
        if *n_read == content.len() { range.end } else { range.start + (len as f64 * share) as u64 }
    }

    /// Bytes of the file that were read so far, and their XXH3-64.
    pub(crate) fn taken(&self) -> (u64, u64) {
        self.streamed.as_ref().map_or_else(
            || (self.hashed.n_bytes, self.hashed.hash.digest()),
            |streamed| streamed.content.taken(),
        )
    }
}

/// What a stretch may need while it is decoded and until it is read.
fn reserve(range: &Range<u64>, size: Size) -> u64 {
    range.end - range.start + size.n_bytes
}

impl Claimed {
    /// Decodes it, and puts the content where its reader finds it; nothing else need be locked. Somebody
    /// who waits has to be woken afterwards.
    pub(crate) fn decode(self) {
        let Self { task, compression, bytes, room } = self;
        // Should this thread end early, the reader finds that it failed.
        let settle = Settle { task: &task, state: State::Failed };
        if let Some(content) = content_of(&task.stretch, compression, bytes, room) {
            settle.with(State::Decoded(content));
        }
    }
}

struct Settle<'a> {
    task: &'a Task,
    state: State,
}

impl Settle<'_> {
    fn with(mut self, state: State) {
        self.state = state;
    }
}

impl Drop for Settle<'_> {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Failed);
        *self.task.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// The content of a stretch of these bytes, if it is what a plain decoder would make of them, to the last byte.
fn content_of(
    stretch: &Stretch,
    compression: Compression,
    bytes: Vec<u8>,
    mut content: Vec<u8>,
) -> Option<Vec<u8>> {
    let bytes = match &stretch.form {
        Form::Whole | Form::Checked => bytes,
        Form::Xz(blocks) => blocks.streams(&bytes),
        Form::Bzip2(blocks) => blocks.streams(&bytes),
    };
    let Size { n_bytes, is_exact } = stretch.size;
    let expected = usize::try_from(n_bytes).ok()?;
    if bytes.is_empty() {
        return (expected == 0 || !is_exact).then(Vec::new);
    }
    if let (Form::Checked, Compression::Zstd) = (&stretch.form, compression) {
        content.clear();
        content.reserve(expected);
        let mut decoder = ::zstd::bulk::Decompressor::new().ok()?;
        decoder.decompress_to_buffer(&bytes, &mut content).ok()?;
        return (content.len() == expected || !is_exact && content.len() < expected).then_some(content);
    }
    let most = if is_exact { expected } else { expected.saturating_mul(UNEXPECTED as usize) };
    let mut decoder = Decoder::new(&*bytes, compression).ok()?;
    content.resize(expected, 0);
    let mut len = 0;
    loop {
        if len == content.len() {
            // One more byte tells whether this is the end.
            content.resize(if is_exact { len + 1 } else { (2 * len).max(1 << 16) }, 0);
        }
        let room = (content.len() - len).min(STEP_BYTES);
        match decoder.read(&mut content[len..len + room]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
        if len > most {
            return None;
        }
    }
    content.truncate(len);
    (!is_exact || content.len() == expected).then_some(content)
}
