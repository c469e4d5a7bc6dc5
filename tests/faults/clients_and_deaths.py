"""9. The daemon is killed under callers in threads, under asyncio and in reader processes: each call gives the
right answer or a typed error by its deadline; nothing hangs, and each key gives one job.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
import time
from pathlib import Path

from tokend import Tokenizer
from tokend_client import AsyncClient, Client
from tokend_client.errors import TokendError
from tokend_client.stream import TokenStream

from .common import PATIENCE_S, Ground, Known, Rig, Row, Scale, workplace

_TIMEOUT_S = 15.0
_SLACK_S = 10.0


class Tally:
    """What callers met; shared by threads."""

    def __init__(self) -> None:
        self.right = self.typed = 0
        self.violations: list[str] = []
        self.latest_s = 0.0

    def call(self, what: str, start: float, found: object, expected: object) -> None:
        """Notes the outcome of one call."""
        took = time.monotonic() - start
        self.latest_s = max(self.latest_s, took)
        if took > _TIMEOUT_S + _SLACK_S:
            self.violations.append(f"{what}: {took:.1f} s, with a limit of {_TIMEOUT_S:g} s")
        if isinstance(found, TokendError):
            self.typed += 1
        elif isinstance(found, BaseException) or found != expected:
            self.violations.append(f"{what}: {found!r} instead of {expected!r}")
        else:
            self.right += 1


TEXTS = ["Hello", "the tokenizer of a training node", "naïve 日本語 " * 20, "x = 1\n" * 2000]


def run(scale: Scale) -> Row:
    row = Row("daemon killed under threads, asyncio, 8 processes")
    chance = random.Random(scale.seed)
    tokenizer = Tokenizer.load("gpt2")
    expected = [tokenizer.encode(text).tolist() for text in TEXTS]
    tally = Tally()
    slowest_s = 0.0
    with workplace() as folder:
        ground = Ground(folder, scale.seed, [200_000, 1000])
        rig = Rig(folder)
        rig.start()
        known = Known(ground.outputs / "read.bin", [0, 1], "read")
        with rig.client() as client:
            rig.submit(client, ground, known)
            client.job(known.job_id).wait(timeout=PATIENCE_S)
        rig.jobs.append(known)
        stop = threading.Event()
        context = multiprocessing.get_context("spawn")
        ends, reports = context.Event(), context.Queue()
        readers = [
            context.Process(target=_read, args=(rig.endpoint, str(known.output), ends, reports)) for _ in range(8)
        ]
        threads = [threading.Thread(target=_sync, args=(rig.endpoint, expected, stop, tally)) for _ in range(4)]
        threads.append(threading.Thread(target=lambda: asyncio.run(_async(rig.endpoint, expected, stop, tally))))
        submitter = threading.Thread(target=_submit, args=(rig, ground, stop, tally))
        for each in (*readers, *threads, submitter):
            each.start()
        try:
            for _ in range(scale.n(50, 3)):
                time.sleep(chance.uniform(0.2, 1.5))
                rig.kill()
                row.tries += 1
                time.sleep(chance.choice([0.0, 0.0, 0.5]))
                start = time.monotonic()
                rig.start()
                slowest_s = max(slowest_s, time.monotonic() - start)
        finally:
            # Else they would call for ever, and this process would not end.
            stop.set()
            ends.set()
        for each in (*threads, submitter):
            each.join(PATIENCE_S)
            row.demand(not each.is_alive(), "a thread hangs")
        n_read = 0
        for _ in readers:
            found = reports.get(timeout=PATIENCE_S)
            row.violations += found["violations"]
            n_read += found["right"]
            tally.typed += found["typed"]
            tally.latest_s = max(tally.latest_s, found["latest_s"])
        for reader in readers:
            reader.join(PATIENCE_S)
            row.demand(reader.exitcode == 0, f"a reader ended with {reader.exitcode}")
        row.violations += tally.violations
        with rig.client() as client:
            rig.settle(client, row, ground)
            infos = client.jobs()
            outputs = [info.output for info in infos]
            row.demand(len(outputs) == len(set(outputs)), "a job is there twice")
        rig.stop()
    row.worst = (
        f"{tally.right + n_read:,} right, {tally.typed:,} typed errors, slowest call {tally.latest_s:.1f} s, "
        f"restart {slowest_s:.1f} s"
    )
    return row


def _sync(endpoint: str, expected: list[list[int]], stop: threading.Event, tally: Tally) -> None:
    with Client(endpoint, timeout=_TIMEOUT_S) as client:
        while not stop.is_set():
            for text, ids in zip(TEXTS, expected, strict=True):
                start = time.monotonic()
                try:
                    found: object = client.encode(text).tolist()
                except BaseException as error:
                    found = error
                tally.call("encode", start, found, ids)


async def _async(endpoint: str, expected: list[list[int]], stop: threading.Event, tally: Tally) -> None:
    async with AsyncClient(endpoint, timeout=_TIMEOUT_S) as client:

        async def one(text: str, ids: list[int]) -> None:
            start = time.monotonic()
            try:
                found: object = (await client.encode(text)).tolist()
            except BaseException as error:
                found = error
            tally.call("async encode", start, found, ids)

        while not stop.is_set():
            await asyncio.gather(*(one(text, ids) for text, ids in zip(TEXTS, expected, strict=True) for _ in range(5)))


def _submit(rig: Rig, ground: Ground, stop: threading.Event, tally: Tally) -> None:
    """Submits, twice each, with keys."""
    number = 0
    with rig.client(timeout=_TIMEOUT_S) as client:
        while not stop.is_set():
            number += 1
            known = Known(ground.outputs / f"job{number}.bin", [1], f"key {number}")
            for _ in range(2):
                start = time.monotonic()
                error = rig.submit(client, ground, known)
                tally.call("submit", start, error, None)
            rig.jobs.append(known)
            time.sleep(0.05)


def _read(endpoint: str, output: str, ends: object, reports: object) -> None:
    """A reader process: maps the output, and asks the daemon for what its documents say."""
    tally = Tally()
    with TokenStream(Path(output)) as stream, Client(endpoint, timeout=_TIMEOUT_S) as client:
        ids = stream.document(1)[:-1].tolist()
        text = None
        while not ends.is_set():  # type: ignore[attr-defined]
            start = time.monotonic()
            try:
                found: object = client.decode(ids)
            except BaseException as error:
                found = error
            if text is None and isinstance(found, str):
                text = found
            tally.call("decode", start, found, text)
            time.sleep(0.005)
    reports.put(  # type: ignore[attr-defined]
        {"violations": tally.violations, "right": tally.right, "typed": tally.typed, "latest_s": tally.latest_s}
    )
