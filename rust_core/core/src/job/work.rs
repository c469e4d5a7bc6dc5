//! What a worker does: copy a piece of text, validate it, encode it, hand the ids to the committer.

use std::borrow::Cow;

use super::buffers::Buffers;
use super::checkpoint::{Carry, Position, Share};
use super::commit::{Block, Committer};
use super::plan::{Lump, Planner, Task, What, Work};
use super::records::{Made, RecordOptions, Recorder, Skip, Stop};
use super::{Control, JobSpec, in_source};
use crate::documents::{DocumentEncoder, Rules, TextEnd};
use crate::error::{Error, Result};
use crate::input::compressed::Unpacked;
use crate::input::detect::{Compression, Content};
use crate::input::{Nearby, Opened, Source};
use crate::lane::Lane;
use crate::tokenizer::Tokenizer;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that a streamed source is read at a time.
pub(super) const STREAM_BYTES: u64 = 1 << 20;
/// Text between two steps of a streamed source that is still put into the checkpoint.
const CARRY_MAX_BYTES: usize = 64 << 10;

pub(super) struct Shared<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) spec: &'a JobSpec,
    pub(super) rules: &'a Rules<'a>,
    /// Rules of records that have fields; their texts are whole documents already.
    pub(super) field_rules: &'a Rules<'a>,
    /// Rules of records that are texts.
    pub(super) text_rules: &'a Rules<'a>,
    pub(super) sources: &'a [Source],
    pub(super) control: &'a Control,
    /// The outputs, of each of which there is a committer.
    pub(super) outputs: Vec<Output<'a>>,
    /// A source that was supposed to be plain text is none; the job has failed because of that.
    pub(super) is_misjudged: &'a AtomicBool,
}

/// What a record becomes in one of the outputs.
pub(super) struct Output<'a> {
    pub(super) options: &'a RecordOptions,
    pub(super) path: &'a Path,
    /// Where the input stood when an earlier run of it ended.
    pub(super) begun: (usize, u64),
}

