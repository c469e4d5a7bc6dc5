//! The blocks of an xz file, by the index at the end of each of its streams.
//!
//! ```text
//! stream  header (12): FD "7zXZ" 00 · flags (2) · CRC-32 of the flags
//!         blocks, each filled up to a multiple of 4
//!         index: 00 · number of blocks · for each its unpadded size and its content size (numbers of 7 bits
//!           a byte, the lowest first) · filled up to a multiple of 4 · CRC-32
//!         footer (12): CRC-32 of the next 6 bytes · size of the index / 4 - 1 (4) · flags (2) · "YZ"
//! padding zeros between streams, a multiple of 4
//! ```
//!
//! A block is decoded as a stream of its own, made in memory: the header, the block, an index of one
//! record, a footer. Its decoder checks the record, so blocks that all decode lie where the real index, whose
//! checksum is looked at here, says.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::walk::{Form, Limits, Part, Size, Stretch, number, peek};
use crate::error::Result;
use crate::input::Opened;

const MAGIC: &[u8; 6] = b"\xFD7zXZ\0";
/// Bytes of a header, and of a footer.
const EDGE_BYTES: u64 = 12;
/// Largest index that is read.
const INDEX_MAX_BYTES: u64 = 16 << 20;
/// Most streams of a file that are looked for.
const STREAMS_MAX: usize = 1 << 16;

/// Blocks of a stretch.
#[derive(Debug)]
pub(in crate::input) struct Blocks {
    flags: [u8; 2],
    /// Where each stands in the bytes of the stretch, its padding with it, and what the index says.
    blocks: Vec<(Range<usize>, Record)>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    unpadded: u64,
    content: u64,
}

impl Record {
    fn padded(self) -> u64 {
        self.unpadded.next_multiple_of(4)
    }
}

/// A stream whose index was read.
struct Stream {
    start: u64,
    /// Where the padding behind it ends.
    end: u64,
    flags: [u8; 2],
    records: VecDeque<Record>,
}

pub(super) struct Walker {
    source: Arc<Opened>,
    limits: Limits,
    /// Streams that are not walked over yet; none before the first step.
    streams: Option<VecDeque<Stream>>,
    at: u64,
    /// A block that is too large was met: its stream, and what follows, is streamed.
    rest: Option<u64>,
}

impl Walker {
    pub(super) fn new(source: Arc<Opened>, limits: Limits) -> Self {
        Self { source, limits, streams: None, at: 0, rest: None }
    }

    pub(super) fn next(&mut self) -> Result<Part> {
        if self.streams.is_none() {
            let found = streams(&self.source)?;
            if found.is_none() {
                self.rest = Some(0);
            }
            self.streams = Some(found.unwrap_or_default());
        }
        if let Some(restart) = self.rest {
            return Ok(Part::Rest { restart });
        }
        let Some(Stream { start, end, flags, records }) =
            self.streams.as_mut().and_then(|all| all.front_mut())
        else {
            return Ok(Part::End);
        };
        let (restart, from) = (*start, self.at);
        if self.at == restart {
            self.at += EDGE_BYTES;
        }
        let mut form = Blocks { flags: *flags, blocks: Vec::new() };
        let mut size = Size::NOTHING;
        while let Some(&record) = records.front() {
            let is_large = size.n_bytes + record.content > self.limits.max_bytes
                || self.at - from + record.padded() > self.limits.max_bytes;
            if is_large && form.blocks.is_empty() {
                self.rest = Some(restart);
                return Ok(Part::Rest { restart });
            }
            if is_large || size.n_bytes >= self.limits.min_bytes {
                break;
            }
            let start = (self.at - from) as usize;
            form.blocks.push((start..start + record.padded() as usize, record));
            size.n_bytes += record.content;
            self.at += record.padded();
            records.pop_front();
        }
        if records.is_empty() {
            self.at = *end;
            self.streams.as_mut().and_then(VecDeque::pop_front);
        }
        Ok(Part::Stretch(Stretch { range: from..self.at, size, restart, form: Form::Xz(form) }))
    }
}

