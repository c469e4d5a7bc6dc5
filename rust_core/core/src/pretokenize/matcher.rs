//! A pattern's matcher: the fastest one that it permits.

use super::machine::Machine;
use super::pattern::{Node, parse};
use super::{Pretokenizer, Split};
use crate::error::Result;
use crate::vocab::Reference;

/// Matches one pattern.
pub enum Matcher {
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
        Self::Machine(Machine::of(node, reference))
    }
}

impl Pretokenizer for Matcher {
    #[inline]
    fn next(&self, text: &str, start: usize) -> Result<Split> {
        match self {
            Self::Machine(machine) => machine.next(text, start),
        }
    }
}
