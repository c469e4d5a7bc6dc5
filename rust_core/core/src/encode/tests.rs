//! Every tier against the plain way: pretokens from the scalar scanner, merged one by one.

use std::path::Path;

use super::*;
use crate::bpe::inert::Bridges;
use crate::bpe::merge::merge;
use crate::bpe::pairs::PairTable;
use crate::cache::WordCache;
use crate::pretokenize::gpt2::Gpt2;
use crate::pretokenize::scan::STARTS_ROOM;
use crate::pretokenize::unicode::classes;
use crate::tier::{self, Kernels};
use crate::vocab::{Reference, Vocabulary, named, rank_file};

/// Characters that have tripped scanners up: every class, every length, every whitespace, quotes, what
/// looks like quotes, marks, characters of the mixed blocks, and the exceptions in uniform ones.
const NASTY: [char; 40] = [
    ' ', '\n', '\t', '\r', '\u{b}', 'a', 's', 'l', 'v', 'e', 'r', 'Z', '1', '9', '\'', '.', '!', '\0',
    '\u{7f}', '\u{85}', '\u{a0}', 'é', '×', 'ſ', '²', 'Ж', '\u{301}', 'ا', 'अ', '\u{93f}', '\u{2003}',
    '\u{2019}', '\u{3000}', '、', 'の', '中', '䷀', '！', '😀', '𐍈',
];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }

    fn text(&mut self, n_chars: usize) -> String {
        // Few kinds of characters at a time make runs and repetitions.
        let kinds: Vec<char> = (0..=self.below(6)).map(|_| NASTY[self.below(NASTY.len())]).collect();
        (0..n_chars).map(|_| kinds[self.below(kinds.len())]).collect()
    }
}

struct Fixture {
    vocab: Vocabulary,
    plain: Gpt2,
}

impl Fixture {
    fn new() -> Self {
        Self { vocab: Vocabulary::gpt2(), plain: Gpt2::new(classes(Reference::Tiktoken)) }
    }

    fn model(&self, kernels: &'static Kernels) -> Model {
        Model::new(&self.vocab, kernels).expect("a model")
    }

    /// Starts of the pretokens.
    fn starts(&self, text: &[u8]) -> Vec<usize> {
        let (mut starts, mut at) = (Vec::new(), 0);
        while at < text.len() {
            starts.push(at);
            at = self.plain.pretoken(text, at).0;
        }
        starts
    }

    fn ids(&self, pairs: &PairTable, text: &[u8]) -> Vec<u16> {
        let (mut scratch, mut ids) = (MergeScratch::default(), Vec::new());
        let starts = self.starts(text);
        for (at, &start) in starts.iter().enumerate() {
            let end = starts.get(at + 1).copied().unwrap_or(text.len());
            merge(pairs, &text[start..end], &mut scratch, &mut ids);
        }
        ids.into_iter().map(|id| id as u16).collect()
    }
}

fn scan(tables: &ScanTables, kernels: &Kernels, text: &[u8]) -> Vec<usize> {
    let (mut scan, mut starts, mut n) = (Scan::default(), vec![0; text.len() + STARTS_ROOM], 0);
    scan.begin();
    while scan.at() < text.len() {
        n = scan.batch(tables, kernels, text, 0, &mut starts, n);
    }
    starts[..n].iter().map(|&start| start as usize).collect()
}

#[test]
fn every_tier_finds_the_starts_of_the_plain_scanner() {
    let fixture = Fixture::new();
    let tables = ScanTables::new(classes(Reference::Tiktoken), None);
    let mut random = Random(1);
    let check = |text: &str| {
        let expected = fixture.starts(text.as_bytes());
        for kernels in tier::tested() {
            let found = scan(&tables, kernels, text.as_bytes());
            assert_eq!(found, expected, "{}: {text:?}", kernels.name);
        }
    };
    // Every three characters, at places around the edges of blocks and batches.
    for (number, &a) in NASTY.iter().enumerate() {
        for &b in &NASTY {
            for &c in &NASTY {
                let before = [58, 59, 60, 61, 62, 63, 64, 1020, 1021, 1022, 1023][(number + b as usize) % 11];
                let mut text = "x".repeat(before - number % 3);
                text.extend([a, b, c]);
                check(&text);
                text.push_str("yz");
                check(&text);
            }
        }
    }
    for round in 0..tier::n_cases(4000) {
        check(&random.text(round % 700));
    }
    for len in [
        63, 64, 65, 127, 128, 1023, 1024, 1025, 1087, 1088, 1089, 1216, 1535, 1536, 1537, 2047, 2048, 2049,
        5000,
    ] {
        check(&"a".repeat(len));
        check(&" ".repeat(len));
        check(&random.text(len));
        check(&"中".repeat(len / 3));
    }
}

