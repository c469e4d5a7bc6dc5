"""Getting a daemon for this user: the one that runs, or a new one in the background."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tokend_client import Client, paths
from tokend_client.errors import NotConnectedError, TokendError

from . import __version__, lifecycle

_START_TIMEOUT_S = 15.0
_IDLE_TIMEOUT_S = 1800


def is_listening(endpoint: str) -> bool:
    """Whether anybody accepts connections at the endpoint; returns at once."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(os.fspath(paths.socket_path(endpoint)))
        except OSError:
            return False
    return True


def connect(endpoint: str) -> Client:
    """A client of a running daemon; raises `NotConnectedError` at once where none runs."""
    if not is_listening(endpoint):
        raise NotConnectedError(f"no daemon runs at {endpoint}", "start one with `tokend serve`")
    return Client(endpoint)


def ensure(endpoint: str) -> Client:
    """A client of this user's daemon, which is started if none runs.

    A daemon of another version is drained and replaced. Two callers at once start one daemon.
    """
    path = paths.socket_path(endpoint)
    lifecycle.private_dir(path.parent)
    with open(f"{path}.start", "a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if is_listening(endpoint):
            client = Client(endpoint)
            if client.status().version == __version__:
                return client
            print("tokend: replacing a daemon of another version", file=sys.stderr)
            client.shutdown(drain=True)
            client.close()
            _await(endpoint, listening=False)
        return _start(endpoint)


def _start(endpoint: str) -> Client:
    state = paths.state_dir()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_path = state / "daemon.log"
    command = [sys.executable, "-m", "tokend", "serve", "--endpoint", endpoint, "--idle-timeout", str(_IDLE_TIMEOUT_S)]
    with log_path.open("ab") as log:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            env=_environment(),
        )
    _await(endpoint, listening=True, log_path=log_path)
    minutes = _IDLE_TIMEOUT_S // 60
    print(f"tokend: started a daemon (stops when idle for {minutes} minutes; log: {log_path})", file=sys.stderr)
    return Client(endpoint)


def _environment() -> dict[str, str]:
    """The environment, with this process's import path: the daemon's directory is `/`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}


def _await(endpoint: str, *, listening: bool, log_path: Path | None = None) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while is_listening(endpoint) != listening:
        if time.monotonic() > deadline:
            what = "did not start" if listening else "did not stop"
            raise TokendError(
                f"the daemon {what} within {_START_TIMEOUT_S:g} s", f"see {log_path}" if log_path else None
            )
        time.sleep(0.02)
