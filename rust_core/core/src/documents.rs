//! Documents, special tokens and end-of-text ids: the rules between a source's text and its ids.
//!
//! * A separator is a terminator: the text up to it is a document, possibly an empty one, and
//!   nothing after the last one is no document. Without a separator a source is one document; a
//!   source of zero bytes is one empty document.
//! * The end-of-text id goes after each document, before each, both (one before the first document
//!   of the output, one after each), or nowhere.
//! * A special token's text inside a document is an error, ordinary text, or its id. As with every
//!   reference, the text between two special tokens is split on its own: it ends where they begin.
//!
//! Text arrives in pieces, and each piece says how it ends ([`TextEnd`]); pieces give the ids that
//! the whole would give.

use memchr::memmem;

use std::ops::Range;

use crate::encode::Encoder;
use crate::encode::documents::Between;
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::special::{SpecialFinder, SpecialPolicy};

/// Documents that are looked for before they are encoded together.
const TOGETHER: usize = 1024;
/// Bytes of the characters around a cut that may have a say: two.
pub(crate) const MAX_CONTEXT_BYTES: usize = 8;

/// Where the end-of-text id goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eot {
    Append,
    Prepend,
    Both,
    None,
}

impl Eot {
    /// Reads the option's value.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "append" => Self::Append,
            "prepend" => Self::Prepend,
            "both" => Self::Both,
            "none" => Self::None,
            _ => {
                let what = format!("{text:?} is none of append, prepend, both, none");
                return Err(Error::BadOption { option: "eot", what });
            }
        })
    }

    /// The option's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Prepend => "prepend",
            Self::Both => "both",
            Self::None => "none",
        }
    }
}

/// How a source becomes documents and ids.
pub(crate) struct Rules<'a> {
    pub(crate) separator: Option<memmem::Finder<'a>>,
    pub(crate) eot: Eot,
    pub(crate) eot_id: u32,
    pub(crate) special: SpecialPolicy,
    pub(crate) finder: Option<&'a SpecialFinder>,
}

impl Rules<'_> {
    /// The finder, where special tokens matter.
    pub(crate) fn specials(&self) -> Option<&SpecialFinder> {
        self.finder.filter(|finder| self.special != SpecialPolicy::Text || finder.has_ordinary())
    }

    /// Whether a separator or a special token reaches over `at`, or a separator touches it, so that
    /// text cut there would be read differently.
    pub(crate) fn bridges(&self, window: &[u8], at: usize) -> bool {
        let separator = self.separator.as_ref().is_some_and(|finder| {
            let reach = finder.needle().len();
            finder.find(&window[at.saturating_sub(reach)..(at + reach).min(window.len())]).is_some()
        });
        separator || self.specials().is_some_and(|finder| finder.bridges(window, at))
    }

    /// How far around a cut text must be known: the longest separator, special token or two characters.
    pub(crate) fn context_bytes(&self) -> usize {
        (self.holdback() + 1).max(MAX_CONTEXT_BYTES)
    }

    /// How far from the end of incomplete text a separator or special token may still be forming.
    fn holdback(&self) -> usize {
        let separator = self.separator.as_ref().map_or(0, |finder| finder.needle().len());
        let special = self.specials().map_or(0, SpecialFinder::max_len);
        separator.max(special).saturating_sub(1)
    }
}

/// How a piece of text ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextEnd {
    /// The source ends here.
    Source,
    /// More follows, but the cut is exact: the piece encodes as if the text ended here.
    Border,
    /// More follows and may change how the piece's end is read.
    More,
}

/// Turns the pieces of sources into ids and document ends.
pub(crate) struct DocumentEncoder<'a, L> {
    pub(crate) encoder: Encoder<'a>,
    pub(crate) rules: &'a Rules<'a>,
    pub(crate) ids: Vec<L>,
    /// Length of `ids` after each document.
    pub(crate) ends: Vec<u64>,
    /// Where the text of each document ended in its source, in bytes.
    pub(crate) text_ends: Vec<u64>,
    /// Whether a document has begun and not ended.
    pub(crate) open: bool,
    /// Whether the present source has begun no document yet.
    pub(crate) untouched: bool,
}

impl<'a, L: Lane> DocumentEncoder<'a, L> {
    /// Starts at the beginning of an output.
    pub(crate) fn new(encoder: Encoder<'a>, rules: &'a Rules<'a>) -> Self {
        let (ids, ends, text_ends) = (Vec::new(), Vec::new(), Vec::new());
        Self { encoder, rules, ids, ends, text_ends, open: false, untouched: true }
    }

    /// Encodes a piece that starts `offset` bytes into its source; returns the bytes used, which is
    /// all of them unless `end` is [`TextEnd::More`].
    pub(crate) fn push(&mut self, text: &str, offset: u64, end: TextEnd) -> Result<usize> {
        let mut at = self.separated(text, offset)?;
        let rest = &text[at..];
        if !rest.is_empty() || (end == TextEnd::Source && self.untouched) {
            self.begin();
        }
        let certain = (end == TextEnd::More)
            .then(|| rest.floor_char_boundary(rest.len().saturating_sub(self.rules.holdback())));
        at += self.segments(rest, certain, offset + at as u64)?;
        if end == TextEnd::Source {
            if self.open {
                self.finish(offset + text.len() as u64);
            }
            self.untouched = true;
        }
        Ok(at)
    }

