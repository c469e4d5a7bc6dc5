//! Token sets in the formats that trainers' own readers open.
//!
//! ```text
//! a finished set of ours ─► documents, one by one, in order or shuffled ─► writers ─► published set
//! ```
//!
//! Text is tokenized once, into ids and document ends ([`native`]); every foreign format is made from
//! those, so one run fills as many formats as are asked for, and `convert` needs no tokenizer. Where a
//! format's token file has the very bytes of ours, or of a format that the same run has just made, it
//! shares them (a reflink, else a hard link) and nothing is written twice.
//!
//! * [`staging`]: how a set of files comes to be there whole or not at all;
//! * [`native`]: reads ids and ends back;
//! * [`verify`]: reads a set's files again;
//! * [`arrange`]: which documents go where: training and validation, the order, the shards;
//! * one file for each format, opening with its byte layout: [`nanogpt`], [`llmc`], [`megatron`],
//!   [`datatrove`], [`olmo`], [`litdata`], [`mds`].
//!
//! Each set carries `tokend.json` (Megatron: `PREFIX.tokend.json`): tokenizer, options, counts and the
//! XXH3-64 of every file. Readers ignore it; `tokend verify` and `inspect` use it.

mod arrange;
mod datatrove;
mod litdata;
mod llmc;
mod mds;
mod megatron;
mod nanogpt;
mod native;
mod olmo;
mod shuffle;
mod staging;
pub(crate) mod verify;

use std::path::Path;

pub use arrange::{ExportSpec, Exported, check, export, sides};
pub use shuffle::Shuffle;

use crate::documents::Eot;
use crate::error::{Error, Result};
use staging::{Known, Staging};
pub use staging::{PrefixHash, hash_prefixes};

/// A foreign format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    NanoGpt,
    Llmc,
    Megatron,
    Datatrove,
    Olmo,
    LitData,
    Mds,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::NanoGpt, Self::Llmc, Self::Megatron, Self::Datatrove, Self::Olmo, Self::LitData, Self::Mds];

    /// The option's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NanoGpt => "nanogpt",
            Self::Llmc => "llmc",
            Self::Megatron => "megatron",
            Self::Datatrove => "datatrove",
            Self::Olmo => "olmo",
            Self::LitData => "litdata",
            Self::Mds => "mds",
        }
    }

    /// Reads the option's value.
    pub fn parse(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            let what = format!("{text:?} is none of bin, stream, {}", names.join(", "));
            Error::BadOption { option: "format", what }
        })
    }

    /// Where this format's readers expect the end-of-text id, unless the user says otherwise.
    #[must_use]
    pub fn eot(self) -> Eot {
        match self {
            Self::Llmc => Eot::Prepend,
            _ => Eot::Append,
        }
    }

    /// Shards hold about so many tokens unless the user says otherwise; `None`: all in one.
    fn shard_tokens(self) -> Option<u64> {
        match self {
            Self::Llmc => Some(100_000_000),
            Self::LitData | Self::Mds => Some(32 << 20),
            Self::NanoGpt | Self::Megatron | Self::Datatrove | Self::Olmo => None,
        }
    }

    /// Whether the ids lie in the format's files exactly as in ours, from the first byte on.
    fn is_raw(self) -> bool {
        matches!(self, Self::NanoGpt | Self::Megatron | Self::Datatrove | Self::Olmo)
    }

    /// Whether its readers take several files.
    #[must_use]
    pub fn has_shards(self) -> bool {
        !matches!(self, Self::NanoGpt | Self::Megatron)
    }

    /// The name of the file with all ids of a split, where the format has one that [`Kind::is_raw`].
    fn data_name(self, split: Split, base: &str) -> Option<String> {
        match self {
            Self::NanoGpt if split == Split::Val => Some("val.bin".to_owned()),
            Self::NanoGpt => Some("train.bin".to_owned()),
            Self::Megatron => Some(format!("{}.bin", split.suffixed(base))),
            Self::Datatrove => Some(format!("{}000_{base}.ds", split.folder())),
            Self::Olmo => Some(format!("{}part-0-00000.npy", split.folder())),
            Self::Llmc | Self::LitData | Self::Mds => None,
        }
    }
}

