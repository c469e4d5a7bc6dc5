"""Published encodings by name, rank files and `tekken.json`, against tiktoken."""

from __future__ import annotations

import base64
import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
import tiktoken_ext.openai_public as published
from parity.families import O200K, TEKKEN
from parity.strategies import NASTY
from tokend import Tokenizer, _core
from tokend.vocabularies import Carried, carried, resolve
from tokend_client.errors import TokenizerInvalidError

RANKS = {bytes([byte]): byte for byte in range(256)} | {
    text.encode(): 256 + n for n, text in enumerate(["th", "the", " the", "日", "\n\n", "12", "xyzzy", "ab", "AB"])
}
CARRIED = [found for found in carried() if found.encoding]


def nasty(seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices([*NASTY, "<|fim_prefix|>", "<|start|>"], k=rng.randint(0, 40))) for _ in range(n)]


def write_ranks(path: Path) -> None:
    text = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in RANKS.items())
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def test_gzipped_rank_files_are_the_same(tmp_path: Path) -> None:
    write_ranks(tmp_path / "a.tiktoken")
    write_ranks(tmp_path / "a.tiktoken.gz")
    one, two = (
        Tokenizer.from_tiktoken(tmp_path / name, pattern=O200K, special_tokens={"<|x|>": 300})
        for name in ("a.tiktoken", "a.tiktoken.gz")
    )
    assert one.fingerprint == two.fingerprint
    (tmp_path / "b.gz").write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(Exception, match=r"b\.gz: reading failed"):
        Tokenizer.from_tiktoken(tmp_path / "b.gz", pattern=O200K, special_tokens={})


def test_only_the_published_file_has_the_name(tmp_path: Path) -> None:
    write_ranks(tmp_path / "a.tiktoken")
    with pytest.raises(TokenizerInvalidError, match="not the published file of o200k_base"):
        Tokenizer.load(f"o200k_base={tmp_path / 'a.tiktoken'}")
    with pytest.raises(TokenizerInvalidError, match="one of r50k_base, p50k_base"):
        Tokenizer.load("p51k_base")


def test_tekken(tmp_path: Path) -> None:
    ordinary = [token for token in RANKS if token not in (b"ab", b"AB")]
    special = ["<unk>", "<s>", "</s>", "[INST]"]
    data = {
        "config": {
            "pattern": TEKKEN,
            "num_vocab_tokens": len(RANKS),
            "default_vocab_size": len(ordinary) + 10,
            "default_num_special_tokens": 10,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for token, rank in RANKS.items()
        ],
        "special_tokens": [{"rank": n, "token_str": text, "is_control": True} for n, text in enumerate(special)],
    }
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(data))
    ours = Tokenizer.load(path)
    theirs = tiktoken.Encoding(
        "tekken", pat_str=TEKKEN, mergeable_ranks={token: RANKS[token] for token in ordinary}, special_tokens={}
    )
    assert ours.vocab_size == len(ordinary) + 10
    for text in nasty(1, 300):
        assert ours.encode(text, "text").tolist() == [id + 10 for id in theirs.encode_ordinary(text)]
    assert ours.encode("a</s>[INST]<SPECIAL_9>", "token").tolist() == [97 + 10, 2, 3, 9]


@pytest.mark.parametrize("found", CARRIED or [pytest.param(None, marks=pytest.mark.skip("no package has one"))])
def test_carried_rank_files(found: Carried) -> None:
    ours = Tokenizer.load(found.argument)
    opener = gzip.open if found.path.suffix == ".gz" else open
    with opener(found.path, "rb") as file:
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, file)}
    theirs = tiktoken.Encoding("x", pat_str=ours.pattern, mergeable_ranks=ranks, special_tokens=ours.special_tokens)
    for text in nasty(2, 300):
        assert ours.encode(text, "text").tolist() == theirs.encode_ordinary(text)
        assert ours.encode(text, "token").tolist() == theirs.encode(text, allowed_special="all")
    assert resolve(found.encoding).startswith(f"{found.encoding}=")


def test_the_command_lists_what_there_is() -> None:
    run = subprocess.run([sys.executable, "-m", "tokend", "tokenizers", "--json"], capture_output=True, check=True)
    listed = json.loads(run.stdout)
    assert listed[0]["tokenizer"] == "gpt2" and listed[0]["dtype"] == "uint16"
    assert len(listed) == 1 + len(list(carried()))


@pytest.mark.parametrize("name", ["r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony"])
def test_what_is_known_by_heart_is_what_tiktoken_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patterns, special tokens and hashes, compared with the publisher's own package."""
    hashes: list[str] = []

    def fake(url: str, expected_hash: str) -> dict[bytes, int]:
        hashes.append(expected_hash)
        return {}

    monkeypatch.setattr(published, "load_tiktoken_bpe", fake)
    theirs = published.ENCODING_CONSTRUCTORS[name]()
    pattern, sha256, specials = _core.published_encoding(name)
    assert (pattern, sha256) == (theirs["pat_str"], hashes[0])
    assert dict(specials) == theirs["special_tokens"]
