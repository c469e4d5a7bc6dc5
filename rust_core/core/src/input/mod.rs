//! Inputs: regular files, opened under rules, mapped or read, copied once.
//!
//! The bytes of a mapping can change at any instant, because other processes may write to the file.
//! So no reference into a mapping ever leaves this module: a range is copied into the caller's
//! buffer, and everything that follows (validation, splitting, hashing) sees that one private copy.
//! The copy costs about 0.1 ns per byte and makes every later stage simple: it also ends the
//! question of reading past the end of a file.
//!
//! What happens to a file while it is read is noticed: its length is fixed when it is opened, and at
//! the end of its turn ([`Opened::verify`]) another size or mtime fails the job. Where only its ctime
//! moved (a link was made, another file was renamed over its name) or its mtime is too fresh to tell
//! one write from the next, its content is hashed again and compared with what was read.
//!
//! * [`source`]: an input that was found; [`opened`]: one that is being read; [`identity`]: what tells that it
//!   is still the same;
//! * [`access`]: which paths may be opened;
//! * [`border`]: where a big file may be cut;
//! * [`detect`]: what an input is;
//! * [`compressed`]: gzip, zstd, bzip2 and xz as plain bytes; [`ahead`]: their parts side by side;
//! * [`field_path`]: which value of a record is meant;
//! * [`jsonl`]: the fields of a JSON line; [`columnar`]: the [`columns`] of a parquet or arrow file,
//!   [`arrow_sizes`]: whose sizes are looked at first;
//! * [`one_record`]: one line or row by its place, to show it;
//! * [`nearby`]: many files of one directory;
//! * [`filesystem`]: where mapping is safe;
//! * [`lease`]: being told before somebody writes;
//! * [`sigbus`]: pages that vanish all the same.

pub mod access;
pub(crate) mod ahead;
mod arrow_sizes;
pub(crate) mod border;
pub(crate) mod columnar;
pub(crate) mod columns;
pub(crate) mod compressed;
pub mod detect;
pub mod field_path;
mod filesystem;
mod identity;
mod json_strings;
pub mod jsonl;
pub(crate) mod lease;
pub(crate) mod nearby;
pub mod one_record;
mod opened;
mod sigbus;
mod source;
mod text_as_bytes;

pub(crate) use filesystem::Devices;
pub use identity::Identity;
pub(crate) use nearby::Nearby;
pub(crate) use opened::Opened;
pub(crate) use source::Given;
pub use source::Source;

#[cfg(test)]
pub(crate) mod tests;
