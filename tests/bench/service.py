"""`make bench-service`: what going through the daemon costs. Medians on this machine.

    Client.encode of 1 KB        round trip, microseconds
    Client.encode_batch of 8 MB  against Tokenizer.encode_batch in this process
    a file job                   `tokend encode` through the daemon against `tokend encode --local`
    durability                   a job of 1 GB as it is, against one whose fsyncs do nothing (strace answers them)

The daemon and the client share the machine with whatever else runs: look at the load first.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import Daemon
from tokend import Tokenizer
from tokend_client import Client

ROUNDS = 9


def library_text(limit_bytes: int) -> bytes:
    """Sources of the standard library, as text."""
    parts: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        try:
            parts.append(path.read_text())
        except UnicodeDecodeError:
            continue
        size += path.stat().st_size
        if size > limit_bytes:
            break
    return "".join(parts).encode()[:limit_bytes].decode(errors="ignore").encode()


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def against(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """Medians of two things that take turns."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def round_trip(client: Client, text: str, calls: int = 10_000) -> None:
    for _ in range(1000):
        client.encode(text)
    times = sorted(seconds(lambda: client.encode(text)) for _ in range(calls))
    p50, p99 = times[calls // 2] * 1e6, times[calls * 99 // 100] * 1e6
    print(f"| encode, {len(text)} B, {calls:,} calls | p50 {p50:.0f} µs, p99 {p99:.0f} µs | |")


def batch(client: Client, tokenizer: Tokenizer, text: str) -> None:
    texts = [text[at : at + 4000] for at in range(0, len(text), 4000)]
    ids, ends = client.encode_batch(texts, special="text")
    own_ids, own_ends = tokenizer.encode_batch(texts, special="text")
    assert (ids == own_ids).all() and (ends == own_ends).all()
    through, local = against(
        lambda: client.encode_batch(texts, special="text"), lambda: tokenizer.encode_batch(texts, special="text")
    )
    rate = len(text.encode()) / 1e6
    print(
        f"| encode_batch, {rate:.1f} MB | {rate / through:.0f} MB/s, in process {rate / local:.0f} "
        f"| {local / through:.0%} |"
    )


def corpus(path: Path, text: str, n_bytes: int) -> Path:
    """A file of the text, as often as it takes."""
    with path.open("w") as file:
        while file.tell() < n_bytes:
            file.write(text)
    return path


def file_job(client: Client, tokenizer: Tokenizer, source: Path, folder: Path) -> None:
    def through() -> None:
        client.submit([source], folder / "daemon.bin", special="text", force=True).wait(timeout=600)

    def local() -> None:
        tokenizer.encode_files([source], folder / "local.bin", special="text", force=True)

    through(), local()
    assert (folder / "daemon.bin").read_bytes() == (folder / "local.bin").read_bytes()
    daemon_s, local_s = against(through, local)
    size = source.stat().st_size / 1e6
    print(
        f"| file job, {size:.0f} MB | {size / daemon_s:.0f} MB/s, local {size / local_s:.0f} "
        f"| {local_s / daemon_s:.0%} |"
    )


def durability(source: Path, output: Path, n_bytes: int) -> None:
    """What the disk is waited for: the calls that wait are answered by strace, which stops for nothing else."""
    strace = shutil.which("strace")
    if strace is None:
        print("| durability | strace is not installed | |")
        return
    calls = "fsync,fdatasync,sync_file_range"
    command = [strace, "-f", "--seccomp-bpf", "-o", os.devnull, "-e", f"trace={calls}"]
    job = [sys.executable, "-m", "tokend", "encode", "--local", "--force", "--special", "text"]
    job += ["-o", str(output), str(source)]

    def run(*options: str) -> None:
        subprocess.run([*command, *options, *job], check=True, capture_output=True)

    run()
    durable_s, careless_s = against(run, lambda: run("-e", f"inject={calls}:retval=0"), rounds=5)
    size = n_bytes / 1e6
    print(
        f"| durability, a job of {size:.0f} MB | {size / durable_s:.0f} MB/s, without fsync {size / careless_s:.0f} "
        f"| {careless_s / durable_s:.0%} |"
    )


def main() -> None:
    tokenizer = Tokenizer.load("gpt2")
    text = library_text(8_000_000).decode()
    with tempfile.TemporaryDirectory(prefix="tkd-") as folder:
        daemon = Daemon(Path(folder), "--preload", "gpt2")
        try:
            print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
            print("| | | of the rate without the daemon |\n|---|---|---|")
            with Client(daemon.endpoint, timeout=600) as client:
                round_trip(
                    client, "The quick brown fox jumps over the lazy dog. " * 22 + "The quick brown fox jumps over it."
                )
                batch(client, tokenizer, text)
                file_job(client, tokenizer, corpus(Path(folder) / "corpus.txt", text, 300_000_000), Path(folder))
        finally:
            daemon.stop()
        source = corpus(Path(folder) / "big.txt", text, 1_000_000_000)
        durability(source, Path(folder) / "big.bin", source.stat().st_size)


if __name__ == "__main__":
    main()
