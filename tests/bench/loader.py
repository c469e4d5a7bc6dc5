"""The loader and its peers over the same tokens: `make bench-loader`.

Everything single-threaded is pinned to one core and measured by its CPU time. Data is random ids in the page
cache, except where it says cold. Peers that are not installed are left out and named. Writes
docs/reference/loader-throughput.md and, from a run that reads while it is written, loader-follow.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from tokend_client import Stream, TokenLoader
from tokend_client.testing import FAKE_TOKENIZER, FakeDaemon, StreamWriter

ROOT = Path(__file__).parents[2]
SEQ_LEN = 1024
ROWS = 64
SECONDS = 0.6
REPEATS = 3


def write_set(path: Path, tokens: np.ndarray | None, n_tokens: int, doc_tokens: int = 700) -> None:
    """A token set with documents of one length; without `tokens` the data is a hole in the file."""
    ends = np.arange(doc_tokens, n_tokens + doc_tokens, doc_tokens, dtype="<u8") if tokens is not None else [n_tokens]
    ends = np.minimum(np.asarray(ends, "<u8"), n_tokens)
    with path.open("wb") as file:
        if tokens is not None:
            tokens.astype("<u2").tofile(file)
        else:
            file.truncate(2 * n_tokens)
    Path(f"{path}.ends").write_bytes(ends.tobytes())
    manifest = {
        "format": "tokend-bin", "version": 1, "dtype": "uint16", "n_tokens": n_tokens, "n_documents": len(ends),
        "tokenizer": FAKE_TOKENIZER, "options": {}, "sources": [],
        "data": {"file": path.name}, "ends": {"file": f"{path.name}.ends"},
    }  # fmt: skip
    Path(f"{path}.json").write_text(json.dumps(manifest))


def rate(batches: Iterator[int], clock: Callable[[], float] = time.perf_counter) -> float:
    """Tokens per second of an iterator that yields the tokens it has made; the first batches do not count."""
    for _ in range(5):
        next(batches)
    n, begun = 0, clock()
    while (now := clock()) - begun < SECONDS:
        n += next(batches)
    return n / (now - begun)


def ours(path: Path | dict[str, Stream], rows: int = ROWS, **options: Any) -> Iterator[int]:
    options = {"prefetch": 0, **options}
    with TokenLoader(path, seq_len=SEQ_LEN, global_batch=rows, **options) as loader:
        while True:
            loader.seek(0)
            for batch in loader:
                assert batch.inputs.dtype == np.int32 and batch.targets.dtype == np.int64
                yield rows * SEQ_LEN


def mixture(path: Path, n_streams: int) -> dict[str, Stream]:
    """The same tokens as several streams, with weights that differ."""
    return {f"s{n}": Stream(path, weight=n + 1, max_epochs=None) for n in range(n_streams)}


def nanogpt(path: Path) -> Iterator[int]:
    """The recipe of nanoGPT's training script: the map is opened anew for each batch, rows are drawn at random."""
    import torch

    while True:
        data = np.memmap(path, dtype=np.uint16, mode="r")
        at = torch.randint(len(data) - SEQ_LEN, (ROWS,))
        x = torch.stack([torch.from_numpy(data[i : i + SEQ_LEN].astype(np.int64)) for i in at])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + SEQ_LEN].astype(np.int64)) for i in at])
        yield x.numel() if y.numel() else 0


class _Rows:
    """A map-style dataset over np.memmap, as it is usually written."""

    def __init__(self, path: Path) -> None:
        self.data = np.memmap(path, dtype=np.uint16, mode="r")

    def __len__(self) -> int:
        return (len(self.data) - 1) // SEQ_LEN

    def __getitem__(self, i: int) -> Any:
        import torch

        row = torch.from_numpy(self.data[i * SEQ_LEN : i * SEQ_LEN + SEQ_LEN + 1].astype(np.int64))
        return row[:-1], row[1:]


def torch_loader(path: Path, workers: int = 0) -> Iterator[int]:
    from torch.utils.data import DataLoader

    while True:
        for x, _ in DataLoader(_Rows(path), batch_size=ROWS, shuffle=True, num_workers=workers):  # type: ignore[arg-type]
            yield x.numel()


