"""`make bench-pipeline`: JSON lines in the page cache → token files on disk, tokend beside what trainers use today.

    python tests/bench/pipeline.py [--megabytes N] [--rounds N] [--peers NAME,...] [--text FILE]

All of them get one file, made of the benchmark's prose: a document of some kilobytes on each line, with an id and a
source beside its text. What is timed is the whole command, from its start to its end, with all cores: loading the
vocabulary, JSON, encoding, end-of-text ids, files. tokend's includes fsync, checksums and document places; nobody
else's does. The ids that come out are compared with tokend's. Memory is the most anonymous memory of all processes of
a command together, looked at every 20 ms: mapped files are the page cache's. The table goes to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import datetime
import filecmp
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import corpora
import peers

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BEGIN, END = "<!-- pipeline -->", "<!-- /pipeline -->"
PACKAGES = {"gigatoken": ["gigatoken==0.10.0", "awkward", "numpy"], "megatron": ["tokenizers", "numpy"]}
PACKAGES |= {"datatrove": ["datatrove[io,processing]", "tokenizers"], "tokbin": ["tokbin", "tokenizers"]}
SLOW = ("megatron", "datatrove", "tokbin")
"""These take minutes, and one round says enough."""


@dataclass
class Outcome:
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    n_documents: int | None = None
    n_tokens: int = 0
    note: str = ""


def make_lines(text: Path, target: Path, n_bytes: int) -> int:
    """Documents of 200 bytes to 12 kB, cut at line ends; returns how many."""
    chance = random.Random(1)
    content = text.read_bytes()
    at = n_documents = 0
    with target.open("w", encoding="utf-8") as out:
        while out.tell() < n_bytes:
            if at >= len(content):
                at = 0
            end = content.find(b"\n", at + int(200 * 60 ** chance.random()))
            end = len(content) if end < 0 else end + 1
            piece = content[at:end].decode(errors="replace")
            # Escapes as other tools write them: quotes, newlines and, half of the time, every other character.
            line = {"id": f"doc-{n_documents}", "text": piece, "meta": {"source": "bench", "bytes": len(piece)}}
            out.write(json.dumps(line, ensure_ascii=n_documents % 2 == 0) + "\n")
            at, n_documents = end, n_documents + 1
    return n_documents


def interpreter(name: str) -> Path:
    """Of a peer's environment, made if need be."""
    folder = ROOT / ".readers" / f"bench-{name}"
    if not (folder / ".installed").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        python = str(folder / "bin" / "python")
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *PACKAGES[name]], check=True)
        (folder / ".installed").touch()
    return folder / "bin" / "python"


