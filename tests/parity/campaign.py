"""The long parity campaign: every family and every carried vocabulary against its real reference.

    python tests/parity/campaign.py [--strings N] [--megabytes N] [--only TEXT] [FILE...]

For each vocabulary: N fuzz strings under `special="text"` and `"token"`, and N megabytes of the files
(without files: the standard library's sources), in pieces of half a megabyte. Prints a row each; exit
code 1 if anything differs. `make parity` runs it; a row of 200,000 strings and 300 MB takes minutes,
nearly all of them the reference's.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiktoken
import tokenizers
from parity.families import FAMILIES, real, trained
from parity.strategies import NASTY
from parity.test_tokenizer_json import MORE
from tokend import Tokenizer
from tokend.vocabularies import carried

PIECE = 500_000
Encode = Callable[[str], list[int]]


def subjects(folder: Path) -> Iterator[tuple[str, Tokenizer, Encode, Encode | None]]:
    """Name, ours, and the reference with special tokens as text and, if it finds any, as tokens."""
    paths = {f"package {name}": path for name, path in real().items()}
    for name in FAMILIES:
        path = folder / f"{len(paths)}" / "tokenizer.json"
        path.parent.mkdir()
        path.write_text(trained(name), encoding="utf-8")
        paths[f"family {name}"] = path
    for name, path in paths.items():
        theirs, as_text = (tokenizers.Tokenizer.from_file(str(path)) for _ in range(2))
        as_text.encode_special_tokens = True
        yield name, Tokenizer.load(path), hugging_face(as_text), hugging_face(theirs)
    seen = set()
    for found in carried():
        if found.path.name.startswith("tekken") and found.path.name not in seen:
            seen.add(found.path.name)
            encoding, n_specials = tekken(found.path)
            shifted = partial(shift, encoding, n_specials)
            # Mistral's library finds no special tokens in a text, so what there is to compare is text.
            yield f"package {found.path.stem}", Tokenizer.load(found.argument), shifted, None
        if found.encoding and found.encoding not in seen:
            seen.add(found.encoding)
            ours = Tokenizer.load(found.argument)
            encoding = rank_file(found.path, ours)
            yield f"package {found.encoding}", ours, encoding.encode_ordinary, with_specials(encoding)


def tekken(path: Path) -> tuple[tiktoken.Encoding, int]:
    """Mistral's ranks under their pattern, and by how much its ids are shifted."""
    data = json.loads(path.read_text(encoding="utf-8"))
    n_specials = data["config"]["default_num_special_tokens"]
    tokens = data["vocab"][: data["config"]["default_vocab_size"] - n_specials]
    ranks = {base64.b64decode(token["token_bytes"]): token["rank"] for token in tokens}
    pattern = data["config"]["pattern"]
    return tiktoken.Encoding("tekken", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}), n_specials


def shift(encoding: tiktoken.Encoding, n: int, text: str) -> list[int]:
    return [id + n for id in encoding.encode_ordinary(text)]


def hugging_face(tokenizer: tokenizers.Tokenizer) -> Encode:
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def with_specials(encoding: tiktoken.Encoding) -> Encode:
    return lambda text: encoding.encode(text, allowed_special="all")


def rank_file(path: Path, ours: Tokenizer) -> tiktoken.Encoding:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, file)}
    return tiktoken.Encoding("x", pat_str=ours.pattern, mergeable_ranks=ranks, special_tokens=ours.special_tokens)


def fuzz(seed: int, n: int, specials: list[str]) -> Iterator[str]:
    rng = random.Random(seed)
    parts = [*NASTY, *MORE, *specials[:20]]
    for _ in range(n):
        if rng.random() < 0.1:
            highest = rng.choice([0x80, 0x250, 0x3000, 0xD800, 0x20000])
            codes = (rng.randrange(highest) for _ in range(rng.randint(0, 30)))
            yield "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        else:
            yield "".join(rng.choices(parts, k=rng.choice([1, 2, 3, 5, 10, 30])))


def pieces(files: list[str], megabytes: float) -> Iterator[str]:
    left = int(megabytes * 1e6)
    while left > 0:
        before = left
        for path in files or sorted(map(str, Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))):
            with open(path, encoding="utf-8", errors="ignore", newline="") as file:
                while left > 0 and (piece := file.read(PIECE)):
                    left -= len(piece.encode())
                    yield piece
        if left == before:
            raise SystemExit("the files have no text")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--strings", type=int, default=200_000)
    parser.add_argument("--megabytes", type=float, default=300)
    parser.add_argument("--only", default="", help="vocabularies whose name contains one of these, by semicolons")
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    n_bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, ours, as_text, as_tokens in subjects(Path(folder)):
            if not any(part in name for part in arguments.only.split(";")):
                continue
            start, bad, n_bytes = time.monotonic(), 0, 0
            for text in fuzz(7, arguments.strings, list(ours.special_tokens)):
                for special, reference in (("text", as_text), ("token", as_tokens)):
                    if reference is not None and ours.encode(text, special).tolist() != reference(text):
                        bad += 1
                        if bad <= 3:
                            print(f"{name}, special={special}: {text!r}", file=sys.stderr)
            for text in pieces(arguments.files, arguments.megabytes):
                n_bytes += len(text.encode())
                if ours.encode(text, "text").tolist() != as_text(text):
                    bad += 1
                    print(f"{name}: {text[:60]!r}...", file=sys.stderr)
            n_bad += bad
            seconds = time.monotonic() - start
            print(
                f"{name:40} {arguments.strings:8,} strings {n_bytes / 1e6:6.0f} MB {bad:4} differ {seconds:6.0f} s",
                flush=True,
            )
    return int(n_bad > 0)


if __name__ == "__main__":
    sys.exit(main())
