"""The encoder's exactness campaign: GPT-2 against tiktoken, on everything that could make a difference.

    python tests/parity/exact.py [--strings N] [--chunks N] [FILE...]

1. Every file, as files are encoded: each processor tier, 1, 2 and 4 threads, the default chunk size; and
   for the first megabytes of each, chunk sizes from 1 to 200 bytes. Byte-identical token files.
2. N random strings (default a million), in each tier: made of what trips tokenizers, of every length
   around the edges of keys, blocks and batches, with special tokens and their fragments at every offset.
3. Every token of the vocabulary alone, and in pairs.

Prints a row for each with its size; exit code 1 if anything differs. `make exact` runs it on the benchmark's
corpora. Minutes, nearly all of them the reference's.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import tiktoken
from parity.strategies import NASTY
from tokend import GPT2_PATTERN, Tokenizer

EDGES = [14, 15, 16, 17, 30, 31, 32, 33, 62, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025]
ENCODE = """
import sys
from tokend import Tokenizer
source, output, threads = sys.argv[1:]
Tokenizer.load("gpt2").encode_files([source], output, threads=int(threads), special="text", eot="none", force=True)
"""
BATCH = """
import sys
import numpy as np
from tokend import Tokenizer
texts = open(sys.argv[1], encoding="utf-8", newline="").read().split("\\0\\1\\0")
ids, ends = Tokenizer.load("gpt2").encode_batch(texts, special=sys.argv[3])
np.save(sys.argv[2], ids)
np.save(sys.argv[2] + ".ends", ends)
"""


def tiers() -> list[str]:
    """Those that this processor can run."""
    found = []
    for tier in ("avx512", "avx2", "portable"):
        environment = {**os.environ, "TOKEND_CPU": tier}
        command = [sys.executable, "-c", "from tokend import Tokenizer; Tokenizer.load('gpt2')"]
        if subprocess.run(command, env=environment, capture_output=True).returncode == 0:
            found.append(tier)
    return found


def reference() -> tiktoken.Encoding:
    """tiktoken with GPT-2's ranks."""
    ours = Tokenizer.load("gpt2")
    ranks = {ours.decode_bytes([id]): id for id in range(50256)}
    return tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )


def pieces(text: str, n_chars: int = 200_000) -> list[str]:
    """Pieces that the reference can encode on their own: each ends with one newline, before a letter."""
    found, start = [], 0
    while start < len(text):
        end = start + n_chars
        while end < len(text) and not (text[end - 1] == "\n" and not text[end - 2].isspace() and text[end].isalpha()):
            end += 1
        found.append(text[start:end])
        start = end
    return found


def run(script: str, *arguments: object, **environment: str) -> None:
    """Runs a script of ours in a process with a tier and a chunk size."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    subprocess.run(command, env={**os.environ, **environment}, check=True)


def files(paths: list[Path], n_chunks: int, folder: Path) -> Iterator[tuple[str, bool]]:
    """Part 1."""
    encoding = reference()
    output = folder / "out.bin"
    for path in paths:
        text = path.read_bytes().decode()
        found = []
        cut = pieces(text)
        # A few at a time: as Python's numbers the ids of a gigabyte would take ten.
        for at in range(0, len(cut), 64):
            parts = encoding.encode_ordinary_batch(cut[at : at + 64], num_threads=2)
            found += [np.array(part, np.uint16) for part in parts]
        expected = np.concatenate(found).tobytes()
        for tier in tiers():
            for threads in (1, 2, 4):
                run(ENCODE, path, output, threads, TOKEND_CPU=tier)
                same = output.read_bytes() == expected
                yield f"{path.name}: {path.stat().st_size / 1e6:.0f} MB, {tier}, {threads} threads", same
        short = folder / "short.txt"
        head = "".join(pieces(text, 60_000)[:1])
        short.write_text(head, encoding="utf-8", newline="")
        expected = np.array(encoding.encode_ordinary(head), np.uint16).tobytes()
        same = True
        for n_bytes in range(1, n_chunks + 1):
            run(ENCODE, short, output, 1 + n_bytes % 4, TOKEND_CHUNK_BYTES=str(n_bytes))
            same = same and output.read_bytes() == expected
        yield f"{path.name}: {len(head.encode()) / 1e3:.0f} kB in chunks of 1 to {n_chunks} bytes", same


def strings(n: int) -> Iterator[str]:
    """Part 2's texts."""
    draw = random.Random(2)
    for number in range(n):
        kind = number % 8
        if kind == 0:
            unit = draw.choice(NASTY)
            yield (unit * (draw.choice(EDGES) // len(unit) + 2))[: draw.choice(EDGES)]
        elif kind == 1:
            yield "x" * (number % 64) + "".join(draw.choices(NASTY, k=draw.randrange(1, 6)))
        elif kind == 2:
            yield "".join(chr(draw.randrange(0x20, 0x250)) for _ in range(draw.randrange(60)))
        elif kind == 3:
            yield "".join(draw.choice("<|endoftext|>") for _ in range(draw.randrange(30)))
        else:
            yield "".join(draw.choices(NASTY, k=draw.randrange(40)))
    for edge in (65_534, 65_535, 65_536, 65_537):
        for unit in ("a", " ", "=", "中", "'s", "\0"):
            yield unit * (edge // len(unit.encode()))


def vocabulary_texts() -> Iterator[str]:
    """Part 3's texts: tokens that are text, alone, and each beside others."""
    ours = Tokenizer.load("gpt2")
    tokens = []
    for id in range(50256):
        try:
            tokens.append(ours.decode_bytes([id]).decode())
        except UnicodeDecodeError:
            continue
    yield from tokens
    draw = random.Random(3)
    for token in tokens:
        for _ in range(8):
            yield token + draw.choice(tokens)


def batch(name: str, texts: list[str], folder: Path) -> Iterator[tuple[str, bool]]:
    """Texts in one call, with special tokens as text and as tokens, in each tier."""
    encoding = reference()
    source, output = folder / "texts", folder / "ids"
    source.write_text("\0\1\0".join(texts), encoding="utf-8", newline="")
    for special, allowed in (("text", set[str]()), ("token", {"<|endoftext|>"})):
        parts = encoding.encode_batch(texts, allowed_special=allowed, disallowed_special=(), num_threads=2)
        ends = np.cumsum([len(part) for part in parts], dtype=np.uint64)
        expected = np.concatenate([np.array(part, np.uint16) for part in parts])
        for tier in tiers():
            run(BATCH, source, output, special, TOKEND_CPU=tier)
            same = np.array_equal(np.load(f"{output}.npy"), expected) and np.array_equal(
                np.load(f"{output}.ends.npy"), ends
            )
            yield f"{len(texts):,} {name}, special={special}, {tier}", same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=1_000_000)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def rows() -> Iterator[tuple[str, bool]]:
            yield from batch("tokens, alone and in pairs", list(vocabulary_texts()), folder)
            if options.strings:
                # Whoever splits at the mark must not find it in a text.
                texts = [text.replace("\0\1\0", "\0") for text in strings(options.strings)]
                yield from batch("random strings", texts, folder)
            yield from files(options.files, options.chunks, folder)

        for row, same in rows():
            failed = failed or not same
            print(f"{'same' if same else 'DIFFERENT'}  {row}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
