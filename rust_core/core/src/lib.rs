//! Exact byte-level BPE: files in, token files out.
//!
//! The way of the data, in the order of the modules: a job ([`job`]) opens its [`input`]s (memory
//! maps), cuts them at exact borders, applies the document rules, splits text into pretokens
//! ([`pretokenize`]), looks each up in the merge cache ([`cache`]) or merges it ([`bpe`]), and writes
//! ids in order to a token file that is published with its manifest ([`stream`]).
//!
//! For text in memory see [`Tokenizer`]; nothing here knows Python or sockets.

pub mod bpe;
mod cache;
pub mod decode;
mod documents;
mod encode;
pub mod error;
pub mod export;
mod huge;
pub mod input;
pub mod job;
pub mod lane;
pub mod normalize;
pub mod pretokenize;
#[doc(hidden)]
pub mod profile;
mod room;
pub mod special;
mod staged;
pub mod stream;
mod stream_encoder;
mod tier;
mod tokenizer;
pub mod vocab;

pub use cache::CacheStats;
pub use documents::Eot;
pub use error::{Error, Result};
pub use job::{Control, Format, JobSpec, Outcome, encode_files};
pub use lane::Lane;
pub use special::SpecialPolicy;
pub use stream_encoder::StreamEncoder;
pub use tokenizer::Tokenizer;
pub use vocab::Vocabulary;
