//! Byte-pair merging: from the bytes of one pretoken to ids.
//!
//! * [`pairs`]: which two symbols merge, into what, and how early;
//! * [`merge`]: three ways to run the merges, chosen by length and kind of vocabulary;
//! * `short`, `medium`: the same for up to 15 and up to 96 bytes, in registers and small arrays;
//! * [`inert`]: where a long pretoken can be cut without changing its ids;
//! * `seams`, `edges`: the same, by characters instead of bytes;
//! * [`reference`]: the naive twin that all of them are tested against.

pub(crate) mod edges;
pub mod inert;
pub(crate) mod medium;
pub mod merge;
pub mod pairs;
pub mod reference;
pub(crate) mod seams;
pub(crate) mod short;
