"""How a daemon begins and ends: its directory, its lock, its limits, its signals, its supervisor.

The socket's directory is this user's alone (0700), and a lock file in it is held for as long as the
daemon lives: a second daemon on the same endpoint is refused before it could take the socket away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import resource
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from tokend_client.errors import BusyError, UnauthorizedError

log = logging.getLogger("tokend.server")

_LEAVE_S = 1.0
"""How long threads may take to end once they were told to."""


def private_dir(path: Path) -> None:
    """Makes a directory for this user alone, or checks that it is one.

    Raises `UnauthorizedError` for a directory of another user, one that others can enter, or a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UnauthorizedError(
            f"{path}: must be a directory of yours that nobody else can enter",
            f"set TOKEND_ENDPOINT to a socket in a directory of its own, for instance ipc://{path}/tokend-{os.getuid()}/t.sock",
        )


@contextlib.contextmanager
def lock(socket_file: Path, info: dict[str, object]) -> Iterator[None]:
    """Holds the endpoint's lock; the lock file says who holds it (pid, epoch, version).

    Raises `BusyError` if another daemon does.
    """
    path = Path(f"{socket_file}.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = ""
            with contextlib.suppress(ValueError, KeyError, OSError):
                holder = f" (pid {json.loads(path.read_text())['pid']})"
            raise BusyError(f"a daemon runs at {socket_file} already{holder}", "stop it with `tokend stop`") from None
        os.ftruncate(fd, 0)
        os.write(fd, json.dumps(info).encode() + b"\n")
        yield
    finally:
        os.close(fd)


def listening_socket(path: Path) -> socket.socket:
    """A listening Unix socket that is born readable and writable for this user only.

    Made here and not by libzmq, which would create it with the umask of the moment. What stands at the
    path is a stale socket: the lock is held.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BusyError(f"{path}: there is a file that is no socket", "remove it or choose another endpoint")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(umask)
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def place_of(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path, by device and inode: a socket that was removed may be another daemon's by now."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def raise_fd_limit() -> int:
    """Raises the soft limit of open files to the hard one; libzmq aborts where ipc runs out of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def on_signals(stop: Callable[[bool], None]) -> None:
    """Calls `stop(True)` (gently) at the first SIGTERM or SIGINT and `stop(False)` at the next.

    Only possible on the main thread; elsewhere (tests) nothing is installed.
    """
    seen = 0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        stop(seen == 1)

    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)


def notify(state: str) -> None:
    """Tells systemd (`READY=1`, `WATCHDOG=1`, `STOPPING=1`, `STATUS=...`), where it listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.sendto(state.encode(), address)


def leave_hanging(code: int) -> None:
    """Ends the process with `code` if there are threads that it would have to wait for; else returns."""
    until = time.monotonic() + _LEAVE_S
    for thread in threading.enumerate():
        if thread is threading.current_thread() or thread.daemon:
            continue
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            log.warning("thread %s hangs and is left behind", thread.name)
            logging.shutdown()
            os._exit(code)


def watchdog_s() -> float | None:
    """How often, in seconds, systemd wants to hear `WATCHDOG=1`; None if it does not watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None


def filesystem_of(path: Path, mounts: str | None = None) -> str:
    """The type of the file system that a directory is on, as in `/proc/self/mountinfo`; "" if unknown.

    `mounts` is that file's text, for tests.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return ""
    real = path.resolve()
    found, depth = "", -1
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        # Blanks and such are written as octal escapes.
        point = Path(mount.split(" ")[4].encode().decode("unicode_escape").encode("latin-1").decode())
        # Of several mounts at one place the last is on top.
        if real.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = source.split(" ")[0], len(point.parts)
    return found
