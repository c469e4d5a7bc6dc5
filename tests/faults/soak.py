"""12. Mixed load for half an hour: anonymous memory at the end at most 8 MB above that at ten minutes,
descriptors and threads flat; and with eight jobs of 1 GB submitted at once, the 99th percentile of a ping.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from pathlib import Path

from tokend_client.errors import TokendError

from .common import PATIENCE_S, Ground, Rig, Row, Scale, prose, workplace

_MEMORY_MAX_BYTES = 8 << 20
_PING_MAX_S = 0.020


def run(scale: Scale) -> Row:
    row = Row("30 minutes of mixed load; pings beside 8 jobs of 1 GB")
    minutes = 30 * scale.share
    with workplace() as folder:
        ground = Ground(folder, scale.seed, [100_000, 3000, 0, 1_000_000])
        rig = Rig(folder)
        rig.start()
        stop = threading.Event()
        failures: list[str] = []
        workers = [threading.Thread(target=_load, args=(rig, ground, n, stop, failures), daemon=True) for n in range(4)]
        for worker in workers:
            worker.start()
        time.sleep(minutes * 60 / 3)
        early = _usage(rig)
        time.sleep(minutes * 60 * 2 / 3)
        late = _usage(rig)
        stop.set()
        for worker in workers:
            worker.join(PATIENCE_S)
            row.demand(not worker.is_alive(), "a caller hangs")
        row.violations += failures[:20]
        row.tries = 1
        row.demand(late[3] > early[3] + 10, "there was no load")
        if scale.share == 1:
            # What a short run still learns (caches fill up) is no leak.
            row.demand(late[0] <= early[0] + _MEMORY_MAX_BYTES, f"memory went from {early[0]} to {late[0]} bytes")
            row.demand(late[1] <= early[1] + 4, f"descriptors went from {early[1]} to {late[1]}")
            row.demand(late[2] <= early[2] + 4, f"threads went from {early[2]} to {late[2]}")
        p99_s, worst_s = _pings(rig, ground, folder, scale)
        if scale.share == 1:
            row.demand(p99_s < _PING_MAX_S, f"ping p99 {p99_s * 1000:.1f} ms")
        row.demand(rig.stop() == 0, "the daemon did not end well")
    row.worst = (
        f"memory {(late[0] - early[0]) / 1e6:+.1f} MB to {late[0] / 1e6:.0f} MB, descriptors {late[1] - early[1]:+d}, "
        f"threads {late[2] - early[2]:+d}, {late[3]:,} requests; "
        f"ping p99 {p99_s * 1000:.1f} ms, worst {worst_s * 1000:.0f} ms"
    )
    return row


def _usage(rig: Rig) -> tuple[int, int, int, int]:
    """Anonymous bytes, descriptors and threads of the daemon, and how many requests it has had.

    A job that is under way has some ten descriptors and threads of its own: of both the least that are seen in a
    few seconds count, which a leak raises as well.
    """
    pid = rig.pid
    with rig.client() as client:
        n_requests = client.status().n_requests
    n_bytes, n_descriptors, n_threads = [], [], []
    for _ in range(200):
        status = Path(f"/proc/{pid}/status").read_text()
        n_bytes.append(_field("RssAnon", status) * 1024)
        n_threads.append(_field("Threads", status))
        n_descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.025)
    return max(n_bytes), min(n_descriptors), min(n_threads), n_requests


def _field(name: str, status: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def _load(rig: Rig, ground: Ground, number: int, stop: threading.Event, failures: list[str]) -> None:
    chance = random.Random(number)
    count = 0
    try:
        while not stop.is_set():
            # A client of its own for a while, so that coming and going is part of the load.
            with rig.client() as client:
                for _ in range(chance.randint(1, 200)):
                    if stop.is_set():
                        break
                    count += 1
                    kind = chance.random()
                    text = prose(chance, chance.choice([10, 1000, 30_000]))
                    if kind < 0.7:
                        if client.decode(client.encode(text)) != text:
                            failures.append("a text did not come back")
                    elif kind < 0.8:
                        # One in ten is of several megabytes, and goes in parts.
                        n_texts = 200 if len(text) == 30_000 and chance.random() < 0.3 else chance.randint(1, 50)
                        ids, ends = client.encode_batch([text] * n_texts)
                        if len(ends) != n_texts or n_texts * int(ends[0]) != len(ids):
                            failures.append("a batch is not its texts")
                    elif kind < 0.95:
                        output = ground.outputs / f"soak{number}.bin"
                        inputs = [ground.inputs[chance.randrange(4)] for _ in range(chance.randint(1, 3))]
                        job = client.submit(inputs, output, force=True)
                        if chance.random() < 0.2:
                            job.cancel()
                        else:
                            job.wait(timeout=PATIENCE_S)
                    else:
                        client.status()
                        client.jobs()
    except TokendError as error:
        failures.append(f"{error!r}")


def _pings(rig: Rig, ground: Ground, folder: Path, scale: Scale) -> tuple[float, float]:
    """Eight big jobs at once; the 99th percentile and the worst of the pings meanwhile, in seconds."""
    big = folder / "big.txt"
    block = ground.texts[3].encode()
    with big.open("wb") as file:
        for _ in range(scale.n(1000, 20)):
            file.write(block)
    times = []
    with rig.client() as client:
        jobs = [client.submit([big], ground.outputs / f"big{n}.bin") for n in range(8)]
        until = time.monotonic() + 60 * scale.share + 1
        while time.monotonic() < until:
            times.append(client.ping())
            time.sleep(0.002)
        for job in jobs:
            job.cancel()
        for job in jobs:
            for _ in job.progress(interval=0.1):
                pass
    times.sort()
    return times[len(times) * 99 // 100], times[-1]
