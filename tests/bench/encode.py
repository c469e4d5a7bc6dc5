"""`make bench`: file in the page cache → uint16 file on disk, tokend beside its peers, on the same text.

    python tests/bench/encode.py [--rounds N] [--peers NAME,...] [FILE...]

For each corpus (made by `corpora.py`, or your files) and for one and two threads, processes of all
encoders live side by side and take turns:

    cold     the first half of the corpus, in a fresh process that has loaded its vocabulary
    unseen   the second half, after that
    warm     the second half again
    process  a whole process from its start to the file on disk, on the whole corpus (one thread)

Outputs are compared, and who differs is named. The slow peers get the first 8 MB of a half: their rate
does not depend on the length. What is printed are medians of N rounds (default 3) in MB/s and, for
gigatoken, the median of the ratios of the runs beside each other. docs/benchmarks.md gets the tables
between its markers and a chart; the raw data goes to docs/benchmarks/encode.json.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import datetime
import filecmp
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chart
import corpora
import peers

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SLOW = ("tiktoken", "tokenizers")
SLOW_BYTES = 8_000_000
TARGETS = {
    ("unseen", 1): (3.0, 3.0, 4.0, 15.0),
    ("warm", 1): (2.0, 2.2, 2.8, 7.0),
    ("process", 1): (4.0, 4.0, 5.0, 12.0),
    ("unseen", 2): (3.2, 3.2, 4.0, 15.0),
}


class Peer:
    """A process of one encoder."""

    def __init__(self, name: str, threads: int, vocabulary: Path) -> None:
        command = [sys.executable, str(HERE / "peers.py"), name, str(threads), str(vocabulary)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def encode(self, source: Path, output: Path) -> tuple[float, float]:
        """MB/s and peak memory in MB."""
        assert self.process.stdin is not None
        # To a new file: to replace one takes as long as to give back its pages, whoever wrote them.
        output.unlink(missing_ok=True)
        # Or an fsync waits for what others have written.
        os.sync()
        self.process.stdin.write(json.dumps({"input": str(source), "output": str(output)}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        return source.stat().st_size / 1e6 / answer["seconds"], answer["peak_mb"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("an encoder's process ended; see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def running(names: list[str], threads: int, vocabulary: Path) -> Iterator[dict[str, Peer]]:
    """Processes of all encoders."""
    started = {name: Peer(name, threads, vocabulary) for name in names}
    try:
        yield started
    finally:
        for peer in started.values():
            peer.close()


def split(path: Path, folder: Path) -> tuple[Path, Path]:
    """The halves of a corpus, cut at a line that begins with a letter."""
    data = path.read_bytes()
    at = len(data) // 2
    while at < len(data) and not (data[at - 1 : at] == b"\n" and data[at : at + 1].isalpha()):
        at += 1
    halves = folder / "first.txt", folder / "second.txt"
    halves[0].write_bytes(data[:at])
    halves[1].write_bytes(data[at:])
    return halves


def head(path: Path, n_bytes: int) -> Path:
    """The beginning of a file, as a file."""
    short = path.with_suffix(".head")
    short.write_bytes(path.read_bytes()[:n_bytes].decode(errors="ignore").encode())
    return short


def compile_own() -> None:
    """Makes the bytecode of tokend's own modules, as an installation does: here they are run from where they are
    written, and with `PYTHONDONTWRITEBYTECODE` each process would compile them again.
    """
    for package in ("daemon/tokend", "client/tokend_client"):
        compileall.compile_dir(ROOT / package, quiet=1)


def whole_process(name: str, source: Path, output: Path, vocabulary: Path) -> float:
    """MB/s of a process from its start to the file on disk."""
    if name == "tokend":
        options = ["--local", "--threads", "1", "--special", "text", "--eot", "none", "--force", "--json"]
        command = [str(Path(sys.executable).with_name("tokend")), "encode", str(source), "-o", str(output), *options]
    else:
        command = [sys.executable, str(HERE / "peers.py"), name, "1", str(vocabulary)]
    work = json.dumps({"input": str(source), "output": str(output)}) + "\n"
    with tempfile.TemporaryDirectory() as state:
        # Nothing learned by earlier processes.
        environment = {**os.environ, "TOKEND_STATE_DIR": state, "XDG_STATE_HOME": state, "RAYON_NUM_THREADS": "1"}
        output.unlink(missing_ok=True)
        os.sync()
        start = time.perf_counter()
        subprocess.run(command, input=work, text=True, check=True, stdout=subprocess.DEVNULL, env=environment)
        return source.stat().st_size / 1e6 / (time.perf_counter() - start)


def measure(name: str, corpus: Path, names: list[str], rounds: int, vocabulary: Path) -> list[dict[str, Any]]:
    """All runs of one corpus."""
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=ROOT) as scratch:
        folder = Path(scratch)
        halves = split(corpus, folder)
        fast = [peer for peer in names if peer not in SLOW]
        for threads in (1, 2):
            for round in range(rounds):
                present = names if round == 0 else fast
                with running(present, threads, vocabulary) as processes:
                    for state, half in (("cold", halves[0]), ("unseen", halves[1]), ("warm", halves[1])):
                        outputs = {}
                        for peer, process in processes.items():
                            source = head(half, SLOW_BYTES) if peer in SLOW else half
                            outputs[peer] = folder / f"{peer}.bin"
                            rate, peak = process.encode(source, outputs[peer])
                            run = {"corpus": name, "threads": threads, "state": state, "peer": peer, "round": round}
                            runs.append({**run, "mb_per_s": rate, "peak_mb": peak})
                        compare(name, outputs, fast)
        for round in range(rounds):
            for peer in fast:
                rate = whole_process(peer, corpus, folder / f"{peer}.bin", vocabulary)
                run = {"corpus": name, "threads": 1, "state": "process", "peer": peer, "round": round}
                runs.append({**run, "mb_per_s": rate})
            compare(name, {peer: folder / f"{peer}.bin" for peer in fast}, fast)
    return runs


def compare(corpus: str, outputs: dict[str, Path], fast: list[str]) -> None:
    """Says who has other ids than tokend. (The slow ones had less text: what they have must agree.)"""
    ours = outputs["tokend"].read_bytes()
    for peer, output in outputs.items():
        if peer in fast and not filecmp.cmp(outputs["tokend"], output, shallow=False):
            print(f"  {corpus}: {peer} has other ids", file=sys.stderr)
        if peer in SLOW:
            theirs = output.read_bytes()
            # The last pretoken of the shorter text may be cut.
            if theirs[: len(theirs) - 64] != ours[: len(theirs) - 64]:
                print(f"  {corpus}: {peer} has other ids", file=sys.stderr)


def median(runs: list[dict[str, Any]], key: str = "mb_per_s", **wanted: Any) -> float | None:
    """Of the runs that match."""
    found = [run[key] for run in runs if all(run[k] == v for k, v in wanted.items()) and key in run]
    return statistics.median(found) if found else None


def ratio(runs: list[dict[str, Any]], **wanted: Any) -> float | None:
    """The median ratio of tokend to gigatoken, run by run."""
    rates = {
        (run["peer"], run["round"]): run["mb_per_s"]
        for run in runs
        if all(run[key] == value for key, value in wanted.items())
    }
    ratios = [
        rate / rates["gigatoken", round]
        for (peer, round), rate in rates.items()
        if peer == "tokend" and ("gigatoken", round) in rates
    ]
    return statistics.median(ratios) if ratios else None


def report(runs: list[dict[str, Any]], names: list[str], machine: str) -> str:
    """The tables, as Markdown."""
    found = list(dict.fromkeys(run["corpus"] for run in runs))
    lines = [machine, "", "MB/s of input, medians (peak memory in MB):", ""]
    lines += ["| corpus | threads | state | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(names)]
    for corpus in found:
        for threads, state in ((1, "cold"), (1, "unseen"), (1, "warm"), (1, "process"), (2, "unseen"), (2, "warm")):
            cells = []
            for peer in names:
                wanted = {"corpus": corpus, "threads": threads, "state": state, "peer": peer}
                rate, peak = median(runs, **wanted), median(runs, "peak_mb", **wanted)
                cells.append("" if rate is None else f"{rate:.0f}" + (f" ({peak:.0f})" if peak else ""))
            lines.append(f"| {corpus} | {threads} | {state} | " + " | ".join(cells) + " |")
    if "gigatoken" in names:
        lines += ["", "Ratio to gigatoken + numpy + tofile, and the target:", ""]
        lines += ["| | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
        for (state, threads), targets in TARGETS.items():
            cells = []
            for corpus in found:
                value = ratio(runs, corpus=corpus, threads=threads, state=state)
                target = dict(zip(corpora.PACKAGES, targets, strict=True)).get(corpus)
                cells.append(f"{value:.1f}×" + (f" (≥ {target:g})" if target else "") if value else "")
            threads_text = "1 thread" if threads == 1 else f"{threads} threads"
            lines.append(f"| {state}, {threads_text} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The processor and its tier."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    tier = os.environ.get("TOKEND_CPU") or "the fastest tier it has"
    today = datetime.datetime.now(tz=datetime.UTC).date()
    return f"{today}, {cpu}, {os.cpu_count()} cores, {tier}, Python {platform.python_version()}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(peers.PACKAGES))
    parser.add_argument("--corpora", default="build/corpora", help="where the corpora are, or are made")
    parser.add_argument("--no-write", action="store_true", help="print, and leave docs/ alone")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    names = [name for name in options.peers.split(",") if importlib.util.find_spec(peers.PACKAGES[name])]
    texts = {path.stem: path for path in options.files} or corpora.corpora(Path(options.corpora))
    compile_own()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder, "tokenizer.json")
        peers.write_vocabulary(vocabulary)
        for name, path in texts.items():
            print(f"{name}: {path.stat().st_size / 1e6:.0f} MB ...", file=sys.stderr)
            runs += measure(name, path, names, options.rounds, vocabulary)
    text = report(runs, names, machine())
    print(text)
    if options.no_write:
        return
    docs = ROOT / "docs"
    (docs / "benchmarks").mkdir(exist_ok=True)
    (docs / "benchmarks" / "encode.json").write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")
    chart.bars(docs / "benchmarks" / "encode.svg", runs, names)
    page = (docs / "benchmarks.md").read_text()
    before, _, rest = page.partition("<!-- encode: begin -->\n")
    _, _, after = rest.partition("<!-- encode: end -->")
    (docs / "benchmarks.md").write_text(f"{before}<!-- encode: begin -->\n{text}<!-- encode: end -->{after}")


if __name__ == "__main__":
    main()
