//! Which value of a record is meant: a path through its objects or structs.

use crate::error::{Error, Result};

/// A path to a value: keys from the outermost object inwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    keys: Vec<String>,
    name: String,
}

impl FieldPath {
    /// Reads `text`, `meta.text`, or `a\.b` (one key that contains a dot).
    ///
    /// # Errors
    /// [`Error::BadOption`] for an empty key.
    pub fn parse(name: &str) -> Result<Self> {
        let (mut keys, mut key, mut characters) = (Vec::new(), String::new(), name.chars());
        while let Some(character) = characters.next() {
            match character {
                '.' => keys.push(std::mem::take(&mut key)),
                '\\' => key.extend(characters.next()),
                _ => key.push(character),
            }
        }
        keys.push(key);
        if keys.iter().any(String::is_empty) {
            let what = format!("{name:?} has an empty key; keys are separated by single dots");
            return Err(Error::BadOption { option: "field", what });
        }
        Ok(Self { keys, name: name.to_owned() })
    }

    /// The path `text`, where texts usually are.
    #[must_use]
    pub fn text() -> Self {
        Self { keys: vec!["text".to_owned()], name: "text".to_owned() }
    }

    /// The path as it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The keys from the outermost object inwards.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.keys
    }
}
