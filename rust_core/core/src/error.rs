//! The one error type of the crate.
//!
//! Every variant says what went wrong, where (path, line or byte offset), with which values, and
//! [`Error::hint`] says what to do. [`Error::code`] is the stable name that crosses the wire and
//! that the Python package maps to an exception class; messages may be reworded, codes may not.

use std::io;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between bytes and tokens on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input, vocabulary or directory that is not there.
    #[error("{}: no such file or directory", path.display())]
    NotFound { path: PathBuf },

    /// A directory where a file is needed.
    #[error("{}: is a directory", path.display())]
    IsDirectory { path: PathBuf },

    /// A FIFO, socket or device where a regular file is needed.
    #[error("{}: is a {kind}, not a regular file", path.display())]
    NotRegular { path: PathBuf, kind: &'static str },

    /// A path outside the roots that the daemon may serve.
    #[error("{}: outside the allowed roots", path.display())]
    PathDenied { path: PathBuf },

    /// Any other failure of the operating system.
    #[error("{}: {action} failed: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },

    /// The disk is full, or would be.
    #[error("{}: no space left: {what}", path.display())]
    NoSpace { path: PathBuf, what: String },

    /// Input bytes that are not UTF-8; `offset` counts bytes from the start of the input.
    #[error("{}: not valid UTF-8 at byte {offset} (0x{byte:02x})", path.display())]
    InvalidUtf8 { path: PathBuf, offset: u64, byte: u8 },

    /// A record that is no document; `place` says which, from the start of its input.
    #[error("{}: {place}: {reason}", path.display())]
    BadDocument { path: PathBuf, place: String, reason: String },

    /// An input whose format is broken: compressed data, parquet or arrow. `offset` counts bytes of the file.
    #[error("{}: {what} at byte {offset}", path.display())]
    DamagedInput { path: PathBuf, offset: u64, what: String },

    /// A special token's text inside a document, under the policy `raise`.
    #[error("{}text contains the special token {token:?} at byte {offset}", at(path.as_deref()))]
    SpecialToken { path: Option<PathBuf>, token: String, offset: u64 },

    /// A byte of the text for which the vocabulary has no token.
    #[error("{}byte 0x{byte:02x} at offset {offset} has no token in this vocabulary", at(path.as_deref()))]
    NoToken { path: Option<PathBuf>, byte: u8, offset: u64 },

    /// A file whose content or size changed while it was read.
    #[error("{}: the input changed while it was read ({what})", path.display())]
    InputChanged { path: PathBuf, what: String },

    /// An output that exists and may not be replaced.
    #[error("{}: output exists", path.display())]
    OutputExists { path: PathBuf },

    /// What is in an output's place and is no output of tokend's: it is never replaced.
    #[error("{}: output exists, and tokend did not make it", path.display())]
    ForeignOutput { path: PathBuf },

    /// An output that another job is writing.
    #[error("{}: another job is writing this output", path.display())]
    OutputBusy { path: PathBuf },

    /// Partial files of an interrupted run that cannot be gone on from.
    #[error("{}: cannot resume: {what}", path.display())]
    CannotResume { path: PathBuf, what: String },

    /// A token set whose bytes are not what its manifest says.
    #[error("{}: {what}", path.display())]
    Damaged { path: PathBuf, what: String },

    /// An output path that is also an input.
    #[error("{}: output is also an input", path.display())]
    OutputIsInput { path: PathBuf },

    /// A vocabulary, model or manifest file that breaks its format. `line` counts from 1.
    #[error("{}:{line}: {what}", path.display())]
    BadLine { path: PathBuf, line: usize, what: String },

    /// A tokenizer definition that cannot be used as given.
    #[error("{name}: {what}")]
    BadTokenizer { name: String, what: String },

    /// A construct of a split pattern that is not supported, by name.
    /// `tokenizer` is empty until a tokenizer is made of it.
    #[error("{tokenizer}{}pattern {pattern:?}: {what} at character {at}", if tokenizer.is_empty() { "" } else { ": " })]
    BadPattern { tokenizer: String, pattern: String, at: usize, what: String },

    /// A text on which a pattern needs more backtracking than the engine allows.
    #[error("the split pattern needs too much backtracking at byte {offset}")]
    TooMuchBacktracking { offset: u64 },

    /// A single pretoken of two gigabytes or more.
    #[error("the pretoken at byte {offset} is longer than 2 GiB")]
    TooLong { offset: u64 },

    /// An id that the vocabulary does not have.
    #[error("id {id} at position {position} is not in this vocabulary")]
    UnknownId { id: u64, position: usize },

    /// An option whose value makes no sense.
    #[error("{option}: {what}")]
    BadOption { option: &'static str, what: String },

    /// The job was cancelled by its control handle.
    #[error("cancelled")]
    Cancelled,

    /// A defect of tokend itself (a panic of a worker).
    #[error("internal error: {what}")]
    Internal { what: String },
}

fn at(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |p| format!("{}: ", p.display()))
}

