//! What is within the quotes of a JSON string: where it ends, and what its escapes stand for.
//!
//! Text has an escape each fifty bytes or so (newlines, quotes), so that what counts is what an escape costs:
//! the way from one to the next is found 16 bytes at a time, and a text that is wanted is checked, unescaped and
//! copied in one walk ([`decode`]); walking twice, to its end and then back to its escapes, took twice as long.
//! What nobody wants is only checked ([`skip`]).

/// Where a string ends, and what it is if its text was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Of its closing quote.
    pub(super) end: usize,
    pub(super) text: Text,
}

/// What a string's text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// What stands between the quotes: it has no escapes.
    Plain,
    /// It has escapes, and was not wanted.
    Escaped,
    /// It has escapes; so many bytes of the caller's buffer are what it stands for.
    Decoded { n_bytes: usize },
    /// It has a surrogate escape without its other half; where.
    LoneSurrogate { at: usize },
}

/// Why what follows a quote is no string: what is wrong, and where.
pub(super) type Broken = (&'static str, usize);

/// Checks the string whose first byte behind the quote is at `at`.
pub(super) fn skip(bytes: &[u8], mut at: usize) -> Result<Scanned, Broken> {
    let mut text = Text::Plain;
    loop {
        at = next_special(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Ok(Scanned { end: at, text }),
            Some(b'\\') => {
                text = Text::Escaped;
                at = match bytes.get(at + 1) {
                    Some(&byte) if SIMPLE[usize::from(byte)] != 0 => at + 2,
                    Some(b'u') => hex4(bytes, at + 2).map(|_| at + 6)?,
                    _ => return Err(("unknown escape", at + 1)),
                };
            }
            other => return Err((outside(other), at)),
        }
    }
}

/// Checks the string whose first byte behind the quote is at `at`, and puts the text that it stands for into `out`
/// if that is not what stands there. What `out` has beyond that text is of no concern; it only ever grows.
///
/// Naive twin: [`skip`] and `serde_json`, in the tests of `jsonl`.
pub(super) fn decode(bytes: &[u8], start: usize, out: &mut Vec<u8>) -> Result<Scanned, Broken> {
    let mut at = next_special(bytes, start);
    if bytes.get(at) == Some(&b'"') {
        return Ok(Scanned { end: at, text: Text::Plain });
    }
    // No escape stands for more bytes than it has, and whole blocks are stored.
    let room = bytes.len() - start + BLOCK;
    if out.len() < room {
        out.resize(room, 0);
    }
    out[..at - start].copy_from_slice(&bytes[start..at]);
    let (mut to, mut lone) = (at - start, None);
    loop {
        // One escape is often behind another: `\n\n`, and all of a text that was written in ASCII.
        while bytes.get(at) == Some(&b'\\') {
            let byte = *bytes.get(at + 1).ok_or(("unknown escape", at + 1))?;
            let simple = SIMPLE[usize::from(byte)];
            if simple != 0 {
                out[to] = simple;
                (at, to) = (at + 2, to + 1);
            } else if byte == b'u' {
                let (character, n_bytes) = unicode(bytes, at)?;
                if let Some(character) = character {
                    to += character.encode_utf8(&mut out[to..to + 4]).len();
                } else {
                    lone = lone.or(Some(at));
                }
                at += n_bytes;
            } else {
                return Err(("unknown escape", at + 1));
            }
        }
        if let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
            out[to..to + BLOCK].copy_from_slice(block);
            let hits = special(block);
            if hits == 0 {
                // A branch, not a sum: the next block is loaded before it is known that this one has nothing.
                (at, to) = (at + BLOCK, to + BLOCK);
                continue;
            }
            let n = hits.trailing_zeros() as usize;
            (at, to) = (at + n, to + n);
        } else if let Some(&byte) = bytes.get(at).filter(|&&byte| !is_special(byte)) {
            out[to] = byte;
            (at, to) = (at + 1, to + 1);
            continue;
        }
        match bytes.get(at) {
            Some(b'"') => {
                let text = lone.map_or(Text::Decoded { n_bytes: to }, |at| Text::LoneSurrogate { at });
                return Ok(Scanned { end: at, text });
            }
            Some(b'\\') => {}
            other => return Err((outside(other), at)),
        }
    }
}

/// Why a byte, or the end, is none that a string has.
fn outside(byte: Option<&u8>) -> &'static str {
    if byte.is_some() { "unescaped control character in a string" } else { "unterminated string" }
}

