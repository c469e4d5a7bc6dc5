//! What is within the quotes of a JSON string: where it ends, and what its escapes stand for.

use super::jsonl::Fault;

/// The first quote, backslash or control character at or after `at`, or the end.
#[inline]
pub(super) fn next_special(bytes: &[u8], at: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    let at = match sixteen_at_a_time(bytes, at) {
        Ok(found) => return found,
        Err(at) => at,
    };
    eight_at_a_time(bytes, at)
}

/// [`next_special`] in whole steps of 16 bytes: where it is, or how far there is none.
#[cfg(target_arch = "x86_64")]
#[inline]
fn sixteen_at_a_time(bytes: &[u8], mut at: usize) -> Result<usize, usize> {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    while let Some(block) = bytes.get(at..at + 16) {
        // SAFETY: these instructions are part of every x86-64; the load is of 16 bytes of `block`.
        let hits = unsafe {
            let block = _mm_loadu_si128(block.as_ptr().cast());
            let quote = _mm_cmpeq_epi8(block, _mm_set1_epi8(b'"'.cast_signed()));
            let backslash = _mm_cmpeq_epi8(block, _mm_set1_epi8(b'\\'.cast_signed()));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(block, _mm_set1_epi8(0x1F)), block);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control))
        };
        if hits != 0 {
            return Ok(at + hits.trailing_zeros() as usize);
        }
        at += 16;
    }
    Err(at)
}

const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES << 7;

/// The high bit of each byte that is zero; above the lowest of these there may be others.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

/// [`next_special`] for any machine.
#[inline]
fn eight_at_a_time(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(eight);
        // As for zero, below 0x20.
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let hits = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\'))) | control;
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && !matches!(bytes[at], b'"' | b'\\' | 0..=0x1F) {
        at += 1;
    }
    at
}

/// Puts the text that the checked escapes in `line[start..end]` stand for into `out`.
///
/// Bytes are copied eight at a time and behind the first backslash once more from there: text has an
/// escape each fifty bytes or so, for which calls to find and to copy cost more than the bytes.
pub(super) fn unescape(line: &str, start: usize, end: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
    let bytes = &line.as_bytes()[..end];
    out.clear();
    // An escape stands for no more bytes than it has.
    out.resize(end - start + 8, 0);
    let (mut at, mut to) = (start, 0);
    while at < end {
        let n = if let Some(eight) = bytes[at..].first_chunk::<8>() {
            out[to..to + 8].copy_from_slice(eight);
            let hits = zeros(u64::from_le_bytes(*eight) ^ (ONES * u64::from(b'\\')));
            if hits == 0 { 8 } else { hits.trailing_zeros() as usize / 8 }
        } else {
            let n = bytes[at..].iter().position(|&byte| byte == b'\\').unwrap_or(end - at);
            out[to..to + n].copy_from_slice(&bytes[at..at + n]);
            n
        };
        (at, to) = (at + n, to + n);
        if at == end || bytes[at] != b'\\' {
            continue;
        }
        at += 2;
        out[to] = match bytes[at - 1] {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            b'u' => {
                let (character, n) = unicode(bytes, at)?;
                at += n;
                to += character.encode_utf8(&mut out[to..]).len();
                continue;
            }
            // A quote, a backslash or a slash.
            byte => byte,
        };
        to += 1;
    }
    out.truncate(to);
    Ok(())
}

/// The character of the checked escape whose digits start at `at`, and how many bytes it takes from there.
fn unicode(bytes: &[u8], at: usize) -> Result<(char, usize), Fault> {
    let alone = Fault::LoneSurrogate { at: at - 2 };
    let first = hex4(bytes, at);
    if !(0xD800..=0xDBFF).contains(&first) {
        return char::from_u32(first).map(|character| (character, 4)).ok_or(alone);
    }
    if at + 10 > bytes.len() || &bytes[at + 4..at + 6] != b"\\u" {
        return Err(alone);
    }
    let second = hex4(bytes, at + 6);
    if !(0xDC00..=0xDFFF).contains(&second) {
        return Err(alone);
    }
    let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    char::from_u32(code).map(|character| (character, 10)).ok_or(alone)
}

/// Four hexadecimal digits, which were checked.
fn hex4(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |code, &digit| code << 4 | char::from(digit).to_digit(16).unwrap_or(0))
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
                    let special = matches!(byte, b'"' | b'\\' | 0..=0x1F);
                    let expected = if special { at } else { len };
                    assert_eq!(next_special(&bytes, 0), expected, "{byte} at {at}");
                    assert_eq!(eight_at_a_time(&bytes, 0), expected, "{byte} at {at}");
                }
            }
        }
    }
}
