//! The frames of a zstd file (RFC 8878), by their headers and those of their blocks.
//!
//! ```text
//! frame      magic 0xFD2FB528 · descriptor (1) · window (0 or 1) · dictionary (0, 1, 2, 4)
//!            · content size (0, 1, 2, 4, 8) · blocks · checksum (0 or 4)
//! descriptor bits 7-6 width of the content size, 5 single segment (no window byte), 3 reserved,
//!            2 checksum, 1-0 width of the dictionary's id
//! block      3 bytes: bit 0 last, 2-1 type (0 raw, 1 one byte repeated, 2 compressed), 23-3 size · data
//! skippable  magic 0x184D2A50 to ..5F · size (4) · data
//! ```
//!
//! A decoder that has all of a frame in memory finds bytes that no window reaches back to; one with a window does
//! not. So what they make of damage may differ, unless a checksum, or a window of all the content, gives it
//! away to both: only such frames (`is_checked`) are decoded at one go, which takes fewer copies.
//!
//! The seekable format is frames, and its table of them is a skippable frame. A frame with more than
//! [`Limits::max_bytes`] is not walked to its end: that would touch every page of a file that is one frame.

use std::sync::Arc;

use super::walk::{Found, Limits, Part, Size, gather, number, peek};
use crate::error::Result;
use crate::input::Opened;
use crate::input::compressed::ZSTD_WINDOW_LOG_MAX;

const MAGIC: u64 = 0xFD2F_B528;
const SKIPPABLE: u64 = 0x184D_2A50;
/// Longest header of a frame.
const HEADER_BYTES: usize = 18;
/// Most content of a block.
const BLOCK_MAX_BYTES: u64 = 128 << 10;

pub(super) struct Walker {
    source: Arc<Opened>,
    limits: Limits,
    pub(super) at: u64,
    buffer: Vec<u8>,
}

impl Walker {
    pub(super) fn new(source: Arc<Opened>, limits: Limits) -> Self {
        Self { source, limits, at: 0, buffer: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Result<Part> {
        let (mut at, end, limits) = (self.at, self.source.size_bytes(), self.limits);
        let part = gather(&mut at, end, limits, |at| self.frame(at));
        self.at = at;
        part
    }

    fn frame(&mut self, start: u64) -> Result<Found> {
        let file_end = self.source.size_bytes();
        peek::<HEADER_BYTES>(&self.source, start, &mut self.buffer)?;
        let Some(magic) = self.buffer.get(..4).map(number) else { return Ok(Found::Unknown) };
        if magic & !0xF == SKIPPABLE {
            let Some(len) = self.buffer.get(4..8).map(number) else { return Ok(Found::Unknown) };
            let end = start + 8 + len;
            let is_small = len <= self.limits.max_bytes && end <= file_end;
            let found = Found::Whole { end, size: Size::NOTHING, is_checked: true };
            return Ok(if is_small { found } else { Found::Unknown });
        }
        let Some(header) = Header::read(&self.buffer).filter(|_| magic == MAGIC) else {
            return Ok(Found::Unknown);
        };
        if header.window > 1 << ZSTD_WINDOW_LOG_MAX {
            return Ok(Found::Unknown);
        }
        if header.content.unwrap_or(header.window) > self.limits.max_bytes {
            return Ok(Found::Large);
        }
        let block_max = header.window.min(BLOCK_MAX_BYTES);
        let (mut at, mut at_most) = (start + header.len as u64, 0);
        loop {
            peek::<3>(&self.source, at, &mut self.buffer)?;
            if self.buffer.len() < 3 {
                return Ok(Found::Unknown);
            }
            let block = number(&self.buffer);
            let (is_last, kind, size) = (block & 1 == 1, block >> 1 & 3, block >> 3);
            if size > block_max {
                return Ok(Found::Unknown);
            }
            let (len, content) = match kind {
                0 => (size, size),
                1 => (1, size),
                2 => (size, block_max),
                _ => return Ok(Found::Unknown),
            };
            at += 3 + len;
            at_most += content;
            if at_most.min(header.content.unwrap_or(u64::MAX)).max(at - start) > self.limits.max_bytes {
                return Ok(Found::Large);
            }
            if is_last {
                break;
            }
        }
        let end = at + header.checksum;
        let size = Size { n_bytes: header.content.unwrap_or(at_most), is_exact: header.content.is_some() };
        let is_checked =
            header.checksum > 0 || header.content.is_some_and(|content| content <= header.window);
        Ok(if end <= file_end { Found::Whole { end, size, is_checked } } else { Found::Unknown })
    }
}

struct Header {
    len: usize,
    window: u64,
    content: Option<u64>,
    checksum: u64,
}

impl Header {
    /// The header at the start of `bytes`, whose magic number is right.
    fn read(bytes: &[u8]) -> Option<Self> {
        let descriptor = *bytes.get(4)?;
        let is_single = descriptor & 0x20 != 0;
        if descriptor & 0x08 != 0 {
            return None;
        }
        let window = if is_single {
            None
        } else {
            let byte = u64::from(*bytes.get(5)?);
            let base = 1_u64 << (10 + (byte >> 3));
            Some(base + base / 8 * (byte & 7))
        };
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let width = match descriptor >> 6 {
            0 => usize::from(is_single),
            width => 1 << width,
        };
        let start = 5 + usize::from(!is_single) + dictionary;
        let len = start + width;
        let content = (width > 0).then_some(number(bytes.get(start..len)?));
        let content = content.map(|content| if width == 2 { content + 256 } else { content });
        let checksum = if descriptor & 4 != 0 { 4 } else { 0 };
        Some(Self { len, window: window.or(content)?, content, checksum })
    }
}
