//! Everything that is found out before a job starts: its inputs, whether its output may be made, whether it is there.

use super::sink::Target;
use super::{Format, JobSpec, RecordOptions, chunk_bytes, known_texts, many};
use crate::error::{Error, Result};
use crate::input::{Devices, Given, Nearby, Source};
use crate::stream::folder::Folder;
use crate::stream::manifest::{Manifest, Report};
use crate::stream::{bin, growing};

/// Output bytes per input byte that must be free before a job starts: about what European text
/// needs as uint16. Denser text may still run out of space; that is then an error that a resumed run
/// can overcome.
const FREE_PER_INPUT_BYTE: f64 = 0.5;

/// Checks everything that can be checked before a job starts; returns the inputs' total bytes.
///
/// # Errors
/// Whatever [`super::encode_files`] would fail with at once: inputs that are not there or not regular
/// files, an output that exists (unless `force`, or unless its manifest says that it may be up to
/// date) or is one of the inputs, paths outside the roots, too little free space.
pub fn check(spec: &JobSpec) -> Result<u64> {
    let specs = many::outputs(spec)?;
    let prepared: Vec<_> = specs.iter().map(|spec| prepare(spec, false)).collect::<Result<_>>()?;
    many::check(&specs, &prepared)?;
    Ok(prepared.first().map_or(0, |(_, total)| *total))
}

/// Whether small inputs can be taken for what their names let suppose, until they are read: nothing of the
/// output may depend on what they are, and nobody may see of it before they were read.
pub(super) fn may_suppose(spec: &JobSpec) -> bool {
    let RecordOptions {
        field, id_field, skip_bad, min_tokens, max_tokens, truncate_tokens, deduplicate, ..
    } = &spec.records;
    let looks_at_documents =
        *skip_bad || *min_tokens > 0 || max_tokens.is_some() || truncate_tokens.is_some() || *deduplicate;
    let is_of_fields = field.is_some() || id_field.is_some();
    spec.format == Format::Bin
        && !spec.resume
        && !looks_at_documents
        && !is_of_fields
        && spec.known_texts.is_none()
}

pub(super) fn prepare(spec: &JobSpec, supposes: bool) -> Result<(Vec<Source>, u64)> {
    if spec.inputs.is_empty() {
        return Err(Error::BadOption { option: "inputs", what: "no input files given".into() });
    }
    if spec.separator.as_deref() == Some("") {
        return Err(Error::BadOption { option: "separator", what: "it is empty".into() });
    }
    if spec.retire && spec.format != Format::Stream {
        return Err(Error::BadOption { option: "retire", what: "it needs format stream".into() });
    }
    known_texts::check(spec)?;
    let (format, field) = (spec.records.input_format, spec.records.text_field());
    let (devices, mut nearby) = (Devices::default(), Nearby::new(&spec.roots));
    let max_bytes = if supposes { chunk_bytes(0) } else { 0 };
    let mut suppose = |given: Given<'_>| Source::suppose(given, &mut nearby, format, max_bytes, &devices);
    let sources: Vec<_> = spec
        .given()
        .map(|given| match suppose(given).filter(|_| supposes) {
            Some(source) => Ok(source),
            None => Source::detect(given, &spec.roots, format, &field, &devices),
        })
        .collect::<Result<_>>()?;
    spec.records.check(&sources)?;
    let total = sources.iter().map(|source| source.identity.size_bytes).sum();
    match spec.format {
        Format::Bin => bin::check(spec, &sources)?,
        Format::Stream => growing::check(spec, &sources)?,
    }
    let (folder, name) = Folder::of(&spec.roots, &spec.output)?;
    let free = folder.free_bytes()?;
    let needed = (total as f64 * FREE_PER_INPUT_BYTE) as u64;
    // What is there already may be up to date; what is being resumed has its space in part.
    if free < needed && !spec.resume && !spec.retire && folder.stat(&name)?.is_none() {
        let what = format!("about {needed} bytes are needed for {total} bytes of input, {free} are free");
        return Err(Error::NoSpace { path: spec.output.clone(), what });
    }
    Ok((sources, total))
}

/// The manifest of an output that is there already and need not be made again.
pub(super) fn up_to_date(target: &Target<'_>) -> Result<Option<Report>> {
    let spec = target.spec;
    // A job that is being resumed may have come to its end before it was interrupted.
    if spec.force && !spec.resume {
        return Ok(None);
    }
    let found = match spec.format {
        Format::Bin => Manifest::up_to_date(target).map(|found| found.map(Report::Set)),
        Format::Stream => growing::up_to_date(target).map(|found| found.map(Report::Stream)),
    };
    // A hash that was cut short says nothing.
    target.control.check()?;
    match found {
        Ok(Some(report)) => {
            let _ = match spec.format {
                Format::Bin => bin::discard(spec).map(drop),
                Format::Stream => growing::tidy(spec),
            };
            Ok(Some(report))
        }
        Err(Error::OutputExists { .. }) if spec.force => Ok(None),
        other => other,
    }
}
