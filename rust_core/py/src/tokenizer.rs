//! The tokenizer class: texts in, arrays out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyDict};
use tokend_core::vocab::{Reference, SpecialToken};
use tokend_core::{Error, Lane, SpecialPolicy, Vocabulary};

use crate::errors::CoreError;

/// An exact byte-level BPE tokenizer; see `tokend.Tokenizer`.
#[pyclass(frozen, module = "tokend._core")]
pub(crate) struct Tokenizer {
    pub(crate) inner: Arc<tokend_core::Tokenizer>,
}

/// Reads the value of a `special` option.
pub(crate) fn special_policy(text: &str) -> Result<SpecialPolicy, CoreError> {
    Ok(match text {
        "raise" => SpecialPolicy::Raise,
        "text" => SpecialPolicy::Text,
        "token" => SpecialPolicy::Token,
        _ => {
            let what = format!("{text:?} is none of raise, text, token");
            return Err(Error::BadOption { option: "special", what }.into());
        }
    })
}

/// Bytes that must be text; `at` is where they start in their request.
fn utf8(bytes: &[u8], at: usize) -> Result<&str, CoreError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        let byte = bytes.get(offset).copied().unwrap_or_default();
        Error::InvalidUtf8 { path: "text".into(), offset: (at + offset) as u64, byte }.into()
    })
}

/// The texts that stand one behind the other in `data`; `ends` are where each ends.
fn cut<'a>(data: &'a [u8], ends: &[u64]) -> Result<Vec<&'a str>, CoreError> {
    let mut texts = Vec::with_capacity(ends.len());
    let mut start = 0;
    for &end in ends {
        let Some(bytes) = usize::try_from(end).ok().and_then(|end| data.get(start..end)) else {
            let what = format!("text {} is {start}..{end} of {} bytes", texts.len(), data.len());
            return Err(Error::BadOption { option: "ends", what }.into());
        };
        texts.push(utf8(bytes, start)?);
        start += bytes.len();
    }
    if start != data.len() {
        let what = format!("the last text ends at {start} of {} bytes", data.len());
        return Err(Error::BadOption { option: "ends", what }.into());
    }
    Ok(texts)
}

/// Text as it comes: `bytes`, or an array over a message that libzmq holds.
#[derive(FromPyObject)]
pub(crate) enum Text<'py> {
    Bytes(Bound<'py, PyBytes>),
    Array(PyReadonlyArray1<'py, u8>),
}

impl Text<'_> {
    fn as_slice(&self) -> PyResult<&[u8]> {
        Ok(match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Array(array) => array.as_slice()?,
        })
    }
}

