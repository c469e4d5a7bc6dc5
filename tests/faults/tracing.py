"""strace on a running daemon: to see its calls, to fail one, to kill it before one.

Injection counts by thread and by call, so "the N-th call" is the N-th of its kind in some thread; a loop
over N that ends when nothing was hit any more has met them all.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tokend_client.sidecars import MANIFEST, OF_SET

from .common import PATIENCE_S, Ground, Known, Rig, need_strace

CALLS = ("write", "pwrite64", "pwritev", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat")
CALLS += ("unlink", "unlinkat", "ftruncate", "fallocate")


def paths(rig: Rig, ground: Ground, known: Known) -> list[Path]:
    """Everything that a job may write: output, partials, directories, journal."""
    output, folder = known.output, ground.outputs
    names = [f"{output.name}{suffix}" for suffix in (*OF_SET.values(), MANIFEST, ".checkpoint")]
    partials = [f".{name}.{known.job_id}.partial" for name in names]
    journals = [path for path in rig.state_dir.glob("journal-*.db")]
    logs = [Path(f"{path}{suffix}") for path in journals for suffix in ("-wal", "-journal", ".new", ".new-journal")]
    return [folder, rig.state_dir, *(folder / name for name in names + partials), *journals, *logs]


@contextlib.contextmanager
def traced(rig: Rig, log: Path, *options: str) -> Iterator[None]:
    """The daemon under strace; the trace is in `log`."""
    with rig.client() as client:
        # The vocabulary is loaded untraced: that is a thousand calls, each of which would wait for strace twice.
        client.encode("warm")
    command = [need_strace(), "-f", "-tt", "-y", "-o", str(log), "-p", str(rig.pid), *options]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    try:
        # It says so once it is attached, for each thread.
        os.set_blocking(tracer.stderr.fileno(), False)
        deadline = time.monotonic() + PATIENCE_S
        heard = b""
        while b"attached" not in heard and tracer.poll() is None and time.monotonic() < deadline:
            heard += tracer.stderr.read() or b""
            time.sleep(0.01)
        assert b"attached" in heard, f"strace: {heard!r}"
        yield
    finally:
        if tracer.poll() is None:
            tracer.terminate()
        try:
            tracer.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()
        tracer.stderr.close()


def only(files: list[Path]) -> list[str]:
    """The options that restrict a trace to files."""
    return [option for path in files for option in ("-P", str(path))]
