//! How the pretokens of a vocabulary are found.

use crate::bpe::inert::Bridges;
use crate::bpe::seams::Seams;
use crate::error::Result;
use crate::pretokenize::Matcher;
use crate::pretokenize::gpt2::Gpt2;
use crate::pretokenize::scan::ScanTables;
use crate::pretokenize::scan::words::Words;
use crate::pretokenize::steps::Chain;
use crate::pretokenize::unicode::classes;
use crate::vocab::Vocabulary;

/// How pretokens are found.
pub(crate) enum Splitter {
    /// GPT-2's pattern: the scanner, and the plain one that knows where text can be cut.
    Gpt2 { scan: Box<ScanTables>, plain: Box<Gpt2> },
    /// A pattern or steps of the family that `scan::words` knows, and the plain way.
    Words { words: Box<Words>, plain: Box<Splitter> },
    /// Any other pattern: one pretoken after the other.
    Pattern(Matcher),
    /// Several steps, or text between matches that is not dropped.
    Chain(Chain),
}

impl Splitter {
    /// The splitter of a vocabulary. `bridges` is given where pretokens may be cut at inert borders as
    /// they are found; `whole` are the tokens that only a whole pretoken can be.
    pub(crate) fn new<'t>(
        vocab: &Vocabulary,
        bridges: Option<&Bridges>,
        whole: impl Iterator<Item = &'t [u8]>,
    ) -> Result<Self> {
        if Gpt2::accepts(vocab.pattern()) {
            let classes = classes(vocab.reference());
            let scan = Box::new(ScanTables::new(classes, bridges));
            return Ok(Self::Gpt2 { scan, plain: Box::new(Gpt2::new(classes)) });
        }
        let plain = Self::plain(vocab)?;
        let grammar = match &plain {
            Self::Pattern(Matcher::Alternatives(alternatives)) => alternatives.grammar(false),
            Self::Chain(chain) => chain.grammar(),
            _ => None,
        };
        Ok(match grammar {
            Some((grammar, classes)) => {
                let words = Box::new(Words::new(grammar, &classes, Seams::new(vocab, whole)));
                Self::Words { words, plain: Box::new(plain) }
            }
            None => plain,
        })
    }

    /// With a matcher or a chain of them.
    fn plain(vocab: &Vocabulary) -> Result<Self> {
        let pattern = || Matcher::new(vocab.pattern(), vocab.reference());
        let Some(pipeline) = vocab.pipeline() else { return Ok(Self::Pattern(pattern()?)) };
        if let [step] = &pipeline.steps[..]
            && step.plain_pattern().is_some()
        {
            let matcher = pattern()?;
            if matcher.covers_all() {
                return Ok(Self::Pattern(matcher));
            }
        }
        Ok(Self::Chain(Chain::new(&pipeline.steps)?))
    }

    /// Whether there are places that [`Splitter::is_border`] knows.
    pub(crate) fn has_borders(&self) -> bool {
        match self {
            Self::Gpt2 { .. } => true,
            Self::Words { plain, .. } => plain.has_borders(),
            Self::Pattern(matcher) => matcher.has_borders(),
            Self::Chain(chain) => chain.has_borders(),
        }
    }

    /// Whether a pretoken starts at `at` whatever stands further left, and what stands left of it splits
    /// as if the text ended there.
    pub(crate) fn is_border(&self, text: &[u8], at: usize) -> bool {
        match self {
            Self::Gpt2 { plain, .. } => plain.is_border(text, at),
            Self::Words { plain, .. } => plain.is_border(text, at),
            Self::Pattern(matcher) => matcher.is_border(text, at, false),
            Self::Chain(chain) => chain.is_border(text, at),
        }
    }
}
