//! How the pretokens of a vocabulary are found.

use crate::bpe::inert::Bridges;
use crate::error::Result;
use crate::pretokenize::Matcher;
use crate::pretokenize::gpt2::Gpt2;
use crate::pretokenize::scan::ScanTables;
use crate::pretokenize::steps::Chain;
use crate::pretokenize::unicode::classes;
use crate::vocab::Vocabulary;

/// How pretokens are found.
pub(crate) enum Splitter {
    /// GPT-2's pattern: the scanner, and the plain one that knows where text can be cut.
    Gpt2 { scan: Box<ScanTables>, plain: Box<Gpt2> },
    /// Any other pattern: one pretoken after the other.
    Pattern(Matcher),
    /// Several steps, or text between matches that is not dropped.
    Chain(Chain),
}

impl Splitter {
    /// The splitter of a vocabulary. `bridges` is given where pretokens may be cut at inert borders as
    /// they are found.
    pub(crate) fn new(vocab: &Vocabulary, bridges: Option<&Bridges>) -> Result<Self> {
        if Gpt2::accepts(vocab.pattern()) {
            let classes = classes(vocab.reference());
            let scan = Box::new(ScanTables::new(classes, bridges));
            return Ok(Self::Gpt2 { scan, plain: Box::new(Gpt2::new(classes)) });
        }
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
            Self::Pattern(matcher) => matcher.has_borders(),
            Self::Chain(chain) => chain.has_borders(),
        }
    }

    /// Whether a pretoken starts at `at` whatever stands further left, and what stands left of it splits
    /// as if the text ended there.
    pub(crate) fn is_border(&self, text: &[u8], at: usize) -> bool {
        match self {
            Self::Gpt2 { plain, .. } => plain.is_border(text, at),
            Self::Pattern(matcher) => matcher.is_border(text, at, false),
            Self::Chain(chain) => chain.is_border(text, at),
        }
    }
}