#[test]
fn cuts_are_inert_and_the_same_in_every_tier() {
    let fixture = Fixture::new();
    let bridges = Bridges::new(&fixture.vocab);
    let tables = ScanTables::new(classes(Reference::Tiktoken), Some(&bridges));
    let mut random = Random(2);
    let mut n_cuts = 0;
    for round in 0..3000 {
        let text = random.text(round % 500);
        let starts = fixture.starts(text.as_bytes());
        let expected = scan(&tables, tier::available()[0], text.as_bytes());
        assert!(starts.iter().all(|start| expected.contains(start)), "{text:?}");
        for &cut in expected.iter().filter(|cut| !starts.contains(cut)) {
            let bytes = text.as_bytes();
            let is_edge = bridges.edges.is_edge(bytes, cut);
            assert!(is_edge || bridges.inert(bytes[cut - 1], bytes[cut]), "{text:?} at {cut}");
            n_cuts += 1;
        }
        for kernels in tier::tested() {
            assert_eq!(scan(&tables, kernels, text.as_bytes()), expected, "{}: {text:?}", kernels.name);
        }
    }
    assert!(n_cuts > 10_000, "Chinese and the like is cut: {n_cuts}");
}

#[test]
fn every_tier_encodes_as_the_plain_way_does() {
    let fixture = Fixture::new();
    let mut random = Random(3);
    let mut texts: Vec<String> = (0..tier::n_cases(2500)).map(|round| random.text(round % 900)).collect();
    for len in [14, 15, 16, 17, 30, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 2000, 65_535, 65_536] {
        texts.extend(["a", "=", " ", "\u{1}", "ab", "é", "中", "\0"].map(|unit| unit.repeat(len)));
        texts.push(random.text(len));
    }
    texts.push(String::new());
    let all = texts.concat();
    for kernels in tier::tested() {
        let model = fixture.model(kernels);
        // Tables of every size: with two lines nearly everything is refused.
        for n_lines in [1 << 14, 2, 64].into_iter().take(tier::n_cases(3)) {
            let cache = WordCache::with_lines(n_lines, kernels).expect("memory");
            let table = cache.table();
            model.seed::<u16>(&fixture.vocab, &table);
            let mut scratch = Scratch::default();
            let mut encoder = Encoder { model: &model, table: &table, scratch: &mut scratch };
            for text in texts.iter().chain([&all, &all]) {
                let mut ids: Vec<u16> = vec![7];
                let used = encoder.encode(text, true, 0, &mut ids).expect("every byte has a token");
                assert_eq!(used, text.len());
                let expected = fixture.ids(&model.pairs, text.as_bytes());
                assert!(ids[1..] == expected, "{} {n_lines}: {:?}", kernels.name, first_line(text));
            }
        }
    }
}

#[test]
fn what_is_certain_does_not_depend_on_what_follows() {
    let fixture = Fixture::new();
    let kernels = tier::available()[0];
    let model = fixture.model(kernels);
    let cache = WordCache::with_lines(1 << 12, kernels).expect("memory");
    let table = cache.table();
    let mut scratch = Scratch::default();
    let mut encoder = Encoder { model: &model, table: &table, scratch: &mut scratch };
    let mut random = Random(4);
    for round in 0..400 {
        let text = random.text(20 + round % 60);
        let expected = fixture.ids(&model.pairs, text.as_bytes());
        for cut in (0..=text.len()).filter(|&cut| text.is_char_boundary(cut)) {
            let mut ids: Vec<u16> = Vec::new();
            let used = encoder.encode(&text[..cut], false, 0, &mut ids).expect("ids");
            encoder.encode(&text[used..], true, used as u64, &mut ids).expect("ids");
            assert_eq!(ids, expected, "{text:?} cut at {cut}");
        }
    }
}