def litdata(path: Path) -> Iterator[int]:
    """Its own format: chunks of one item, read in blocks of seq_len + 1 and batched by its DataLoader."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    folder = path.parent / "litdata"
    if not folder.exists():
        folder.mkdir()
        tokens = np.fromfile(path, "<u2")
        chunks = []
        for number, start in enumerate(range(0, len(tokens), 1 << 24)):
            part = tokens[start : start + (1 << 24)]
            header = np.array([1, 12, 12 + part.nbytes], "<u4").tobytes()
            name = f"chunk-0-{number}.bin"
            (folder / name).write_bytes(header + part.tobytes())
            size = part.nbytes + 12
            chunks.append({"chunk_bytes": size, "chunk_size": 1, "dim": len(part), "filename": name})
        config = {
            "chunk_bytes": 1 << 26, "chunk_size": None, "compression": None, "data_format": ["no_header_tensor:20"],
            "data_spec": '[1, {"type": null, "context": null, "children_spec": []}]',
            "encryption": None, "item_loader": "TokensLoader",
        }  # fmt: skip
        (folder / "index.json").write_text(json.dumps({"chunks": chunks, "config": config}))
    loader = TokensLoader(block_size=SEQ_LEN + 1)
    dataset = StreamingDataset(str(folder), item_loader=loader, shuffle=True, drop_last=True)
    while True:
        for batch in StreamingDataLoader(dataset, batch_size=ROWS, num_workers=0):
            x, y = batch[:, :-1].long(), batch[:, 1:].long()
            yield x.numel() if y.numel() else 0


def mosaic(path: Path) -> Iterator[int]:
    """Its own format: a shard of rows of seq_len + 1 uint16."""
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

    folder = path.parent / "mds"
    if not folder.exists():
        tokens = np.fromfile(path, "<u2")[: 16_000 * (SEQ_LEN + 1)].reshape(-1, SEQ_LEN + 1)
        with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{SEQ_LEN + 1}"}) as writer:
            for row in tokens:
                writer.write({"tokens": row})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=ROWS)
    while True:
        for batch in StreamingDataLoader(dataset, batch_size=ROWS, num_workers=0):
            x, y = batch["tokens"][:, :-1].long(), batch["tokens"][:, 1:].long()
            yield x.numel() if y.numel() else 0


def _texts() -> list[str]:
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return [file.read_text(errors="replace") for file in files]


def tiktoken_loop(_: Path) -> Iterator[int]:
    """Tokenizing in the loop, in this thread, and cutting the ids into rows."""
    import tiktoken
    from tokend import GPT2_PATTERN, Tokenizer

    own = Tokenizer.load("gpt2")
    ranks = {own.decode_bytes([id]): id for id in range(50256)}
    encoding = tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )
    return _in_the_loop(lambda text: np.asarray(encoding.encode_ordinary(text), np.int64))


def gigatoken_loop(_: Path) -> Iterator[int]:
    import gigatoken
    from tokend import Tokenizer

    own = Tokenizer.load("gpt2")
    tokens = [(own.decode_bytes([id]), id) for id in range(50256)]
    with tempfile.NamedTemporaryFile("w", suffix=".tiktoken") as file:
        import base64

        file.writelines(f"{base64.b64encode(token).decode()} {id}\n" for token, id in tokens)
        file.flush()
        encoding = gigatoken.Tokenizer.from_tiktoken(file.name, pretokenizer="gpt2")
        return _in_the_loop(lambda text: np.asarray(encoding.encode(text), np.int64))


def _in_the_loop(encode: Callable[[str], np.ndarray]) -> Iterator[int]:
    texts = _texts()

    def batches() -> Iterator[int]:
        buffer = np.empty(0, np.int64)
        need = ROWS * SEQ_LEN + 1
        while True:
            for text in texts:
                buffer = np.concatenate([buffer, encode(text), [50256]])
                while len(buffer) >= need:
                    x = buffer[: need - 1].reshape(ROWS, SEQ_LEN).copy()
                    y = buffer[1:need].reshape(ROWS, SEQ_LEN).copy()
                    buffer = buffer[need - 1 :]
                    yield x.size if y.size else 0

    return batches()


def cold(path: Path) -> Callable[[], None]:
    def drop() -> None:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    return drop


def cold_rate(path: Path, **options: Any) -> float:
    """One pass over a file that is not in the page cache."""
    os.sync()
    cold(path)()
    begun, n = time.perf_counter(), 0
    with TokenLoader(path, seq_len=SEQ_LEN, global_batch=ROWS, **options) as loader:
        for batch in loader:
            n += batch.inputs.size if batch.targets.size else 0
    return n / (time.perf_counter() - begun)


FIRST = """
import sys, time
import numpy
from tokend_client import TokenLoader
begun = time.perf_counter()
loader = TokenLoader(sys.argv[1], seq_len=int(sys.argv[2]), global_batch=8, shuffle=sys.argv[3], prefetch=0)
batch = next(iter(loader))
batch.inputs, batch.targets
print(time.perf_counter() - begun)
"""


def first_batch(path: Path, seq_len: int, shuffle: str) -> float:
    """Seconds to the first batch in a fresh process, numpy's import not counted."""
    command = [sys.executable, "-c", FIRST, str(path), str(seq_len), shuffle]
    return min(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))


