//! Which documents go where: training and validation, the order, and one pass over the ids.
//!
//! * A document goes to the validation set if XXH3-64 of its own ids (without end-of-text ids), seeded
//!   with the split's seed, lies below `fraction * 2^64`: the same text always lands on the same side,
//!   whatever stands around it.
//! * The order is that of the set, or a permutation of the documents that follows from a seed alone
//!   ([`Shuffle`]): it is computed, not held, so memory does not grow with the documents.
//! * The end-of-text ids of a document are laid as the format wants them, whatever the set has.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::native::NativeSet;
use super::shuffle::Shuffle;
use super::staging::{self, FileInfo, Known, Staging};
use super::{Ids, Kind, Plan, Split, Writer, writer};
use crate::documents::Eot;
use crate::error::{Error, Result};
use crate::job::Control;
use crate::stream::manifest::with_suffix;

/// What is to be made of a finished set.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// The finished set: `OUT.bin` or a sealed stream's directory.
    pub input: PathBuf,
    /// A directory, or for Megatron the common prefix of its files.
    pub output: PathBuf,
    pub kind: Kind,
    /// Where end-of-text ids go; `None`: where the format's readers expect them.
    pub eot: Option<Eot>,
    /// The end-of-text id, for sets that have none.
    pub eot_id: Option<u32>,
    /// Most tokens of a shard; `None`: the format's own default.
    pub shard_tokens: Option<u64>,
    /// Most bytes of ids of a shard; the smaller of both counts.
    pub shard_bytes: Option<u64>,
    /// Most documents of a shard.
    pub shard_documents: Option<u64>,
    /// Tokens of a row (MDS only); `None`: a row is a document.
    pub row_tokens: Option<u64>,
    /// Part of the documents for validation; 0: no split.
    pub val_fraction: f64,
    /// Seed of split and shuffle.
    pub seed: u64,
    /// Shuffle the documents.
    pub shuffle: bool,
    /// Replace an existing output.
    pub force: bool,
    /// A set in another format that was just made of the same input: where its ids lie as in this one,
    /// its files are taken.
    pub sibling: Option<(PathBuf, Kind)>,
    /// Names of files that will be put beside the set, for its note.
    pub beside: Vec<String>,
}

impl ExportSpec {
    /// A plain conversion.
    #[must_use]
    pub fn new(input: PathBuf, output: PathBuf, kind: Kind) -> Self {
        Self {
            input,
            output,
            kind,
            eot: None,
            eot_id: None,
            shard_tokens: None,
            shard_bytes: None,
            shard_documents: None,
            row_tokens: None,
            val_fraction: 0.0,
            seed: 0,
            shuffle: false,
            force: false,
            sibling: None,
            beside: Vec::new(),
        }
    }

    /// Tokens of a shard, as far as they are limited.
    fn limit(&self, id_bytes: usize) -> Option<u64> {
        let of_bytes = self.shard_bytes.map(|bytes| (bytes / id_bytes as u64).max(1));
        [self.shard_tokens, of_bytes].into_iter().flatten().min()
    }

    fn is_sharded(&self) -> bool {
        self.shard_tokens.is_some() || self.shard_bytes.is_some() || self.shard_documents.is_some()
    }
}

/// What was made, as `tokend.json` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exported {
    pub format: String,
    pub version: u32,
    pub kind: String,
    pub dtype: String,
    pub n_tokens: u64,
    pub n_documents: u64,
    /// Documents of the validation set.
    pub n_val_documents: u64,
    pub tokenizer: Value,
    /// Options of the set that this one was made of.
    pub options: Value,
    pub sources: Value,
    pub arrangement: Value,
    pub files: Vec<FileInfo>,
    /// Files beside the set that go with it, as far as whoever made it puts some there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<String>,
    pub tokend_version: String,
}

