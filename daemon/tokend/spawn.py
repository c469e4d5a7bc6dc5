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
_DRAIN_TIMEOUT_S = 7 * 24 * 3600.0
"""How long a drain may take: jobs run for hours, and a shorter limit would cancel them."""


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
            n_jobs = drain(client)
            client.close()
            waiting = f", once its {n_jobs} unfinished jobs are done" if n_jobs else ""
            print(f"tokend: replacing a daemon of another version{waiting}", file=sys.stderr)
            await_end(endpoint)
        return _start(endpoint)


def drain(client: Client) -> int:
    """Tells a daemon to stop after all its jobs; returns how many those are."""
    jobs = client.status().jobs
    client.shutdown(drain=True, timeout=_DRAIN_TIMEOUT_S)
    return jobs.get("queued", 0) + jobs.get("running", 0)


def _start(endpoint: str) -> Client:
    state = paths.state_dir()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_path = state / "daemon.log"
    command = [sys.executable, "-m", "tokend", "serve", "--endpoint", endpoint, "--idle-timeout", str(_IDLE_TIMEOUT_S)]
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            env=_environment(),
        )
    _await_start(endpoint, process, log_path)
    minutes = _IDLE_TIMEOUT_S // 60
    print(f"tokend: started a daemon (stops when idle for {minutes} minutes; log: {log_path})", file=sys.stderr)
    return Client(endpoint)


def _environment() -> dict[str, str]:
    """The environment, with this process's import path: the daemon's directory is `/`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}


def _await_start(endpoint: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not is_listening(endpoint):
        if process.poll() is not None:
            raise TokendError(f"the daemon ended as it started, with code {process.returncode}", f"see {log_path}")
        if time.monotonic() > deadline:
            raise TokendError(f"the daemon did not start within {_START_TIMEOUT_S:g} s", f"see {log_path}")
        time.sleep(0.02)


def await_end(endpoint: str, timeout_s: float | None = None) -> None:
    """Waits until nobody listens at the endpoint: for ever, or raises `TokendError` after `timeout_s`."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while is_listening(endpoint):
        if deadline is not None and time.monotonic() > deadline:
            raise TokendError(f"the daemon is still running after {timeout_s:g} s", "try again, or kill its process")
        time.sleep(0.02)
