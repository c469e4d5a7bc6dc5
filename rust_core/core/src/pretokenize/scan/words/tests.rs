//! The scanner against the patterns' own matchers, in every tier.

use super::*;
use crate::bpe::inert::Bridges;
use crate::bpe::seams::cuts;
use crate::pretokenize::Pretokenizer as _;
use crate::pretokenize::matcher::Matcher;
use crate::pretokenize::scan::STARTS_ROOM;
use crate::pretokenize::steps::{Behavior, Chain, Step};
use crate::tier;
use crate::vocab::{Reference, Vocabulary, named};

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const NANOCHAT: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const DEEPSEEK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

fn isolated(pattern: &str) -> Step {
    Step::Split { pattern: pattern.into(), is_literal: false, behavior: Behavior::Isolated, invert: false }
}

enum Plain {
    Matcher(Matcher),
    Chain(Chain),
}

struct Subject {
    name: &'static str,
    plain: Plain,
    words: Words,
}

fn subjects() -> Vec<Subject> {
    let published = |name| (name, named::published(name).expect("known").0, Reference::Tiktoken);
    let patterns = [
        published("cl100k_base"),
        published("o200k_base"),
        published("llama3"),
        published("r50k_base"),
        ("qwen2", QWEN2, Reference::HuggingFace),
        ("qwen3.5", QWEN3_5, Reference::HuggingFace),
        ("tekken", TEKKEN, Reference::Tiktoken),
        ("kimi", KIMI, Reference::HuggingFace),
        ("nanochat", NANOCHAT, Reference::HuggingFace),
    ];
    let chains = [
        ("deepseek", vec![isolated(r"\p{N}{1,3}"), isolated("[一-龥぀-ゟ゠-ヿ]+"), isolated(DEEPSEEK)]),
        ("starcoder", vec![Step::Digits { individual: true }, Step::byte_level()]),
        ("runs of digits", vec![Step::Digits { individual: false }, Step::byte_level()]),
        ("han, llama3", vec![isolated(r"\p{Han}+"), isolated(named::published("llama3").expect("known").0)]),
    ];
    let patterns = patterns.into_iter().map(|(name, pattern, reference)| {
        (name, Plain::Matcher(Matcher::new(pattern, reference).expect("supported")))
    });
    let chains =
        chains.into_iter().map(|(name, steps)| (name, Plain::Chain(Chain::new(&steps).expect("supported"))));
    patterns
        .chain(chains)
        .map(|(name, plain)| {
            let grammar = match &plain {
                Plain::Matcher(Matcher::Alternatives(alternatives)) => alternatives.grammar(false),
                Plain::Matcher(Matcher::Machine(_)) => None,
                Plain::Chain(chain) => chain.grammar(),
            };
            let (grammar, classes) = grammar.unwrap_or_else(|| panic!("{name} is of the family"));
            Subject { name, plain, words: Words::new(grammar, &classes, Seams::all()) }
        })
        .collect()
}

impl Subject {
    fn expected(&self, text: &str) -> Vec<usize> {
        let (mut starts, mut at) = (Vec::new(), 0);
        match &self.plain {
            Plain::Matcher(matcher) => {
                while at < text.len() {
                    starts.push(at);
                    at = matcher.next(text, at).expect("a split").end;
                }
            }
            Plain::Chain(chain) => {
                let mut pieces = Vec::new();
                chain.split(text, true, &mut pieces).expect("pieces");
                for piece in pieces {
                    starts.push(at);
                    at = piece.end;
                }
            }
        }
        starts
    }

    /// `None` if a batch was given up.
    fn found(&self, kernels: &Kernels, text: &str) -> Option<Vec<usize>> {
        let (mut scan, mut work) = (Scan::default(), Work::default());
        let (mut starts, mut n) = (vec![0; text.len() + STARTS_ROOM], 0);
        scan.begin_words(&mut work);
        while scan.at() < text.len() {
            n = scan.words(&mut work, &self.words, kernels, text.as_bytes(), 0, &mut starts, n)?;
        }
        Some(starts[..n].iter().map(|&start| start as usize).collect())
    }
}

/// What has tripped scanners up, several times each kind.
const NASTY: [&str; 64] = [
    " ", " ", "  ", "\n", "\n", "\r\n", "\t", "\u{b}", "\u{a0}", "\u{3000}", "\u{2003}", "\u{85}", "a", "b",
    "s", "S", "t", "ll", "LL", "Re", "vE", "x", "A", "B", "ABC", "ſ", "é", "É", "Ǆ", "ǅ", "ʰ", "ª", "ж", "Ж",
    "中", "文", "龥", "カ", "・", "한", "न", "ि", "\u{301}", "\u{20dd}", "1", "2", "345", "1234567", "٣",
    "²", "Ⅷ", "〇", "⺀", "'", "'", "’", "!", "/", "//", "“", "😀", "\0", "\u{ad}", "\u{e000}",
];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }

    fn text(&mut self, n_parts: usize) -> String {
        let kinds: Vec<&str> = (0..=self.below(8)).map(|_| NASTY[self.below(NASTY.len())]).collect();
        (0..n_parts).map(|_| kinds[self.below(kinds.len())]).collect()
    }
}