MEMORY = """
import sys, resource
from tokend_client import TokenLoader
def rss():
    fields = dict(line.split(":") for line in open("/proc/self/status") if "Rss" in line)
    return [int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")]
before = rss()
for batch in TokenLoader(sys.argv[1], seq_len=1024, global_batch=64, shuffle=sys.argv[2]):
    batch.inputs, batch.targets
after = rss()
print(after[0] - before[0], after[1])
"""


def memory(path: Path, shuffle: str) -> tuple[float, float]:
    output = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), shuffle], capture_output=True, text=True, check=True
    )
    anonymous, mapped = output.stdout.split()
    return float(anonymous), float(mapped)


def follow(folder: Path) -> tuple[list[tuple[float, float, float, int]], str]:
    """A writer that stalls, and a trainer: per 50 ms, time, M tokens/s of both, and the queue; and what to say."""
    rng = np.random.default_rng(3)
    documents = [rng.integers(0, 50_000, 20_000) for _ in range(1200)]
    samples: list[tuple[float, float, float, int]] = []
    written, taken = [0], [0]
    stop = threading.Event()

    def pause() -> float:
        written[0] += 1
        return 1.0 if written[0] in (60, 61) else 0.012

    with FakeDaemon(folder) as daemon:
        path = daemon.stream("s", documents, tokens_per_commit=200_000, pause_s=pause)
        loader = TokenLoader(path, seq_len=SEQ_LEN, global_batch=8, window_tokens=1 << 20, follow=True, prefetch=8)

        def watch() -> None:
            begun = last = time.monotonic()
            before = (0, 0)
            while not stop.wait(0.05):
                manifest = path / "manifest.json"
                committed = json.loads(manifest.read_bytes())["n_tokens"] if manifest.exists() else 0
                now, counts = time.monotonic(), (committed, taken[0])
                each = [(new - old) / (now - last) / 1e6 for new, old in zip(counts, before, strict=True)]
                samples.append((now - begun, each[0], each[1], loader.stats.queue_depth))
                before, last = counts, now

        thread = threading.Thread(target=watch)
        thread.start()
        for batch in loader:
            taken[0] += batch.inputs.size
            time.sleep(0.0015)
        stop.set()
        thread.join()
    first = next(s[0] for s in samples if s[2] > 0)
    text = (
        "A trainer of about 1.5 ms a step over a stream whose writer commits 200,000 tokens at a time, on average\n"
        "faster than training takes them, and stands still for a second twice. Training goes on from what is\n"
        f"committed; it waited {loader.stats.wait_s:.2f} s in all, {first:.2f} s of the run having passed before its\n"
        "first step. Its batches are those of the finished stream (tests/loader/test_growing.py)."
    )
    return samples, text


