"""`make readers`: sets in trainers' formats, read by the trainers' own packages.

An environment for each reader is made in `.readers`. `--python PATH` takes an interpreter that has the packages
instead. Exits with 1 if a reader gives anything else than the documents.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tokend import Tokenizer
from tokend.cli import main as tokend
from tokend_client import TokenStream

from .read import READERS

PACKAGES = {
    "megatron": ["megatron-core", "torch", "numpy"],
    "datatrove": ["datatrove[processing]", "torch"],
    "olmo": ["ai2-olmo-core"],
    "litdata": ["litdata"],
    "mds": ["mosaicml-streaming"],
}
TEXTS = ["Hello, world!", "", "naïve", "x " * 400, "Hello, world!", *map(str, range(2000))]


def environment(name: str) -> Path:
    """The interpreter of a reader's environment, which is made if need be."""
    folder = Path(".readers") / name
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES[name]], check=True)
        (folder / ".installed").touch()
    return python


def vocabularies() -> dict[str, Tokenizer]:
    """GPT-2, and bytes with an end-of-text id at each side of the border between uint16 and wider ids."""
    made = {"gpt2": Tokenizer.load("gpt2")}
    for n_ids in (65_535, 65_536, 65_537):
        vocab = {id: bytes([id]) for id in range(256)}
        made[str(n_ids)] = Tokenizer.from_merges(vocab, [], {"<|endoftext|>": n_ids - 1})
    return made


def main() -> int:
    """Makes every set and runs every reader."""
    parser = argparse.ArgumentParser(prog="readers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="READER", help=f"of {', '.join(READERS)} (default: all)")
    parser.add_argument("--python", type=Path, help="an interpreter that has the readers' packages")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, tokenizer in vocabularies().items():
            for count in (1, len(TEXTS)):
                (folder / "a.txt").write_text("".join(f"{text}\n" for text in TEXTS[:count]))
                tokenizer.encode_files([folder / "a.txt"], folder / "a.bin", separator="\n", force=True)
                with TokenStream(folder / "a.bin") as stream:
                    documents = [stream.document(n).tolist() for n in range(stream.n_documents)]
                (folder / "expected.json").write_text(json.dumps(documents))
                for reader in arguments.names or READERS:
                    place = folder / f"{reader}-{label}-{count}"
                    assert tokend(["convert", str(folder / "a.bin"), "--format", reader, "-o", str(place)]) == 0
                    python = arguments.python or environment(reader)
                    script = str(Path(__file__).with_name("read.py"))
                    command = [str(python), script, reader, str(place), str(folder / "expected.json")]
                    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
                    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["?"]
                    outcome = "ok  " if done.returncode == 0 else "FAIL"
                    print(f"{outcome} {reader:10} {label:6} {count:5} documents: {lines[-1]}", flush=True)
                    failed += done.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
