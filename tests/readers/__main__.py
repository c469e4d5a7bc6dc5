"""`make readers`: sets in trainers' formats, read by the trainers' own packages.

An environment for each reader is made in `.readers`; equal packages are linked between them. `--python PATH` takes
an interpreter that has the packages instead. Exits with 1 if a reader gives anything else than the documents.

Every reader gets, for each vocabulary: one document; one empty document; 2,006 documents, empty and equal ones among
them, in one file, whose tail fills no window; the same in several files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from tokend import Tokenizer, _core
from tokend_client import TokenStream

from .read import READERS, Case, Documents

PACKAGES = {
    "megatron": ["megatron-core", "torch", "numpy"],
    "datatrove": ["datatrove[processing]", "torch"],
    "olmo": ["ai2-olmo-core"],
    "litdata": ["litdata"],
    "mds": ["mosaicml-streaming"],
    "llmc": ["nemo-automodel"],
}
TEXTS = ["Hello, world!", "", "naïve", "x " * 400, "Hello, world!", *map(str, range(2000)), ""]
SETS = {"one": TEXTS[:1], "empty": [""], "many": TEXTS}
SHARD_TOKENS = 2500
"""Cuts 2,006 documents into several files, which Megatron's format has not."""


def environment(name: str) -> Path:
    """The interpreter of a reader's environment, which is made if need be."""
    folder = Path(".readers") / name
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *PACKAGES[name]], check=True)
        (folder / ".installed").touch()
    return python


def package_version(python: Path, package: str) -> str:
    """What a reader's environment has of a package."""
    name = package.partition("[")[0]
    script = f"from importlib.metadata import version; print(version({name!r}))"
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
    return f"{name} {done.stdout.strip()}"


def vocabularies() -> dict[str, Tokenizer]:
    """GPT-2, and bytes with an end-of-text id at each side of the border between uint16 and wider ids."""
    made = {"gpt2": Tokenizer.load("gpt2")}
    for n_ids in (65_535, 65_536, 65_537):
        vocab = {id: bytes([id]) for id in range(256)}
        made[f"{n_ids:,}"] = Tokenizer.from_merges(vocab, [], {"<|endoftext|>": n_ids - 1})
    return made


def cut(documents: Documents, shard_tokens: int) -> list[Documents]:
    """Documents by file: a file ends before the document that would take it past `shard_tokens`."""
    parts: list[Documents] = []
    room = 0
    for ids in documents:
        if not parts or len(ids) > room:
            parts.append([])
            room = shard_tokens
        parts[-1].append(ids)
        room -= len(ids)
    return parts


def cases(reader: str, folder: Path, label: str, tokenizer: Tokenizer) -> Iterator[tuple[str, Case]]:
    """Makes the sets of a reader with one vocabulary."""
    eot = tokenizer.eot_id
    assert eot is not None
    for name, texts in SETS.items():
        source = folder / f"{name}.bin"
        with TokenStream(source) as stream:
            own = [stream.document(n).tolist()[:-1] for n in range(stream.n_documents)]
        assert len(own) == len(texts)
        documents = [[eot, *ids] if reader == "llmc" else [*ids, eot] for ids in own]
        for n_files, shard_tokens in (("one file", 1 << 30), ("several files", SHARD_TOKENS)):
            if shard_tokens == SHARD_TOKENS and (name != "many" or reader == "megatron"):
                continue
            place = folder / f"{reader}-{name}-{shard_tokens}"
            _core.export(str(source), str(place), reader, shard_tokens=None if reader == "megatron" else shard_tokens)
            case: Case = {
                "place": str(place),
                "parts": cut(documents, shard_tokens),
                "vocab_size": tokenizer.vocab_size,
                "eot": eot,
            }
            yield f"{label} | {name}, {len(documents):,} documents | {n_files}", case


def read(reader: str, python: Path, given: list[Case], folder: Path) -> list[dict[str, str]]:
    """What the reader says to each case."""
    listed = folder / "cases.json"
    listed.write_text(json.dumps(given))
    command = [str(python), str(Path(__file__).with_name("read.py")), reader, str(listed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    if len(found) != len(given):
        found += [{"wrong": (done.stderr.strip().splitlines() or ["?"])[-1]}] * (len(given) - len(found))
    return found


def main() -> int:
    """Makes every set and runs every reader; prints a table."""
    parser = argparse.ArgumentParser(prog="readers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="READER", help=f"of {', '.join(READERS)} (default: all)")
    parser.add_argument("--python", type=Path, help="an interpreter that has the readers' packages")
    arguments = parser.parse_args()
    failed = 0
    print(f"tokend {version('tokend')}\n\n| reader | ids | set | files | |\n|---|---|---|---|---|", flush=True)
    for reader in arguments.names or READERS:
        python = arguments.python or environment(reader)
        label = package_version(python, PACKAGES[reader][0])
        for ids, tokenizer in vocabularies().items():
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                for set_name, texts in SETS.items():
                    (folder / "a.txt").write_text("".join(f"{text}\n" for text in texts))
                    tokenizer.encode_files([folder / "a.txt"], folder / f"{set_name}.bin", separator="\n")
                made = list(cases(reader, folder, ids, tokenizer))
                outcomes = read(reader, python, [case for _, case in made], folder)
                for (what, _), outcome in zip(made, outcomes, strict=True):
                    failed += "equal" not in outcome
                    said = outcome.get("equal") or f"**{outcome['wrong']}**"
                    print(f"| {label} | {what} | {said} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
