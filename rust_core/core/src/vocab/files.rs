//! The files that vocabularies are read from: regular, of a size that one may have, under an absolute name.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::input::access::Roots;

/// A larger file is none of a vocabulary's; the largest that are published have some 35 MB.
pub(super) const FILE_MAX_BYTES: u64 = 256 << 20;

/// The JSON file with everything in it that a path means: any other `.json` than those of a pair of
/// files, or the `tokenizer.json` in a folder.
pub(super) fn json_path(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.join("tokenizer.json")).filter(|json| json.exists());
    }
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let name = path.file_name()?;
    (is_json && name != "vocab.json" && name != "encoder.json" && path.exists()).then(|| path.to_owned())
}

/// Reads a file as text whose broken lines can be named.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let bytes = read_file(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(offset).copied().unwrap_or_default();
        Error::InvalidUtf8 { path: path.to_owned(), offset: offset as u64, byte }
    })
}

/// The bytes of a regular file that is not too large for a vocabulary.
///
/// A daemon loads what anybody names: a FIFO would keep it waiting, a device would fill its memory.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |error| Error::io(path, "reading", error);
    let file = Roots::default().open_output(path)?;
    let n_bytes = file.metadata().map_err(fail)?.len();
    let mut bytes = Vec::new();
    if n_bytes <= FILE_MAX_BYTES {
        bytes.reserve_exact(n_bytes as usize + 1);
        // Counted as it is read: of a file of the kernel's the size says nothing.
        file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    }
    within_limit(path, bytes, n_bytes)
}

/// Refuses what is too large for a vocabulary's file.
pub(super) fn within_limit(path: &Path, bytes: Vec<u8>, n_bytes: u64) -> Result<Vec<u8>> {
    if n_bytes.max(bytes.len() as u64) <= FILE_MAX_BYTES {
        return Ok(bytes);
    }
    let what = format!("more than {FILE_MAX_BYTES} bytes, which no vocabulary has");
    Err(Error::BadTokenizer { name: path.display().to_string(), what })
}

/// The name of a vocabulary that was loaded from a file: its absolute path.
pub(super) fn name_of(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