def svg(samples: list[tuple[float, float, float, int]]) -> str:
    """Two panels over time: rates of writer and trainer, and batches that are ready."""
    width, height, left, gap = 720, 150, 56, 44
    end = samples[-1][0]
    top = max(max(s[1], s[2]) for s in samples) * 1.05

    def x(t: float) -> float:
        return left + t / end * (width - left - 12)

    def line(values: list[float], high: float, y0: float, colour: str) -> str:
        points = " ".join(
            f"{x(s[0]):.1f},{y0 + height - v / high * height:.1f}" for s, v in zip(samples, values, strict=True)
        )
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {2 * height + 3 * gap}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for panel, (title, high) in enumerate((("M tokens/s", top), ("batches ready", 9.0))):
        y0 = gap + panel * (height + gap)
        parts.append(f'<text x="{left}" y="{y0 - 8}">{title}</text>')
        for part in range(5):
            y, value = y0 + height - part / 4 * height, high * part / 4
            parts.append(f'<line x1="{left}" x2="{width - 12}" y1="{y}" y2="{y}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{value:.1f}</text>')
    parts.append(line([s[1] for s in samples], top, gap, "#c60"))
    parts.append(line([s[2] for s in samples], top, gap, "#06c"))
    parts.append(line([float(s[3]) for s in samples], 9.0, 2 * gap + height, "#06c"))
    for second in range(int(end) + 1):
        parts.append(
            f'<text x="{x(second):.0f}" y="{2 * height + 2 * gap + 18}" text-anchor="middle">{second} s</text>'
        )
    parts.append(f'<text x="{width - 300}" y="{gap - 8}" fill="#c60">committed by the writer</text>')
    parts.append(f'<text x="{width - 140}" y="{gap - 8}" fill="#06c">taken by training</text>')
    return "\n".join([*parts, "</svg>", ""])


def cpu() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64 << 20)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    lines: list[str] = []

    def say(text: str = "") -> None:
        print(text, flush=True)
        lines.append(text)

    with tempfile.TemporaryDirectory(prefix="tokend-bench-") as name:
        folder = Path(name)
        path = folder / "data.bin"
        rng = np.random.default_rng(0)
        write_set(path, rng.integers(0, 50_257, options.tokens, dtype=np.uint16), options.tokens)
        np.fromfile(path, "<u2").sum()
        write_page(say, path, folder, cores)
        samples, text = follow(folder)
        (options.out / "loader-follow.svg").write_text(svg(samples))
    say("## While it is written")
    say()
    say(text)
    say()
    say("![tokens per second and batches ready over time](loader-follow.svg)")
    (options.out / "loader-throughput.md").write_text("\n".join(lines) + "\n")


