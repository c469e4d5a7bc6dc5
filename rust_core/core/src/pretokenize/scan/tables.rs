//! The tables of the scanner, built from the class tables of a reference and from a vocabulary.

use rustc_hash::FxHashMap;

use super::{APOSTROPHE, GLUES, LETTER, NUMBER, OTHER, SPACE, WIDE_SPACE};
use crate::bpe::edges::Edges;
use crate::bpe::inert::Bridges;
use crate::pretokenize::unicode::{Classes, is_letter, is_number};

/// A table for `vpermb`: one entry per value of a byte's low six bits.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table64(pub(crate) [u8; 64]);

/// What precedes the last byte of a character that is looked up in a table of its own: a lead byte
/// (`second` 0), or a lead byte and the byte after it. Chosen for how often texts have them: accented
/// Latin letters, typographic quotes, kana and CJK punctuation, full-width forms, Devanagari; and, for
/// patterns that tell small letters from capitals, Cyrillic, more Latin, Greek.
pub(crate) const GROUPS: [(u8, u8); 17] = [
    (0xC3, 0),
    (0xC2, 0),
    (0xE2, 0x80),
    (0xE3, 0x80),
    (0xE3, 0x81),
    (0xE3, 0x82),
    (0xE3, 0x83),
    (0xEF, 0xBC),
    (0xEF, 0xBD),
    (0xE0, 0xA4),
    (0xE0, 0xA5),
    (0xD0, 0),
    (0xD1, 0),
    (0xC4, 0),
    (0xC5, 0),
    (0xCE, 0),
    (0xCF, 0),
];

pub(crate) const NO_GROUP: u8 = u8::MAX;

/// Everything that the scanner looks up.
#[repr(C, align(64))]
pub(crate) struct ScanTables {
    /// Class byte of each ASCII byte.
    pub(crate) ascii: [u8; 128],
    /// By lead byte: the class that all its characters have, but for those of at most one second
    /// byte; 0 where they differ.
    pub(crate) uniform: Table64,
    /// By lead byte: that second byte, or 0.
    pub(crate) exception: Table64,
    /// By last byte, for the characters of each of [`GROUPS`].
    pub(crate) groups: [Table64; GROUPS.len()],
    /// By lead byte and second byte (low six bits of each): the number of a group, or [`NO_GROUP`].
    pub(crate) group_of: Box<[[u8; 64]; 64]>,
    pub(crate) cuts: CutTables,
    /// Code point / 64 → row of `rows`.
    index: Box<[u16]>,
    rows: Vec<[u8; 64]>,
}

/// Which characters may be cut apart: `before[x] & lead[y] == 0` where `x` is the last byte of the
/// character before (a continuation byte) and `y` the lead byte of the one behind.
///
/// A bit stands for a group of lead bytes: the seven that most bytes before are bridged to have one
/// of their own, the others share the eighth. Sharing forbids cuts that would be possible; it never
/// permits one that is not.
pub(crate) struct CutTables {
    pub(crate) before: Table64,
    pub(crate) lead: Table64,
    pub(crate) edges: Edges,
}

impl ScanTables {
    /// Builds the tables; cuts only where `bridges` are given.
    pub(crate) fn new(classes: &Classes, bridges: Option<&Bridges>) -> Self {
        let class = |category, is_space| match category {
            category if is_letter(category) => LETTER,
            category if is_number(category) => NUMBER,
            _ if is_space => SPACE | WIDE_SPACE,
            _ => OTHER,
        };
        let (index, rows) = classes.rows(class);
        let mut ascii =
            std::array::from_fn(|code| rows[usize::from(index[code / 64])][code % 64] & !WIDE_SPACE);
        ascii[usize::from(b' ')] |= GLUES;
        ascii[usize::from(b'\'')] |= APOSTROPHE;
        Self::from_rows(ascii, index, rows, CutTables::new(bridges))
    }

    /// The tables for a class of each character, which is not 0; without cuts.
    pub(crate) fn from_classes(class: impl Fn(char) -> u8) -> Self {
        let mut rows: Vec<[u8; 64]> = Vec::new();
        let mut known = FxHashMap::default();
        let mut index = Vec::with_capacity(0x11_0000 / 64);
        for block in 0..0x11_0000 / 64 {
            // Surrogates are in no text; with the class of the letters before them their rows are alike.
            let row = std::array::from_fn(|at| class(char::from_u32(block * 64 + at as u32).unwrap_or('가')));
            index.push(*known.entry(row).or_insert_with(|| {
                rows.push(row);
                (rows.len() - 1) as u16
            }));
        }
        let ascii = std::array::from_fn(|code| rows[usize::from(index[code / 64])][code % 64]);
        Self::from_rows(ascii, index.into(), rows, CutTables::new(None))
    }