/// Ids as they come, so that none are copied.
#[derive(FromPyObject)]
pub(crate) enum Ids<'py> {
    Narrow(PyReadonlyArray1<'py, u16>),
    Wide(PyReadonlyArray1<'py, u32>),
}

type IdsAndEnds = (Py<PyAny>, Py<PyAny>);

impl Tokenizer {
    fn build(
        py: Python<'_>,
        load: impl FnOnce() -> tokend_core::Result<Vocabulary> + Send,
    ) -> PyResult<Self> {
        let inner = py.detach(|| tokend_core::Tokenizer::new(load()?)).map_err(CoreError::from)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    fn encode_as<L: Lane + numpy::Element>(
        &self,
        py: Python<'_>,
        text: &str,
        special: SpecialPolicy,
    ) -> PyResult<Py<PyAny>> {
        let ids = py.detach(|| self.inner.encode::<L>(text, special)).map_err(CoreError::from)?;
        Ok(ids.into_pyarray(py).into_any().unbind())
    }

    fn batch_as<L: Lane + numpy::Element>(
        &self,
        py: Python<'_>,
        texts: &[&str],
        special: SpecialPolicy,
    ) -> PyResult<IdsAndEnds> {
        let (ids, ends) =
            py.detach(|| self.inner.encode_batch::<L>(texts, special)).map_err(CoreError::from)?;
        Ok((ids.into_pyarray(py).into_any().unbind(), ends.into_pyarray(py).into_any().unbind()))
    }

    fn batch(&self, py: Python<'_>, texts: &[&str], special: &str) -> PyResult<IdsAndEnds> {
        let special = special_policy(special)?;
        if self.inner.vocab().is_wide() {
            self.batch_as::<u32>(py, texts, special)
        } else {
            self.batch_as::<u16>(py, texts, special)
        }
    }

    fn text(&self, py: Python<'_>, text: &str, special: &str) -> PyResult<Py<PyAny>> {
        let special = special_policy(special)?;
        if self.inner.vocab().is_wide() {
            self.encode_as::<u32>(py, text, special)
        } else {
            self.encode_as::<u16>(py, text, special)
        }
    }
}

#[pymethods]
impl Tokenizer {
    #[staticmethod]
    fn load(py: Python<'_>, name_or_path: &str) -> PyResult<Self> {
        Self::build(py, || Vocabulary::load(name_or_path))
    }

    #[staticmethod]
    fn from_tiktoken(
        py: Python<'_>,
        path: &str,
        pattern: &str,
        special_tokens: BTreeMap<String, u32>,
        name: &str,
    ) -> PyResult<Self> {
        let specials = special_tokens.into_iter().map(|(text, id)| SpecialToken { text, id }).collect();
        Self::build(py, || Vocabulary::from_tiktoken(Path::new(path), pattern, specials, name))
    }

    #[staticmethod]
    fn from_merges(
        py: Python<'_>,
        vocab: BTreeMap<u32, Vec<u8>>,
        merges: Vec<(Vec<u8>, Vec<u8>)>,
        special_tokens: Vec<(String, u32)>,
        pattern: &str,
    ) -> PyResult<Self> {
        let specials = special_tokens.into_iter().map(|(text, id)| SpecialToken { text, id }).collect();
        Self::build(py, || Vocabulary::from_merges(vocab, merges, specials, pattern))
    }

    #[getter]
    fn name(&self) -> &str {
        self.inner.vocab().name()
    }

    #[getter]
    fn vocab_size(&self) -> u32 {
        self.inner.vocab().len_ids()
    }

    #[getter]
    fn is_wide(&self) -> bool {
        self.inner.vocab().is_wide()
    }

    #[getter]
    fn fingerprint(&self) -> &str {
        self.inner.vocab().fingerprint()
    }

    #[getter]
    fn special_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let tokens = PyDict::new(py);
        let vocab = self.inner.vocab();
        for (at, special) in vocab.specials().iter().enumerate() {
            if vocab.flags(at).special {
                tokens.set_item(&special.text, special.id)?;
            }
        }
        Ok(tokens)
    }

    #[getter]
    fn eot_id(&self) -> Option<u32> {
        self.inner.vocab().eot_id()
    }

    #[getter]
    fn pattern(&self) -> &str {
        self.inner.vocab().pattern()
    }

    #[getter]
    fn reference(&self) -> &'static str {
        match self.inner.vocab().reference() {
            Reference::Tiktoken => "tiktoken",
            Reference::PythonRegex => "regex",
            Reference::HuggingFace => "tokenizers",
        }
    }

    fn encode(&self, py: Python<'_>, text: &str, special: &str) -> PyResult<Py<PyAny>> {
        self.text(py, text, special)
    }

    fn encode_utf8(&self, py: Python<'_>, data: Text<'_>, special: &str) -> PyResult<Py<PyAny>> {
        self.text(py, utf8(data.as_slice()?, 0)?, special)
    }

    fn encode_batch(&self, py: Python<'_>, texts: Vec<PyBackedStr>, special: &str) -> PyResult<IdsAndEnds> {
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        self.batch(py, &texts, special)
    }

    fn encode_batch_utf8(
        &self,
        py: Python<'_>,
        data: Text<'_>,
        ends: PyReadonlyArray1<'_, u64>,
        special: &str,
    ) -> PyResult<IdsAndEnds> {
        let (data, ends) = (data.as_slice()?, ends.as_slice()?);
        let texts = py.detach(|| cut(data, ends))?;
        self.batch(py, &texts, special)
    }

    fn count_utf8(&self, py: Python<'_>, data: Text<'_>, special: &str) -> PyResult<usize> {
        let (text, special) = (utf8(data.as_slice()?, 0)?, special_policy(special)?);
        Ok(py.detach(|| self.inner.count(text, special)).map_err(CoreError::from)?)
    }

    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: PyReadonlyArray1<'py, u32>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let ids = ids.as_slice()?;
        let bytes = py.detach(|| self.inner.decode_bytes(ids)).map_err(CoreError::from)?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn decode_array(&self, py: Python<'_>, ids: Ids<'_>) -> PyResult<Py<PyAny>> {
        let bytes = match &ids {
            Ids::Narrow(ids) => {
                let ids = ids.as_slice()?;
                py.detach(|| self.inner.decode_bytes(ids))
            }
            Ids::Wide(ids) => {
                let ids = ids.as_slice()?;
                py.detach(|| self.inner.decode_bytes(ids))
            }
        };
        Ok(bytes.map_err(CoreError::from)?.into_pyarray(py).into_any().unbind())
    }

    fn decoded_bytes(&self, py: Python<'_>, ids: Ids<'_>) -> PyResult<u64> {
        Ok(match &ids {
            Ids::Narrow(ids) => {
                let ids = ids.as_slice()?;
                py.detach(|| self.inner.decoded_bytes(ids))
            }
            Ids::Wide(ids) => {
                let ids = ids.as_slice()?;
                py.detach(|| self.inner.decoded_bytes(ids))
            }
        })
    }

    fn token_bytes<'py>(&self, py: Python<'py>, id: u32) -> PyResult<Bound<'py, PyBytes>> {
        match self.inner.vocab().token(id) {
            Some(bytes) => Ok(PyBytes::new(py, bytes)),
            None => Err(CoreError::from(Error::UnknownId { id: u64::from(id), position: 0 }).into()),
        }
    }

    fn cache_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.inner.cache_stats();
        let dict = PyDict::new(py);
        for (name, count) in [
            ("entries", stats.entries),
            ("bytes", stats.bytes),
            ("capacity_bytes", stats.capacity_bytes),
            ("hits", stats.hits),
            ("misses", stats.misses),
            ("evictions", stats.evictions),
        ] {
            dict.set_item(name, count)?;
        }
        Ok(dict)
    }

    fn cache_clear(&self, py: Python<'_>) {
        py.detach(|| self.inner.cache_clear());
    }

    fn load_cache(&self, py: Python<'_>, path: PathBuf) -> bool {
        py.detach(|| self.inner.load_cache(&path))
    }

    fn save_cache(&self, py: Python<'_>, path: PathBuf) -> PyResult<bool> {
        Ok(py.detach(|| self.inner.save_cache(&path)).map_err(CoreError::from)?)
    }

    fn stream(&self, special: &str) -> PyResult<StreamEncoder> {
        let special = special_policy(special)?;
        let encoder = tokend_core::StreamEncoder::new(Arc::clone(&self.inner), special);
        Ok(StreamEncoder { wide: self.inner.vocab().is_wide(), inner: Mutex::new(encoder) })
    }
}

