//! The patterns as operations on bit planes.
//!
//! Bit n of every word is byte n of a block; [`up`] moves a plane one byte on, with what the block before
//! left. All bytes of a character are in the same planes, so that "the byte before" is as good as "the
//! character before". A byte starts a pretoken
//!
//! * **punctuation**: behind none, unless a space (U+0020) stands before it, which it joins. Line breaks
//!   behind punctuation, in some patterns slashes with them, are its *tail* and no whitespace here;
//! * **letters**: behind none, unless what stands before joins them: the last of some whitespace, or a
//!   single character of punctuation that starts a pretoken itself;
//! * **small and capital letters** (`U*L+` and `U+L*`): a capital behind a small one starts; of letters
//!   that are both (Chinese, marks) before capitals, the first capital starts if no small letter ends them;
//! * **numbers**: behind none, and every k-th of a run;
//! * **whitespace**: behind none; the first behind the last line break of a run; the last one, if
//!   something follows that it may join or be apart from;
//! * **contractions** end a pretoken where they end.
//!
//! [`fill`] carries a property through a run by addition. What depends on the *end* of a run (the two rules
//! with "last" and "end" above) is local nearly always; where it is not, the planes behind are searched.
//!
//! The function is compiled twice, for blocks of ASCII without all that only other characters can be, and once for
//! each tier, because what it does best are instructions that not all processors have.

use super::super::BLOCK;
use super::grammar::{Contraction, Grammar};
use super::planes::Planes;

/// Marks behind punctuation in a block, at most; more are not for the algebra.
const MARKS_MAX: usize = 8;

/// Blocks: the text, where in it they begin, their planes and those of one block more.
pub(crate) struct Blocks<'a> {
    pub(super) text: &'a [u8],
    pub(super) offset: usize,
    pub(super) planes: &'a [Planes],
    /// A bit for each that is all ASCII, of which none has a run of its own.
    pub(super) plain: u64,
}

/// One of them, the first of these.
struct Block<'a> {
    text: &'a [u8],
    offset: usize,
    planes: &'a [Planes],
}

impl Block<'_> {
    /// Whether the byte `at`, counted from the block's first, is in a plane. It is in this block or in the next.
    #[inline(always)]
    fn is(&self, at: usize, plane: impl Fn(&Planes) -> u64) -> bool {
        plane(&self.planes[at / BLOCK]) >> (at % BLOCK) & 1 == 1
    }

    /// The first byte from `from` on that is not in a plane, as far as planes are known.
    fn first_not(&self, from: usize, plane: impl Fn(&Planes) -> u64) -> Option<usize> {
        let mut ignored = (1 << (from % BLOCK)) - 1;
        for (at, planes) in self.planes.iter().enumerate().skip(from / BLOCK) {
            let found = !(plane(planes) | ignored);
            if found != 0 {
                return Some(at * BLOCK + found.trailing_zeros() as usize);
            }
            ignored = 0;
        }
        None
    }

    /// Bytes of the character that begins at `at`.
    fn len_of(&self, at: usize) -> usize {
        match self.text[self.offset + at] {
            0..0xC0 => 1,
            0xC0..0xE0 => 2,
            0xE0..0xF0 => 3,
            _ => 4,
        }
    }
}

/// What a block leaves to the next: bit 0 of each word is about its last byte.
#[derive(Clone, Copy, Default)]
pub(crate) struct State {
    letter: u64,
    before_letter: u64,
    phase: u64,
    unphased: u64,
    other: u64,
    plain_other: u64,
    glue: u64,
    ascii_glue: u64,
    ascii_run: u64,
    tail: u64,
    blank: u64,
    space: u64,
    newline: u64,
    number: u64,
    wide_number: u64,
    own: u64,
    own_other: u64,
    loose: u64,
    /// Digits since the last start in a run of them.
    n_digits: u32,
    /// Where the last contraction ended.
    contraction_end: usize,
    force: u64,
    clear: u64,
}

/// A plane, moved one byte on.
#[inline(always)]
fn up(plane: u64, before: u64) -> u64 {
    plane << 1 | before
}

/// The bits of `body` from each `start` (bits of `body`) to the end of its run.
#[inline(always)]
fn fill(start: u64, body: u64) -> u64 {
    body & (!body.wrapping_add(start) | start)
}

/// The set bits, lowest first.
fn bits(mut plane: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = plane.trailing_zeros() as usize;
        plane &= plane.wrapping_sub(1);
        (at < 64).then_some(at)
    })
}

/// Computes the starts in as many blocks as `out` has room for; false where they are not computed, after which
/// the state says nothing.
///
/// # Safety
/// The processor has the tier's features.
pub(crate) unsafe fn portable(g: &Grammar, s: &mut State, blocks: &Blocks<'_>, out: &mut [u64]) -> bool {
    of_blocks(g, s, blocks, out)
}

