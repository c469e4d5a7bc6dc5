"""6. Inputs that are truncated, rewritten, appended to, replaced, unlinked at random moments of a job.

Truncated, rewritten, appended to: INPUT_CHANGED and no output, or, if the change came after the job had
read the file, the output of the old content. Replaced by rename, unlinked: the output of what was opened,
or an error that says that it is not there (any more). With a writer that holds the file open, no lease is
granted, and the same holds. The daemon stays the same process.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from tokend_client.errors import InputChangedError, NotFoundError, TokendError

from .common import PATIENCE_S, Ground, Rig, Row, Scale, workplace

_SIZE = 24_000_000


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(_SIZE // 2))


def shell_truncate(path: Path, chance: random.Random) -> None:
    """As `> file` does, and a log that is copied and cut."""
    path.write_bytes(b"")


def rewrite(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(chance.randrange(_SIZE - 100_000))
        file.write(b"#" * 1000)


def append(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replace(path: Path, chance: random.Random) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(b"something else")
    other.rename(path)


def unlink(path: Path, chance: random.Random) -> None:
    path.unlink()


CHANGES: list[Callable[[Path, random.Random], None]] = [truncate, shell_truncate, rewrite, append, replace, unlink]


def run(scale: Scale) -> Row:
    row = Row("inputs truncated, rewritten, appended to, replaced, unlinked")
    chance = random.Random(scale.seed)
    outcomes = {"changed": 0, "old content": 0, "not there": 0}
    with workplace() as folder:
        ground = Ground(folder, scale.seed, [300_000])
        text = ground.texts[0] * (_SIZE // len(ground.texts[0].encode()))
        ground.texts[0] = text
        reference = ground.reference([0])
        rig = Rig(folder)
        rig.start()
        pid = rig.pid
        with rig.client() as client:
            seconds = _undisturbed(ground, client, text)
            for number in range(scale.n(20)):
                for change in CHANGES:
                    for holds_open in (False, True):
                        row.tries += 1
                        what = f"{change.__name__}{', open elsewhere' if holds_open else ''} ({number})"
                        path = folder / f"victim{row.tries}.txt"
                        path.write_text(text)
                        holder = path.open("r+b") if holds_open else None
                        output = ground.outputs / f"{row.tries}.bin"
                        outcome = _try(row, what, client, path, output, change, chance, seconds, reference)
                        outcomes[outcome] = outcomes.get(outcome, 0) + 1
                        if holder is not None:
                            holder.close()
                        path.unlink(missing_ok=True)
                        for end in ("", ".ends", ".json"):
                            Path(f"{output}{end}").unlink(missing_ok=True)
                        row.demand(not ground.strays(), f"{what}: left behind: {ground.strays()}")
                        row.demand(rig.is_alive() and rig.pid == pid, f"{what}: the daemon is gone")
                        if not rig.is_alive():
                            rig.start()
                            pid = rig.pid
        rig.stop()
    row.worst = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())
    return row


def _undisturbed(ground: Ground, client: object, text: str) -> float:
    """How long the job takes when nobody interferes."""
    path = ground.folder / "calm.txt"
    path.write_text(text)
    start = time.monotonic()
    client.submit([path], ground.outputs / "calm.bin").wait(timeout=PATIENCE_S)  # type: ignore[attr-defined]
    return time.monotonic() - start


def _try(
    row: Row,
    what: str,
    client: object,
    path: Path,
    output: Path,
    change: Callable[[Path, random.Random], None],
    chance: random.Random,
    seconds: float,
    reference: tuple[bytes, bytes],
) -> str:
    is_in_place = change not in (replace, unlink)
    job = client.submit([path], output)  # type: ignore[attr-defined]
    time.sleep(chance.uniform(0.0, seconds * 1.1))
    change(path, chance)
    try:
        job.wait(timeout=PATIENCE_S)
    except InputChangedError:
        row.demand(not Path(f"{output}.json").exists(), f"{what}: INPUT_CHANGED, and an output")
        return "changed"
    except NotFoundError:
        row.demand(change is unlink, f"{what}: not found")
        return "not there"
    except TokendError as error:
        row.demand(False, f"{what}: {error!r}")
        return error.code
    data = output.read_bytes()
    if data == reference[0]:
        return "old content"
    # The change may have come before the job looked at the file at all.
    tokens = client.count(path.read_text(), timeout=PATIENCE_S) if is_in_place or change is replace else -1  # type: ignore[attr-defined]
    row.demand(len(data) == 2 * (tokens + 1), f"{what}: an output of neither the old nor the new content")
    return "new content"
