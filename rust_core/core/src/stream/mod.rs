//! Token sets on disk: their layouts, and how a set comes to be there whole or not at all.
//!
//! * [`manifest`]: the set `OUT.bin`, its files and its manifest;
//! * [`native`]: the growing stream, a directory of segments;
//! * `parts`: ids and document ends written side by side and hashed in order, as both have them;
//! * `skipped`: the list of what was left out;
//! * `bin`, `growing`: the two as sinks of a job;
//! * `folder`: names, renames that do not replace, directories that are synced;
//! * [`retirement`]: files of a stream that go while it grows;
//! * [`verify`]: reading all of it again.

pub(crate) mod bin;
pub(crate) mod folder;
pub(crate) mod growing;
pub mod manifest;
pub mod native;
pub(crate) mod parts;
pub mod retirement;
mod skipped;
pub mod verify;