/// See [`portable`].
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn avx2(g: &Grammar, s: &mut State, blocks: &Blocks<'_>, out: &mut [u64]) -> bool {
    of_blocks(g, s, blocks, out)
}

#[inline(always)]
fn of_blocks(g: &Grammar, s: &mut State, blocks: &Blocks<'_>, out: &mut [u64]) -> bool {
    // In registers as far as they go.
    let mut state = *s;
    for (at, found) in out.iter_mut().enumerate() {
        let planes = &blocks.planes[at..];
        let block = Block { text: blocks.text, offset: blocks.offset + at * BLOCK, planes };
        let starts = if blocks.plain >> at & 1 == 1 {
            starts::<true>(g, &mut state, &block)
        } else {
            starts::<false>(g, &mut state, &block)
        };
        let Some(starts) = starts else { return false };
        *found = starts;
    }
    *s = state;
    true
}

/// The starts in a block, or `None` where they are not computed.
#[inline(always)]
fn starts<const ASCII: bool>(g: &Grammar, s: &mut State, block: &Block<'_>) -> Option<u64> {
    let mut p = block.planes[0];
    if ASCII {
        p = Planes { own: 0, high: 0, tail: 0, ..p };
    }
    if p.own & (p.other | p.number) != 0 {
        return None;
    }
    let mut n_marks = 0;
    let (tail, other, glue) = loop {
        let (tail, other, glue) = punctuation(g, s, &p);
        let mark = if ASCII { 0 } else { p.lower & p.upper & p.other };
        let seeds = mark & up(other & !glue, s.plain_other);
        if seeds == 0 {
            break (tail, other, glue);
        }
        // A mark behind such punctuation belongs to it. The leftmost is certain; the others depend on it.
        n_marks += 1;
        if n_marks > MARKS_MAX {
            return None;
        }
        let joined = fill(seeds & seeds.wrapping_neg(), mark);
        p.lower &= !joined;
        p.upper &= !joined;
    };
    let p = &p;
    let letter = p.lower | p.upper;
    let loose = p.loose & !p.own;
    let prev_blank = up(p.blank, s.blank);
    let first = other & !up(other, s.other) & !prev_blank;

    // Words.
    let spaces = p.space & !tail;
    let newlines = p.newline & !tail;
    let blanks = spaces & !newlines;
    let before_letter = blanks & g.any_blank | p.blank | glue & g.other_prefix | loose;
    let mut found = first | letter & !up(letter, s.letter) & !up(before_letter, s.before_letter);
    if g.ascii_prefix != 0 {
        // Punctuation joins the ASCII letters behind it, and nothing else.
        let ascii = letter & !p.high;
        let glued = ascii & up(glue & !p.high, s.ascii_glue);
        let run = fill(glued | s.ascii_run & ascii & 1, ascii);
        found = found & !glued | letter & p.high & up(run, s.ascii_run);
        s.ascii_run = run >> 63;
    }
    if g.cased != 0 {
        found |= capitals(s, block, p)?;
    }

    if p.number != 0 || s.number != 0 {
        found |= numbers(g, s, p, prev_blank)?;
    }

    found |= whitespace(g, s, block, p, tail)?;
    if p.own != 0 || s.own != 0 || s.own_other != 0 {
        let (letters, others) = (p.own & !p.loose, p.own & p.loose);
        found |= letters & !up(letters, s.own) | others & !up(others, s.own_other);
        (s.own, s.own_other) = (letters >> 63, others >> 63);
    }
    if loose != 0 {
        found |= loose & !up(loose, s.loose);
        for at in bits(loose & !p.tail) {
            if block.is(at + block.len_of(at), |p| p.lower | p.upper) {
                found |= 1 << at;
            }
        }
    }

    let (mut clear, mut force) = (u128::from(s.clear), u128::from(s.force));
    if p.quote != 0 && !matches!(g.contraction, Contraction::None) {
        let marks = p.quote & if g.is_suffix() { up(letter, s.letter) } else { first };
        for at in bits(marks) {
            let Some(len) = contraction(g, block, at, s.contraction_end) else { continue };
            s.contraction_end = block.offset + at + len;
            let inside = ((1_u128 << len) - 1) << at;
            clear |= if g.is_suffix() { inside } else { inside & !(1 << at) };
            if block.is(at + len, |p| p.lower | p.upper) {
                if g.cased != 0 && block.is(at + len, |p| p.high) {
                    return None;
                }
                force |= 1 << (at + len);
            }
        }
    }
    found = found & !(clear as u64) | force as u64;
    (s.clear, s.force) = ((clear >> 64) as u64, (force >> 64) as u64);

    s.letter = letter >> 63;
    s.before_letter = before_letter >> 63;
    s.other = other >> 63;
    s.plain_other = (other & !glue) >> 63;
    s.glue = glue >> 63;
    s.ascii_glue = (glue & !p.high) >> 63;
    s.tail = tail >> 63;
    s.blank = p.blank >> 63;
    s.space = spaces >> 63;
    s.newline = newlines >> 63;
    s.loose = loose >> 63;
    Some(found)
}

