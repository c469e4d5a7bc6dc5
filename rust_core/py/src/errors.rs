//! Core errors as Python exceptions: the one place where they meet.
//!
//! The classes live in `tokend_client.errors`, so that an error is the same class whether the work
//! was done in this process or by a daemon.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A core error on its way to Python.
pub(crate) struct CoreError(tokend_core::Error);

impl From<tokend_core::Error> for CoreError {
    fn from(error: tokend_core::Error) -> Self {
        Self(error)
    }
}

impl From<CoreError> for PyErr {
    fn from(CoreError(error): CoreError) -> Self {
        Python::attach(|py| {
            let build = || {
                py.import("tokend_client.errors")?.getattr("from_code")?.call1((
                    error.code(),
                    error.to_string(),
                    error.hint(),
                ))
            };
            match build() {
                Ok(exception) => PyErr::from_value(exception),
                Err(broken) => {
                    let wrapped = PyRuntimeError::new_err(error.to_string());
                    wrapped.set_cause(py, Some(broken));
                    wrapped
                }
            }
        })
    }
}
