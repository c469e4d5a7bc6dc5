"""The long parity campaign: every family and every carried vocabulary against its real reference.

    python tests/parity/campaign.py [--strings N] [--megabytes N] [--only TEXT] [--remember DIR] [FILE...]

For each vocabulary: N fuzz strings under `special="text"` and `"token"`, and N megabytes of the files
(without files: the standard library's sources), in pieces of half a megabyte. Families without a published
vocabulary get one of 32,000 tokens, trained on a sample of the same files. Prints a row each; exit code 1 if
anything differs. `make parity` runs it; a row of 200,000 strings and 300 MB takes minutes, nearly all of
them the reference's: `--remember` keeps digests of its answers for the next campaign (`remembered.py`).
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import itertools
import json
import os
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiktoken
import tokenizers
from parity.families import FAMILIES, real, trained
from parity.remembered import Encode, Remembered
from parity.strategies import NASTY
from parity.test_tokenizer_json import MORE
from tokend import Tokenizer
from tokend.vocabularies import carried

PIECE = 500_000
SAMPLE_PIECES = 60


@dataclass
class Subject:
    """A vocabulary under its reference, which is known by `who` and may find no special tokens."""

    name: str
    who: str
    ours: Tokenizer
    as_text: Encode
    as_tokens: Encode | None


def subjects(folder: Path, files: list[str], only: list[str]) -> Iterator[Subject]:
    """The vocabularies whose name contains one of `only`: packages' own, and one for each family."""

    def wanted(name: str) -> bool:
        return any(part in name for part in only)

    for name, path in real().items():
        if wanted(f"package {name}"):
            yield hugging_face(f"package {name}", path)
    for n, name in enumerate(FAMILIES):
        if wanted(f"family {name}"):
            path = folder / f"{n}" / "tokenizer.json"
            path.parent.mkdir()
            path.write_text(trained(name, 32_000, partial(sample, files)), encoding="utf-8")
            yield hugging_face(f"family {name}", path)
    seen = set()
    for found in carried():
        if found.path.name.startswith("tekken") and found.path.name not in seen:
            seen.add(found.path.name)
            if wanted(f"package {found.path.stem}"):
                encoding, n_specials = tekken(found.path)
                shifted = partial(shift, encoding, n_specials)
                # Mistral's library finds no special tokens in a text, so what there is to compare is text.
                ours = Tokenizer.load(found.argument)
                yield Subject(f"package {found.path.stem}", who(tiktoken, found.path), ours, shifted, None)
        if found.encoding and found.encoding not in seen:
            seen.add(found.encoding)
            if wanted(f"package {found.encoding}"):
                ours = Tokenizer.load(found.argument)
                encoding = rank_file(found.path, ours)
                yield Subject(
                    f"package {found.encoding}",
                    who(tiktoken, found.path, ours.pattern, str(ours.special_tokens)),
                    ours,
                    encoding.encode_ordinary,
                    with_specials(encoding),
                )


def who(library: ModuleType, vocabulary: Path, *settings: str) -> str:
    """All that a reference's ids depend on, besides the text."""
    digest = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
    return " ".join([library.__name__, str(library.__version__), digest, *settings])


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


def hugging_face(name: str, path: Path) -> Subject:
    theirs, as_text = (tokenizers.Tokenizer.from_file(str(path)) for _ in range(2))
    as_text.encode_special_tokens = True

    def ids(tokenizer: tokenizers.Tokenizer) -> Encode:
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    return Subject(name, who(tokenizers, path), Tokenizer.load(path), ids(as_text), ids(theirs))


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


def stdlib() -> list[str]:
    return sorted(map(str, Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")))


def pieces(files: list[str], megabytes: float) -> Iterator[str]:
    left = int(megabytes * 1e6)
    while left > 0:
        before = left
        for path in files or stdlib():
            with open(path, encoding="utf-8", errors="ignore", newline="") as file:
                while left > 0 and (piece := file.read(PIECE)):
                    left -= len(piece.encode())
                    yield piece
        if left == before:
            raise SystemExit("the files have no text")


def sample(files: list[str]) -> Iterator[str]:
    """Texts to train on, from all over the files."""
    for path in files or stdlib():
        with open(path, "rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            n_pieces = max(1, SAMPLE_PIECES // max(len(files), 1) if files else 1)
            for n in range(n_pieces):
                file.seek(n_bytes * n // n_pieces)
                yield file.read(PIECE // 5).decode(errors="ignore")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--strings", type=int, default=200_000)
    parser.add_argument("--megabytes", type=float, default=300)
    parser.add_argument("--only", default="", help="vocabularies whose name contains one of these, by semicolons")
    parser.add_argument("--remember", type=Path, help="a folder for digests of what the references gave")
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    n_bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(Path(folder), arguments.files, arguments.only.split(";")):
            n_bad += campaign(subject, arguments)
    return int(n_bad > 0)


def campaign(subject: Subject, arguments: argparse.Namespace) -> int:
    """Prints a subject's row; how many texts differed."""
    start, n_bad = time.monotonic(), 0
    policies = [("text", subject.as_text), ("token", subject.as_tokens)]
    for policy, reference in policies:
        if reference is None:
            continue
        remembered = Remembered(arguments.remember, f"{subject.who} {policy}")

        def ours(text: str, policy: str = policy) -> list[int]:
            return subject.ours.encode(text, policy).tolist()

        strings = fuzz(7, arguments.strings, list(subject.ours.special_tokens))
        batches = iter(lambda strings=strings: list(itertools.islice(strings, 1000)), [])
        texts = ([piece] for piece in pieces(arguments.files, arguments.megabytes)) if policy == "text" else []
        differing = (remembered.differing(batch, ours, reference) for batch in itertools.chain(batches, texts))
        for text in itertools.chain.from_iterable(differing):
            n_bad += 1
            if n_bad <= 3:
                print(f"{subject.name}, special={policy}: {text[:200]!r}", file=sys.stderr)
    seconds = time.monotonic() - start
    amount = f"{arguments.strings:8,} strings {arguments.megabytes:6.0f} MB"
    print(f"{subject.name:40} {amount} {n_bad:4} differ {seconds:6.0f} s", flush=True)
    return n_bad


if __name__ == "__main__":
    sys.exit(main())
