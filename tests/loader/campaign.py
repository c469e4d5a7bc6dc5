"""`make loader-campaign`: random cases of `any_run` for as long as is wanted, and what they were.

Four of five are written by the tests' stand-in for a daemon, which can be killed within milliseconds; one by a real
daemon that is killed (SIGKILL) and started again while the loaders report to it. Worker processes are
killed in some: their loader must stop with `WorkerDiedError`, and its resume give the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokend import Tokenizer
from tokend_client import Client, TokenStream
from tokend_client.daemon_feed import DaemonFeed
from tokend_client.errors import WorkerDiedError

from . import naive
from .any_run import Case, Phase, Run, check, disturbed, drawn, finished, rows_of

WORKERS = (0, 0, 0, 0, 1, 3)
SMALL_STEPS = {"TOKEND_CHUNK_BYTES": 1 << 13, "TOKEND_COMMIT_BYTES": 1 << 14, "TOKEND_COMMIT_MS": 30}


def with_stand_in(folder: Path, rng: random.Random) -> int:
    """A case over `FakeDaemon`."""
    documents = naive.documents(rng.randrange(1000), rng.randrange(40, 300), longest=rng.choice([5, 90, 400]))
    others = naive.documents(rng.randrange(1000), 40, longest=90)
    return check(folder, drawn(rng, WORKERS), documents, others)


def with_daemon(folder: Path, rng: random.Random, gpt2: Tokenizer) -> int:
    """A case over a real daemon, which is killed once: a job that kills it twice at once is not run again."""
    from conftest import Daemon

    words = [word for word in Path(naive.__file__).read_text().split() if word.isascii()]
    text = folder / "a.txt"
    choice = np.random.default_rng(rng.randrange(1 << 30))
    documents = [" ".join(choice.choice(words, choice.integers(0, 200))) for _ in range(rng.randrange(100, 1200))]
    text.write_text("|".join(documents) + "|")
    gpt2.encode_files([text], folder / "whole.bin", separator="|")
    settings = {**SMALL_STEPS, "TOKEND_SEGMENT_BYTES": 2 * rng.randrange(2000, 100_000)}
    os.environ.update({name: str(value) for name, value in settings.items()})
    case = replace(drawn(rng, WORKERS), window_tokens=rng.randrange(500, 20_000), kills=(), save_at=rng.randrange(400))
    with tempfile.TemporaryDirectory(prefix="tkd-") as short:
        daemon = Daemon(Path(short), "--ahead-tokens", str(rng.randrange(1, 60_000)))
        feeds: list[DaemonFeed] = []

        def feed() -> DaemonFeed:
            feeds.append(DaemonFeed(Client(daemon.endpoint, reconnect_timeout=1.0), interval_s=0.05))
            return feeds[-1]

        def kill() -> None:
            daemon.process.kill()
            daemon.process.wait()

        try:
            tokenizer = TokenStream(folder / "whole.bin").manifest["tokenizer"]
            run = Run(case, finished(folder / "other", naive.documents(3, 40, longest=90), tokenizer), feed)
            expected = run.whole(folder / "whole.bin")
            with Client(daemon.endpoint) as client:
                client.submit([text], folder / "s", separator="|", format="stream", retire=rng.random() < 0.3)
            with disturbed([rng.random()], kill, daemon.start):
                return run.check(folder / "s", expected)
        finally:
            for each in feeds:
                each.close()
                each._client.close()
            daemon.stop()


def with_a_dead_worker(folder: Path, rng: random.Random) -> int:
    """A loader whose worker is killed; what it has handed out is right, and its resume gives the rest."""
    case: Case = replace(drawn(rng, (2, 3)), save_at=0, is_mixture=False)
    phase = Phase(1, rng.choice([1, 2, 3]), 0)
    run = Run(case, folder)
    path = finished(folder / "whole", naive.documents(rng.randrange(1000), 200, longest=90))
    expected = run.whole(path)
    with run.loader(path, 0, phase, follow=False) as loader:
        seen, state = [], loader.state_dict()
        at = rng.randrange(max(len(expected) // 2, 1))
        try:
            for batch in loader:
                seen.append(rows_of(batch))
                state = batch.state
                if len(seen) == at + 1:
                    processes = loader._iterator._source._processes  # type: ignore[union-attr]
                    os.kill(rng.choice(processes).pid, signal.SIGKILL)
        except WorkerDiedError:
            pass
        loader.load_state_dict(state)
        seen += [rows_of(batch) for batch in loader]
    assert len(seen) == len(expected)
    for got, want in zip(seen, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
    return len(expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first case (default: the time)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    gpt2 = Tokenizer.load("gpt2")
    n_cases: Counter[str] = Counter()
    n_batches: Counter[str] = Counter()
    begun = time.monotonic()
    while time.monotonic() - begun < options.seconds:
        rng = random.Random(seed)
        kind = rng.choice(["stand-in", "stand-in", "stand-in", "daemon", "dead worker"])
        with tempfile.TemporaryDirectory(prefix="tokend-campaign-") as name:
            folder = Path(name)
            try:
                if kind == "stand-in":
                    n = with_stand_in(folder, rng)
                elif kind == "daemon":
                    n = with_daemon(folder, rng, gpt2)
                else:
                    n = with_a_dead_worker(folder, rng)
            except BaseException:
                print(f"case {seed} ({kind}) failed; again with --seed {seed} --seconds 1", file=sys.stderr)
                raise
        n_cases[kind] += 1
        n_batches[kind] += n
        seed += 1
    seconds = round(time.monotonic() - begun)
    print(json.dumps({"seconds": seconds, "cases": n_cases, "global_batches": n_batches, "next_seed": seed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