/// Starts of words inside runs of letters: at capitals.
#[inline(always)]
fn capitals(s: &mut State, block: &Block<'_>, p: &Planes) -> Option<u64> {
    let both = p.lower & p.upper;
    let capital = p.upper & !p.lower;
    let small = p.lower & !p.upper;
    let phase = if both == 0 { small } else { fill(small | s.phase & p.lower & 1, p.lower) };
    let mut found = capital & up(phase, s.phase);
    for at in bits(capital & up(both & !phase, s.unphased)) {
        let end = block.first_not(at, |p| p.upper & !p.lower)?;
        if !block.is(end, |p| p.lower) {
            found |= 1 << at;
        }
    }
    s.phase = phase >> 63;
    s.unphased = (both & !phase) >> 63;
    Some(found)
}

/// Starts of whitespace.
#[inline(always)]
fn whitespace(g: &Grammar, s: &State, block: &Block<'_>, p: &Planes, tail: u64) -> Option<u64> {
    let spaces = p.space & !tail;
    let newlines = p.newline & !tail;
    let blanks = spaces & !newlines;
    let mut found = spaces & !up(spaces, s.space);
    let whole_before = |p: &Planes| p.space | p.number & g.number_ends_text | p.own & g.own_ends_text;
    found |= blanks & !p.high & !(whole_before(p) >> 1 | whole_before(&block.planes[1]) << 63);
    if blanks & p.high != 0 {
        for at in bits(blanks & p.high & !p.tail) {
            if !block.is(at + block.len_of(at), whole_before) {
                found |= 1 << at;
            }
        }
    }
    let after = blanks & up(newlines, s.newline);
    found |= after;
    let (sum, crosses) = blanks.overflowing_add(after);
    if crosses || sum & !blanks & p.newline != 0 {
        for at in bits(after) {
            // A later line break takes them; so does the end of the text, in some patterns.
            let joins = match block.first_not(at, |p| p.space & !p.newline) {
                Some(end) => block.is(end, |p| p.newline),
                None if block.offset + block.planes.len() * BLOCK >= block.text.len() => g.to_end,
                None => return None,
            };
            if joins {
                found &= !(1 << at);
            }
        }
    }
    Some(found)
}

/// Tails of punctuation, punctuation without them, and the bytes of each single character of it that letters
/// may join.
#[inline(always)]
fn punctuation(g: &Grammar, s: &State, p: &Planes) -> (u64, u64, u64) {
    let other = p.other & !(p.lower & p.upper);
    let body = g.tail & (p.newline | p.slash & g.slash_tail);
    let seed = p.newline & body & up(other, s.other) | s.tail & body & 1;
    let tail = if seed == 0 { 0 } else { fill(seed, body) };
    let other = other & !tail;
    let mut glue = other & !up(other, s.other) & !up(p.blank, s.blank) | s.glue & p.tail & 1;
    if p.tail != 0 {
        for _ in 0..3 {
            glue |= glue << 1 & p.tail & other;
        }
    }
    (tail, other, glue)
}

/// Starts of numbers.
#[inline(always)]
fn numbers(g: &Grammar, s: &mut State, p: &Planes, prev_blank: u64) -> Option<u64> {
    let number = p.number;
    let prev = up(number, s.number);
    let first = number & !prev & !(prev_blank & g.blank_number);
    let k = g.number_max;
    let found = match k {
        1 => number & !p.tail,
        u32::MAX => first,
        _ => {
            let digit = number & !p.high;
            if number & p.high & !p.tail & prev | digit & up(number & p.high, s.wide_number) != 0 {
                return None;
            }
            let mut found = first;
            if s.number & digit & 1 == 1 {
                let due = k - s.n_digits;
                if digit.trailing_ones() > due {
                    found |= 1 << due;
                }
            }
            let run = if k == 2 { digit & digit << 1 } else { digit & digit << 1 & digit << 2 };
            let mut step = found & digit;
            while step != 0 {
                step = step << k & run;
                found |= step;
            }
            let n_last = number.leading_ones();
            if n_last > 0 {
                let in_run = found & u64::MAX << (64 - n_last);
                s.n_digits = if in_run == 0 { s.n_digits + n_last } else { in_run.leading_zeros() + 1 };
            }
            found
        }
    };
    s.number = number >> 63;
    s.wide_number = (number & p.high) >> 63;
    Some(found)
}

/// Bytes of the contraction that begins at byte `at`, if one does; `end` is where the last one ended.
#[cold]
#[inline(never)]
fn contraction(g: &Grammar, block: &Block<'_>, at: usize, end: usize) -> Option<usize> {
    let place = block.offset + at;
    if g.is_suffix() && place == end {
        return None;
    }
    g.contraction_len(&block.text[place..])
}
