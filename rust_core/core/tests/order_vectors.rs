//! The loader's order, computed once more: what `client/tokend_client/permutation.py` says in words, in Rust,
//! against the vectors that both must give (`tests/loader/golden/order.json`). One item at a time and no tables, so that
//! it has little in common with the vectorised original but the text.

use serde_json::Value;

const G: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A part of a key: a number, or text.
enum Part<'a> {
    Number(u64),
    Text(&'a str),
}

fn derive(parts: &[Part<'_>]) -> u64 {
    let step = |hash: u64, word: u64| mix64(hash ^ word).wrapping_add(G);
    parts.iter().fold(0, |hash, part| match part {
        Part::Number(number) => step(step(hash, 0), *number),
        Part::Text(text) => {
            text.as_bytes().chunks(8).fold(step(hash, 1 + text.len() as u64), |hash, bytes| {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                step(hash, u64::from_le_bytes(word))
            })
        }
    })
}

fn permute(item: u64, n: u64, key: u64) -> u64 {
    if n < 256 {
        let mut order: Vec<u64> = (0..n).collect();
        order.sort_by_key(|item| (mix64(mix64(key) ^ (item + 1).wrapping_mul(G)), *item));
        return order[item as usize];
    }
    let n_bits = 64 - (n - 1).leading_zeros();
    let high_bits = n_bits / 2;
    let low_bits = n_bits - high_bits;
    let mut x = item;
    loop {
        let (mut low, mut high) = (x & ((1 << low_bits) - 1), x >> low_bits);
        for round in 0..6u64 {
            let round_key = mix64(key.wrapping_add((round + 1).wrapping_mul(G)));
            if round % 2 == 0 {
                low ^= mix64(high ^ round_key) >> (64 - low_bits);
            } else {
                high ^= mix64(low ^ round_key) >> (64 - high_bits);
            }
        }
        x = (high << low_bits) | low;
        if x < n {
            return x;
        }
    }
}

/// Which sample of a stream its `j`-th one is; a window of 0: a shuffle of the whole.
fn sample_at(j: u64, n_samples: u64, window: u64, seed: u64, name: &str) -> u64 {
    let (epoch, i) = (j / n_samples, j % n_samples);
    let width = if window == 0 { n_samples } else { window };
    let (number, place) = (i / width, i % width);
    let size = width.min(n_samples - number * width);
    let key = derive(&[
        Part::Text("order"),
        Part::Number(seed),
        Part::Text(name),
        Part::Number(epoch),
        Part::Number(number),
    ]);
    number * width + permute(place, size, key)
}

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/loader/golden/order.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors")).expect("JSON")
}

fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)).expect("a number")
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().expect("numbers").iter().map(number).collect()
}

fn cases<'v>(vectors: &'v Value, of: &str) -> &'v [Value] {
    let cases = vectors[of].as_array().expect("cases");
    assert!(cases.len() > 1, "{of}");
    cases
}

#[test]
fn keys() {
    let vectors = vectors();
    for case in cases(&vectors, "mix64") {
        assert_eq!(mix64(number(&case["x"])), number(&case["out"]), "{case}");
    }
    for case in cases(&vectors, "derive") {
        let parts: Vec<_> = case["parts"]
            .as_array()
            .expect("parts")
            .iter()
            .map(|part| part.as_str().map_or_else(|| Part::Number(number(part)), Part::Text))
            .collect();
        assert_eq!(derive(&parts), number(&case["key"]), "{case}");
    }
}

#[test]
fn permutations() {
    let vectors = vectors();
    for case in cases(&vectors, "permute") {
        let (n, key) = (number(&case["n"]), number(&case["key"]));
        let out: Vec<_> = numbers(&case["items"]).into_iter().map(|item| permute(item, n, key)).collect();
        assert_eq!(out, numbers(&case["out"]), "{n} items, key {key}");
    }
    for n in [255, 256, 257, 1023, 1025, 65_537] {
        let mut seen: Vec<_> = (0..n).map(|item| permute(item, n, 3)).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..n), "{n} items");
    }
}

#[test]
fn order() {
    let vectors = vectors();
    for case in cases(&vectors, "order") {
        let (n_samples, window, seed) =
            (number(&case["n_samples"]), number(&case["window"]), number(&case["seed"]));
        let name = case["name"].as_str().expect("a name");
        let out: Vec<_> =
            numbers(&case["j"]).into_iter().map(|j| sample_at(j, n_samples, window, seed, name)).collect();
        assert_eq!(out, numbers(&case["out"]), "{case}");
    }
}