/// The streams of a file, from its last one to its first; `None` if they are not as they should be.
fn streams(source: &Opened) -> Result<Option<VecDeque<Stream>>> {
    let mut found = VecDeque::new();
    let mut end = source.size_bytes();
    let mut buffer = Vec::new();
    while end > 0 {
        let Some(stream) = stream_before(source, end, &mut buffer)? else { return Ok(None) };
        end = stream.start;
        found.push_front(stream);
        if found.len() > STREAMS_MAX {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

fn stream_before(source: &Opened, end: u64, buffer: &mut Vec<u8>) -> Result<Option<Stream>> {
    let mut at = end;
    loop {
        if at < 2 * EDGE_BYTES || end - at > INDEX_MAX_BYTES {
            return Ok(None);
        }
        peek::<12>(source, at - EDGE_BYTES, buffer)?;
        if buffer[8..] != [0; 4] {
            break;
        }
        at -= 4;
    }
    let (crc, body, magic) = (number(&buffer[..4]), &buffer[4..10], &buffer[10..]);
    let flags = [body[4], body[5]];
    let n_index = (number(&body[..4]) + 1) * 4;
    if magic != b"YZ" || crc32(body) != crc || n_index > INDEX_MAX_BYTES || at < 2 * EDGE_BYTES + n_index {
        return Ok(None);
    }
    let index_start = at - EDGE_BYTES - n_index;
    source.read(index_start, index_start + n_index, buffer)?;
    let Some(records) = read_index(buffer) else { return Ok(None) };
    let total = records.iter().try_fold(0_u64, |sum, record| sum.checked_add(record.padded()));
    let Some(start) = total.and_then(|total| index_start.checked_sub(total + EDGE_BYTES)) else {
        return Ok(None);
    };
    peek::<12>(source, start, buffer)?;
    let is_header = buffer[..6] == *MAGIC && buffer[6..8] == flags && number(&buffer[8..]) == crc32(&flags);
    Ok(is_header.then_some(Stream { start, end, flags, records }))
}

fn read_index(bytes: &[u8]) -> Option<VecDeque<Record>> {
    let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if body.first() != Some(&0) || crc32(body) != number(crc) {
        return None;
    }
    let mut rest = &body[1..];
    let n_blocks = take_number(&mut rest)?;
    let mut records = VecDeque::new();
    for _ in 0..n_blocks {
        let (unpadded, content) = (take_number(&mut rest)?, take_number(&mut rest)?);
        if unpadded == 0 || unpadded > 1 << 62 || content > 1 << 62 {
            return None;
        }
        records.push_back(Record { unpadded, content });
    }
    (rest.len() < 4 && rest.iter().all(|&byte| byte == 0)).then_some(records)
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl Blocks {
    /// A stream for each block, of the stretch's `bytes`.
    pub(super) fn streams(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 64 * self.blocks.len());
        for (range, record) in &self.blocks {
            out.extend_from_slice(MAGIC);
            out.extend_from_slice(&self.flags);
            out.extend_from_slice(&crc32(&self.flags).to_le_bytes()[..4]);
            out.extend_from_slice(&bytes[range.clone()]);
            let index = out.len();
            out.extend_from_slice(&[0, 1]);
            put_number(record.unpadded, &mut out);
            put_number(record.content, &mut out);
            out.resize(index + (out.len() - index).next_multiple_of(4), 0);
            out.extend_from_slice(&crc32(&out[index..]).to_le_bytes()[..4]);
            let mut footer = ((out.len() - index) as u32 / 4 - 1).to_le_bytes().to_vec();
            footer.extend_from_slice(&self.flags);
            out.extend_from_slice(&crc32(&footer).to_le_bytes()[..4]);
            out.extend_from_slice(&footer);
            out.extend_from_slice(b"YZ");
        }
        out
    }
}

fn crc32(bytes: &[u8]) -> u64 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    u64::from(crc.sum())
}
