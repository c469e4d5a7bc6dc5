//! The pre-tokenizer of a `tokenizer.json`.

use serde_json::Value;

use super::{Refusal, pattern_of, sequence, switch, type_of};
use crate::pretokenize::steps::{Behavior, Step};

/// Whether text gets a space in front, and the steps.
pub(super) fn read(value: Option<&Value>) -> Result<(bool, Vec<Step>), Refusal> {
    let parts = sequence(value, "pretokenizers")?;
    let (mut prefix_space, mut steps, mut is_bytes) = (false, Vec::new(), false);
    for (at, part) in parts.into_iter().enumerate() {
        let kind = type_of(part);
        if is_bytes {
            return Err(format!("the pre-tokenizer {kind} behind ByteLevel, where it would see bytes"));
        }
        match kind {
            "ByteLevel" => {
                is_bytes = true;
                prefix_space = switch(part, "add_prefix_space", true)?;
                if prefix_space && at > 0 {
                    return Err("`add_prefix_space` of a ByteLevel that is not the first step".into());
                }
                if switch(part, "use_regex", true)? {
                    steps.push(Step::byte_level());
                }
            }
            "Split" => {
                let (pattern, is_literal) = pattern_of(part)?;
                let invert = switch(part, "invert", false)?;
                steps.push(Step::Split { pattern, is_literal, behavior: behavior(part)?, invert });
            }
            "Digits" => steps.push(Step::Digits { individual: switch(part, "individual_digits", false)? }),
            other => {
                return Err(format!(
                    "the pre-tokenizer {other} is not supported (ByteLevel, Split and Digits are)"
                ));
            }
        }
    }
    if !is_bytes {
        return Err("it is not byte-level: its pre-tokenizer has no ByteLevel".into());
    }
    Ok((prefix_space, steps))
}

fn behavior(part: &Value) -> Result<Behavior, Refusal> {
    Ok(match part.get("behavior").and_then(Value::as_str) {
        Some("Removed") => Behavior::Removed,
        Some("Isolated") => Behavior::Isolated,
        Some("MergedWithPrevious") => Behavior::MergedWithPrevious,
        Some("MergedWithNext") => Behavior::MergedWithNext,
        Some("Contiguous") => Behavior::Contiguous,
        other => return Err(format!("the behavior {other:?} of Split")),
    })
}

/// Steps for a person to read, where one pattern does not say it all.
pub(super) fn describe(steps: &[Step]) -> String {
    let show = |step: &Step| match step {
        Step::Digits { individual: true } => "Digits(each)".to_owned(),
        Step::Digits { individual: false } => "Digits(runs)".to_owned(),
        Step::Split { pattern, is_literal, behavior, invert } => {
            let kind = if *is_literal { "text" } else { "pattern" };
            let invert = if *invert { ", inverted" } else { "" };
            format!("Split({kind} {pattern:?}, {behavior:?}{invert})")
        }
    };
    steps.iter().map(show).collect::<Vec<_>>().join(" | ")
}