#[test]
fn every_tier_finds_the_starts_of_the_matcher() {
    let mut random = Random(5);
    let mut texts: Vec<String> = Vec::new();
    // All pairs and many triples, at places around the edge of a block, and at the end of a text.
    for (number, a) in NASTY.iter().enumerate() {
        for b in NASTY {
            let before = "x".repeat(56 + (number + b.len()) % 9);
            let c = NASTY[random.below(NASTY.len())];
            texts.extend([format!("{a}{b}{c}"), format!("{before}{a}{b}{c}y"), format!("{before} {a}{b}")]);
        }
    }
    texts.extend((0..tier::n_cases(3000)).map(|round| random.text(round % 300)));
    for len in [63, 64, 65, 1023, 1024, 1025, 3000] {
        texts.extend(
            ["a", " ", "\n", "中", "1", "!", "\u{a0}", "\n ", "aB", "中A", "/\n"]
                .map(|unit| unit.repeat(len)),
        );
        texts.extend(
            ["!\u{301}", " !\u{301}", "!!\u{301}a", "!\u{301}\n//\u{301}", "ि!ि"]
                .map(|unit| unit.repeat(len / 5)),
        );
        texts.push(format!("\n{}x", " ".repeat(len)));
        texts.push(format!("\n{}\n", " ".repeat(len)));
        texts.push(format!("中{}z", "A".repeat(len)));
    }
    for subject in subjects() {
        let mut n_scanned = 0;
        for text in &texts {
            let expected = subject.expected(text);
            for kernels in tier::tested() {
                if let Some(found) = subject.found(kernels, text) {
                    assert_eq!(found, expected, "{}, {}: {text:?}", subject.name, kernels.name);
                    n_scanned += 1;
                }
            }
        }
        let n = texts.len() * tier::tested().len();
        assert!(n_scanned > n / 2, "{}: {n_scanned} of {n} were scanned", subject.name);
    }
}

#[test]
fn tiers_make_the_same_planes() {
    let mut random = Random(11);
    let (mut n_wide, mut n_narrow) = (0, 0);
    for subject in subjects() {
        let tables = &subject.words.tables;
        for round in 0..tier::n_cases(300) {
            let mut text = random.text(120);
            if round % 3 == 0 {
                text.retain(|c| c.is_ascii());
            }
            // From any byte on, whether a character begins there or not.
            let from = 4 + random.below(8);
            let bytes = [b"    ", text.as_bytes(), &[b'x'; 6 * BLOCK]].concat();
            let mut expected = [Planes::default(); 3];
            // SAFETY: four bytes before and five blocks behind.
            let wide = unsafe { planes::portable(tables, bytes.as_ptr().add(from), &mut expected) };
            for kernels in tier::tested() {
                let mut found = [Planes::default(); 3];
                // SAFETY: the same, and the processor has the tier's features.
                let also_wide = unsafe { (kernels.planes)(tables, bytes.as_ptr().add(from), &mut found) };
                assert_eq!(
                    (found, also_wide),
                    (expected, wide),
                    "{}, {}: {text:?}",
                    subject.name,
                    kernels.name
                );
            }
            n_wide += wide.count_ones();
            n_narrow += 3 - wide.count_ones();
        }
    }
    assert!(n_wide > 300 && n_narrow > 300, "{n_wide} {n_narrow}");
}

#[test]
fn patterns_outside_the_family_are_left_to_their_matcher() {
    let llama3 = named::published("llama3").expect("known").0;
    for (pattern, reference) in [
        // Another order, another number, something of its own.
        (r"\p{N}{1,3}|\p{L}+|\s+(?!\S)|\s+".to_owned(), Reference::HuggingFace),
        (llama3.replace("{1,3}", "{1,4}"), Reference::HuggingFace),
        (llama3.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", r"[^\n\p{L}\p{N}]?\p{L}+"), Reference::HuggingFace),
        (llama3.replace(r"\s+(?!\S)|", ""), Reference::HuggingFace),
        (format!("x+y|{llama3}"), Reference::HuggingFace),
    ] {
        let Matcher::Alternatives(alternatives) = Matcher::new(&pattern, reference).expect("supported")
        else {
            continue;
        };
        assert!(alternatives.grammar(false).is_none(), "{pattern}");
    }
}

#[test]
fn seams_are_where_no_token_reaches() {
    let vocab = Vocabulary::gpt2();
    let tokens: Vec<&[u8]> = vocab.ordinary().map(|(_, token)| token).collect();
    let bridges = Bridges::new(&vocab);
    let seams = Seams::new(&vocab, std::iter::empty());
    let chars =
        ['é', 'ж', 'и', '中', '国', '。', 'の', 'が', '한', '😀', '\u{301}', '“', '”', '\u{a0}', '\u{3000}'];
    let (mut n_seams, mut n_lost) = (0, 0);
    for left in chars {
        for right in chars {
            let text = format!("xyz{left}{right}abc");
            let at = 3 + left.len_utf8();
            let mut padded = [0_u8; 128];
            padded[8..8 + text.len()].copy_from_slice(text.as_bytes());
            // SAFETY: 8 bytes before and 120 from there on.
            let found = unsafe { cuts::portable(&seams, padded.as_ptr().add(8), 1 << at) };
            let is_seam = found >> at & 1 == 1;
            let bytes = text.as_bytes();
            let spanned = tokens.iter().any(|token| {
                (1..token.len())
                    .any(|k| bytes[..at].ends_with(&token[..k]) && bytes[at..].starts_with(&token[k..]))
            });
            assert!(!(is_seam && spanned), "{left}{right}");
            n_lost += usize::from(!is_seam && bridges.inert(bytes[at - 1], bytes[at]));
            n_seams += usize::from(is_seam);
        }
    }
    assert!(n_seams > 150, "{n_seams}");
    // Pairs that share a bit with one that is in a token: at most one in 64, of 225.
    assert!(n_lost < 12, "{n_lost}");
}
