//! Every tier against the plain way: pretokens from the scalar scanner, merged one by one.

use super::*;
use crate::cache::WordCache;
use crate::pretokenize::gpt2::Gpt2;
use crate::pretokenize::unicode::classes;
use crate::tier;
use crate::vocab::Reference;

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
        for kernels in tier::available() {
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
    for round in 0..4000 {
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
            assert!(bridges.inert(text.as_bytes()[cut - 1], text.as_bytes()[cut]), "{text:?} at {cut}");
            n_cuts += 1;
        }
        for kernels in tier::available() {
            assert_eq!(scan(&tables, kernels, text.as_bytes()), expected, "{}: {text:?}", kernels.name);
        }
    }
    assert!(n_cuts > 10_000, "Chinese and the like is cut: {n_cuts}");
}

#[test]
fn every_tier_encodes_as_the_plain_way_does() {
    let fixture = Fixture::new();
    let mut random = Random(3);
    let mut texts: Vec<String> = (0..2500).map(|round| random.text(round % 900)).collect();
    for len in [14, 15, 16, 17, 30, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 2000, 65_535, 65_536] {
        texts.extend(["a", "=", " ", "\u{1}", "ab", "é", "中", "\0"].map(|unit| unit.repeat(len)));
        texts.push(random.text(len));
    }
    texts.push(String::new());
    let all = texts.concat();
    for kernels in tier::available() {
        let model = fixture.model(kernels);
        // Tables of every size: with two lines nearly everything is refused.
        for n_lines in [2, 64, 1 << 14] {
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

fn first_line(text: &str) -> &str {
    &text[..text.floor_char_boundary(120)]
}