    /// Encodes the documents that end with a separator; returns where the last separator ends.
    fn separated(&mut self, text: &str, offset: u64) -> Result<usize> {
        let rules = self.rules;
        let Some(separator) = &rules.separator else { return Ok(0) };
        let needle_bytes = separator.needle().len();
        let mut at = 0;
        let mut found = separator.find_iter(text.as_bytes());
        if self.open
            && let Some(stop) = found.next()
        {
            self.segments(&text[..stop], None, offset)?;
            self.finish(offset + stop as u64);
            at = stop + needle_bytes;
        }
        let mut documents = Vec::new();
        loop {
            documents.clear();
            for stop in found.by_ref().take(TOGETHER) {
                documents.push(at..stop);
                at = stop + needle_bytes;
            }
            if documents.is_empty() {
                return Ok(at);
            }
            let at = |document: &Range<usize>| offset + document.start as u64;
            self.whole(text, &documents, at).map_err(|(_, error)| error)?;
        }
    }

    /// Encodes whole documents, parts of `text` in rising order, none of which may have a separator;
    /// `offset` says where one starts in its source. With an error comes the number of its document.
    pub(crate) fn whole(
        &mut self,
        text: &str,
        documents: &[Range<usize>],
        offset: impl Fn(&Range<usize>) -> u64,
    ) -> Result<(), (usize, Error)> {
        debug_assert!(!self.open);
        let mut done = 0;
        while done < documents.len() {
            // A document with special tokens is several texts.
            let is_one = |document: &Range<usize>| {
                let finder = self.rules.specials();
                finder.is_none_or(|finder| finder.find(&text.as_bytes()[document.clone()], 0).is_none())
            };
            let n_alike = match self.encoder.model.stage {
                None => documents[done..].iter().take_while(|&document| is_one(document)).count(),
                Some(_) => 0,
            };
            let together = &documents[done..done + n_alike];
            let end = |document: &Range<usize>| offset(document) + document.len() as u64;
            if n_alike >= 2 && self.together(text, together) {
                self.text_ends.extend(together.iter().map(end));
            } else {
                for (number, document) in documents.iter().enumerate().skip(done).take(n_alike.max(1)) {
                    self.begin();
                    let text = &text[document.clone()];
                    self.segments(text, None, offset(document)).map_err(|error| (number, error))?;
                    self.finish(end(document));
                }
            }
            done += n_alike.max(1);
        }
        self.untouched = self.untouched && documents.is_empty();
        Ok(())
    }

    /// Encodes documents without special tokens; false, and nothing done, if one of them cannot be encoded.
    fn together(&mut self, text: &str, documents: &[Range<usize>]) -> bool {
        if u64::from(self.rules.eot_id) >= 1 << (8 * L::PACKED_BYTES) {
            // No vocabulary has such an id; between the documents it would have to be packed (see `lane`).
            return false;
        }
        let id = Some(self.rules.eot_id);
        let is_prepended = self.rules.eot == Eot::Prepend;
        let between = match self.rules.eot {
            Eot::Append | Eot::Both => Between::new(id, None),
            Eot::Prepend => Between::new(None, id),
            Eot::None => Between::default(),
        };
        if is_prepended {
            self.ids.push(L::from_id(self.rules.eot_id));
        }
        let Self { encoder, ids, ends, .. } = self;
        let is_done = encoder.documents(text, documents, between, ids, ends).is_ok();
        // The id that would begin the document behind the last; or the first one's.
        if is_prepended {
            ids.pop();
        }
        is_done
    }

    fn begin(&mut self) {
        if self.open {
            return;
        }
        (self.open, self.untouched) = (true, false);
        // With `Both` the committer puts one before the first document of the output.
        if self.rules.eot == Eot::Prepend {
            self.ids.push(L::from_id(self.rules.eot_id));
        }
    }

    /// Ends the document, whose text ended there in its source.
    fn finish(&mut self, text_end: u64) {
        self.open = false;
        if matches!(self.rules.eot, Eot::Append | Eot::Both) {
            self.ids.push(L::from_id(self.rules.eot_id));
        }
        self.ends.push(self.ids.len() as u64);
        self.text_ends.push(text_end);
    }

    fn segments(&mut self, text: &str, certain: Option<usize>, offset: u64) -> Result<usize> {
        let Rules { finder, special, .. } = *self.rules;
        encode_segments(&mut self.encoder, finder, special, text, certain, offset, &mut self.ids)
    }
}

/// Encodes text with special tokens under a policy; returns the bytes used.
///
/// `certain` is `None` for text that is complete. Otherwise more will follow, and it says how many
/// bytes hold no beginning of a separator or special token that is not all there yet.
pub(crate) fn encode_segments<L: Lane>(
    encoder: &mut Encoder<'_>,
    finder: Option<&SpecialFinder>,
    policy: SpecialPolicy,
    text: &str,
    certain: Option<usize>,
    offset: u64,
    out: &mut Vec<L>,
) -> Result<usize> {
    if let Some(stage) = &encoder.model.stage {
        return stage.encode(encoder, policy, text, certain, offset, out);
    }
    let limit = certain.unwrap_or(text.len());
    let mut at = 0;
    if let Some(finder) = finder.filter(|finder| policy != SpecialPolicy::Text || finder.has_ordinary()) {
        let mut from = 0;
        while let Some(found) = finder.find(text.as_bytes(), from).filter(|found| found.start < limit) {
            from = found.end;
            if found.flags.special && policy == SpecialPolicy::Text {
                continue;
            }
            found.check(policy, text, offset)?;
            encoder.encode(&text[at..found.start], true, offset + at as u64, out)?;
            out.push(L::from_id(found.id));
            at = found.end;
        }
    }
    if at < limit {
        at += encoder.encode(&text[at..limit], certain.is_none(), offset + at as u64, out)?;
    }
    Ok(at)
}
