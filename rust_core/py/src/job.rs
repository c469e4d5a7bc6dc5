//! File jobs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::prelude::*;
use tokend_core::input::access::Roots;
use tokend_core::input::detect::InputFormat;
use tokend_core::input::field_path::FieldPath;
use tokend_core::job::{FieldOutput, RecordOptions};
use tokend_core::{Control, Eot, Error, Format, JobSpec, Outcome};

use crate::errors::CoreError;
use crate::tokenizer::{Tokenizer, special_policy};

/// Progress and cancellation of one file job; made before the job, used from any thread.
#[pyclass(frozen, module = "tokend._core")]
pub(crate) struct JobControl {
    pub(crate) inner: Arc<Control>,
}

#[pymethods]
impl JobControl {
    #[new]
    fn new() -> Self {
        Self { inner: Arc::default() }
    }

    fn cancel(&self) {
        self.inner.cancel();
    }

    fn suspend(&self) {
        self.inner.suspend();
    }

    fn check(&self) -> PyResult<()> {
        Ok(self.inner.check().map_err(CoreError::from)?)
    }

    fn set_deadline(&self, deadline_ms: u64) {
        self.inner.set_deadline(deadline_ms);
    }

    fn set_threads(&self, n_threads: usize) {
        self.inner.set_threads(n_threads);
    }

    fn set_ceiling(&self, n_tokens: u64) {
        self.inner.set_ceiling(n_tokens);
    }

    fn set_wanted(&self, n_tokens: u64) {
        self.inner.set_wanted(n_tokens);
    }

    fn retire(&self, before: u64) {
        self.inner.retire(before);
    }

    fn progress(&self) -> (u64, u64, u64, u64) {
        let Control { bytes_done, bytes_total, n_tokens, n_documents, .. } = &*self.inner;
        (
            bytes_done.load(Ordering::Relaxed),
            bytes_total.load(Ordering::Relaxed),
            n_tokens.load(Ordering::Relaxed),
            n_documents.load(Ordering::Relaxed),
        )
    }

    fn n_skipped(&self) -> u64 {
        self.inner.n_skipped.load(Ordering::Relaxed)
    }
}

/// What inputs are, and how their records become documents: a dict with all of these.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Records {
    input_format: String,
    field: Option<String>,
    id_field: Option<String>,
    bad_documents: String,
    min_tokens: u64,
    max_tokens: Option<u64>,
    truncate_tokens: Option<u64>,
    deduplicate: bool,
}

fn record_options(records: Option<Records>) -> Result<RecordOptions, CoreError> {
    let Some(records) = records else { return Ok(RecordOptions::default()) };
    let path = |field: Option<String>| field.map(|field| FieldPath::parse(&field)).transpose();
    Ok(RecordOptions {
        input_format: InputFormat::parse(&records.input_format)?,
        field: path(records.field)?,
        id_field: path(records.id_field)?,
        skip_bad: match &*records.bad_documents {
            "fail" => false,
            "skip" => true,
            other => {
                let what = format!("{other:?} is none of fail, skip");
                return Err(Error::BadOption { option: "bad_documents", what }.into());
            }
        },
        min_tokens: records.min_tokens,
        max_tokens: records.max_tokens,
        truncate_tokens: records.truncate_tokens,
        deduplicate: records.deduplicate,
    })
}

fn field_outputs(more: Vec<(String, PathBuf)>) -> Result<Vec<FieldOutput>, CoreError> {
    let outputs = more.into_iter().map(|(field, output)| {
        let field = FieldPath::parse(&field)?;
        Ok::<_, Error>(FieldOutput { field, output })
    });
    Ok(outputs.collect::<Result<_, _>>()?)
}

/// What an output's manifest says, and whether it was there already.
fn as_json(outcome: &Outcome) -> Result<String, Error> {
    let mut json = serde_json::to_string(&outcome.manifest)
        .map_err(|error| Error::Internal { what: error.to_string() })?;
    // A manifest is an object; a map in between would cost more than a hundred thousand sources do.
    json.pop();
    json += if outcome.up_to_date { ",\"up_to_date\":true}" } else { ",\"up_to_date\":false}" };
    Ok(json)
}

