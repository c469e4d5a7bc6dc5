//! The blocks of a bzip2 file, by their magic numbers, which stand at any bit.
//!
//! ```text
//! stream  "BZh" · level '1' to '9' (a block holds so many 100,000 bytes)
//!         blocks: 31 41 59 26 53 59 · CRC-32 (4) · data, of any number of bits
//!         end: 17 72 45 38 50 90 · CRC of the stream (4) · filled up to a byte
//! ```
//!
//! Bits are counted from the highest of each byte. A block is decoded as a stream of its own, shifted to where
//! bytes begin, with an end behind it. Data that looks like a magic number (one in 2^48 bits) makes a block
//! that does not decode, and then the plain decoder takes the stream. The CRC of a stream follows
//! from those of its blocks, which their decoder checks: rotated by one bit and added without carry, one after another.

use std::sync::{Arc, LazyLock};

use aho_corasick::AhoCorasick;

use super::walk::{Form, Limits, Part, Size, Stretch, peek};
use crate::error::Result;
use crate::input::Opened;

const BLOCK: u64 = 0x3141_5926_5359;
const END: u64 = 0x1772_4538_5090;
/// Bits of a magic number with the CRC behind it.
const HEAD_BITS: u64 = 80;
/// No block of the highest level is as long.
const BLOCK_MAX_BYTES: u64 = 4 << 20;
/// Bytes that are searched at a time.
const WINDOW_BYTES: u64 = 256 << 10;
/// Content that is expected of a block per 100,000 bytes of the level: runs make it more.
const CONTENT_BYTES_PER_LEVEL: u64 = 200_000;

/// The middle five bytes of both magic numbers, at each of eight bits.
static MIDDLES: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let middles = (0..8).flat_map(|shift| {
        [BLOCK, END].map(|magic| (u128::from(magic) << (80 - shift)).to_be_bytes()[1..6].to_vec())
    });
    AhoCorasick::new(middles).ok()
});

/// Blocks of a stretch: its level, and the bits of its bytes between which each stands.
#[derive(Debug)]
pub(in crate::input) struct Blocks {
    level: u8,
    bits: Vec<(u64, u64)>,
}

pub(super) struct Walker {
    source: Arc<Opened>,
    limits: Limits,
    at: u64,
    /// The stream under way.
    stream: Option<Stream>,
    rest: Option<u64>,
}

struct Stream {
    start: u64,
    level: u8,
    /// The bit at which the next block or the end stands.
    at_bit: u64,
    crc: u32,
}

/// A magic number that was found.
struct Found {
    at_bit: u64,
    is_end: bool,
    crc: u32,
}

impl Walker {
    pub(super) fn new(source: Arc<Opened>, limits: Limits) -> Self {
        Self { source, limits, at: 0, stream: None, rest: None }
    }

    pub(super) fn next(&mut self) -> Result<Part> {
        if self.rest.is_none() && self.at == self.source.size_bytes() {
            return Ok(Part::End);
        }
        if self.rest.is_none()
            && let Some(stretch) = self.stretch()?
        {
            return Ok(Part::Stretch(stretch));
        }
        let start = self.stream.as_ref().map_or(self.at, |stream| stream.start);
        Ok(Part::Rest { restart: *self.rest.get_or_insert(start) })
    }