/// Works until there is nothing left to do; a failure comes with the place of its work in the order.
pub(super) fn run<L: Lane>(
    shared: &Shared<'_>,
    planner: &Planner<'_>,
    committers: &[Committer<'_, L>],
) -> Result<(), (u64, Error)> {
    loop {
        let _pass = shared.control.gate.enter(&shared.control.n_tokens);
        if committers.iter().any(Committer::is_stopped) {
            break;
        }
        let Some(Task { sequence, work }) = planner.next()? else { break };
        shared.one(sequence, work, committers).map_err(|error| (sequence, error))?;
    }
    Ok(())
}

impl Shared<'_> {
    fn one<L: Lane>(&self, sequence: u64, work: Work, committers: &[Committer<'_, L>]) -> Result<()> {
        self.control.check()?;
        let Some(committer) = committers.first() else { return Ok(()) };
        match work {
            Work::Batch(range) => committer.commit(sequence, self.batch(range, committer.buffers())?),
            Work::Piece { index, source, range } => {
                let block = self
                    .piece(index, &source, range, committer.buffers())
                    .map_err(|error| or_changed(&source, error))?;
                committer.commit(sequence, block)
            }
            Work::Stream { source, from, n_bytes_done } => self
                .stream(sequence, &source, from, n_bytes_done, committer)
                .map_err(|error| or_changed(&source, error)),
            Work::Lump(lump) => {
                let source = Arc::clone(&lump.source);
                self.lump(sequence, lump, committers).map_err(|error| or_changed(&source, error))
            }
        }
    }

    fn documents<L: Lane, T>(&self, run: impl FnOnce(&mut DocumentEncoder<'_, L>) -> Result<T>) -> Result<T> {
        self.with_rules(self.rules, run)
    }

    fn with_rules<L: Lane, T>(
        &self,
        rules: &Rules<'_>,
        run: impl FnOnce(&mut DocumentEncoder<'_, L>) -> Result<T>,
    ) -> Result<T> {
        self.tokenizer.with_encoder(|encoder| run(&mut DocumentEncoder::new(encoder.reborrow(), rules)))
    }

    /// Whole small sources: read one by one, encoded together.
    fn batch<L: Lane>(&self, range: Range<usize>, buffers: Buffers<L>) -> Result<Block<L>> {
        let sources = &self.sources[range.clone()];
        self.documents(|documents| {
            let mut bytes = refill(documents, buffers);
            let (mut shares, mut places) = (Vec::with_capacity(range.len()), Vec::with_capacity(range.len()));
            let mut nearby = Nearby::new(&self.spec.roots);
            for (index, source) in range.clone().zip(sources) {
                self.control.check()?;
                let start = bytes.len();
                let format = self.spec.records.input_format;
                let Some(xxh3) = source.read_whole(&mut nearby, format, &mut bytes)? else {
                    self.is_misjudged.store(true, Ordering::Relaxed);
                    let what = format!("{} is not plain text, as was supposed", source.path.display());
                    return Err(Error::Internal { what });
                };
                places.push(start..bytes.len());
                shares.push(Share { source: index, n_tokens: 0, n_documents: 0, xxh3, counts: None });
            }
            documents.ids.reserve(bytes.len() / 3);
            let starts_character =
                |place: &Range<usize>| bytes.get(place.start).is_none_or(|b| b & 0xC0 != 0x80);
            let are_documents = self.rules.separator.is_none() && places.iter().all(starts_character);
            match simdutf8::basic::from_utf8(&bytes) {
                Ok(text) if are_documents => {
                    documents
                        .whole(text, &places, |_| 0)
                        .map_err(|(number, error)| in_source(error, &sources[number].path))?;
                    let mut start = 0;
                    for (share, &end) in shares.iter_mut().zip(&documents.ends) {
                        (share.n_tokens, share.n_documents) = (end - start, 1);
                        start = end;
                    }
                }
                _ => {
                    for (share, (place, Source { path, .. })) in
                        shares.iter_mut().zip(places.iter().zip(sources))
                    {
                        let (n_ids, n_ends) = (documents.ids.len(), documents.ends.len());
                        let text = self.text(&bytes[place.clone()], path, 0)?;
                        documents.push(&text, 0, TextEnd::Source).map_err(|error| in_source(error, path))?;
                        share.n_tokens = (documents.ids.len() - n_ids) as u64;
                        share.n_documents = (documents.ends.len() - n_ends) as u64;
                    }
                }
            }
            let n_bytes = bytes.len() as u64;
            let next = Some(Position { source: range.end, ..Position::default() });
            Ok(Block { next, ..Block::new(documents, bytes, shares, n_bytes) })
        })
    }

    fn piece<L: Lane>(
        &self,
        index: usize,
        source: &Arc<Opened>,
        range: Range<u64>,
        buffers: Buffers<L>,
    ) -> Result<Block<L>> {
        self.documents(|documents| {
            let mut bytes = refill(documents, buffers);
            source.read(range.start, range.end, &mut bytes)?;
            let last = range.end == source.size_bytes();
            self.flow(documents, &bytes, range.start, last, &self.sources[index].path)?;
            let next = if last {
                Position { source: index + 1, ..Position::default() }
            } else {
                Position { source: index, offset_bytes: range.end, ..Position::default() }
            };
            Ok(part_of(source, index, documents, bytes, Some(next)))
        })
    }

    /// A piece of text that starts `offset` bytes into its source's content.
    fn flow<L: Lane>(
        &self,
        documents: &mut DocumentEncoder<'_, L>,
        bytes: &[u8],
        offset: u64,
        last: bool,
        path: &Path,
    ) -> Result<()> {
        // Pieces are never cut beside a separator, so a document is always under way at a cut.
        documents.open = offset > 0;
        documents.untouched = offset == 0;
        let end = if last { TextEnd::Source } else { TextEnd::Border };
        // Most text has fewer ids; growing from nothing would copy them ten times over.
        documents.ids.reserve(bytes.len() / 3);
        let text = self.text(bytes, path, offset)?;
        documents.push(&text, offset, end).map(drop).map_err(|error| in_source(error, path))
    }

    /// A lump: a piece of text that was compressed, or records; for each output that does not have it yet.
    fn lump<L: Lane>(&self, sequence: u64, mut lump: Lump, committers: &[Committer<'_, L>]) -> Result<()> {
        if let What::End = lump.what {
            // The file was not read from start to end, so it is hashed on its own.
            let source = &lump.source;
            lump.xxh3 = Some(source.hash(source.size_bytes(), self.control)?.digest());
        }
        for (number, (output, committer)) in self.outputs.iter().zip(committers).enumerate() {
            if lump.next.order() <= output.begun {
                committer.skip(sequence, lump.n_bytes)?;
            } else if lump.start < output.begun {
                let what = "the interrupted run had cut the input at other places".to_owned();
                return Err(Error::CannotResume { path: output.path.to_owned(), what });
            } else {
                self.lump_of(sequence, &lump, number, committer)?;
            }
        }
        Ok(())
    }

    /// A lump for one of the outputs. A bad document that fails the job does so when all before the lump is
    /// written, which is where the job can go on.
    fn lump_of<L: Lane>(
        &self,
        sequence: u64,
        lump: &Lump,
        number: usize,
        committer: &Committer<'_, L>,
    ) -> Result<()> {
        match self.encode(lump, number, committer.buffers()) {
            Ok(block) => committer.commit(sequence, block),
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::Bad(skip)) if committer.await_turn(sequence) => {
                Err(self.bad_document(skip, committer.n_lines_before(lump.index)))
            }
            // Something else failed first.
            Err(Stop::Bad(_)) => Ok(()),
        }
    }

    fn bad_document(&self, skip: Skip, n_lines_before: u64) -> Error {
        let Source { path, kind, .. } = &self.sources[skip.source];
        let number = n_lines_before + skip.line;
        let place = match (kind.content, skip.offset_bytes) {
            (Content::JsonLines, Some(at)) => format!("line {number}, byte {at}"),
            (Content::Text, Some(at)) => format!("document {number}, byte {at}"),
            _ => format!("row {number}"),
        };
        let place =
            if kind.compression == Compression::None { place } else { format!("{place} (decompressed)") };
        Error::BadDocument { path: path.clone(), place, reason: skip.reason }
    }

    fn encode<L: Lane>(&self, lump: &Lump, number: usize, mut buffers: Buffers<L>) -> Result<Block<L>, Stop> {
        let Lump { index, source, what, next, n_bytes, xxh3, .. } = lump;
        let (index, n_bytes, xxh3) = (*index, *n_bytes, *xxh3);
        let Source { path, kind, .. } = &self.sources[index];
        let options = self.outputs[number].options;
        let is_flow = !options.are_of(&self.sources[index]);
        let rules = match kind.content {
            Content::Text if is_flow => self.rules,
            Content::Text => self.text_rules,
            _ => self.field_rules,
        };
        let mut stopped = None;
        let block = self.with_rules(rules, |documents| {
            let scratch = std::mem::take(&mut buffers.scratch);
            let mut text = refill(documents, buffers);
            let mut recorder = Recorder {
                options,
                documents,
                source: index,
                replace_invalid: self.spec.replace_invalid,
                made: Made::default(),
                scratch,
            };
            let bytes = |recorder: &mut Recorder<'_, '_, L>, bytes: &[u8], offset| {
                recorder.documents.ids.reserve(bytes.len() / 3);
                match kind.content {
                    Content::JsonLines => recorder.lines(bytes, offset),
                    _ => recorder.texts(bytes, offset, self.rules.separator.as_ref()),
                }
            };
            let read = match what {
                What::Range(range) => {
                    source.read(range.start, range.end, &mut text)?;
                    bytes(&mut recorder, &text, range.start)
                }
                What::Unpacked { bytes, offset, is_last } if is_flow => {
                    self.flow(recorder.documents, bytes, *offset, *is_last, path).map_err(Stop::Error)
                }
                What::Unpacked { bytes: unpacked, offset, .. } => bytes(&mut recorder, unpacked, *offset),
                What::Rows(batch) => recorder.rows(batch.values(number), batch.first_row),
                What::End => Ok(()),
            };
            let Recorder { made, scratch, .. } = recorder;
            match read {
                Ok(()) => {}
                Err(Stop::Error(error)) => return Err(in_source(error, path)),
                Err(Stop::Bad(skip)) => {
                    stopped = Some(skip);
                    return Ok(None);
                }
            }
            let share = Share {
                source: index,
                n_tokens: documents.ids.len() as u64,
                n_documents: documents.ends.len() as u64,
                xxh3: xxh3.unwrap_or_default(),
                counts: (!is_flow).then_some(made.counts),
            };
            let ended = (next.source > index).then(|| Arc::clone(source));
            let mut block = Block::new(documents, text, vec![share], n_bytes);
            block.made.scratch = scratch;
            let is_to_be_hashed = xxh3.is_none();
            let records = (!is_flow).then(|| Box::new(made));
            Ok(Some(Block { next: Some(next.clone()), ended, is_to_be_hashed, records, ..block }))
        })?;
        block.ok_or_else(|| match stopped {
            Some(skip) => Stop::Bad(skip),
            None => Stop::Error(Error::Internal { what: "a lump was lost".to_owned() }),
        })
    }

    /// Encodes one source in steps, keeping its place in the order of the output meanwhile.
    fn stream<L: Lane>(
        &self,
        sequence: u64,
        source: &Arc<Opened>,
        from: Position,
        mut n_bytes_done: u64,
        committer: &Committer<'_, L>,
    ) -> Result<()> {
        let index = from.source;
        let Source { path, kind, .. } = &self.sources[index];
        if !committer.await_turn(sequence) {
            return Ok(());
        }
        let mut unpacked = match kind.compression {
            Compression::None => None,
            compression => Some(Unpacked::new(Arc::clone(source), compression)?),
        };
        self.documents(|documents| {
            let mut start = from.content.unwrap_or(from.offset_bytes);
            if let Some(unpacked) = &mut unpacked {
                unpacked.skip_to(start)?;
            }
            let (mut waiting, mut offset) = (String::new(), 0);
            if let Some(carry) = from.carry {
                (documents.open, documents.untouched) = (carry.is_open, carry.is_untouched);
                (waiting, offset) = (carry.text, carry.text_offset_bytes);
            }
            let mut cut_off = Vec::new();
            loop {
                self.control.gate.pause_point(&self.control.n_tokens);
                self.control.check()?;
                // The pretoken at the end of the waiting text may be a long one: see `StreamEncoder`.
                let step = STREAM_BYTES.max(waiting.len() as u64);
                let mut bytes = refill(documents, committer.buffers());
                let last = if let Some(unpacked) = &mut unpacked {
                    bytes.append(&mut cut_off);
                    unpacked.read(step as usize, &mut bytes)? < step as usize
                } else {
                    let end = (start + step).min(source.size_bytes());
                    source.read(start, end, &mut bytes)?;
                    end == source.size_bytes()
                };
                if !last {
                    cut_off = bytes.split_off(whole_characters(&bytes));
                }
                waiting.push_str(&self.text(&bytes, path, start)?);
                start += bytes.len() as u64;
                let text_end = if last { TextEnd::Source } else { TextEnd::More };
                let used =
                    documents.push(&waiting, offset, text_end).map_err(|error| in_source(error, path))?;
                waiting.drain(..used);
                offset += used as u64;
                let next = if last {
                    Some(Position { source: index + 1, ..Position::default() })
                } else {
                    (waiting.len() <= CARRY_MAX_BYTES).then(|| Position {
                        source: index,
                        offset_bytes: unpacked.as_ref().map_or(start, |unpacked| unpacked.taken().0),
                        content: unpacked.as_ref().map(|_| start),
                        carry: Some(Carry {
                            text: waiting.clone(),
                            text_offset_bytes: offset,
                            is_open: documents.open,
                            is_untouched: documents.untouched,
                        }),
                        document_bytes: None,
                    })
                };
                let mut block = part_of(source, index, documents, bytes, next);
                if let Some(unpacked) = &unpacked {
                    // The checksum is that of the file as it is on disk.
                    block.is_to_be_hashed = false;
                    block.shares[0].xxh3 = unpacked.taken().1;
                    let read = if last { source.size_bytes() } else { unpacked.n_file_bytes() };
                    block.n_bytes = read.saturating_sub(n_bytes_done);
                    n_bytes_done += block.n_bytes;
                }
                committer.append(block)?;
                if last {
                    return committer.pass_on();
                }
            }
        })
    }

    /// The text of a piece's bytes, which start `offset` bytes into the source.
    fn text<'b>(&self, bytes: &'b [u8], path: &Path, offset: u64) -> Result<Cow<'b, str>> {
        match simdutf8::basic::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            // Rust and Python replace alike: one U+FFFD for each maximal part of a broken sequence.
            Err(_) if self.spec.replace_invalid => Ok(String::from_utf8_lossy(bytes)),
            Err(_) => {
                let at = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
                let byte = bytes.get(at).copied().unwrap_or_default();
                Err(Error::InvalidUtf8 { path: path.to_owned(), offset: offset + at as u64, byte })
            }
        }
    }
}