/// Makes a set in a foreign format; blocks until it is published. `control` counts the bytes of ids that were
/// taken from the set, and its tokens and documents.
///
/// # Errors
/// Any [`Error`]; nothing is left under the output's name then.
pub fn export(spec: &ExportSpec, control: &Control) -> Result<Exported> {
    check(spec)?;
    let mut set = NativeSet::open(&spec.input)?;
    let id_bytes = set.ids.id_bytes as u64;
    control.bytes_total.store(set.n_tokens * id_bytes, Ordering::Relaxed);
    let eot = spec.eot.unwrap_or(spec.kind.eot());
    let eot_id = match (eot, set.ids.eot_id.or(spec.eot_id)) {
        (Eot::None, id) => id,
        (_, Some(id)) => Some(id),
        (_, None) => {
            let what = "the set has no end-of-text ids, and none was named".to_owned();
            return Err(Error::BadOption { option: "eot_token", what });
        }
    };
    if set.ids.id_bytes == 2
        && let Some(id) = eot_id.filter(|&id| id > u32::from(u16::MAX))
    {
        let what = format!("{id} is no uint16, and the set's ids are");
        return Err(Error::BadOption { option: "eot_id", what });
    }
    let ids = Ids { eot_id, eot, ..set.ids.clone() };
    let staging = Staging::begin(&spec.output)?;
    let name = base_name(spec)?;
    let splits: &[Split] = if spec.val_fraction > 0.0 { &[Split::Train, Split::Val] } else { &[Split::All] };
    let arrangement = json!({
        "eot": eot.name(),
        "eot_id": if eot == Eot::None { None } else { eot_id },
        "shuffle_seed": spec.shuffle.then_some(spec.seed),
        "val_fraction": spec.val_fraction,
        "seed": spec.seed,
    });
    let links: Vec<Option<Known>> = if !spec.kind.is_raw() || spec.is_sharded() {
        vec![None; splits.len()]
    } else if splits == [Split::All] && !spec.shuffle && eot == set.ids.eot {
        vec![set.single_file()]
    } else {
        of_sibling(spec, &arrangement, splits).unwrap_or_else(|| vec![None; splits.len()])
    };
    set.at_random = spec.shuffle;
    let (mut n_tokens, mut n_set_tokens, mut n_val_documents) = (0, 0, 0);
    {
        let mut writers = Vec::new();
        for (&split, link) in splits.iter().zip(&links) {
            let plan = Plan {
                staging: &staging,
                ids: &ids,
                split,
                name: &name,
                shard_tokens: spec.limit(ids.id_bytes).or(spec.kind.shard_tokens()).unwrap_or(u64::MAX),
                shard_documents: spec.shard_documents.unwrap_or(u64::MAX),
                row_tokens: spec.row_tokens,
                link: link.as_ref(),
            };
            writers.push(writer(spec.kind, plan)?);
        }
        let order = spec.shuffle.then(|| Shuffle::new(set.n_documents, spec.seed));
        let threshold = threshold(spec.val_fraction);
        for position in 0..set.n_documents {
            let document = order.as_ref().map_or(position, |order| order.at(position));
            let own = own_ids(&mut set, document, position)?;
            let is_val = splits.len() > 1 && is_val(&mut set, own.clone(), threshold, spec.seed, control)?;
            n_val_documents += u64::from(is_val);
            let writer = &mut writers[usize::from(is_val)];
            let linked = links[usize::from(is_val)].is_some();
            n_tokens += one(&mut set, &ids, document, position, own, linked, &mut **writer, control)?;
            n_set_tokens += set.n_ids(document)?;
            control.bytes_done.store(n_set_tokens * id_bytes, Ordering::Relaxed);
            control.n_tokens.store(n_tokens, Ordering::Relaxed);
            control.n_documents.store(position + 1, Ordering::Relaxed);
        }
        writers.iter_mut().try_for_each(|writer| writer.finish())?;
    }
    let exported = Exported {
        format: "tokend-export".to_owned(),
        version: 1,
        kind: spec.kind.name().to_owned(),
        dtype: format!("uint{}", 8 * ids.id_bytes),
        n_tokens,
        n_documents: set.n_documents,
        n_val_documents,
        tokenizer: set.manifest["tokenizer"].clone(),
        options: set.manifest["options"].clone(),
        sources: set.manifest["sources"].clone(),
        arrangement: with_limits(arrangement, spec, n_tokens),
        files: staging.files(),
        beside: spec.beside.clone(),
        tokend_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    publish(spec, &staging, &name, &exported)?;
    Ok(exported)
}

/// For the documents of a finished set that are in `range`, in its order, whether a split puts each on the side of
/// validation.
///
/// # Errors
/// What opening and reading the set fails with, and [`Error::Cancelled`].
pub fn sides(
    input: &Path,
    val_fraction: f64,
    seed: u64,
    range: Range<u64>,
    control: &Control,
) -> Result<Vec<bool>> {
    let mut set = NativeSet::open(input)?;
    let threshold = threshold(val_fraction);
    let range = range.start..range.end.min(set.n_documents);
    let mut side = |document| {
        let own = own_ids(&mut set, document, document)?;
        is_val(&mut set, own, threshold, seed, control)
    };
    range.map(&mut side).collect()
}

/// The hashes below it are those of validation.
fn threshold(val_fraction: f64) -> u64 {
    (val_fraction * 2_f64.powi(64)) as u64
}

/// Whether the document with these ids of its own is one of validation.
fn is_val(
    set: &mut NativeSet,
    own: Range<u64>,
    threshold: u64,
    seed: u64,
    control: &Control,
) -> Result<bool> {
    let mut hash = Xxh3::with_seed(seed);
    set.read(own, |bytes| {
        hash.update(bytes);
        control.check()
    })?;
    Ok(hash.digest() < threshold)
}

/// The files of ids, one for each split, of a set that was made of the same input with the same arrangement.
fn of_sibling(spec: &ExportSpec, arrangement: &Value, splits: &[Split]) -> Option<Vec<Option<Known>>> {
    let (place, kind) = spec.sibling.as_ref()?;
    let note = super::verify::note_of(place)?;
    let made: Exported = serde_json::from_slice(&std::fs::read(&note).ok()?).ok()?;
    let base = place.file_name()?.to_str()?;
    let same = arrangement.as_object()?.iter().all(|(name, value)| made.arrangement[name] == *value);
    let named = splits.iter().map(|&split| kind.data_name(split, base)).collect::<Option<Vec<_>>>()?;
    // A set in shards has more files of ids than splits.
    let shared = |file: &&FileInfo| named.contains(&file.file);
    let one_each = made.files.iter().filter(shared).map(|file| file.size_bytes).sum::<u64>()
        == made.n_tokens * if made.dtype == "uint16" { 2 } else { 4 };
    if !same || !one_each || made.kind != kind.name() {
        return None;
    }
    let known = |name: &String| {
        let file = made.files.iter().find(|file| file.file == *name)?;
        let path = note.parent()?.join(name);
        Some(Known { path, size_bytes: file.size_bytes, xxh3: file.xxh3.clone() })
    };
    Some(named.iter().map(known).collect())
}

/// An arrangement with what else decides the files of a set.
fn with_limits(mut arrangement: Value, spec: &ExportSpec, n_tokens: u64) -> Value {
    arrangement["shard_tokens"] = spec.shard_tokens.into();
    arrangement["shard_bytes"] = spec.shard_bytes.into();
    arrangement["shard_documents"] = spec.shard_documents.into();
    arrangement["row_tokens"] = spec.row_tokens.into();
    arrangement["n_tokens_left_out"] = spec.row_tokens.map(|row| left_out(n_tokens, row)).into();
    arrangement
}

/// Ids that fill no row; with a split each set leaves some, which is why it is refused with rows.
fn left_out(n_tokens: u64, row: u64) -> u64 {
    n_tokens % row.max(1)
}

/// Refuses what cannot be made, before anything is read or written: options that do not go together,
/// and an output that is there already.
///
/// # Errors
/// [`Error::BadOption`] and [`Error::OutputExists`].
pub fn check(spec: &ExportSpec) -> Result<()> {
    let bad = |option, what: &str| Err(Error::BadOption { option, what: what.to_owned() });
    if !(0.0..1.0).contains(&spec.val_fraction) {
        return bad("val_fraction", "it is not at least 0 and below 1");
    }
    if spec.row_tokens.is_some() && spec.kind != Kind::Mds {
        return bad("row_tokens", "only mds has rows of one length");
    }
    if spec.row_tokens.is_some() && spec.val_fraction > 0.0 {
        return bad("row_tokens", "rows of one length do not go with a split");
    }
    let limits = [
        ("shard_tokens", spec.shard_tokens),
        ("shard_bytes", spec.shard_bytes),
        ("shard_documents", spec.shard_documents),
    ];
    if let Some((option, _)) = limits.into_iter().find(|(_, limit)| *limit == Some(0)) {
        return bad(option, "it is 0");
    }
    if let Some((option, _)) =
        limits.into_iter().find(|(_, limit)| limit.is_some() && !spec.kind.has_shards())
    {
        return bad(option, "readers of nanogpt and megatron take one file");
    }
    if spec.kind == Kind::Megatron {
        return check_pair(spec);
    }
    if spec.force { staging::check_replaceable(&spec.output) } else { absent(spec.output.clone()) }
}

fn absent(path: PathBuf) -> Result<()> {
    if path.exists() { Err(Error::OutputExists { path }) } else { Ok(()) }
}

/// The names of a Megatron set must be free; with `force` they may be those of one that tokend made,
/// never those of a set of ours, whose data file may well be called the same.
fn check_pair(spec: &ExportSpec) -> Result<()> {
    let splits: &[Split] = if spec.val_fraction > 0.0 { &[Split::Train, Split::Val] } else { &[Split::All] };
    let note = with_suffix(&spec.output, ".tokend.json");
    if !spec.force {
        absent(note.clone())?;
    }
    for split in splits {
        let stem = spec.output.with_file_name(split.suffixed(&base_name(spec)?));
        let (data, index) = (with_suffix(&stem, ".bin"), with_suffix(&stem, ".idx"));
        if !spec.force {
            absent(data)?;
            absent(index)?;
        } else if (data.exists() || index.exists())
            && (!note.exists() || with_suffix(&data, ".json").exists())
        {
            let what = format!("{} is no Megatron set that tokend made, and stays", data.display());
            return Err(Error::BadOption { option: "force", what });
        }
    }
    Ok(())
}

fn base_name(spec: &ExportSpec) -> Result<String> {
    let name = spec.output.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        let what = format!("{} is no file name in UTF-8", spec.output.display());
        Error::BadOption { option: "output", what }
    })
}

