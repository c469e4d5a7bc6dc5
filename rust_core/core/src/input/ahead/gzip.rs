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

use super::walk::{Group, Limits, Part, Size, number, peek};
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
        let mut group = Group::at(self.at, self.limits);
        loop {
            if self.at == self.source.size_bytes() {
                return Ok(if group.is_empty() { Part::End } else { group.into_part() });
            }
            match self.member()? {
                Some((end, size)) if !group.is_full(size, end) => {
                    group.add(size, end, false);
                    self.at = end;
                }
                _ if !group.is_empty() => return Ok(group.into_part()),
                _ => return Ok(Part::Rest { restart: self.at }),
            }
        }
    }

    fn member(&mut self) -> Result<Option<(u64, Size)>> {
        peek::<HEAD_BYTES>(&self.source, self.at, &mut self.buffer)?;
        let Some(len) = member_len(&self.buffer) else { return Ok(None) };
        let end = self.at + len;
        if end > self.source.size_bytes() {
            return Ok(None);
        }
        peek::<4>(&self.source, end - 4, &mut self.buffer)?;
        let n_bytes = number(&self.buffer);
        Ok((n_bytes <= MEMBER_MAX_BYTES).then_some((end, Size { n_bytes, is_exact: true })))
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
