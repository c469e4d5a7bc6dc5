"""Where a user's daemon lives: its socket, its lock, its state.

| what | default | changed by |
|---|---|---|
| runtime directory | `$XDG_RUNTIME_DIR/tokend`, else `<temporary directory>/tokend-<uid>` | |
| endpoint | `ipc://<runtime directory>/tokend.sock` | `TOKEND_ENDPOINT` |
| state directory | `$XDG_STATE_HOME/tokend`, else `~/.local/state/tokend` | `TOKEND_STATE_DIR` |
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .errors import BadRequestError

if TYPE_CHECKING:
    # Imported where it is needed: it takes as long as to encode a megabyte.
    from pathlib import Path

IPC_PATH_MAX_BYTES = 107
"""Longest path of a Unix socket on Linux, without its terminating NUL."""


def runtime_dir() -> Path:
    """The directory of the default socket; not created here."""
    from pathlib import Path

    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK | os.X_OK):
        return Path(base) / "tokend"
    import tempfile

    return Path(tempfile.gettempdir()) / f"tokend-{os.getuid()}"


def default_endpoint() -> str:
    """`TOKEND_ENDPOINT`, or this user's own ipc socket."""
    return os.environ.get("TOKEND_ENDPOINT") or f"ipc://{runtime_dir()}/tokend.sock"


def state_dir() -> Path:
    """`TOKEND_STATE_DIR`, or this user's state directory; not created here."""
    from pathlib import Path

    return Path(state_place())


def state_place() -> str:
    """`state_dir` as a string."""
    given = os.environ.get("TOKEND_STATE_DIR")
    if given:
        return given
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "tokend")


def socket_path(endpoint: str) -> Path:
    """The file of an ipc endpoint.

    Raises `BadRequestError` for other transports (not supported yet), for relative paths and for
    paths longer than a Unix socket can have.
    """
    from pathlib import Path

    scheme, _, rest = endpoint.partition("://")
    if scheme != "ipc" or not rest.startswith("/"):
        raise BadRequestError(f"endpoint {endpoint!r} is not ipc:// with an absolute path")
    if len(os.fsencode(rest)) > IPC_PATH_MAX_BYTES:
        raise BadRequestError(
            f"the socket path {rest} has {len(os.fsencode(rest))} bytes; {IPC_PATH_MAX_BYTES} are the limit",
            "set TOKEND_ENDPOINT to a shorter one, for instance ipc:///tmp/tokend/tokend.sock",
        )
    return Path(rest)
