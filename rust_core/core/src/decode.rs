//! Ids to bytes.
//!
//! Each id has a slot of 16 bytes and a length. Tokens of up to 16 bytes lie in their slots, so that
//! decoding one is a 16-byte copy and an add; the slot of a longer token says where it lies in a
//! side table:
//!
//! ```text
//! length 1..=16   slot: the bytes, zeros behind them
//! length 255      slot: start (u64 LE), length in bytes (u64 LE) in the side table
//! length 0        no such id
//! ```

use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::vocab::Vocabulary;

const SLOT_BYTES: usize = 16;
const COLD: u8 = 255;
/// Ids for which room is made at a time.
const BLOCK_IDS: usize = 4096;
/// Room behind the decoded bytes that [`Decoder::decode_into`] uses.
pub(crate) const ROOM_BYTES: usize = BLOCK_IDS * SLOT_BYTES;

/// The decoding tables of a vocabulary; special tokens decode to their texts.
pub struct Decoder {
    slots: Box<[[u8; SLOT_BYTES]]>,
    lens: Box<[u8]>,
    cold: Box<[u8]>,
}

impl Decoder {
    /// Builds the tables: 17 bytes per id.
    #[must_use]
    pub fn new(vocab: &Vocabulary) -> Self {
        let n_ids = vocab.len_ids() as usize;
        let mut slots = vec![[0; SLOT_BYTES]; n_ids].into_boxed_slice();
        let mut lens = vec![0; n_ids].into_boxed_slice();
        let mut cold = Vec::new();
        for (id, (slot, len)) in (0_u32..).zip(slots.iter_mut().zip(lens.iter_mut())) {
            let token = vocab.token(id).unwrap_or_default();
            if token.len() <= SLOT_BYTES {
                slot[..token.len()].copy_from_slice(token);
                *len = token.len() as u8;
            } else {
                slot[..8].copy_from_slice(&(cold.len() as u64).to_le_bytes());
                slot[8..].copy_from_slice(&(token.len() as u64).to_le_bytes());
                *len = COLD;
                cold.extend_from_slice(token);
            }
        }
        Self { slots, lens, cold: cold.into_boxed_slice() }
    }

    /// How many bytes `ids` decode to; an id that the vocabulary does not have counts as none.
    #[must_use]
    pub fn n_bytes<L: Lane>(&self, ids: &[L]) -> u64 {
        let len = |&id: &L| {
            let id: u32 = id.into();
            match self.lens.get(id as usize).copied().unwrap_or(0) {
                COLD => split(&self.slots[id as usize])[1] as u64,
                len => u64::from(len),
            }
        };
        ids.iter().map(len).sum()
    }

    /// Appends the bytes of `ids` to `out`.
    ///
    /// # Errors
    /// [`Error::UnknownId`] with the position of the first id that the vocabulary does not have;
    /// `out` then is as it was.
    pub fn decode_into<L: Lane>(&self, ids: &[L], out: &mut Vec<u8>) -> Result<()> {
        let before = out.len();
        for (block, first) in ids.chunks(BLOCK_IDS).zip((0..).step_by(BLOCK_IDS)) {
            if let Err((at, id)) = self.decode_block(block, out) {
                out.truncate(before);
                return Err(Error::UnknownId { id: u64::from(id), position: first + at });
            }
        }
        Ok(())
    }

    /// Decodes up to [`BLOCK_IDS`] ids; on an unknown id, its position in the block and the id.
    fn decode_block<L: Lane>(&self, block: &[L], out: &mut Vec<u8>) -> Result<(), (usize, u32)> {
        out.reserve(block.len() * SLOT_BYTES);
        for (at, &id) in block.iter().enumerate() {
            let id: u32 = id.into();
            let len = self.lens.get(id as usize).copied().unwrap_or(0);
            match len {
                0 => return Err((at, id)),
                COLD => {
                    let [start, n_bytes] = split(&self.slots[id as usize]);
                    out.extend_from_slice(&self.cold[start..start + n_bytes]);
                    out.reserve((block.len() - at) * SLOT_BYTES);
                }
                _ => {
                    let end = out.len();
                    debug_assert!(out.capacity() - end >= SLOT_BYTES);
                    // SAFETY: room for a whole slot per id of the block that is still to come was
                    // reserved above, and again after each long token; each id uses at most one
                    // slot of it. The first `len` <= 16 of the 16 bytes written become part of `out`.
                    unsafe {
                        out.as_mut_ptr().add(end).cast::<[u8; SLOT_BYTES]>().write(self.slots[id as usize]);
                        out.set_len(end + usize::from(len));
                    }
                }
            }
        }
        Ok(())
    }
}

fn split(slot: &[u8; SLOT_BYTES]) -> [usize; 2] {
    let (words, _) = slot.as_chunks::<8>();
    [words[0], words[1]].map(|word| u64::from_le_bytes(word) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_of_gpt2_long_ones_too() {
        let vocab = Vocabulary::gpt2();
        let decoder = Decoder::new(&vocab);
        let ids: Vec<u16> = (0..50_257).rev().map(|id: u32| id as u16).collect();
        let expected: Vec<u8> =
            ids.iter().flat_map(|&id| vocab.token(u32::from(id)).unwrap().to_vec()).collect();
        let mut out = b"kept".to_vec();
        decoder.decode_into(&ids, &mut out).unwrap();
        assert_eq!(out[4..], expected);
        assert_eq!(decoder.n_bytes(&ids), expected.len() as u64);
        let wide: Vec<u32> = ids.iter().map(|&id| u32::from(id)).collect();
        let mut out = Vec::new();
        decoder.decode_into(&wide, &mut out).unwrap();
        assert_eq!(out, expected);
    }

    #[test]
    fn an_unknown_id_is_named_and_leaves_the_output_alone() {
        let decoder = Decoder::new(&Vocabulary::gpt2());
        let mut ids = vec![0_u32; 5000];
        ids[4500] = 50_257;
        let mut out = b"kept".to_vec();
        let error = decoder.decode_into(&ids, &mut out).unwrap_err();
        assert!(matches!(error, Error::UnknownId { id: 50_257, position: 4500 }), "{error}");
        assert_eq!(out, b"kept");
    }
}