/// What is known of a published encoding by heart: pattern, SHA-256 of its rank file, special tokens.
#[pyfunction]
pub(crate) fn published_encoding(name: &str) -> Option<tokend_core::vocab::named::Published> {
    tokend_core::vocab::named::published(name)
}

/// Encodes one text that comes in pieces; see `tokend.Tokenizer.encode_iter`.
#[pyclass(frozen, module = "tokend._core")]
pub(crate) struct StreamEncoder {
    wide: bool,
    inner: Mutex<tokend_core::StreamEncoder>,
}

impl StreamEncoder {
    fn run<L: Lane + numpy::Element>(&self, py: Python<'_>, piece: Option<&str>) -> PyResult<Py<PyAny>> {
        let ids = py
            .detach(|| {
                let mut encoder = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                match piece {
                    Some(piece) => encoder.push::<L>(piece),
                    None => encoder.finish::<L>(),
                }
            })
            .map_err(CoreError::from)?;
        Ok(ids.into_pyarray(py).into_any().unbind())
    }
}

#[pymethods]
impl StreamEncoder {
    fn push(&self, py: Python<'_>, text: &str) -> PyResult<Py<PyAny>> {
        if self.wide { self.run::<u32>(py, Some(text)) } else { self.run::<u16>(py, Some(text)) }
    }

    fn finish(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.wide { self.run::<u32>(py, None) } else { self.run::<u16>(py, None) }
    }
}