/// The character of the escape at `at`, which begins with `\u`, and how many bytes it takes; `None` for a surrogate
/// without its other half.
fn unicode(bytes: &[u8], at: usize) -> Result<(Option<char>, usize), Broken> {
    let first = hex4(bytes, at + 2)?;
    if (0xD800..=0xDBFF).contains(&first) && bytes.get(at + 6..at + 8) == Some(b"\\u") {
        // If it has no four digits, the walk comes to that.
        if let Ok(second @ 0xDC00..=0xDFFF) = hex4(bytes, at + 8) {
            let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            return Ok((char::from_u32(code), 12));
        }
    }
    Ok((char::from_u32(first), 6))
}

/// The number that four hexadecimal digits are.
fn hex4(bytes: &[u8], at: usize) -> Result<u32, Broken> {
    let digit = |byte: u8| u32::from(HEX[usize::from(byte)]);
    if let Some(&[a, b, c, d]) = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>) {
        let [a, b, c, d] = [a, b, c, d].map(digit);
        if (a | b | c | d) < 16 {
            return Ok(a << 12 | b << 8 | c << 4 | d);
        }
    }
    let n_digits = bytes.iter().skip(at).take_while(|byte| byte.is_ascii_hexdigit()).count();
    Err(("four hexadecimal digits are expected", at + n_digits))
}

/// What the byte behind a backslash stands for; 0 if it is none, or `u`.
const SIMPLE: [u8; 256] = {
    let mut table = [0; 256];
    let pairs = *b"\"\"\\\\//b\x08f\x0Cn\nr\rt\t";
    let mut at = 0;
    while at < pairs.len() {
        table[pairs[at] as usize] = pairs[at + 1];
        at += 2;
    }
    table
};

/// What a hexadecimal digit is worth; 255 for other bytes.
const HEX: [u8; 256] = {
    let mut table = [255; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        table[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

const BLOCK: usize = 16;

/// A quote, a backslash or a control character.
fn is_special(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1F)
}

/// The first special byte at or after `at`, or the end.
#[inline]
fn next_special(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
        let hits = special(block);
        if hits != 0 {
            return at + hits.trailing_zeros() as usize;
        }
        at += BLOCK;
    }
    while at < bytes.len() && !is_special(bytes[at]) {
        at += 1;
    }
    at
}

/// Which bytes of a block are special, the first one's bit lowest.
#[cfg(target_arch = "x86_64")]
#[inline]
fn special(block: &[u8; BLOCK]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    // SAFETY: these instructions are part of every x86-64; the load is of the 16 bytes of `block`.
    let hits = unsafe {
        let block = _mm_loadu_si128(block.as_ptr().cast());
        let quote = _mm_cmpeq_epi8(block, _mm_set1_epi8(b'"'.cast_signed()));
        let backslash = _mm_cmpeq_epi8(block, _mm_set1_epi8(b'\\'.cast_signed()));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(block, _mm_set1_epi8(0x1F)), block);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control))
    };
    hits.cast_unsigned()
}

/// Which bytes of a block are special, the first one's bit lowest.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn special(block: &[u8; BLOCK]) -> u32 {
    special_anywhere(block)
}

/// [`special`] for any machine; the compiler makes of it what the machine has.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn special_anywhere(block: &[u8; BLOCK]) -> u32 {
    block.iter().rev().fold(0, |hits, &byte| hits << 1 | u32::from(is_special(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_bytes_are_found_at_every_place() {
        for len in 0..40 {
            for at in 0..len {
                for byte in 0..=255_u8 {
                    let mut bytes = vec![0xC3_u8; len];
                    bytes[at] = byte;
                    let expected = if is_special(byte) { at } else { len };
                    assert_eq!(next_special(&bytes, 0), expected, "{byte} at {at}");
                    if let Some(block) = bytes.first_chunk::<BLOCK>() {
                        assert_eq!(special(block), special_anywhere(block), "{byte} at {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn both_walks_agree_wherever_a_string_ends() {
        let parts: [&[u8]; 12] = [
            b"a",
            b"0123456789abcde",
            b"0123456789abcdef",
            b"\\n",
            b"\\u00e9",
            b"\\ud83d\\ude00",
            b"\\ud83d",
            b"\\u12g",
            b"\\x",
            b"\x01",
            "\u{7FFF}".as_bytes(),
            b"\\",
        ];
        let mut out = Vec::new();
        for mut number in 0..parts.len().pow(4) {
            let mut bytes = Vec::new();
            for _ in 0..4 {
                bytes.extend_from_slice(parts[number % parts.len()]);
                number /= parts.len();
            }
            for end in [&b""[..], b"\"", b"\", \"meta\": \"0123456789\"}"] {
                let bytes = [&bytes, end].concat();
                let skipped = skip(&bytes, 0).map(|scanned| scanned.end);
                let decoded = decode(&bytes, 0, &mut out).map(|scanned| scanned.end);
                assert_eq!(skipped, decoded, "{:?}", bytes.escape_ascii().to_string());
            }
        }
    }
}
