//! Where a job's ids go: the seam between the job and the formats of its outputs.
//!
//! The committer puts blocks in order and hands each to a sink in two steps: [`Sink::place`], one
//! block at a time, where hashes run and places are given out; then [`Sink::write`], on many threads
//! at once. From time to time, on a thread of its own, it asks that what was written be made durable
//! ([`Sink::sync`]) and, where the format is one that grows, be shown to readers ([`Sink::announce`]).
//! In the end the sink is published or abandoned.
//!
//! A block is whole documents and parts of documents as they come; `ends` are cumulative over the
//! whole output, and a document that ends with the block's last id has its end in this block.
//!
//! A format that writes its files at given places, with lengths or headers that follow from counts,
//! is made from [`Parts`](crate::stream::parts::Parts), as both of our own are.

use rustc_hash::FxHashSet;

use super::checkpoint::{Header, Log, Progress};
use super::{Control, JobSpec};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::stream::manifest::{Options, Report, TokenizerInfo};
use crate::stream::parts::{Mark, Piece, Place, Sidecar};

/// An output under way.
pub(crate) trait Sink: Send + Sync {
    /// Gives the next block its place, in the order of the output, one call at a time: no writes here,
    /// others wait. The mark says how far the present part of the output goes with this block; an
    /// interrupted job is resumed behind the last mark whose bytes are found on disk.
    fn place(&self, piece: Piece<'_>) -> Result<(Place, Mark)>;

    /// Writes a block at its place; any thread, in any order, side by side.
    fn write(&self, place: Place, piece: Piece<'_>) -> Result<()>;

    /// Asks the kernel to begin to write what goes up to `mark`, all of which it was given: called
    /// often, so that [`Sink::sync`] has little to wait for. Fails silently.
    fn start_write_back(&self, mark: &Mark);

    /// Makes every block up to `progress` durable; all of them have been written.
    fn sync(&self, progress: &Progress) -> Result<()>;

    /// Shows readers what [`Sink::sync`] made durable. A format that is published as a whole does
    /// nothing here.
    fn announce(&self, progress: &Progress) -> Result<()>;

    /// Syncs and publishes the finished output under its name, with the list of what was left out, which
    /// `log` has. After an error nothing is published.
    fn publish(&self, progress: &Progress, log: &Log) -> Result<Report>;

    /// Ends a job that failed. With `keep`, what is there stays for a resumed run; else a format that
    /// is published as a whole leaves nothing. What goes wrong here is not reported: `error` is what
    /// the user has to know.
    fn abandon(&self, error: &Error, keep: bool);
}

/// What is to be made.
pub(crate) struct Target<'a> {
    pub(crate) spec: &'a JobSpec,
    pub(crate) sources: &'a [Source],
    pub(crate) tokenizer: TokenizerInfo,
    pub(crate) options: Options,
    pub(crate) id_bytes: u64,
    /// Whether to go on.
    pub(crate) control: &'a Control,
}

impl Target<'_> {
    /// Which sidecars the output has.
    pub(crate) fn has(&self, sidecar: Sidecar) -> bool {
        let records = self.options.records.as_ref();
        match sidecar {
            Sidecar::Docs => records.is_some() || self.separator_bytes().is_some(),
            Sidecar::Ids => records.is_some_and(|records| records.id_field.is_some()),
        }
    }

    /// Bytes between two documents of text whose places are kept. They are not where each file is plain text
    /// and one document, so that its place is known; nor where broken text is replaced, which moves what follows.
    pub(crate) fn separator_bytes(&self) -> Option<u64> {
        let are_needed = self.spec.separator.is_some()
            || self.options.records.is_some()
            || self.sources.iter().any(|source| !source.kind.is_plain_text());
        (are_needed && !self.spec.replace_invalid)
            .then(|| self.spec.separator.as_ref().map_or(0, String::len) as u64)
    }

    /// What a resumed job must have in common with the interrupted one.
    pub(crate) fn header(&self) -> Header {
        Header::new(self.spec.format.name(), &self.tokenizer, &self.options, self.sources)
    }
}

/// An output that was begun, or found interrupted and taken up again.
pub(crate) struct Begun<'a> {
    pub(crate) sink: Box<dyn Sink + 'a>,
    pub(crate) log: Log,
    pub(crate) progress: Progress,
    /// Hashes of the texts that are in the output, where duplicates are left out.
    pub(crate) texts: FxHashSet<u128>,
}