impl Error {
    /// The stable code of this error, as it crosses the wire.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NOT_FOUND",
            Self::PathDenied { .. } => "PATH_DENIED",
            Self::IsDirectory { .. }
            | Self::NotRegular { .. }
            | Self::InvalidUtf8 { .. }
            | Self::DamagedInput { .. } => "INPUT_INVALID",
            Self::BadDocument { .. } => "BAD_DOCUMENT",
            Self::Io { .. } => "IO_ERROR",
            Self::NoSpace { .. } => "NO_SPACE",
            Self::SpecialToken { .. } => "SPECIAL_TOKEN",
            Self::NoToken { .. } => "NO_TOKEN",
            Self::InputChanged { .. } => "INPUT_CHANGED",
            Self::OutputExists { .. } | Self::ForeignOutput { .. } => "OUTPUT_EXISTS",
            Self::OutputBusy { .. } | Self::CannotResume { .. } => "CONFLICT",
            Self::Damaged { .. } => "STREAM_INVALID",
            Self::OutputIsInput { .. } | Self::BadOption { .. } => "BAD_REQUEST",
            Self::BadLine { .. } | Self::BadTokenizer { .. } | Self::BadPattern { .. } => "TOKENIZER_INVALID",
            Self::TooMuchBacktracking { .. } | Self::TooLong { .. } => "TOO_LARGE",
            Self::UnknownId { .. } => "UNKNOWN_ID",
            Self::Cancelled => "CANCELLED",
            Self::Internal { .. } => "INTERNAL",
        }
    }

    /// What the user can do about it, or `None` where there is nothing to add.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { .. } => "check the path; paths given to a daemon must exist on its machine".into(),
            Self::IsDirectory { .. } => "list its files with --files-from, e.g. `find DIR -type f | tokend encode --files-from - -o OUT.bin`; the command and the client take a directory too".into(),
            Self::NotRegular { .. } => "copy the data to a regular file first; what comes through a pipe is read with - as the input".into(),
            Self::PathDenied { .. } => "start the daemon with --root for that directory".into(),
            Self::NoSpace { .. } => "free space and go on with --resume, or write to another file system".into(),
            Self::InvalidUtf8 { .. } => "convert the file, or pass --errors replace to put U+FFFD for broken bytes".into(),
            Self::BadDocument { .. } => "mend it, or add --bad-documents skip (with --local also --resume): such documents are then left out and listed in OUT.skipped.jsonl, and the job goes on from here".into(),
            Self::DamagedInput { .. } => "get the file again; it is incomplete or was damaged on its way".into(),
            Self::SpecialToken { path: Some(_), .. } => "pass --separator with it if it ends documents, --special text to encode it as ordinary text, or --special token for its id".into(),
            Self::SpecialToken { path: None, .. } => "pass --special text to encode it as ordinary text, or --special token for its id".into(),
            Self::NoToken { .. } => "use a vocabulary that has all 256 bytes".into(),
            Self::InputChanged { .. } => "run again when nothing writes to the input".into(),
            Self::OutputExists { .. } => "pass --force to replace it, whoever made it, or choose another output".into(),
            Self::ForeignOutput { .. } => "choose another output, or move away what is there; --force replaces such a directory only where tokend made it".into(),
            Self::OutputBusy { .. } => "wait for it, or choose another output".into(),
            Self::CannotResume { .. } => "run without --resume to start over".into(),
            Self::Damaged { .. } => "make it again from its inputs".into(),
            Self::OutputIsInput { .. } => "choose another output path".into(),
            Self::UnknownId { .. } => "decode with the tokenizer that made the ids".into(),
            Self::BadPattern { .. } => "the supported subset is listed in docs/reference/patterns.md".into(),
            Self::Internal { .. } => "this is a defect of tokend; please report it with the input".into(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => "check the permissions of the file and its directory".into(),
            _ => return None,
        })
    }

    /// Whether a run that failed with this can be gone on from once its cause is gone: the disk was
    /// full, or bad documents are to be left out from now on. Everything else says that inputs or disk
    /// are not to be relied on, or would fail again.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::BadDocument { .. })
    }

    /// Wraps an error of the operating system, giving the common kinds their own variants.
    #[must_use]
    pub fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, what: format!("{action}: {source}") }
            }
            _ => Self::Io { path, action, source },
        }
    }
}
