"""11. A second daemon on the same endpoint; forks, threads and cancelled coroutines in clients, 100,000 calls:
no hang, no lost reply, no crash.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time

from tokend_client import AsyncClient, Client

from .common import PATIENCE_S, Rig, Row, Scale, workplace


def run(scale: Scale) -> Row:
    row = Row("second daemon; forks, threads, cancelled coroutines")
    n_calls = scale.n(100_000, 3000)
    start = time.monotonic()
    with workplace() as folder:
        rig = Rig(folder)
        rig.start()
        pid = rig.pid
        for _ in range(scale.n(5, 1)):
            row.tries += 1
            command = [
                sys.executable,
                "-m",
                "tokend",
                "serve",
                "--endpoint",
                rig.endpoint,
                "--state-dir",
                str(folder / "s"),
            ]
            second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            row.demand(second.returncode == 1 and f"pid {pid}" in second.stderr, f"second daemon: {second.stderr}")
        with rig.client() as client:
            _threads_and_forks(row, client, n_calls // 2)
        asyncio.run(_cancelled(row, rig.endpoint, n_calls // 2, random.Random(scale.seed)))
        row.demand(rig.is_alive() and rig.pid == pid, "the daemon is gone")
        with rig.client() as client:
            status = client.status()
            row.demand(status.open_fds < 100, f"{status.open_fds} descriptors are open")
        row.demand(rig.stop() == 0, "the daemon did not end well")
    row.worst = f"{row.tries / (time.monotonic() - start):,.0f} calls/s"
    return row


def _threads_and_forks(row: Row, client: Client, n_calls: int) -> None:
    n_threads = 32
    wrong: list[str] = []

    def call(thread: int) -> None:
        for number in range(n_calls // n_threads):
            text = f"thread {thread} call {number}"
            found = client.decode(client.encode(text))
            if found != text:
                wrong.append(f"{found!r} instead of {text!r}")

    threads = [threading.Thread(target=call, args=(n,), daemon=True) for n in range(n_threads)]
    for thread in threads:
        thread.start()
    children = 0
    while any(thread.is_alive() for thread in threads) and children < 200:
        child = os.fork()
        if child == 0:
            # Nothing of the parent's may be touched: not its replies, not its locks.
            code = 1
            try:
                code = 0 if client.decode(client.encode("child")) == "child" else 2
            finally:
                os._exit(code)
        found = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        row.demand(found == 0, f"a forked child ended with {found}")
        children += 1
        time.sleep(0.02)
    for thread in threads:
        thread.join(300)
        row.demand(not thread.is_alive(), "a thread hangs")
    row.tries += n_calls // n_threads * n_threads + children
    row.violations += wrong


async def _cancelled(row: Row, endpoint: str, n_calls: int, chance: random.Random) -> None:
    async with AsyncClient(endpoint, timeout=PATIENCE_S) as client:

        async def one(number: int) -> None:
            text = f"coroutine {number}"
            limit = chance.choice([0.0, 0.0002, 0.001, None, None, None])
            try:
                ids = await asyncio.wait_for(client.encode(text), limit)
                found = await asyncio.wait_for(client.decode(ids), limit)
            except TimeoutError:
                row.demand(limit is not None, f"{text}: timed out without a limit")
                return
            row.demand(found == text, f"{found!r} instead of {text!r}")

        for first in range(0, n_calls // 2, 200):
            await asyncio.wait_for(asyncio.gather(*(one(first + number) for number in range(200))), PATIENCE_S)
        row.tries += n_calls
