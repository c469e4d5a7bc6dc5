//! The members of a gzip file that say how long they are: BGZF, as bgzip writes it.
//!
//! ```text
//! member  1F 8B 08 · flags (bit 2: extra field) · 6 · length of the extra field (2) · its subfields
//!         · deflated data · CRC-32 (4) · content size (4)
//! BGZF's  subfield: "BC" · 2 (2) · size of the whole member, less one (2)
//! ```
//!
//! Any other gzip member ends where its decoder finds its end; nothing tells before.

use std::sync::Arc;

use super::walk::{Found, Limits, Part, Size, gather, number, peek};
use crate::error::Result;
use crate::input::Opened;

/// Bytes up to the subfields.
const HEADER_BYTES: usize = 12;
/// Bytes that are looked at for the subfield.
const HEAD_BYTES: usize = 64;
/// Most content of a BGZF member.
const MEMBER_MAX_BYTES: u64 = 1 << 16;

pub(super) struct Walker {
    source: Arc<Opened>,
    limits: Limits,
    at: u64,
    buffer: Vec<u8>,
}

impl Walker {
    pub(super) fn new(source: Arc<Opened>, limits: Limits) -> Self {
        Self { source, limits, at: 0, buffer: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Result<Part> {
        let (mut at, end, limits) = (self.at, self.source.size_bytes(), self.limits);
        let part = gather(&mut at, end, limits, |at| self.member(at));
        self.at = at;
        part
    }

    fn member(&mut self, start: u64) -> Result<Found> {
        peek::<HEAD_BYTES>(&self.source, start, &mut self.buffer)?;
        let Some(len) = member_len(&self.buffer) else { return Ok(Found::Unknown) };
        let end = start + len;
        if end > self.source.size_bytes() {
            return Ok(Found::Unknown);
        }
        peek::<4>(&self.source, end - 4, &mut self.buffer)?;
        let n_bytes = number(&self.buffer);
        let found = Found::Whole { end, size: Size { n_bytes, is_exact: true }, is_checked: false };
        Ok(if n_bytes <= MEMBER_MAX_BYTES { found } else { Found::Unknown })
    }
}

/// The length of the member that begins with `head`, if it says it.
fn member_len(head: &[u8]) -> Option<u64> {
    let fixed = head.get(..HEADER_BYTES)?;
    if fixed[..3] != [0x1F, 0x8B, 8] || fixed[3] & 4 == 0 {
        return None;
    }
    let n_extra = number(&fixed[10..]) as usize;
    let mut fields = head.get(HEADER_BYTES..HEADER_BYTES + n_extra)?;
    while fields.len() >= 4 {
        let len = number(&fields[2..4]) as usize;
        let value = fields.get(4..4 + len)?;
        if &fields[..2] == b"BC" && len == 2 {
            let whole = number(value) + 1;
            return (whole > (HEADER_BYTES + n_extra + 8) as u64).then_some(whole);
        }
        fields = &fields[4 + len..];
    }
    None
}
