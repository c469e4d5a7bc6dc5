//! Several fields to several outputs, in one pass over the inputs.
//!
//! Each output is a set of its own: what a job of its field alone would make, with its own manifest, its own list
//! of what was left out, and its own checkpoint log. The pass is shared: a lump is read, decompressed and cut once
//! (a batch of rows decoded once), and then encoded for each output. A line of JSON is scanned once for each.
//!
//! ```text
//! planner ─► lump ─► worker: for each output that does not have it: find the text, encode ─► its committer
//! ```
//!
//! The outputs are published one after the other when all are finished; each appears as a whole. A job that
//! is killed goes on where the least advanced output is: the others, whose positions lie between the same lumps,
//! pass over what they have, and those that were published are found up to date.

use std::ffi::OsString;
use std::path::Path;

use super::{Format, JobSpec};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::input::detect::Content;

/// The outputs of a job, each as a job of its own.
pub(super) fn outputs(spec: &JobSpec) -> Result<Vec<JobSpec>> {
    let mut all = vec![JobSpec { more: Vec::new(), ..spec.clone() }];
    if spec.more.is_empty() {
        return Ok(all);
    }
    if spec.format != Format::Bin {
        let what = format!("several outputs are made with format bin, not {}", spec.format.name());
        return Err(Error::BadOption { option: "format", what });
    }
    if spec.known_texts.is_some() {
        let what = "it is of one output, not of several".to_owned();
        return Err(Error::BadOption { option: "known_texts", what });
    }
    for more in &spec.more {
        let mut one = all[0].clone();
        one.records.field = Some(more.field.clone());
        one.output.clone_from(&more.output);
        for other in &all {
            if files_of(&one.output).any(|file| files_of(&other.output).any(|taken| taken == file)) {
                let what = format!(
                    "{} and {} would be files of each other",
                    other.output.display(),
                    one.output.display()
                );
                return Err(Error::BadOption { option: "output", what });
            }
        }
        all.push(one);
    }
    Ok(all)
}

/// The names that a set takes.
fn files_of(output: &Path) -> impl Iterator<Item = OsString> {
    ["", ".json", ".ends", ".docs", ".ids", ".skipped.jsonl"].into_iter().map(|suffix| {
        let mut name = output.as_os_str().to_owned();
        name.push(suffix);
        name
    })
}

/// Fails unless the inputs hold the same for every output.
pub(super) fn check(specs: &[JobSpec], prepared: &[(Vec<Source>, u64)]) -> Result<()> {
    let [(first, _), others @ ..] = prepared else { return Ok(()) };
    if others.is_empty() {
        return Ok(());
    }
    for (number, source) in first.iter().enumerate() {
        let is_same = others.iter().all(|(sources, _)| sources[number].kind.content == source.kind.content);
        if source.kind.content == Content::Text || !is_same {
            let fields: Vec<_> =
                specs.iter().map(|spec| spec.records.text_field().name().to_owned()).collect();
            let what = format!(
                "{} is not known to have fields, but {} are to be read from it (say so if it is JSON \
                 lines: --input-format jsonl)",
                source.path.display(),
                fields.join(" and "),
            );
            return Err(Error::BadOption { option: "field", what });
        }
    }
    Ok(())
}
