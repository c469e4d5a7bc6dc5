"""Encoders that the benchmark compares, each in a process of its own: file in → uint16 file out.

    python tests/bench/peers.py NAME THREADS VOCABULARY.json

Reads one JSON line per piece of work from standard input, {"input": PATH, "output": PATH}, and answers
{"seconds": S, "peak_mb": M}. A process lives for several pieces, so what an encoder learns stays warm.
Every one of them reads a file that is in the page cache and has written a file of uint16 when its time
stops; tokend's has also reached the disk (fsync), with document ends and checksums, because it cannot do
less.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = {"tokend": "tokend", "gigatoken": "gigatoken", "tiktoken": "tiktoken", "tokenizers": "tokenizers"}
"""Name of each encoder, and the package that must be there for it."""

Encode = Callable[[str, str], object]


def tokend(threads: int, vocabulary: Path) -> Encode:
    """In this process, through the same call as `tokend encode --local`."""
    from tokend import Tokenizer

    tokenizer = Tokenizer.load("gpt2")

    def encode(source: str, output: str) -> object:
        return tokenizer.encode_files([source], output, threads=threads, special="text", eot="none", force=True)

    return encode


def gigatoken(threads: int, vocabulary: Path) -> Encode:
    """Its fastest interface, and what it takes to get a uint16 file from it."""
    import gigatoken
    import numpy as np

    tokenizer = gigatoken.Tokenizer.from_json(vocabulary.read_text())

    def encode(source: str, output: str) -> object:
        return np.asarray(tokenizer.encode_files([source])[0]).astype(np.uint16).tofile(output)

    return encode


def tiktoken(threads: int, vocabulary: Path) -> Encode:
    """`encode_ordinary`, on pieces that end at line ends where it has threads for them."""
    import numpy as np
    import tiktoken
    from tokend import GPT2_PATTERN, Tokenizer

    ours = Tokenizer.load("gpt2")
    ranks = {ours.decode_bytes([id]): id for id in range(50256)}
    encoding = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(source: str, output: str) -> object:
        text = Path(source).read_bytes().decode()
        parts = encoding.encode_ordinary_batch(_pieces(text), num_threads=threads)
        return np.concatenate([np.array(part, np.uint16) for part in parts]).tofile(output)

    return encode


def tokenizers(threads: int, vocabulary: Path) -> Encode:
    """`encode_batch_fast`, on pieces that end at line ends."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(vocabulary))

    def encode(source: str, output: str) -> object:
        parts = tokenizer.encode_batch_fast(_pieces(Path(source).read_bytes().decode()), add_special_tokens=False)
        return np.concatenate([np.array(part.ids, np.uint16) for part in parts]).tofile(output)

    return encode


def _pieces(text: str, n_chars: int = 100_000) -> list[str]:
    """Pieces that can be encoded on their own: each ends with one newline, before a letter."""
    pieces, start = [], 0
    while start < len(text):
        end = start + n_chars
        while end < len(text) and not (text[end - 1] == "\n" and not text[end - 2].isspace() and text[end].isalpha()):
            end += 1
        pieces.append(text[start:end])
        start = end
    return pieces


def write_vocabulary(path: Path) -> None:
    """GPT-2 as a `tokenizer.json`, from the vocabulary that the project carries."""
    from tokend import Tokenizer

    ours = Tokenizer.load("gpt2")
    data = Path(__file__).parents[2] / "rust_core" / "core" / "data" / "gpt2_merges.u16"
    import numpy as np

    shown = _alphabet()
    text = ["".join(shown[byte] for byte in ours.decode_bytes([id])) for id in range(50256)]
    merges = [f"{text[left]} {text[right]}" for left, right in np.fromfile(data, np.uint16).reshape(-1, 2)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"id": 50256, "content": "<|endoftext|>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    model = {"type": "BPE", "vocab": {**{token: id for id, token in enumerate(text)}, "<|endoftext|>": 50256}}
    path.write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [special | flags],
                "normalizer": None,
                "pre_tokenizer": byte_level,
                "post_processor": None,
                "decoder": byte_level,
                "model": model | {"merges": merges, "dropout": None, "unk_token": None},
            }
        )
    )


def _alphabet() -> list[str]:
    """The printable characters that stand for bytes in such files."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _peak_mb() -> float:
    """Most memory that this process ever had resident. (`ru_maxrss` would include its parent's.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return 0.0


def main(name: str, threads: int, vocabulary: Path) -> None:
    """Serves pieces of work until standard input ends."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    encode = {"tokend": tokend, "gigatoken": gigatoken, "tiktoken": tiktoken, "tokenizers": tokenizers}[name](
        threads, vocabulary
    )
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        start = time.perf_counter()
        encode(work["input"], work["output"])
        seconds = time.perf_counter() - start
        peak_mb = _peak_mb()
        print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
