"""`make bench`: GPT-2, one thread, warm, file → uint16 file, against tiktoken on the same text.

Runs alternate; medians are printed. Corpora: generated stories, and the prose of the running Python's
standard library and installed packages (docstrings and comments included: real text, not only words).
Give files to measure those instead.
"""

from __future__ import annotations

import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import tiktoken

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference.corpus import stories
from tokend import GPT2_PATTERN, Tokenizer

ROUNDS = 5


def library_text(limit_bytes: int) -> bytes:
    """Sources of the standard library and the installed packages."""
    parts: list[bytes] = []
    for folder in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_paths()[folder]).rglob("*.py")):
            data = path.read_bytes()
            try:
                data.decode()
            except UnicodeDecodeError:
                continue
            parts.append(data)
    return b"".join(parts)[:limit_bytes].decode(errors="ignore").encode()


def main() -> None:
    tokenizer = Tokenizer.load("gpt2")
    ranks = {tokenizer.decode_bytes([id]): id for id in range(50256)}
    peer = tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )
    corpora = {path: Path(path).read_bytes() for path in sys.argv[1:]} or {
        "stories": stories(20_000_000).encode(),
        "Python sources": library_text(20_000_000),
    }
    print(f"{'corpus':16} {'tokend MB/s':>12} {'tiktoken MB/s':>14} {'ratio':>7}")
    for name, data in corpora.items():
        with tempfile.TemporaryDirectory(dir=".") as folder:
            source, output = Path(folder, "in.txt"), Path(folder, "out.bin")
            source.write_bytes(data)
            ours, theirs = [], []
            for round in range(ROUNDS + 1):
                start = time.perf_counter()
                tokenizer.encode_files([source], output, threads=1, special="text", eot="none", force=True)
                middle = time.perf_counter()
                ids = np.array(peer.encode_ordinary(source.read_bytes().decode()), np.uint16)
                ids.tofile(Path(folder, "peer.bin"))
                end = time.perf_counter()
                if not np.array_equal(np.fromfile(output, np.uint16), ids):
                    sys.exit(f"{name}: the outputs differ")
                if round:
                    ours.append(len(data) / 1e6 / (middle - start))
                    theirs.append(len(data) / 1e6 / (end - middle))
        fast, slow = statistics.median(ours), statistics.median(theirs)
        print(f"{name:16} {fast:12.1f} {slow:14.1f} {fast / slow:7.1f}")


if __name__ == "__main__":
    main()
