"""7. What is no ordinary file, and paths that try to leave the roots: a typed error or the right ids, soon."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from tokend_client import Client
from tokend_client.errors import TokendError
from tokend_client.stream import TokenStream

from .common import PATIENCE_S, Ground, Rig, Row, Scale, workplace

_LIMIT_S = 120.0


def run(scale: Scale) -> Row:
    row = Row("FIFO, devices, /proc, sparse, links, paths out of the root")
    with workplace() as folder:
        ground = Ground(folder, scale.seed, [1000])
        root = folder / "root"
        root.mkdir()
        (folder / "secret.txt").write_text("secret")
        os.mkfifo(root / "fifo")
        (root / "dangling").symlink_to("nowhere")
        (root / "loop").symlink_to("loop")
        (root / "out-link").symlink_to("../secret.txt")
        (root / "zero").write_bytes(b"")
        (root / "one").write_bytes(b"a")
        (root / "nul").write_bytes(b"\0" * 100)
        with (root / "sparse").open("wb") as file:
            file.truncate(1 << 40)
        (root / "hidden").write_text("x")
        rig = Rig(folder)
        rig.start()
        slowest_s = 0.0
        with rig.client() as client:
            expected: dict[str, str | None] = {
                "fifo": "INPUT_INVALID",
                "dangling": "NOT_FOUND",
                "loop": None,
                "out-link": "",
                "zero": "",
                "one": "",
                "nul": "",
                "sparse": None,
                "../root/one": "",
                "": None,
                "/dev/zero": "INPUT_INVALID",
                "/dev/full": "INPUT_INVALID",
                "/proc/self/mem": None,
                "/proc/cpuinfo": None,
                "/sys/kernel/uevent_seqnum": None,
                "nowhere/file": "NOT_FOUND",
            }
            for name, code in expected.items():
                row.tries += 1
                start = time.monotonic()
                found = _outcome(client, root / name, ground.outputs / "odd.bin", 2.0 if code is None else None)
                slowest_s = max(slowest_s, time.monotonic() - start)
                row.demand(found != "WRONG" and code in (None, found), f"{name}: {found!r}")
                row.demand(rig.is_alive(), f"{name}: the daemon is gone")
            status = client.status()
            row.demand(status.rss_bytes < 1 << 30, f"the daemon has grown to {status.rss_bytes} bytes")
        rig.stop()
        _swapped_links(row, folder, root, ground, scale)
        row.demand(not ground.strays(), f"left behind: {ground.strays()}")
    row.worst = f"slowest answer {slowest_s:.1f} s"
    row.demand(slowest_s < _LIMIT_S, f"an answer took {slowest_s:.1f} s")
    return row


def _outcome(client: Client, path: Path, output: Path, deadline: float | None) -> str:
    """The error's code; "" for a job that is done and right, "WRONG" for one that is done and is not."""
    try:
        # A terabyte of zeros would be encoded: it is cancelled, which has to work as well.
        job = client.submit([path], output, deadline=deadline)
        job.wait(timeout=_LIMIT_S)
    except TokendError as error:
        return error.code
    try:
        content = path.read_bytes()
    except OSError:
        return "WRONG"
    with TokenStream(output) as stream:
        right = client.decode_bytes(stream[:-1]) == content
    for end in ("", ".ends", ".json"):
        Path(f"{output}{end}").unlink()
    return "" if right else "WRONG"


def _swapped_links(row: Row, folder: Path, root: Path, ground: Ground, scale: Scale) -> None:
    """A link that now points inside the root and now out of it: never what is outside."""
    rig = Rig(folder, "--root", str(root), state_dir=folder / "state2")
    rig.start()
    stop = threading.Event()
    (root / "inside.txt").write_text("inside")
    link, spare = root / "swapped", root / "spare"

    def swap() -> None:
        while not stop.is_set():
            for target in ("inside.txt", "../secret.txt"):
                spare.symlink_to(target)
                spare.rename(link)

    link.symlink_to("inside.txt")
    swapping = threading.Thread(target=swap)
    swapping.start()
    escapes = allowed = 0
    until = time.monotonic() + scale.n(10, 1)
    try:
        with rig.client() as client:
            number = 0
            while time.monotonic() < until:
                number += 1
                output = root / f"swap{number}.bin"
                try:
                    client.submit([link], output).wait(timeout=PATIENCE_S)
                except TokendError as error:
                    row.demand(error.code in ("PATH_DENIED", "INPUT_CHANGED", "NOT_FOUND"), f"swapped link: {error!r}")
                    continue
                allowed += 1
                with TokenStream(output) as stream:
                    escapes += client.decode(stream[:-1]) != "inside"
                row.tries += 1
    finally:
        stop.set()
        swapping.join()
    row.demand(escapes == 0, f"{escapes} escapes from the root")
    row.demand(allowed > 0, "the swapped link was never allowed")
    rig.stop()