def write_page(say: Callable[..., None], path: Path, folder: Path, cores: set[int]) -> None:
    say("# Loader throughput")
    say()
    say("Written by `make bench-loader` (tests/bench/loader.py).")
    say()
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    say(f"{date.today()}, {cpu()}, {len(cores)} cores (shared), {versions}.")
    say(f"{path.stat().st_size // 2:,} random uint16 ids in the page cache; seq_len {SEQ_LEN}; medians of {REPEATS}")
    say("runs that alternate; tokens delivered as int32 inputs and int64 targets (peers: int64 both).")
    say()
    say(f"## One thread, one core, batches of {ROWS} rows")
    say()
    say("Tokens per second of CPU time of the process, so that a busy machine shifts them less than the clock's.")
    say()
    contestants: dict[str, Callable[[], Iterator[int]]] = {
        "tokend, sequential": lambda: ours(path, shuffle="none"),
        "tokend, window": lambda: ours(path, shuffle="window"),
        "tokend, global": lambda: ours(path, shuffle="global"),
        "tokend, window, best-fit packing": lambda: ours(path, pack="bestfit"),
        "tokend, window, rows of 8": lambda: ours(path, rows=8),
        "tokend, window, mixture of 2": lambda: ours(mixture(path, 2)),
        "tokend, window, mixture of 8": lambda: ours(mixture(path, 8)),
        "tokend, window, rows of 512": lambda: ours(path, rows=512),
        "nanoGPT get_batch": lambda: nanogpt(path),
        "torch DataLoader over np.memmap": lambda: torch_loader(path),
        "litdata TokensLoader": lambda: litdata(path),
        "mosaicml-streaming": lambda: mosaic(path),
        "tokenizing in the loop, tiktoken": lambda: tiktoken_loop(path),
        "tokenizing in the loop, gigatoken": lambda: gigatoken_loop(path),
    }
    os.sched_setaffinity(0, {min(cores)})
    results: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for _ in range(REPEATS):
        for name, make in contestants.items():
            if name in missing:
                continue
            try:
                batches = make()
                results.setdefault(name, []).append(rate(batches, time.process_time))
            except Exception as error:
                missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    os.sched_setaffinity(0, cores)
    medians = {name: statistics.median(rates) for name, rates in results.items() if name not in missing}
    peers = {name: value for name, value in medians.items() if not name.startswith("tokend")}
    best = max(peers.values(), default=float("nan"))
    say("| | M tokens/s | against the best peer |")
    say("|---|---|---|")
    for name, value in medians.items():
        say(f"| {name} | {value / 1e6:,.1f} | {value / best:.2f} |")
    for name, why in missing.items():
        say(f"| {name} | not run: {why} | |")
    say()
    say("## Threads and processes, window shuffle")
    say()
    load = os.getloadavg()[0]
    say(f"By the clock, from here on; the load average was {load:.1f} on {len(cores)} cores: compare only neighbours.")
    say()
    say("| | M tokens/s |")
    say("|---|---|")
    for name, choice in (
        ("prefetch thread", {"prefetch": 2}),
        ("1 worker", {"workers": 1}),
        ("2 workers", {"workers": 2}),
        ("4 workers", {"workers": 4}),
    ):
        say(f"| {name} | {rate(ours(path, **choice)) / 1e6:,.1f} |")
    say()
    say("## Cold page cache, one pass")
    say()
    say("| | M tokens/s |")
    say("|---|---|")
    for shuffle in ("none", "window", "global"):
        for name, choice in (("thread", {}), ("2 workers", {"workers": 2})):
            say(f"| {shuffle}, {name} | {cold_rate(path, shuffle=shuffle, **choice) / 1e6:,.1f} |")
    say()
    say("## First batch, fresh process, 8 rows")
    say()
    say("| samples | window, ms | global, ms | as a stream of 256 MiB segments, window, ms |")
    say("|---|---|---|---|")
    for n_samples, seq_len in ((10**6, 1024), (10**8, 1024), (10**9, 1024)):
        hole = folder / "hole.bin"
        n_tokens = n_samples * seq_len + 1
        write_set(hole, None, n_tokens)
        row = [first_batch(hole, seq_len, shuffle) * 1e3 for shuffle in ("window", "global")]
        row.append(first_batch(holes(folder / f"s{n_samples}", n_tokens), seq_len, "window") * 1e3)
        hole.unlink()
        say(f"| {n_samples:,} | {row[0]:.1f} | {row[1]:.1f} | {row[2]:.1f} |")
    say()
    say("The order is computed, not stored: nothing grows with the number of samples but the manifest.")
    say()
    say("## Memory, one pass, 64 rows")
    say()
    say("| | anonymous MiB added | mapped MiB (page cache, shared) |")
    say("|---|---|---|")
    for shuffle in ("none", "window", "global"):
        anonymous, mapped = memory(path, shuffle)
        say(f"| {shuffle} | {anonymous:.0f} | {mapped:.0f} |")
    say()


def holes(folder: Path, n_tokens: int) -> Path:
    """A sealed stream of empty segments of 256 MiB."""
    writer = StreamWriter(folder)
    per, first = 1 << 27, 0
    for number in range(-(-n_tokens // per)):
        n = min(per, n_tokens - first)
        names = [f"tokens-{number:05d}.bin", f"ends-{number:05d}.u64"]
        with (folder / names[0]).open("wb") as file:
            file.truncate(2 * n)
        (folder / names[1]).write_bytes((first + n).to_bytes(8, "little"))
        writer.manifest["segments"].append(
            {"tokens": names[0], "ends": names[1], "first_token": first, "n_tokens": n, "n_documents": 1,
             "tokens_xxh3": "0" * 16, "ends_xxh3": "0" * 16}
        )  # fmt: skip
        first += n
    writer.manifest.update(n_tokens=first, n_documents=len(writer.manifest["segments"]), state="sealed", resume=None)
    (folder / "manifest.json").write_text(json.dumps(writer.manifest, indent=2))
    return folder


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