def tree_bytes(pid: int) -> int:
    """Anonymous memory of a process and all beneath it."""
    total, waiting = 0, [pid]
    while waiting:
        at = waiting.pop()
        try:
            for line in Path(f"/proc/{at}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
            for task in os.listdir(f"/proc/{at}/task"):
                waiting += map(int, Path(f"/proc/{at}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return total


def run(name: str, source: Path, folder: Path, vocabulary: Path, threads: int, outcome: Outcome) -> Path:
    """One command; returns its file of ids."""
    environment = os.environ | {"TOKEND_STATE_DIR": str(folder / "state"), "RAYON_NUM_THREADS": str(threads)}
    tokens = folder / "tokens"
    if name.startswith("tokend"):
        kind = name.partition(" ")[2]
        tokens = folder / "out.bin"
        output = folder / ("out.bin" if kind == "bin" else "out")
        command = [str(Path(sys.executable).with_name("tokend")), "encode", str(source), "-o", str(output), "--json"]
        command += ["--local", "--threads", str(threads), "--format", kind]
    else:
        python = str(interpreter(name))
        command = [python, str(HERE / "pipeline_peers.py"), name, str(source), str(folder), str(vocabulary)]
        command += [str(threads)]
    with (folder / "said").open("w+") as said, (folder / "talk").open("w+") as talk:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=talk, env=environment)
        while process.poll() is None:
            outcome.peak_bytes = max(outcome.peak_bytes, tree_bytes(process.pid))
            time.sleep(0.02)
        outcome.seconds.append(time.perf_counter() - start)
        said.seek(0)
        talk.seek(0)
        if process.returncode != 0:
            outcome.note = (talk.read().strip().splitlines() or ["?"])[-1][:120]
            raise RuntimeError(outcome.note)
        outcome.n_documents = json.loads(said.read().strip().splitlines()[-1])["n_documents"]
    outcome.n_tokens = tokens.stat().st_size // 2
    return tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text", type=Path, help="a text to make the lines of (default: the benchmark's prose)")
    parser.add_argument("--peers", default="tokend bin,tokend megatron,gigatoken,tokbin,datatrove,megatron")
    parser.add_argument("--no-docs", action="store_true", help="print the table only")
    arguments = parser.parse_args()
    text = arguments.text or corpora.corpora(ROOT / "build" / "corpora")["prose"]
    threads = os.cpu_count() or 1
    names = arguments.peers.split(",")
    outcomes = {name: Outcome() for name in names}
    with tempfile.TemporaryDirectory(dir=ROOT) as base:
        source, vocabulary, reference = Path(base, "in.jsonl"), Path(base, "tokenizer.json"), Path(base, "reference")
        n_documents = make_lines(text, source, arguments.megabytes * 1_000_000)
        peers.write_vocabulary(vocabulary)
        n_bytes = source.stat().st_size
        for name in names:
            if name in PACKAGES:
                interpreter(name)
        for number in range(arguments.rounds):
            for name in names:
                if number and (name in SLOW or outcomes[name].note):
                    continue
                source.read_bytes()
                os.sync()
                with tempfile.TemporaryDirectory(dir=base) as folder:
                    try:
                        tokens = run(name, source, Path(folder), vocabulary, threads, outcomes[name])
                    except RuntimeError as error:
                        print(f"{name}: {error}", file=sys.stderr, flush=True)
                        continue
                    if not reference.exists():
                        shutil.copy(tokens, reference)
                    elif not filecmp.cmp(tokens, reference, shallow=False):
                        outcomes[name].note = "other ids"
                print(f"{name}: {outcomes[name].seconds[-1]:.2f} s", file=sys.stderr, flush=True)
    table = report(outcomes, n_documents, n_bytes, threads)
    print(table)
    if not arguments.no_docs:
        write(table)
    return 0


def report(outcomes: dict[str, Outcome], n_documents: int, n_bytes: int, threads: int) -> str:
    """The table, and how much faster tokend is than the fastest other."""
    rates = {
        name: n_bytes / statistics.median(outcome.seconds) / 1e6
        for name, outcome in outcomes.items()
        if outcome.seconds and outcome.n_documents is not None
    }
    today = datetime.date.today().isoformat()
    n_rounds = max(len(outcome.seconds) for outcome in outcomes.values())
    lines = [
        f"{today}, {n_bytes / 1e6:.0f} MB of JSON lines, {n_documents:,} documents, {threads} threads,",
        f"{platform.machine()}, Python {platform.python_version()}; medians of {n_rounds} runs in turn, one of "
        f"{', '.join(name for name in SLOW if name in outcomes)}.",
        "",
        "| command | MB/s | seconds | anonymous memory | documents in | out | ids |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, outcome in outcomes.items():
        if name not in rates:
            lines.append(f"| {name} | failed: {outcome.note} | | | {n_documents:,} | | |")
            continue
        time_and_space = f"{statistics.median(outcome.seconds):.2f} | {outcome.peak_bytes / 1e6:.0f} MB"
        counts = f"{n_documents:,} | {outcome.n_documents:,} | {outcome.n_tokens:,}, {outcome.note or 'the same'}"
        lines.append(f"| {name} | {rates[name]:.1f} | {time_and_space} | {counts} |")
    others = {name: rate for name, rate in rates.items() if not name.startswith("tokend")}
    ours = [rate for name, rate in rates.items() if name.startswith("tokend")]
    if others and ours:
        fastest = max(others, key=lambda name: others[name])
        low, high = min(ours) / others[fastest], max(ours) / others[fastest]
        lines += ["", f"tokend is {low:.1f} to {high:.1f} times as fast as {fastest}, the fastest of the others."]
    return "\n".join(lines)


def write(table: str) -> None:
    path = ROOT / "docs" / "benchmarks.md"
    text = path.read_text()
    if BEGIN not in text:
        text += f"\n## JSON lines to token files\n\n{BEGIN}\n{END}\n"
    head, _, rest = text.partition(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    sys.exit(main())
