//! Token sets on disk: their manifest, and how a set comes to be there whole or not at all.

pub mod manifest;
pub mod publish;
