//! The planes of ASCII, straight from the bytes.
//!
//! ASCII is a table of eight rows and sixteen columns: a byte's high and low nibble. A class is a set of its
//! places, and so a byte for each column, with a bit for each row:
//!
//! ```text
//! column   0 1 2 3 4 5 6 7 8 9 A B C D E F        the class of numbers: bit 3 in columns 0 to 9
//! row 2      ! " # $ % & ' ( ) * + , - . /        letters: bits 4 and 6 in columns 1 to F,
//! row 3    0 1 2 3 4 5 6 7 8 9 : ; < = > ?                 bits 5 and 7 in columns 0 to A
//! row 4    @ A B C D E F G H I J K L M N O
//! ```
//!
//! A byte is in the class if the byte of its column has the bit of its row: two look-ups of sixteen entries, of
//! which the one by row is the same for all classes. Class bytes, of which planes are then made, would take
//! eight look-ups, seven choices between them, and a shift for each class.

use super::super::ScanTables;
use super::{LOOSE, LOWER, NEWLINE, NUMBER, OTHER, SPACE, UPPER};

const NEWLINES: u8 = SPACE | NEWLINE;

/// By column, a bit per row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Column(pub(crate) [u8; 16]);

/// By row: its bit. Bytes outside ASCII have none.
pub(crate) const ROWS: Column = Column([1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0]);

/// The classes of ASCII. What is in none of these is punctuation.
#[derive(Debug)]
pub(crate) struct Columns {
    pub(crate) lower: Column,
    pub(crate) upper: Column,
    pub(crate) space: Column,
    pub(crate) newline: Column,
    pub(crate) number: Column,
    pub(crate) loose: Column,
}

impl Columns {
    /// `None` if there are others, or mixtures, of which the algebra of ASCII does not know either.
    pub(crate) fn new(tables: &ScanTables) -> Option<Self> {
        let of = |flag: u8| {
            let mut column = Column::default();
            for (byte, class) in tables.ascii.iter().enumerate() {
                column.0[byte % 16] |= u8::from(class & flag != 0) << (byte / 16);
            }
            column
        };
        let is_plain = |class: &u8| matches!(*class, 1..=3 | OTHER | SPACE | NEWLINES | NUMBER | LOOSE);
        tables.ascii.iter().all(is_plain).then(|| Self {
            lower: of(LOWER),
            upper: of(UPPER),
            space: of(SPACE),
            newline: of(NEWLINE),
            number: of(NUMBER),
            loose: of(LOOSE),
        })
    }

    /// Whether all letters are alike, and there is nothing loose, so that two planes need not be made.
    pub(crate) fn is_simple(&self) -> bool {
        self.lower == self.upper && self.loose == Column::default()
    }
}
