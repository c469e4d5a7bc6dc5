"""1. kill -9 at random moments while fifty jobs wait; G after each restart.

Killed before it answers, too. A job that was running at two deaths is parked as POISON, which is
promised; its client submits it again under a new key. Wasted work is what was done more than once.
"""

from __future__ import annotations

import random
import time

from .common import Ground, Known, Rig, Row, Scale, workplace


def run(scale: Scale) -> Row:
    row = Row("kill -9 at random moments, 50 jobs")
    chance = random.Random(scale.seed)
    n_kills = scale.n(200, 5)
    slowest_s, parked = 0.0, 0
    with workplace() as folder:
        ground = Ground(folder, scale.seed, [chance.choice([0, 10, 100_000, 1_000_000]) for _ in range(12)])
        rig = Rig(folder)
        n_submitted = 0
        while row.tries < n_kills:
            start = time.monotonic()
            rig.start()
            slowest_s = max(slowest_s, time.monotonic() - start)
            with rig.client() as client:
                rig.look(client, row, ground)
                rig.check(row, ground)
                waiting = [known for known in rig.jobs if known.state not in ("done", "failed")]
                parked += len([known for known in rig.jobs if known.state == "failed"])
                # Jobs that have ended are asked for as long as they are young: a daemon forgets them in time.
                done = [known for known in rig.jobs if known.state == "done"]
                rig.jobs = sorted([*waiting, *done[-20:]], key=lambda known: int(known.output.stem))
                for _ in range(50 - len(waiting)):
                    n_submitted += 1
                    inputs = [chance.randrange(12) for _ in range(chance.randint(1, 3))]
                    rig.jobs.append(Known(ground.outputs / f"{n_submitted}.bin", inputs, f"job {n_submitted}"))
                until = time.monotonic() + chance.uniform(0.0, 0.5)
                for known in rig.jobs:
                    if not known.is_accepted and time.monotonic() < until:
                        rig.submit(client, ground, known)
                time.sleep(max(0.0, until - time.monotonic()))
            rig.kill()
            row.tries += 1
        rig.start()
        with rig.client() as client:
            rig.settle(client, row, ground)
        rig.stop()
    row.worst = f"restart {slowest_s:.1f} s, {parked} parked as POISON"
    return row
