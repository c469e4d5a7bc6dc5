"""3. EIO, ENOSPC, EDQUOT from the N-th write, fsync, rename, ...: a typed error or a job that is done all
the same, nothing half published, the daemon lives, the next job succeeds, and no fsync is tried again on
a descriptor where it failed.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from tokend_client.errors import IoError, NoSpaceError, TokendError

from .common import PATIENCE_S, Ground, Known, Rig, Row, Scale, workplace
from .tracing import CALLS, only, paths, traced

_ERRORS = ("EIO", "ENOSPC", "EDQUOT")


def run(scale: Scale) -> Row:
    row = Row("EIO, ENOSPC, EDQUOT at the N-th call")
    chance = random.Random(scale.seed)
    hits: dict[str, int] = {}
    typed = 0
    with workplace() as folder:
        ground = Ground(folder, scale.seed, [0, 300_000, 20_000])
        calls = list(CALLS) if scale.share == 1 else ["pwrite64", "fsync", "fdatasync", "renameat2"]
        rig = Rig(folder / "rig")
        rig.folder.mkdir()
        rig.start()
        for call in calls:
            for name in _ERRORS if scale.share == 1 else [chance.choice(_ERRORS)]:
                number = 0
                while True:
                    number += 1 if scale.share == 1 else chance.randint(1, 2)
                    outcome = _try(row, ground, rig, call, name, number)
                    if outcome is None:
                        break
                    typed += outcome
                    hits[call] = hits.get(call, 0) + 1
                    if scale.share < 1 and hits[call] >= 2:
                        break
        row.demand(rig.stop() == 0, "the daemon did not end well")
    row.worst = (
        f"{sum(hits.values())} injected, {typed} typed errors, {sum(hits.values()) - typed} jobs done all the same"
    )
    return row


def _try(row: Row, ground: Ground, rig: Rig, call: str, name: str, number: int) -> bool | None:
    """One job with one injected error; whether it failed, None if the call was not reached."""
    row.tries += 1
    what = f"{call} {number} {name}"
    known = Known(ground.outputs / f"{row.tries}.bin", [1, 0, 2], what)
    rig.jobs = [known]
    pid = rig.pid
    log = rig.folder / "trace"
    options = ["-e", f"trace={call},fsync,fdatasync", "-e", f"inject={call}:error={name}:when={number}"]
    failure: TokendError | None = None
    with rig.client() as client:
        with traced(rig, log, *options, *only(paths(rig, ground, known))):
            failure = rig.submit(client, ground, known)
            if failure is None:
                try:
                    client.job(known.job_id).wait(timeout=PATIENCE_S)
                except TokendError as error:
                    failure = error
        row.demand(rig.is_alive() and rig.pid == pid, f"{what}: the daemon is gone")
        was_hit = "(INJECTED)" in log.read_text(errors="replace")
        if failure is not None:
            row.demand(was_hit, f"{what}: failed without cause: {failure}")
            row.demand(isinstance(failure, IoError | NoSpaceError), f"{what}: {failure!r}")
            row.demand(not Path(f"{known.output}.json").exists(), f"{what}: failed, and published")
        _demand_no_second_fsync(row, what, log)
        after = Known(ground.outputs / f"{row.tries}-after.bin", [2], f"{what}, after")
        rig.jobs.append(after)
        error = rig.submit(client, ground, after)
        row.demand(error is None, f"{what}: the next job: {error}")
        before = len(row.violations)
        rig.settle(client, row, ground)
        row.demand(after.state == "done", f"the next job is {after.state}")
        for at in range(before, len(row.violations)):
            row.violations[at] = f"{what}: {row.violations[at]}"
    return (failure is not None) if was_hit else None


def _demand_no_second_fsync(row: Row, what: str, log: Path) -> None:
    """After a failed fsync the kernel may have dropped the pages: another success would say nothing."""
    failed: set[str] = set()
    for line in log.read_text(errors="replace").splitlines():
        found = re.search(r"(?:fsync|fdatasync)\((\d+<[^>]*>)\) += (-?\d+)", line)
        if found is None:
            continue
        descriptor, result = found[1], int(found[2])
        row.demand(descriptor not in failed, f"{what}: fsync again on {descriptor}")
        if result < 0 and ("partial" in descriptor or "journal" in descriptor):
            failed.add(descriptor)
