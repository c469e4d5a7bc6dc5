//! What a job is told: inputs, outputs, and every option that changes a byte of them.

use std::path::{Path, PathBuf};

use super::RecordOptions;
use crate::documents::Eot;
use crate::error::{Error, Result};
use crate::input::Given;
use crate::input::access::Roots;
use crate::input::field_path::FieldPath;
use crate::special::SpecialPolicy;

/// The partial key of a job that is given none.
const LOCAL_KEY: &str = "local";

/// What a job makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One data file with its ends and its manifest, published as a whole.
    #[default]
    Bin,
    /// A directory that readers can follow while it grows.
    Stream,
}

impl Format {
    /// Reads the option's value.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "bin" => Ok(Self::Bin),
            "stream" => Ok(Self::Stream),
            _ => {
                let what = format!("{text:?} is none of bin, stream");
                Err(Error::BadOption { option: "format", what })
            }
        }
    }

    /// The option's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bin => "bin",
            Self::Stream => "stream",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "options, each as its user gives it")]
pub struct JobSpec {
    /// Absolute paths of the inputs, in the order of the output.
    pub inputs: Vec<PathBuf>,
    /// The one of them that holds what came through stdin: it is called `-` in manifests, lists and errors.
    pub stdin: Option<PathBuf>,
    /// Absolute path of the output: the data file, or the directory of a stream.
    pub output: PathBuf,
    pub format: Format,
    /// Text that ends a document; `None`: each input is one document.
    pub separator: Option<String>,
    pub eot: Eot,
    /// The end-of-text id; needed unless `eot` is [`Eot::None`].
    pub eot_id: Option<u32>,
    /// What a special token's text in a document means; `None`: an error in text, ordinary text in JSON
    /// lines and columns.
    pub special: Option<SpecialPolicy>,
    /// What inputs are, and how records become documents.
    pub records: RecordOptions,
    /// Put U+FFFD for bytes that are not UTF-8, as Python's decoder does, instead of failing.
    pub replace_invalid: bool,
    /// Worker threads; 0: one less than there are cores.
    pub threads: usize,
    /// Replace an existing output.
    pub force: bool,
    /// Of a stream: its segments may be retired while it is made, so it need not fit on the disk.
    pub retire: bool,
    /// Go on from what an interrupted run with the same key left, if it left anything.
    pub resume: bool,
    /// Part of the names of partial files, so that who made them can be told; `None`: `"local"`.
    pub partial_key: Option<String>,
    /// Files of texts that other jobs encoded, to be left out as duplicates; the job then writes one of its own.
    pub known_texts: Option<Vec<PathBuf>>,
    pub roots: Roots,
    /// More outputs that are made in the same pass, each a set of its own, of another field.
    pub more: Vec<FieldOutput>,
}

/// Another field and the absolute path of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldOutput {
    pub field: FieldPath,
    pub output: PathBuf,
}

/// What the input that came through stdin is called.
const STDIN: &str = "-";

impl JobSpec {
    /// A job with the defaults: each input one document, an end-of-text id (still to be given) after
    /// it, special tokens refused, strict UTF-8.
    #[must_use]
    pub fn new(inputs: Vec<PathBuf>, output: PathBuf) -> Self {
        Self {
            inputs,
            stdin: None,
            output,
            separator: None,
            eot: Eot::Append,
            eot_id: None,
            special: None,
            records: RecordOptions::default(),
            replace_invalid: false,
            threads: 0,
            force: false,
            retire: false,
            resume: false,
            partial_key: None,
            known_texts: None,
            format: Format::default(),
            roots: Roots::default(),
            more: Vec::new(),
        }
    }

    /// The inputs, with what they are called.
    pub(crate) fn given(&self) -> impl Iterator<Item = Given<'_>> {
        self.inputs.iter().map(|file| {
            let is_stdin = self.stdin.as_ref() == Some(file);
            Given { file, name: if is_stdin { Path::new(STDIN) } else { file } }
        })
    }

    /// The partial key.
    pub(crate) fn key(&self) -> Result<&str> {
        let key = self.partial_key.as_deref().unwrap_or(LOCAL_KEY);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if (1..=64).contains(&key.len()) && key.bytes().all(plain) {
            return Ok(key);
        }
        let what = format!("{key:?} is not 1 to 64 letters, digits, - and _");
        Err(Error::BadOption { option: "partial_key", what })
    }
}