#[pyfunction]
#[pyo3(signature = (tokenizer, inputs, output, *, separator, eot, eot_id, special, errors, threads, force, roots, control, format="bin", resume=false, partial_key=None, records=None, retire=false, known_texts=None, more=vec![], stdin=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python function")]
pub(crate) fn encode_files(
    py: Python<'_>,
    tokenizer: &Tokenizer,
    inputs: Vec<PathBuf>,
    output: PathBuf,
    separator: Option<String>,
    eot: &str,
    eot_id: Option<u32>,
    special: Option<&str>,
    errors: &str,
    threads: usize,
    force: bool,
    roots: Vec<PathBuf>,
    control: &JobControl,
    format: &str,
    resume: bool,
    partial_key: Option<String>,
    records: Option<Records>,
    retire: bool,
    known_texts: Option<Vec<PathBuf>>,
    more: Vec<(String, PathBuf)>,
    stdin: Option<PathBuf>,
) -> PyResult<String> {
    let replace_invalid = match errors {
        "strict" => false,
        "replace" => true,
        _ => {
            let what = format!("{errors:?} is none of strict, replace");
            return Err(CoreError::from(Error::BadOption { option: "errors", what }).into());
        }
    };
    let spec = JobSpec {
        inputs,
        stdin,
        output,
        separator,
        eot: Eot::parse(eot).map_err(CoreError::from)?,
        eot_id,
        special: special.map(special_policy).transpose()?,
        records: record_options(records)?,
        replace_invalid,
        threads,
        force,
        retire,
        format: Format::parse(format).map_err(CoreError::from)?,
        resume,
        partial_key,
        known_texts,
        roots: Roots::new(roots),
        more: field_outputs(more)?,
    };
    let json = py
        .detach(|| {
            let outcome = tokend_core::encode_files(&tokenizer.inner, &spec, &control.inner)?;
            let mut json = as_json(&outcome)?;
            if !outcome.more.is_empty() {
                let more = outcome.more.iter().map(as_json).collect::<Result<Vec<_>, _>>()?;
                json.pop();
                json += ",\"more\":[";
                json += &more.join(",");
                json += "]}";
            }
            Ok::<_, Error>(json)
        })
        .map_err(CoreError::from)?;
    Ok(json)
}

#[pyfunction]
#[pyo3(signature = (inputs, output, *, force, roots, format="bin", resume=false, partial_key=None, records=None, retire=false, more=vec![], stdin=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python function")]
pub(crate) fn check_paths(
    py: Python<'_>,
    inputs: Vec<PathBuf>,
    output: PathBuf,
    force: bool,
    roots: Vec<PathBuf>,
    format: &str,
    resume: bool,
    partial_key: Option<String>,
    records: Option<Records>,
    retire: bool,
    more: Vec<(String, PathBuf)>,
    stdin: Option<PathBuf>,
) -> PyResult<u64> {
    let format = Format::parse(format).map_err(CoreError::from)?;
    let (roots, records) = (Roots::new(roots), record_options(records)?);
    let spec = JobSpec {
        force,
        retire,
        format,
        resume,
        partial_key,
        roots,
        records,
        more: field_outputs(more)?,
        stdin,
        ..JobSpec::new(inputs, output)
    };
    Ok(py.detach(|| tokend_core::job::check(&spec)).map_err(CoreError::from)?)
}

#[pyfunction]
#[pyo3(signature = (output, partial_key=None, format="bin", *, roots=vec![]))]
pub(crate) fn discard_partials(
    py: Python<'_>,
    output: PathBuf,
    partial_key: Option<String>,
    format: &str,
    roots: Vec<PathBuf>,
) -> PyResult<bool> {
    let format = Format::parse(format).map_err(CoreError::from)?;
    let spec = JobSpec { format, partial_key, roots: Roots::new(roots), ..JobSpec::new(Vec::new(), output) };
    Ok(py.detach(|| tokend_core::job::discard_partials(&spec)).map_err(CoreError::from)?)
}

#[pyfunction]
#[pyo3(signature = (output, partial_key=None, format="bin", *, roots=vec![]))]
pub(crate) fn logged_bytes(
    py: Python<'_>,
    output: PathBuf,
    partial_key: Option<String>,
    format: &str,
    roots: Vec<PathBuf>,
) -> PyResult<u64> {
    let format = Format::parse(format).map_err(CoreError::from)?;
    let spec = JobSpec { format, partial_key, roots: Roots::new(roots), ..JobSpec::new(Vec::new(), output) };
    Ok(py.detach(|| tokend_core::job::logged_bytes(&spec)).map_err(CoreError::from)?)
}

#[pyfunction]
#[pyo3(signature = (output, before, *, roots=vec![]))]
pub(crate) fn retire(py: Python<'_>, output: PathBuf, before: u64, roots: Vec<PathBuf>) -> PyResult<usize> {
    let roots = Roots::new(roots);
    let retired = py.detach(|| tokend_core::stream::retirement::retire(&roots, &output, before));
    Ok(retired.map_err(CoreError::from)?)
}

#[pyfunction]
#[pyo3(signature = (path, *, roots=vec![]))]
pub(crate) fn verify(py: Python<'_>, path: PathBuf, roots: Vec<PathBuf>) -> PyResult<String> {
    let roots = Roots::new(roots);
    let verified =
        py.detach(|| tokend_core::stream::verify::verify(&roots, &path)).map_err(CoreError::from)?;
    serde_json::to_string(&verified)
        .map_err(|error| CoreError::from(Error::Internal { what: error.to_string() }).into())
}

/// The number of worker threads that leaves one core to others.
#[pyfunction]
pub(crate) fn default_threads() -> usize {
    tokend_core::job::default_threads()
}