/// Lets `documents` fill these buffers; returns the one for the text.
fn refill<L>(documents: &mut DocumentEncoder<'_, L>, buffers: Buffers<L>) -> Vec<u8> {
    let Buffers { text, ids, ends, .. } = buffers;
    (documents.ids, documents.ends) = (ids, ends);
    text
}

/// The block of a part of one source; at the source's end `next` lies behind it.
fn part_of<L: Lane>(
    source: &Arc<Opened>,
    index: usize,
    documents: &mut DocumentEncoder<'_, L>,
    text: Vec<u8>,
    next: Option<Position>,
) -> Block<L> {
    let share = Share {
        source: index,
        n_tokens: documents.ids.len() as u64,
        n_documents: documents.ends.len() as u64,
        // Known once the block is in its place.
        xxh3: 0,
        counts: None,
    };
    let ended = next.as_ref().filter(|next| next.source > index).map(|_| Arc::clone(source));
    let n_bytes = text.len() as u64;
    Block { next, ended, is_to_be_hashed: true, ..Block::new(documents, text, vec![share], n_bytes) }
}

/// An error about a source's content, unless the source was changed under us: then that is the error.
fn or_changed(source: &Opened, error: Error) -> Error {
    match error {
        Error::InvalidUtf8 { .. }
        | Error::SpecialToken { .. }
        | Error::NoToken { .. }
        | Error::BadDocument { .. }
        | Error::DamagedInput { .. } => source.check().err().unwrap_or(error),
        other => other,
    }
}

/// The length of `bytes` without a character that is cut off at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    match bytes[tail..].iter().rposition(|byte| byte & 0xC0 != 0x80) {
        // A lead byte near the end: cut before it (even if its character is whole).
        Some(at) if bytes[tail + at] >= 0xC0 && tail + at > 0 => tail + at,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn a_cut_off_character_is_left_for_the_next_step() {
        let text = "ab中".as_bytes();
        assert_eq!(whole_characters(&text[..4]), 2);
        assert_eq!(whole_characters(text), 2);
        assert_eq!(whole_characters(b"abc"), 3);
        assert_eq!(whole_characters(&[0x80; 9]), 9);
    }
}
