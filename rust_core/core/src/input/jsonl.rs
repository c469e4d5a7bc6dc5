//! JSON Lines: one JSON object a line, of which one field is a document's text.
//!
//! ```text
//! line ─► check the whole line's grammar, note where the wanted values lie, unescape the text on the way
//! ```
//!
//! No tree is built. The scanner walks a line once, sixteen bytes at a time inside strings, and keeps
//! of each wanted field only the range of its value; text without escapes is used where it is, other text is
//! unescaped into one buffer while it is walked over. The grammar is RFC 8259, all of
//! it: a line that breaks it anywhere is a bad document, also behind the wanted field.
//!
//! * Duplicate keys: the last one wins, at every level of a dotted path (a later `a` without `b`
//!   makes `a.b` missing).
//! * A field name is a path with dots; `\.` is a dot of the name itself. Keys are compared unescaped.
//! * Surrogate escapes must pair up in the values that are used; others are of no concern.
//! * Objects and arrays nest at most [`MAX_DEPTH`] deep.

use super::field_path::FieldPath;
use super::json_strings::{self, Scanned, Text};
use crate::error::{Error, Result};

/// Deepest nesting of a line's objects and arrays.
pub const MAX_DEPTH: usize = 256;

/// Why a line is no document; `at` counts bytes from the start of the line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("not valid JSON: {what} at byte {at} of the line")]
    Syntax { what: &'static str, at: usize },
    #[error("not a JSON object")]
    NotObject,
    #[error("field {field:?} is missing")]
    Missing { field: String },
    #[error("field {field:?} is {found}, not a string")]
    NotString { field: String, found: &'static str },
    #[error("lone surrogate escape at byte {at} of the line")]
    LoneSurrogate { at: usize },
}

/// What kind of value was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    String(Text),
    Number,
    Bool,
    Null,
    Array,
    Object,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Number => "a number",
            Self::Bool => "a boolean",
            Self::Null => "null",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// A value's place in its line: for strings without the quotes.
#[derive(Clone, Copy)]
struct Value {
    start: usize,
    end: usize,
    kind: Kind,
}

/// Finds the values of a few fields in lines, the first of which is the text.
pub struct Finder {
    fields: Vec<FieldPath>,
    found: Vec<Option<Value>>,
    /// Where text with escapes is put.
    unescaped: Vec<u8>,
}

impl Finder {
    /// A finder of these fields, at least one and at most 32; `buffer` is room for text with escapes.
    ///
    /// # Errors
    /// [`Error::BadOption`] for more.
    pub fn new(fields: Vec<FieldPath>, buffer: Vec<u8>) -> Result<Self> {
        if fields.len() > 32 {
            return Err(Error::BadOption { option: "field", what: "more than 32 fields".into() });
        }
        Ok(Self { found: vec![None; fields.len()], fields, unescaped: buffer })
    }

    /// The room that it was given.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.unescaped
    }

    /// Reads a line, notes where the fields' values lie and keeps the text of the first.
    pub fn read(&mut self, line: &str) -> Result<(), Fault> {
        self.found.fill(None);
        let mask = u32::MAX.checked_shr(32 - self.fields.len() as u32).unwrap_or(0);
        let (fields, found, unescaped) = (&*self.fields, &mut *self.found, &mut self.unescaped);
        let mut scan = Scan { bytes: line.as_bytes(), at: 0, fields, found, unescaped };
        scan.space();
        if scan.peek() != Some(b'{') {
            // Whatever it is, it must be JSON to be called "not an object".
            scan.value(0, 0)?;
            scan.end()?;
            return Err(Fault::NotObject);
        }
        scan.object(mask, 0, 0)?;
        scan.end()
    }

    /// The JSON of field number `index` in the line that was read last, as it stands there; `None` if the
    /// field is missing.
    #[must_use]
    pub fn json<'a>(&self, index: usize, line: &'a str) -> Option<&'a str> {
        let Value { start, end, kind } = self.found[index]?;
        Some(if matches!(kind, Kind::String(_)) { &line[start - 1..=end] } else { &line[start..end] })
    }

    /// The text of the first field in the line that was read last.
    pub fn text<'a>(&'a self, line: &'a str) -> Result<&'a str, Fault> {
        let field = || self.fields[0].name().to_owned();
        let Some(value) = self.found[0] else { return Err(Fault::Missing { field: field() }) };
        match value.kind {
            Kind::String(Text::Decoded { n_bytes }) => {
                // It is: whole characters were put in the place of ASCII.
                simdutf8::basic::from_utf8(&self.unescaped[..n_bytes])
                    .map_err(|_| Fault::Syntax { what: "broken text", at: value.start })
            }
            Kind::String(Text::LoneSurrogate { at }) => Err(Fault::LoneSurrogate { at }),
            // The first field's escapes were decoded.
            Kind::String(Text::Plain | Text::Escaped) => Ok(&line[value.start..value.end]),
            kind => Err(Fault::NotString { field: field(), found: kind.name() }),
        }
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: &'a [FieldPath],
    found: &'a mut [Option<Value>],
    unescaped: &'a mut Vec<u8>,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn fault<T>(&self, what: &'static str) -> Result<T, Fault> {
        let what = if self.at >= self.bytes.len() { "the line ends too early" } else { what };
        Err(Fault::Syntax { what, at: self.at })
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { self.fault("something after the value") }
    }

    /// An object, from its brace on; fields in `mask` have all their keys above `level` matched.
    fn object(&mut self, mask: u32, level: usize, depth: usize) -> Result<(), Fault> {
        if depth >= MAX_DEPTH {
            return self.fault("nested too deep");
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fault("a key in quotes is expected");
            }
            let key = self.string(false)?;
            let matched = if mask == 0 { 0 } else { self.matching(key, mask, level) };
            self.space();
            if self.peek() != Some(b':') {
                return self.fault("a colon is expected");
            }
            self.at += 1;
            self.space();
            self.member(matched, level, depth)?;
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fault("a comma or a closing brace is expected"),
            }
        }
    }

    /// The value of a key that the fields in `matched` have at `level`.
    fn member(&mut self, matched: u32, level: usize, depth: usize) -> Result<(), Fault> {
        if matched == 0 {
            return self.value(0, depth).map(drop);
        }
        let mut deeper = 0;
        for (index, field) in self.fields.iter().enumerate() {
            if matched & (1 << index) != 0 {
                // An earlier value of this key, and all that was in it, no longer counts.
                self.found[index] = None;
                if field.keys().len() > level + 1 {
                    deeper |= 1 << index;
                }
            }
        }
        let here = matched & !deeper;
        let value = if deeper != 0 && self.peek() == Some(b'{') {
            let start = self.at;
            self.object(deeper, level + 1, depth + 1)?;
            Value { start, end: self.at, kind: Kind::Object }
        } else if here & 1 != 0 && self.peek() == Some(b'"') {
            self.string(true)?
        } else {
            self.value(level, depth)?
        };
        for (index, found) in self.found.iter_mut().enumerate() {
            if here & (1 << index) != 0 {
                *found = Some(value);
            }
        }
        Ok(())
    }

    /// Which fields of `mask` have this key at `level`.
    fn matching(&self, key: Value, mask: u32, level: usize) -> u32 {
        let mut unescaped = Vec::new();
        let key = match key.kind {
            Kind::String(Text::Plain) => &self.bytes[key.start..key.end],
            _ => match json_strings::decode(self.bytes, key.start, &mut unescaped) {
                Ok(Scanned { text: Text::Decoded { n_bytes }, .. }) => &unescaped[..n_bytes],
                // A key with a lone surrogate is no field's.
                _ => return 0,
            },
        };
        let mut matched = 0;
        for (index, field) in self.fields.iter().enumerate() {
            if mask & (1 << index) != 0 && field.keys()[level].as_bytes() == key {
                matched |= 1 << index;
            }
        }
        matched
    }

    fn value(&mut self, level: usize, depth: usize) -> Result<Value, Fault> {
        let start = self.at;
        let kind = match self.peek() {
            Some(b'"') => return self.string(false),
            Some(b'{') => {
                self.object(0, level, depth + 1)?;
                Kind::Object
            }
            Some(b'[') => {
                self.array(depth + 1)?;
                Kind::Array
            }
            Some(b't') => self.word(b"true", Kind::Bool)?,
            Some(b'f') => self.word(b"false", Kind::Bool)?,
            Some(b'n') => self.word(b"null", Kind::Null)?,
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                Kind::Number
            }
            _ => return self.fault("a value is expected"),
        };
        Ok(Value { start, end: self.at, kind })
    }

    fn word(&mut self, word: &'static [u8], kind: Kind) -> Result<Kind, Fault> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(kind)
        } else {
            self.fault("a value is expected")
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Fault> {
        if depth >= MAX_DEPTH {
            return self.fault("nested too deep");
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(0, depth)?;
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fault("a comma or a closing bracket is expected"),
            }
        }
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { self.fault("a digit is expected") } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// A string, from its opening quote on; its text is unescaped if it `is_wanted`.
    fn string(&mut self, is_wanted: bool) -> Result<Value, Fault> {
        let start = self.at + 1;
        let scanned = if is_wanted {
            json_strings::decode(self.bytes, start, self.unescaped)
        } else {
            json_strings::skip(self.bytes, start)
        };
        match scanned {
            Ok(Scanned { end, text }) => {
                self.at = end + 1;
                Ok(Value { start, end, kind: Kind::String(text) })
            }
            Err((what, at)) => {
                self.at = at;
                self.fault(what)
            }
        }
    }
}

#[cfg(test)]
mod tests;
