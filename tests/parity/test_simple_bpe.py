"""`simple-bpe` models against the naive twin."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from parity.strategies import texts
from reference.corpus import stories
from reference.naive_bpe import NaiveBpe
from tokend import GPT2_PATTERN, Tokenizer
from tokend.compat import BpeTokenizer


def both(path: Path) -> tuple[NaiveBpe, BpeTokenizer]:
    naive, fast = NaiveBpe(), BpeTokenizer()
    naive.load(path)
    fast.load(path)
    return naive, fast


def test_shared_models(shared_models: list[Path]) -> None:
    pairs = [both(path) for path in shared_models]

    @settings(max_examples=500, deadline=None)
    @given(text=texts)
    def compare(text: str) -> None:
        for naive, fast in pairs:
            for policy in ("all", "none"):
                assert fast.encode(text, policy) == naive.encode(text, policy)
            assert fast.decode(fast.encode(text, "all")) == text

    compare()
    text = stories(100_000)
    for naive, fast in pairs:
        assert fast.encode(text) == naive.encode(text)


@pytest.mark.parametrize("seed", range(8))
def test_random_models(seed: int, tmp_path: Path) -> None:
    """Merges of any two ids, also ones that no training would give, in any order of usefulness."""
    rng = random.Random(seed)
    alphabet = [ord(c) for c in " abcs'1\n"]
    merges: list[tuple[int, int]] = []
    for _ in range(60):
        ids = alphabet + list(range(256, 256 + len(merges)))
        pair = (rng.choice(ids), rng.choice(ids))
        if pair not in merges:
            merges.append(pair)
    lines = ["simple-bpe v1", GPT2_PATTERN, "2", "<|a|> 900", "<|a|>b 901", *(f"{a} {b}" for a, b in merges)]
    path = tmp_path / "random.model"
    path.write_text("\n".join(lines) + "\n")
    naive, fast = both(path)
    for _ in range(300):
        text = "".join(rng.choices([" ", "a", "b", "c", "s", "'", "1", "\n", "<|a|>"], k=rng.randint(0, 200)))
        assert fast.encode(text, "all") == naive.encode(text, "all")
        assert fast.encode(text, "none") == naive.encode(text, "none")


def test_policies(tmp_path: Path) -> None:
    path = tmp_path / "x.model"
    path.write_text(f"simple-bpe v1\n{GPT2_PATTERN}\n1\n<|end|> 256\n")
    _, fast = both(path)
    with pytest.raises(ValueError, match=r"<\|end\|>"):
        fast.encode("a<|end|>")
    with pytest.raises(ValueError, match="allowed_special_tokens"):
        fast.encode("a", "some")
    assert fast.encode("a<|end|>", "all") == [97, 256]
    assert len(fast.encode("a<|end|>", "none")) == 8


def test_from_merges_takes_ids_for_special_tokens() -> None:
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"ab", 300: b"<|x|>"}
    tokenizer = Tokenizer.from_merges(vocab, [(b"a", b"b")], ["<|x|>", "<|y|>"])
    assert tokenizer.special_tokens == {"<|x|>": 300, "<|y|>": 301}
    assert tokenizer.encode("ab<|x|><|y|>", "token").tolist() == [256, 300, 301]
    assert "<|x|>" in tokenizer.decode([300])
    with pytest.raises(ValueError, match="merge 0 needs the token"):
        Tokenizer.from_merges(vocab, [(b"a", b"c")])
