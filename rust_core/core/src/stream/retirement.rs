//! Segments that nobody will read again: their files go, their entries in the manifest stay.
//!
//! ```text
//! mark in the manifest, replaced and synced as at any commit ─► remove tokens-NNNNN.bin, ends-NNNNN.u64 ...
//! ```
//!
//! In this order, so that a manifest never names as readable what is gone. A kill between the two leaves
//! files that the next run or the next retirement removes. Only whole segments from the stream's start on
//! are retired, and never the last one. While a job writes the stream it does this itself
//! ([`Control::retire`](crate::job::Control::retire)); [`retire`] is for all other times.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::Path;

use super::folder::{Folder, partial};
use super::growing::read_manifest;
use super::native::{MANIFEST, Segment, segment_names, sidecar_names};
use crate::error::{Error, Result};
use crate::input::access::Roots;

/// Whose the temporary manifest is.
const KEY: &str = "retire";

/// Segments that are retired.
pub(crate) fn n_retired(segments: &[Segment]) -> usize {
    segments.iter().take_while(|segment| segment.retired).count()
}

/// Marks `n_retired` segments, and those after them that end at or before the token `before`; returns how
/// many are marked.
pub(crate) fn mark(segments: &mut [Segment], n_retired: usize, before: u64) -> usize {
    let closed = segments.len().saturating_sub(1);
    let ends_before = |segment: &Segment| segment.first_token + segment.n_tokens <= before;
    let more = segments[..closed].iter().skip(n_retired).take_while(|segment| ends_before(segment)).count();
    for segment in &mut segments[..n_retired + more] {
        segment.retired = true;
    }
    n_retired + more
}

/// Removes the files of segments, those that are still there.
pub(crate) fn remove_files(folder: &Folder, segments: Range<usize>) -> Result<()> {
    for index in segments {
        for name in segment_names(index).into_iter().chain(sidecar_names(index)) {
            folder.remove(OsStr::new(&name))?;
        }
    }
    Ok(())
}

/// Retires the segments that end at or before the token `before` of a stream that no job writes now;
/// returns how many are retired in all.
///
/// # Errors
/// [`Error::OutputBusy`] while a job writes it, [`Error::NotFound`], [`Error::Damaged`] for what is no
/// stream, [`Error::Io`].
pub fn retire(roots: &Roots, output: &Path, before: u64) -> Result<usize> {
    let folder = Folder::open(roots, output)?;
    folder.lock()?;
    let Some(mut manifest) = read_manifest(roots, output)? else {
        return Err(Error::Damaged { path: output.to_owned(), what: "has no manifest of a stream".into() });
    };
    let already = n_retired(&manifest.segments);
    let retired = mark(&mut manifest.segments, already, before);
    if retired > already {
        manifest.commit += 1;
        let temporary: OsString = partial(OsStr::new(MANIFEST), KEY);
        folder.replace(OsStr::new(MANIFEST), &temporary, manifest.to_json()?.as_bytes())?;
        remove_files(&folder, 0..retired)?;
    }
    Ok(retired)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(lengths: &[u64]) -> Vec<Segment> {
        let mut first_token = 0;
        let segment = |(index, &n_tokens): (usize, &u64)| {
            let [tokens, ends] = segment_names(index);
            let (tokens_xxh3, ends_xxh3) = (String::new(), String::new());
            let made = Segment {
                tokens,
                ends,
                first_token,
                n_tokens,
                n_documents: 0,
                tokens_xxh3,
                ends_xxh3,
                docs: None,
                ids: None,
                skipped: None,
                texts: None,
                retired: false,
            };
            first_token += n_tokens;
            made
        };
        lengths.iter().enumerate().map(segment).collect()
    }

    #[test]
    fn only_whole_segments_go_and_never_the_last() {
        for (before, expected) in [(0, 0), (9, 0), (10, 1), (19, 1), (25, 2), (30, 3), (40, 3), (u64::MAX, 3)]
        {
            let mut made = segments(&[10, 10, 10, 10]);
            assert_eq!(mark(&mut made, 0, before), expected, "before {before}");
            assert_eq!(n_retired(&made), expected);
        }
        assert_eq!(mark(&mut segments(&[]), 0, 5), 0);
        assert_eq!(mark(&mut segments(&[5]), 0, 5), 0);
        assert_eq!(mark(&mut segments(&[10, 10, 10]), 2, 0), 2, "what is retired stays so");
    }

    #[test]
    fn marks_are_written_only_where_there_are_some() {
        let made = segments(&[1]);
        let json = serde_json::to_string(&made[0]).expect("json");
        assert!(!json.contains("retired"), "{json}");
        assert_eq!(serde_json::from_str::<Segment>(&json).expect("a segment"), made[0]);
        let gone = Segment { retired: true, ..made[0].clone() };
        let json = serde_json::to_string(&gone).expect("json");
        assert_eq!(serde_json::from_str::<Segment>(&json).expect("a segment"), gone);
    }
}
