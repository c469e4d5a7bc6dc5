//! Byte-pair merging: from the bytes of one pretoken to ids.
//!
//! * [`pairs`]: which two symbols merge, into what, and how early;
//! * [`merge`]: three ways to run the merges, chosen by length and kind of vocabulary;
//! * `short`: the same for words of up to 15 bytes, in registers;
//! * [`inert`]: where a long pretoken can be cut without changing its ids;
//! * [`reference`]: the naive twin that all of them are tested against.

pub mod inert;
pub mod merge;
pub mod pairs;
pub mod reference;
pub(crate) mod short;
