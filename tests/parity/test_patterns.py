"""Split patterns other than GPT-2's, against Python's `regex` and against tiktoken."""

from __future__ import annotations

import regex
import tiktoken
from hypothesis import given, settings
from parity.strategies import texts
from tokend import Tokenizer

BYTES = {byte: bytes([byte]) for byte in range(256)}

CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = r"\p{L}+"


def splitter(pattern: str) -> Tokenizer:
    """A tokenizer whose ids show where it splits: a token for every pair of bytes, all of one rank's kind."""
    vocab = dict(BYTES)
    merges = []
    for pair in ("ab", "th", "he", "  ", "\n\n", "'s", "12", "..", "ll"):
        vocab[len(vocab)] = pair.encode()
        merges.append((pair[0].encode(), pair[1].encode()))
    return Tokenizer.from_merges(vocab, merges, [], pattern)


def check(pattern: str, tokenizer: Tokenizer, text: str) -> None:
    """Compares the pieces themselves: encoding the text is encoding `regex`'s pieces one by one."""
    pieces = regex.findall(pattern, text)
    expected: list[int] = []
    for piece in pieces:
        merged = list(piece.encode())
        for id, token in sorted((256 + n, t) for n, t in enumerate(PAIRS)):
            out, at = [], 0
            while at < len(merged):
                if merged[at : at + 2] == list(token):
                    out.append(id)
                    at += 2
                else:
                    out.append(merged[at])
                    at += 1
            merged = out
        expected += merged
    assert tokenizer.encode(text).tolist() == expected


PAIRS = [b"ab", b"th", b"he", b"  ", b"\n\n", b"'s", b"12", b"..", b"ll"]
_QWEN2, _O200K, _WORDS = splitter(QWEN2), splitter(O200K), splitter(WORDS)


@settings(max_examples=1500, deadline=None)
@given(text=texts)
def test_against_regex(text: str) -> None:
    check(QWEN2, _QWEN2, text)
    check(O200K, _O200K, text)
    check(WORDS, _WORDS, text)


def test_against_tiktoken(tmp_path_factory: object) -> None:
    """cl100k's pattern with a small rank file, through both engines."""
    import base64
    import tempfile

    ranks = {bytes([byte]): byte for byte in range(256)}
    for pair in PAIRS:
        ranks[pair] = len(ranks)
    ranks[b" the"] = len(ranks)  # reached by no merge of lower ranks: looked up whole, or not at all
    with tempfile.NamedTemporaryFile(suffix=".tiktoken") as file:
        file.write(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
        file.flush()
        ours = Tokenizer.from_tiktoken(file.name, pattern=CL100K, special_tokens={"<|endoftext|>": 300})
    theirs = tiktoken.Encoding("x", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 300})

    @settings(max_examples=1500, deadline=None)
    @given(text=texts)
    def compare(text: str) -> None:
        assert ours.encode(text, "text").tolist() == theirs.encode_ordinary(text)
        assert ours.encode(text, "token").tolist() == theirs.encode(text, allowed_special="all")
        pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
        assert list(ours.encode_iter(pieces, "token")) == ours.encode(text, "token").tolist()

    compare()