    fn from_rows(ascii: [u8; 128], index: Box<[u16]>, rows: Vec<[u8; 64]>, cuts: CutTables) -> Self {
        let row = |block: usize| rows[usize::from(index[block])];
        let groups = GROUPS.map(|(lead, second)| {
            let block = if second == 0 {
                usize::from(lead & 0x1F)
            } else {
                usize::from(lead & 0x0F) << 6 | usize::from(second & 0x3F)
            };
            Table64(row(block))
        });
        let mut group_of = Box::new([[NO_GROUP; 64]; 64]);
        for (&(lead, second), number) in GROUPS.iter().zip(0..) {
            let seconds = &mut group_of[usize::from(lead & 0x3F)];
            if second == 0 {
                seconds.fill(number);
            } else {
                seconds[usize::from(second & 0x3F)] = number;
            }
        }
        let (mut uniform, mut exception) = ([0; 64], [0; 64]);
        for lead in 0xC2..0xF0_usize {
            // The blocks of 64 characters that the lead byte begins, by second byte. (Overlong forms
            // are no UTF-8 and never looked up.)
            let blocks: Vec<(usize, [u8; 64])> = if lead < 0xE0 {
                vec![(0, row(lead & 0x1F))]
            } else {
                let shortest = if lead == 0xE0 { 0x20 } else { 0 };
                (shortest..64).map(|second| (second, row((lead & 0x0F) << 6 | second))).collect()
            };
            let same = |block: &[u8; 64]| block.iter().all(|class| *class == block[0]).then_some(block[0]);
            let mut counts = FxHashMap::default();
            for (_, block) in &blocks {
                *counts.entry(same(block)).or_insert(0) += 1;
            }
            let Some((&Some(most), _)) = counts.iter().max_by_key(|(class, n)| (**n, **class)) else {
                continue;
            };
            let mut others = blocks.iter().filter(|(_, block)| same(block) != Some(most));
            let (other, more) = (others.next(), others.next());
            if more.is_none() && most & SPACE == 0 {
                uniform[lead & 0x3F] = most;
                exception[lead & 0x3F] = other.map_or(0, |(second, _)| 0x80 | *second as u8);
            }
        }
        Self {
            ascii,
            uniform: Table64(uniform),
            exception: Table64(exception),
            groups,
            group_of,
            cuts,
            index,
            rows,
        }
    }

    /// The class byte of a character of several bytes, given the four bytes from its lead byte on.
    #[inline]
    pub(crate) fn class(&self, bytes: [u8; 4]) -> u8 {
        let [lead, b, c, d] = bytes;
        let (lead, b, c, d) = (u32::from(lead), u32::from(b), u32::from(c), u32::from(d));
        let (block, last) = match lead {
            0..0xE0 => (lead & 0x1F, b),
            0xE0..0xF0 => ((lead & 0x0F) << 6 | b & 0x3F, c),
            _ => ((lead & 0x07) << 12 | (b & 0x3F) << 6 | c & 0x3F, d),
        };
        // Text is UTF-8, so `block` is in range; a wrong answer is better than none if it is not.
        let row = self.index.get(block as usize).copied().unwrap_or_default();
        self.rows[usize::from(row)][(last & 0x3F) as usize]
    }
}

impl CutTables {
    fn new(bridges: Option<&Bridges>) -> Self {
        let none = Table64([0; 64]);
        let Some(bridges) = bridges else {
            // Every pair is bridged.
            return Self { before: Table64([1; 64]), lead: Table64([1; 64]), edges: Edges::default() };
        };
        let before = |lead: u8| (0x80..0xC0_u8).filter(move |&byte| !bridges.inert(byte, lead));
        let mut leads: Vec<(usize, u8)> = (0xC0..=0xFF_u8)
            .map(|lead| (before(lead).count(), lead))
            .filter(|(n_bridged, _)| *n_bridged > 0)
            .collect();
        leads.sort_unstable_by_key(|&(n_bridged, lead)| (std::cmp::Reverse(n_bridged), lead));
        let mut tables = Self { before: none, lead: none, edges: bridges.edges };
        for (at, (_, lead)) in leads.into_iter().enumerate() {
            let bit = 1 << at.min(7);
            tables.lead.0[usize::from(lead & 0x3F)] = bit;
            for byte in before(lead) {
                tables.before.0[usize::from(byte & 0x3F)] |= bit;
            }
        }
        tables
    }

    /// Whether text may be cut between a continuation byte and a lead byte.
    #[inline]
    pub(crate) fn allow(&self, before: u8, lead: u8) -> bool {
        self.before.0[usize::from(before & 0x3F)] & self.lead.0[usize::from(lead & 0x3F)] == 0
    }
}
