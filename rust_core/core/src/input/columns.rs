//! Which columns of a parquet or arrow file are read, and whether they can be.
//!
//! By then text columns are bytes ([`super::text_as_bytes`]), plain, large, view or in a dictionary.

use std::path::Path;

use arrow_schema::{DataType, Schema};

use super::field_path::FieldPath;
use crate::error::{Error, Result};

/// The columns that are read.
pub(crate) struct Columns {
    /// One for each output.
    pub(crate) texts: Vec<FieldPath>,
    pub(crate) id: Option<FieldPath>,
}

/// Fails unless the columns are there and can be read.
pub(super) fn check(schema: &Schema, path: &Path, columns: &Columns) -> Result<()> {
    for column in &columns.texts {
        let kind = find(schema, path, column, "field")?;
        if !is_bytes(value_type(&kind)) {
            let what = format!("{}: column {:?} is {kind}, not text", path.display(), column.name());
            return Err(Error::BadOption { option: "field", what });
        }
    }
    if let Some(id) = &columns.id {
        let kind = find(schema, path, id, "id_field")?;
        if !(is_bytes(value_type(&kind)) || value_type(&kind).is_integer()) {
            let what =
                format!("{}: column {:?} is {kind}, not text or an integer", path.display(), id.name());
            return Err(Error::BadOption { option: "id_field", what });
        }
    }
    Ok(())
}

fn find(schema: &Schema, path: &Path, column: &FieldPath, option: &'static str) -> Result<DataType> {
    let mut fields = schema.fields();
    let mut found = DataType::Null;
    for key in column.keys() {
        let Some(field) = fields.iter().find(|field| field.name() == key) else {
            let names: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
            let (name, names, flag) = (column.name(), names.join(", "), option.replace('_', "-"));
            let what =
                format!("{} has no column {name:?}; there are {names} (--{flag} names one)", path.display());
            return Err(Error::BadOption { option, what });
        };
        found = field.data_type().clone();
        if let DataType::Struct(inner) = field.data_type() {
            fields = inner;
        }
    }
    Ok(found)
}

/// The type of a column's values, which may be kept in a dictionary.
fn value_type(kind: &DataType) -> &DataType {
    match kind {
        DataType::Dictionary(_, value) => value,
        other => other,
    }
}

/// Whether a column is of bytes, as texts are.
fn is_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}