/// Byte vocabularies with a few merges, for patterns that are scanned in each of the other ways.
fn other_vocabularies() -> Vec<Vocabulary> {
    let machine = r"\p{L}+|\s+";
    let alternatives = r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|\s+(?!\S)|\s|[^\s\p{L}\p{N}]+";
    let families = ["cl100k_base", "o200k_base"].map(|name| named::published(name).expect("known").0);
    let mut ranks = String::new();
    let bytes = (0..=255_u8).map(|byte| vec![byte]);
    let pairs = ["ae", "rl", "  ", " a", "''", "19"].map(|pair| pair.as_bytes().to_vec());
    for (token, rank) in bytes.chain(pairs).zip(0..) {
        let digit = |at: u32| {
            let bits = token.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte))
                << (8 * (3 - token.len()));
            let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            if at as usize > token.len() {
                '='
            } else {
                char::from(digits[(bits >> (18 - 6 * at) & 63) as usize])
            }
        };
        ranks.extend((0..4).map(digit));
        ranks += &[" ", &rank.to_string(), "\n"].concat();
    }
    [machine, alternatives]
        .into_iter()
        .chain(families)
        .map(|pattern| {
            rank_file::parse(Path::new("ranks"), ranks.as_bytes(), pattern, vec![], "x")
                .expect("a vocabulary")
        })
        .collect()
}

#[test]
fn documents_together_are_what_they_are_alone() {
    let (mut random, mut n_scanned) = (Random(5), 0);
    for vocab in other_vocabularies().into_iter().chain([Vocabulary::gpt2()]) {
        for kernels in tier::tested() {
            let model = Model::new(&vocab, kernels).expect("a model");
            n_scanned += usize::from(matches!(model.splitter, Splitter::Words { .. }));
            let cache = WordCache::with_lines(1 << 12, kernels).expect("memory");
            let table = cache.table();
            let mut scratch = Scratch::default();
            let mut encoder = Encoder { model: &model, table: &table, scratch: &mut scratch };
            for round in 0..tier::n_cases(250) {
                // From many tiny documents to some that fill several batches; what stands between them is
                // nothing, or would join them, or is a word that the cache knows.
                let gap = ["", "", "\n", " ", "a", "''", " the", "→", "0123456789abcdefghij"][round % 9];
                let longest = [1, 3, 40, 300, 1100, 3000][random.below(6)];
                let (mut text, mut ranges) = (random.text(round % 5), Vec::new());
                for _ in 0..random.below(6000 / (longest + 10) + 2) {
                    let (start, n_chars) = (text.len(), random.below(longest + 1));
                    text += &random.text(n_chars);
                    ranges.push(start..text.len());
                    text += gap;
                }
                let (before, behind) =
                    [(None, None), (Some(7), None), (None, Some(8)), (Some(7), Some(8))][round % 4];
                let (mut ids, mut ends): (Vec<u16>, _) = (vec![3], vec![1]);
                let between = documents::Between::new(before, behind);
                encoder
                    .documents(&text, &ranges, between, &mut ids, &mut ends)
                    .expect("every byte has a token");
                let (mut expected, mut expected_ends): (Vec<u16>, _) = (vec![3], vec![1]);
                for range in ranges {
                    encoder.encode(&text[range], true, 0, &mut expected).expect("ids");
                    expected.extend(before.map(|id| id as u16));
                    expected_ends.push(expected.len() as u64);
                    expected.extend(behind.map(|id| id as u16));
                }
                assert!(ids == expected, "{} {}: {text:?}", kernels.name, vocab.pattern());
                assert_eq!(ends, expected_ends, "{} {}: {text:?}", kernels.name, vocab.pattern());
            }
        }
    }
    assert!(n_scanned >= 2, "two of the patterns are of the family");
}

fn first_line(text: &str) -> &str {
    &text[..text.floor_char_boundary(120)]
}
