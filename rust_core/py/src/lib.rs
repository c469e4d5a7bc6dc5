//! `tokend._core`: the Python face of `tokend-core`. It converts arguments and results, releases the
//! GIL around the work, and does nothing else.

mod errors;
mod export;
mod job;
mod tokenizer;

/// Native core of tokend. Private: use `tokend` instead.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::export::{
        PrefixHash, check_export, export, export_formats, hash_prefixes, read_record, shuffled, shuffled_to,
        sides,
    };
    #[pymodule_export]
    use super::job::{
        JobControl, check_paths, default_threads, discard_partials, encode_files, logged_bytes, retire,
        verify,
    };
    #[pymodule_export]
    use super::tokenizer::{StreamEncoder, Tokenizer, published_encoding};
}
