"""2. SIGKILL before the N-th write, fsync, rename, unlink, ... on output, partials and journal, for every N.

The daemon runs one small job under strace and is killed by the injection; the next one finishes the job.
"""

from __future__ import annotations

import random
import time

from tokend_client.errors import TokendError

from .common import PATIENCE_S, Ground, Known, Rig, Row, Scale, workplace
from .tracing import CALLS, only, paths, traced


def run(scale: Scale) -> Row:
    row = Row("SIGKILL before the N-th call, every N")
    chance = random.Random(scale.seed)
    hits: dict[str, int] = {}
    with workplace() as folder:
        ground = Ground(folder, scale.seed, [0, 300_000, 20_000])
        calls = list(CALLS)
        if scale.share < 1:
            # The short form takes some of the calls, with some of their numbers.
            calls = ["pwrite64", "fdatasync", "renameat2", "unlinkat"]
        for call in calls:
            number = 0
            while True:
                number += 1 if scale.share == 1 else chance.randint(1, 3)
                if not _try(row, ground, Rig(folder / "rig"), call, number):
                    break
                hits[call] = hits.get(call, 0) + 1
                if scale.share < 1 and hits[call] >= 1:
                    break
    row.worst = ", ".join(f"{call} {n}" for call, n in hits.items())
    return row


def _try(row: Row, ground: Ground, rig: Rig, call: str, number: int) -> bool:
    """One daemon, one job, one kill; False if the call was not reached."""
    rig.folder.mkdir(exist_ok=True)
    row.tries += 1
    known = Known(ground.outputs / f"{row.tries}.bin", [1, 0, 2], f"{call} {number}")
    rig.jobs = [known]
    rig.start()
    options = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
    with (
        traced(rig, rig.folder / "trace", *options, *only(paths(rig, ground, known))),
        rig.client(connect_timeout=10, reconnect_timeout=10) as client,
    ):
        # Nobody starts it again: to wait for that would be most of the campaign's time.
        rig.close_once_dead(client)
        rig.submit(client, ground, known)
        until = time.monotonic() + PATIENCE_S
        while rig.is_alive() and time.monotonic() < until:
            try:
                if client.job(known.job_id).status(timeout=20).state == "done":
                    # What happens after the answer: the log is folded in.
                    time.sleep(0.1)
                    break
            except TokendError:
                time.sleep(0.01)
    was_hit = not rig.is_alive()
    rig.kill()
    problem = ground.check_set(known.output, known.inputs)
    row.demand(problem is None, f"{call} {number}, before the restart: {problem}")
    rig.start()
    before = len(row.violations)
    with rig.client() as client:
        if not known.is_accepted:
            error = rig.submit(client, ground, known)
            row.demand(error is None, f"{call} {number}: submitting again: {error}")
        rig.settle(client, row, ground)
        row.demand(known.state == "done", f"the job is {known.state}")
        row.demand(not client.status().problems, f"{client.status().problems}")
    for at in range(before, len(row.violations)):
        row.violations[at] = f"{call} {number}: {row.violations[at]}"
    rig.stop()
    return was_hit
