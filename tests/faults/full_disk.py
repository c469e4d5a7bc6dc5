"""4. A disk that is really full, with the journal on it and with the journal elsewhere, and then is not.

Jobs that were accepted wait and are done once there is space; what is not accepted gets a typed error.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tokend_client.errors import NoSpaceError

from .common import PATIENCE_S, Ground, Known, Rig, Row, Scale, small_disk, workplace


def run(scale: Scale) -> Row:
    row = Row("a full disk, then space again")
    waited_s = 0.0
    for has_journal in (False, True) * scale.n(3, 1):
        with workplace() as folder, small_disk("24m") as disk:
            ground = Ground(disk, scale.seed, [1_000_000, 1_000_000, 1000])
            rig = Rig(folder, state_dir=disk / "state" if has_journal else None)
            rig.start()
            with rig.client() as client:
                for number in range(6):
                    known = Known(ground.outputs / f"{number}.bin", [0, 1], f"full {number}")
                    rig.jobs.append(known)
                    if number == 2:
                        _fill(disk)
                    error = rig.submit(client, ground, known)
                    row.demand(error is None or isinstance(error, NoSpaceError), f"{error!r}")
                    row.tries += 1
                time.sleep(1.0)
                rig.look(client, row, ground)
                row.demand(rig.is_alive() and client.ping() < PATIENCE_S, "the daemon does not answer")
                lost = [known for known in rig.jobs if known.is_accepted and known.state in ("failed", "cancelled")]
                row.demand(not lost, f"accepted jobs ended: {[known.output.name for known in lost]}")
                if has_journal:
                    # A daemon that starts on a full disk does not lose them either.
                    rig.kill()
                    os.unlink(disk / "filling")
                    _fill(disk, leave=256 * 1024)
                    rig.start()
                start = time.monotonic()
                os.unlink(disk / "filling")
                for known in rig.jobs:
                    if not known.is_accepted:
                        error = rig.submit(client, ground, known)
                        row.demand(error is None, f"after the disk was freed: {error!r}")
                rig.settle(client, row, ground)
                waited_s = max(waited_s, time.monotonic() - start)
                row.demand(all(known.state == "done" for known in rig.jobs), f"{[k.state for k in rig.jobs]}")
            rig.stop()
    row.worst = f"all done {waited_s:.1f} s after there was space"
    return row


def _fill(disk: Path, leave: int = 0) -> None:
    """Takes all space but `leave` bytes."""
    with open(disk / "filling", "ab", buffering=0) as file:
        block = bytes(4096)
        try:
            while True:
                found = os.statvfs(disk)
                if found.f_bavail * found.f_frsize <= leave:
                    return
                file.write(block)
        except OSError:
            return
