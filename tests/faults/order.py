"""5. The order of calls, from a log of a hundred jobs, which is a proof where killing is only a search:

last write to a file < its fsync < its rename < fsync of the directory < rename of the manifest
< fsync of the directory < fsync of the journal < the reply that says `done`
"""

from __future__ import annotations

import re
from pathlib import Path

from tokend_client.sidecars import MANIFEST, OF_SET

from .common import PATIENCE_S, Ground, Known, Rig, Row, Scale, workplace
from .tracing import traced

_TRACE = "trace=write,pwrite64,pwritev,fsync,fdatasync,rename,renameat,renameat2,link,linkat,sendto,sendmsg"
_LINE = re.compile(r"^(\d+) +(\d\d:\d\d:\d\d\.\d+) (.*)$")


def run(scale: Scale) -> Row:
    row = Row("order of write, fsync, rename, journal, reply")
    with workplace() as folder:
        ground = Ground(folder, scale.seed, [200_000, 0, 1000])
        rig = Rig(folder)
        rig.start()
        log = folder / "trace"
        with rig.client() as client:
            with traced(rig, log, "-e", _TRACE, "-s", "200"):
                for number in range(scale.n(100, 3)):
                    known = Known(ground.outputs / f"{number}.bin", [number % 3, 0], f"order {number}")
                    rig.jobs.append(known)
                    error = rig.submit(client, ground, known)
                    if error is not None:
                        raise error
                    client.job(known.job_id).wait(timeout=PATIENCE_S)
                    row.tries += 1
            rig.settle(client, row, ground)
        rig.stop()
        events = _events(log)
        for known in rig.jobs:
            _check(row, known, events)
    row.worst = f"{len(events):,} calls looked at"
    return row


def _events(log: Path) -> list[tuple[int, int, str]]:
    """Calls as (line of their begin, line of their end, text); a call that blocked has two lines."""
    begun: dict[str, tuple[int, str]] = {}
    events = []
    for number, line in enumerate(log.read_text(errors="replace").splitlines()):
        found = _LINE.match(line)
        if found is None:
            continue
        thread, _, text = found.groups()
        if text.endswith("<unfinished ...>"):
            begun[thread] = (number, text.removesuffix("<unfinished ...>").rstrip())
        elif text.startswith("<... ") and thread in begun:
            first, head = begun.pop(thread)
            events.append((first, number, head + text.split(" resumed>", 1)[-1]))
        else:
            events.append((number, number, text))
    return events


def _check(row: Row, known: Known, events: list[tuple[int, int, str]]) -> None:
    name, folder = known.output.name, str(known.output.parent)

    def some(pattern: str, after: int = -1) -> list[tuple[int, int, str]]:
        compiled = re.compile(pattern)
        return [event for event in events if event[0] > after and compiled.search(event[2])]

    steps: list[tuple[str, int, int]] = []
    for suffix in (*(end for end in OF_SET.values() if Path(f"{known.output}{end}").exists()), MANIFEST):
        partial = rf"/\.{re.escape(name + suffix)}\.[0-9a-zA-Z_-]+\.partial>"
        final = rf'"{re.escape(name + suffix)}"'
        writes = some(rf"^pwrite64\(\d+<[^>]*{partial}")
        syncs = some(rf"^(fsync|fdatasync)\(\d+<[^>]*{partial}\) += 0")
        renames = some(rf"^(renameat2|linkat)\(.*{final}.* = 0$")
        row.demand(bool(syncs) and len(renames) == 1, f"{name}{suffix}: {len(syncs)} fsyncs, {len(renames)} renames")
        if not syncs or not renames:
            return
        last_write = max((end for _, end, _ in writes), default=-1)
        row.demand(last_write < syncs[-1][0], f"{name}{suffix}: written after its fsync")
        row.demand(syncs[-1][1] < renames[0][0], f"{name}{suffix}: renamed before its fsync")
        steps.append((suffix, renames[0][0], renames[0][1]))
    *parts, json = steps
    directory = rf"^fsync\(\d+<{re.escape(folder)}>\) += 0"
    between = [event for event in some(directory, max(part[2] for part in parts)) if event[1] < json[1]]
    row.demand(bool(between), f"{name}: no fsync of the directory between the data and the manifest")
    after = some(directory, json[2])
    row.demand(bool(after), f"{name}: no fsync of the directory after the manifest")
    journal = some(r"^(fsync|fdatasync)\(\d+<[^>]*journal-[0-9a-f]+\.db-wal>\) += 0", after[0][1] if after else json[2])
    row.demand(bool(journal), f"{name}: no fsync of the journal after the set")
    replies = some(rf"^(sendto|sendmsg|write)\(.*{known.job_id}.*(state|done)")
    done = [event for event in replies if re.search(r"\\244done", event[2])]
    row.demand(bool(done), f"{name}: no reply that says done")
    if done and journal:
        row.demand(journal[0][1] < done[0][0], f"{name}: told before the journal had it")
