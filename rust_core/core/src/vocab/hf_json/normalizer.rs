//! The normalizer of a `tokenizer.json`.

use serde_json::Value;

use super::{Refusal, pattern_of, sequence, type_of};
use crate::normalize::{Change, Form};

pub(super) fn read(value: Option<&Value>) -> Result<Vec<Change>, Refusal> {
    sequence(value, "normalizers")?.into_iter().map(change).collect()
}

fn change(value: &Value) -> Result<Change, Refusal> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(match type_of(value) {
        "NFC" => Change::Form(Form::Nfc),
        "NFD" => Change::Form(Form::Nfd),
        "NFKC" => Change::Form(Form::Nfkc),
        "NFKD" => Change::Form(Form::Nfkd),
        "Replace" => {
            let (pattern, is_literal) = pattern_of(value)?;
            let content = text("content").ok_or("Replace without its `content`")?;
            Change::Replace { pattern, is_literal, content }
        }
        "Prepend" => Change::Prepend(text("prepend").ok_or("Prepend without its `prepend`")?),
        other => {
            let supported = "NFC, NFD, NFKC, NFKD, Replace and Prepend are";
            return Err(format!("the normalizer {other} is not supported ({supported})"));
        }
    })
}
