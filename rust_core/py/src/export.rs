//! Sets in foreign formats.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokend_core::export::{
    ExportSpec, Kind, PrefixHash as Running, Shuffle, check, export as export_set, hash_prefixes as prefixes,
    sides as split_sides,
};
use tokend_core::input::one_record;
use tokend_core::{Control, Eot, Error};

use crate::errors::CoreError;
use crate::job::JobControl;

#[pyfunction]
#[pyo3(signature = (input, output, format, *, eot=None, eot_id=None, shard_tokens=None, shard_bytes=None, shard_documents=None, row_tokens=None, val_fraction=0.0, seed=0, shuffle=false, force=false, sibling=None, beside=vec![], control=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python function")]
pub(crate) fn export(
    py: Python<'_>,
    input: PathBuf,
    output: PathBuf,
    format: &str,
    eot: Option<&str>,
    eot_id: Option<u32>,
    shard_tokens: Option<u64>,
    shard_bytes: Option<u64>,
    shard_documents: Option<u64>,
    row_tokens: Option<u64>,
    val_fraction: f64,
    seed: u64,
    shuffle: bool,
    force: bool,
    sibling: Option<(PathBuf, String)>,
    beside: Vec<String>,
    control: Option<&JobControl>,
) -> PyResult<String> {
    let sibling = sibling
        .map(|(place, kind)| Kind::parse(&kind).map(|kind| (place, kind)))
        .transpose()
        .map_err(CoreError::from)?;
    let spec = ExportSpec {
        input,
        output,
        kind: Kind::parse(format).map_err(CoreError::from)?,
        eot: eot.map(Eot::parse).transpose().map_err(CoreError::from)?,
        eot_id,
        shard_tokens,
        shard_bytes,
        shard_documents,
        row_tokens,
        val_fraction,
        seed,
        shuffle,
        force,
        sibling,
        beside,
    };
    let control = control.map(|control| Arc::clone(&control.inner)).unwrap_or_default();
    let json = py
        .detach(|| {
            let exported = export_set(&spec, &control)?;
            serde_json::to_string(&exported).map_err(|error| Error::Internal { what: error.to_string() })
        })
        .map_err(CoreError::from)?;
    Ok(json)
}

/// Whether a set could be made at `output`, before there is anything to make it of.
#[pyfunction]
#[pyo3(signature = (output, format, *, shard_tokens, shard_bytes, shard_documents, row_tokens, val_fraction, force))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python function")]
pub(crate) fn check_export(
    py: Python<'_>,
    output: PathBuf,
    format: &str,
    shard_tokens: Option<u64>,
    shard_bytes: Option<u64>,
    shard_documents: Option<u64>,
    row_tokens: Option<u64>,
    val_fraction: f64,
    force: bool,
) -> PyResult<()> {
    let kind = Kind::parse(format).map_err(CoreError::from)?;
    let plain = ExportSpec::new(PathBuf::new(), output, kind);
    let spec =
        ExportSpec { shard_tokens, shard_bytes, shard_documents, row_tokens, val_fraction, force, ..plain };
    Ok(py.detach(|| check(&spec)).map_err(CoreError::from)?)
}

/// XXH3-64 of the first so many bytes of a file, for each of `lengths`, which go up.
#[pyfunction]
#[pyo3(signature = (path, lengths, control=None))]
pub(crate) fn hash_prefixes(
    py: Python<'_>,
    path: PathBuf,
    lengths: Vec<u64>,
    control: Option<&JobControl>,
) -> PyResult<Vec<String>> {
    let control = control.map(|control| Arc::clone(&control.inner)).unwrap_or_default();
    Ok(py.detach(|| prefixes(&path, &lengths, &control)).map_err(CoreError::from)?)
}

/// The documents at the first positions of a shuffled set.
#[pyfunction]
pub(crate) fn shuffled(py: Python<'_>, n_documents: u64, seed: u64, n_positions: u64) -> Py<PyArray1<u64>> {
    let order = py.detach(|| {
        let shuffle = Shuffle::new(n_documents, seed);
        (0..n_positions.min(n_documents)).map(|position| shuffle.at(position)).collect::<Vec<_>>()
    });
    order.into_pyarray(py).unbind()
}

/// The positions that documents `start..end` have in a shuffled set.
#[pyfunction]
pub(crate) fn shuffled_to(
    py: Python<'_>,
    n_documents: u64,
    seed: u64,
    start: u64,
    end: u64,
) -> Py<PyArray1<u64>> {
    let positions = py.detach(|| {
        let shuffle = Shuffle::new(n_documents, seed);
        (start..end.min(n_documents)).map(|document| shuffle.position_of(document)).collect::<Vec<_>>()
    });
    positions.into_pyarray(py).unbind()
}

/// For documents `start..end` of a set whether a split puts each on the side of validation.
#[pyfunction]
#[pyo3(signature = (path, val_fraction, seed, start, end, control=None))]
pub(crate) fn sides(
    py: Python<'_>,
    path: PathBuf,
    val_fraction: f64,
    seed: u64,
    start: u64,
    end: u64,
    control: Option<&JobControl>,
) -> PyResult<Py<PyArray1<bool>>> {
    let control = control.map(|control| Arc::clone(&control.inner)).unwrap_or_default();
    let found = py
        .detach(|| split_sides(&path, val_fraction, seed, start..end, &control))
        .map_err(CoreError::from)?;
    Ok(found.into_pyarray(py).unbind())
}

/// The running hash of the start of a file that grows.
#[pyclass(frozen, module = "tokend._core")]
pub(crate) struct PrefixHash {
    inner: Mutex<Running>,
}

#[pymethods]
impl PrefixHash {
    #[new]
    fn new() -> Self {
        Self { inner: Mutex::default() }
    }

    fn advance(&self, py: Python<'_>, path: PathBuf, length: u64) -> PyResult<String> {
        let advanced = py.detach(|| {
            let mut running = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            running.advance(&path, length, &Control::default())
        });
        Ok(advanced.map_err(CoreError::from)?)
    }

    #[getter]
    fn n_bytes(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).n_bytes()
    }
}

/// The bytes of one record of a source, by its place in it.
#[pyfunction]
#[pyo3(signature = (path, place, n_bytes, field=None))]
pub(crate) fn read_record<'py>(
    py: Python<'py>,
    path: PathBuf,
    place: u64,
    n_bytes: u64,
    field: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = py.detach(|| one_record::read(&path, place, n_bytes, field)).map_err(CoreError::from)?;
    Ok(PyBytes::new(py, &bytes))
}

/// The formats that [`export`] makes.
#[pyfunction]
pub(crate) fn export_formats() -> Vec<&'static str> {
    Kind::ALL.iter().map(|kind| kind.name()).collect()
}
