"""Ask a tokend daemon for tokens, read the token streams it makes, and feed them to training.

from tokend_client import Client, AsyncClient, TokenStream, TokenLoader
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Batch",
    "Client",
    "Job",
    "JobProgress",
    "JobResult",
    "Stream",
    "TokenLoader",
    "TokenStream",
    "TokendError",
]

if TYPE_CHECKING:
    from .aio import AsyncClient
    from .batch import Batch
    from .client import Client, Job
    from .errors import TokendError
    from .jobs import JobProgress, JobResult
    from .loader import TokenLoader
    from .run import Stream
    from .stream import TokenStream

_HOME = {
    "AsyncClient": "aio",
    "Batch": "batch",
    "Client": "client",
    "Job": "client",
    "JobProgress": "jobs",
    "JobResult": "jobs",
    "Stream": "run",
    "TokenLoader": "loader",
    "TokenStream": "stream",
    "TokendError": "errors",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: a reader of streams needs no sockets."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
