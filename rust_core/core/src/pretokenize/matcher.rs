//! A pattern's matcher: the fastest one that it permits.

use super::alternatives::Alternatives;
use super::machine::Machine;
use super::pattern::{Node, parse};
use super::{Pretokenizer, Split};
use crate::error::Result;
use crate::vocab::Reference;

/// Matches one pattern.
pub enum Matcher {
    Alternatives(Box<Alternatives>),
    Machine(Machine),
}

impl Matcher {
    /// Compiles a pattern for a reference's syntax and classes.
    ///
    /// # Errors
    /// [`Error::BadPattern`](crate::Error::BadPattern) names what is not supported.
    pub fn new(pattern: &str, reference: Reference) -> Result<Self> {
        Ok(Self::of(&parse(pattern, reference)?, reference))
    }

    /// Compiles a tree.
    #[must_use]
    pub fn of(node: &Node, reference: Reference) -> Self {
        match Alternatives::of(node, reference) {
            Some(alternatives) => Self::Alternatives(Box::new(alternatives)),
            None => Self::Machine(Machine::of(node, reference)),
        }
    }

    /// Whether every character is known to be in some match.
    #[must_use]
    pub fn covers_all(&self) -> bool {
        matches!(self, Self::Alternatives(alternatives) if alternatives.covers_all())
    }

    /// Whether there are places that [`Matcher::is_border`] knows.
    #[must_use]
    pub fn has_borders(&self) -> bool {
        matches!(self, Self::Alternatives(_))
    }

    /// Whether a match starts at `at` whatever stands further left, and what stands left of it is matched
    /// as if the text ended there; with `gaps`, text between matches counts as a match.
    #[must_use]
    pub fn is_border(&self, text: &[u8], at: usize, gaps: bool) -> bool {
        match self {
            Self::Alternatives(alternatives) => alternatives.is_border(text, at, gaps),
            Self::Machine(_) => false,
        }
    }
}

impl Pretokenizer for Matcher {
    #[inline]
    fn next(&self, text: &str, start: usize) -> Result<Split> {
        match self {
            Self::Alternatives(alternatives) => alternatives.next(text, start),
            Self::Machine(machine) => machine.next(text, start),
        }
    }
}