/// What a writer must know of the ids it gets.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    /// 2 or 4.
    pub(crate) id_bytes: usize,
    pub(crate) tokenizer: String,
    pub(crate) eot_id: Option<u32>,
    /// The end-of-text ids that belong to a document lie within it, at its start or its end.
    pub(crate) eot: Eot,
}

/// A part of the documents that readers open on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    All,
    Train,
    Val,
}

impl Split {
    /// `base`, `base_train` or `base_val`.
    fn suffixed(self, base: &str) -> String {
        match self {
            Self::All => base.to_owned(),
            Self::Train => format!("{base}_train"),
            Self::Val => format!("{base}_val"),
        }
    }

    /// A subdirectory of the set, with its slash, where train and validation sets are kept apart so.
    fn folder(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Train => "train/",
            Self::Val => "val/",
        }
    }
}

/// Where a document came from, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Origin<'a> {
    /// Position in the set of ours, from 0.
    pub(crate) index: u64,
    pub(crate) source: Option<&'a Path>,
    /// Position in its source, from 1.
    pub(crate) number: u64,
}

/// Writes documents into the files of one format.
///
/// Calls come as `begin` (`ids`...) `end` for each document, then `finish`. Ids are little-endian, of
/// the width in [`Ids`]. Long documents come in pieces, so a writer never needs to hold one.
pub(crate) trait Writer {
    /// A document of `n_ids` ids begins, end-of-text ids included.
    fn begin(&mut self, n_ids: u64, origin: Origin<'_>) -> Result<()>;

    /// The next ids of the document.
    fn ids(&mut self, bytes: &[u8]) -> Result<()>;

    /// The document ends.
    fn end(&mut self) -> Result<()>;

    /// All documents were written; completes the files.
    fn finish(&mut self) -> Result<()>;
}

/// What is to be written.
pub(crate) struct Plan<'a> {
    pub(crate) staging: &'a Staging,
    pub(crate) ids: &'a Ids,
    pub(crate) split: Split,
    /// Base of the files' names.
    pub(crate) name: &'a str,
    /// Most tokens of a shard; a document that is longer than that is cut where the format allows it.
    pub(crate) shard_tokens: u64,
    /// Most documents of a shard.
    pub(crate) shard_documents: u64,
    /// Tokens of a row, for formats with rows of one length; `None`: a row is a document.
    pub(crate) row_tokens: Option<u64>,
    /// The file with all ids in the order of the set, if the format may take it as its own.
    pub(crate) link: Option<&'a Known>,
}

impl Plan<'_> {
    /// Whether a shard with so many ids and documents ends before a document of `next` ids.
    pub(crate) fn is_full(&self, n_ids: u64, n_documents: u64, next: u64) -> bool {
        n_documents > 0 && (n_documents >= self.shard_documents || n_ids + next > self.shard_tokens)
    }
}

fn writer<'a>(kind: Kind, plan: Plan<'a>) -> Result<Box<dyn Writer + 'a>> {
    Ok(match kind {
        Kind::NanoGpt => Box::new(nanogpt::NanoGpt::new(plan)?),
        Kind::Llmc => Box::new(llmc::Llmc::new(plan)),
        Kind::Megatron => Box::new(megatron::Megatron::new(plan)?),
        Kind::Datatrove => Box::new(datatrove::Datatrove::new(plan)?),
        Kind::Olmo => Box::new(olmo::Olmo::new(plan)?),
        Kind::LitData => Box::new(litdata::LitData::new(plan)),
        Kind::Mds => Box::new(mds::Mds::new(plan)?),
    })
}

/// An error for ids that a format cannot hold.
fn too_wide(kind: Kind, hint: &str) -> Error {
    let what =
        format!("{} holds uint16 ids only, and this vocabulary has more than 65,536; {hint}", kind.name());
    Error::BadOption { option: "format", what }
}