/// The range of a document's own ids, without end-of-text ids.
fn own_ids(set: &mut NativeSet, document: u64, _position: u64) -> Result<Range<u64>> {
    let mut range = set.range(document)?;
    let (leading, trailing) = match set.ids.eot {
        Eot::Append => (0, 1),
        Eot::Prepend => (1, 0),
        Eot::Both => (u64::from(document == 0), 1),
        Eot::None => (0, 0),
    };
    range.start = (range.start + leading).min(range.end);
    range.end = range.end.saturating_sub(trailing).max(range.start);
    Ok(range)
}

/// Writes one document; returns its number of ids.
#[expect(clippy::too_many_arguments, reason = "a document, where it comes from and where it goes")]
fn one(
    set: &mut NativeSet,
    ids: &Ids,
    document: u64,
    position: u64,
    own: std::ops::Range<u64>,
    linked: bool,
    writer: &mut dyn Writer,
    control: &Control,
) -> Result<u64> {
    let eot: Vec<u8> = match (ids.eot_id, ids.id_bytes) {
        (Some(id), 2) => (id as u16).to_le_bytes().to_vec(),
        (Some(id), _) => id.to_le_bytes().to_vec(),
        (None, _) => Vec::new(),
    };
    let before = ids.eot == Eot::Prepend || (ids.eot == Eot::Both && position == 0);
    let after = matches!(ids.eot, Eot::Append | Eot::Both);
    let n_ids = own.end - own.start + u64::from(before) + u64::from(after);
    control.check()?;
    writer.begin(n_ids, set.origin(document))?;
    if !linked {
        if before {
            writer.ids(&eot)?;
        }
        set.read(own, |bytes| {
            control.check()?;
            // Within a long document too; the exact number follows at its end.
            control.bytes_done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            writer.ids(bytes)
        })?;
        if after {
            writer.ids(&eot)?;
        }
    }
    writer.end()?;
    Ok(n_ids)
}

fn publish(spec: &ExportSpec, staging: &Staging, name: &str, exported: &Exported) -> Result<()> {
    let text =
        serde_json::to_vec_pretty(exported).map_err(|error| Error::Internal { what: error.to_string() })?;
    if spec.kind != Kind::Megatron {
        staging.write("tokend.json", &text)?;
        return staging.publish_directory(&spec.output, spec.force);
    }
    let note = format!("{name}.tokend.json");
    staging.write(&note, &text)?;
    let ending = |suffix: &str| {
        let named = exported.files.iter().map(|file| file.file.clone());
        named.filter(|file| file.ends_with(suffix)).collect::<Vec<_>>()
    };
    // The note first: it makes what a killed run left replaceable.
    let names: Vec<String> = [vec![note], ending(".bin"), ending(".idx")].concat();
    staging.publish_files(&spec.output, &names, spec.force)
}