    /// The next blocks; `None` if what stands here is not as it should be.
    fn stretch(&mut self) -> Result<Option<Stretch>> {
        let from = self.at;
        if self.stream.is_none() {
            let mut head = Vec::new();
            peek::<4>(&self.source, from, &mut head)?;
            let [b'B', b'Z', b'h', level @ b'1'..=b'9'] = *head.as_slice() else { return Ok(None) };
            self.stream = Some(Stream { start: from, level, at_bit: (from + 4) * 8, crc: 0 });
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let mut form = Blocks { level: stream.level, bits: Vec::new() };
        let mut size = Size { n_bytes: 0, is_exact: false };
        let Some(mut here) = found_at(&self.source, stream.at_bit)? else { return Ok(None) };
        let restart = stream.start;
        let end = loop {
            if here.is_end {
                if here.crc != stream.crc {
                    return Ok(None);
                }
                let end = (here.at_bit + HEAD_BITS).div_ceil(8);
                self.stream = None;
                break end;
            }
            let enough = size.n_bytes >= self.limits.min_bytes;
            if enough {
                break here.at_bit.div_ceil(8);
            }
            let Some(next) = find(&self.source, here.at_bit + HEAD_BITS)? else { return Ok(None) };
            form.bits.push((here.at_bit - from * 8, next.at_bit - from * 8));
            size.n_bytes += u64::from(stream.level - b'0') * CONTENT_BYTES_PER_LEVEL;
            stream.crc = stream.crc.rotate_left(1) ^ here.crc;
            stream.at_bit = next.at_bit;
            here = next;
        };
        // The next one begins in the byte in which this one ends.
        self.at = self.stream.as_ref().map_or(end, |stream| stream.at_bit / 8);
        Ok(Some(Stretch { range: from..end, size, restart, form: Form::Bzip2(form) }))
    }
}

/// The magic number at a bit, if there is one.
fn found_at(source: &Opened, at_bit: u64) -> Result<Option<Found>> {
    let mut bytes = Vec::new();
    peek::<11>(source, at_bit / 8, &mut bytes)?;
    if (at_bit % 8 + HEAD_BITS).div_ceil(8) > bytes.len() as u64 {
        return Ok(None);
    }
    bytes.resize(16, 0);
    let bits = u128::from_be_bytes(bytes.try_into().unwrap_or_default()) << (at_bit % 8);
    let is_end = match (bits >> 80) as u64 {
        BLOCK => false,
        END => true,
        _ => return Ok(None),
    };
    Ok(Some(Found { at_bit, is_end, crc: (bits >> 48) as u32 }))
}

/// The first magic number at a bit or behind it; `None` if there is none where one must be.
fn find(source: &Opened, from_bit: u64) -> Result<Option<Found>> {
    let Some(middles) = &*MIDDLES else { return Ok(None) };
    let (mut start, mut window) = (from_bit / 8, Vec::new());
    let size = source.size_bytes();
    while start < size && start - from_bit / 8 < BLOCK_MAX_BYTES {
        let end = (start + WINDOW_BYTES).min(size);
        source.read(start, end, &mut window)?;
        let mut at = 0;
        while let Some(found) = middles.find(&window[at..]) {
            let middle = at + found.start();
            // Pattern 2 n and 2 n + 1 are shifted by n bits; the middle begins with their second byte.
            let at_bit = ((start + middle as u64) * 8 + (found.pattern().as_u64() / 2)).checked_sub(8);
            if let Some(at_bit) = at_bit.filter(|&bit| bit >= from_bit)
                && let Some(found) = found_at(source, at_bit)?
            {
                return Ok(Some(found));
            }
            at = middle + 1;
        }
        if end == size {
            break;
        }
        // A middle may begin in the last bytes.
        start = end - 8;
    }
    Ok(None)
}

impl Blocks {
    /// A stream for each block, of the stretch's `bytes`.
    pub(super) fn streams(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 32 * self.bits.len() + 32);
        for &(start, end) in &self.bits {
            out.extend_from_slice(b"BZh");
            out.push(self.level);
            push_block(bytes, start, end, &mut out);
        }
        out
    }
}

/// Adds the bits `start..end` of `bytes`, which are a block, and the end of a stream.
fn push_block(bytes: &[u8], start: u64, end: u64, out: &mut Vec<u8>) {
    let shift = (start % 8) as u32;
    let byte = |at: u64| {
        let pair = |at: u64| u32::from(bytes.get(at as usize).copied().unwrap_or_default());
        ((pair(at) << 8 | pair(at + 1)) << shift >> 8) as u8
    };
    let (from, n_bits) = (start / 8, end - start);
    let block = out.len();
    let (whole, left) = (n_bits / 8, (n_bits % 8) as u32);
    let source = &bytes[from as usize..];
    if shift == 0 {
        out.extend_from_slice(&source[..whole as usize]);
    } else {
        let pairs = source.iter().zip(&source[1..]).take(whole as usize);
        out.extend(pairs.map(|(&high, &low)| high << shift | low >> (8 - shift)));
    }
    // What is left of the block, then the end, as one number.
    let crc = out
        .get(block + 6..block + 10)
        .map_or(0, |crc| crc.iter().fold(0, |crc, &byte| crc << 8 | u128::from(byte)));
    let last = u128::from(byte(from + whole) >> (8 - left).min(7)) & ((1 << left) - 1);
    let tail = (last << HEAD_BITS | u128::from(END) << 32 | crc) << (48 - left);
    out.extend_from_slice(&tail.to_be_bytes()[..(u64::from(left) + HEAD_BITS).div_ceil(8) as usize]);
}
