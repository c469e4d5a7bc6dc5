"""The daemon's settings, each with its unit, its default and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tokend_client import paths


@dataclass(frozen=True)
class ServerConfig:
    """What `tokend serve` was asked to be."""

    endpoint: str = field(default_factory=paths.default_endpoint)
    roots: tuple[Path, ...] = ()
    """Directories that jobs may read and write; none: whatever this user may open, for this user only."""
    state_dir: Path = field(default_factory=paths.state_dir)
    threads: int = 0
    """Worker threads of a job; 0: one less than there are cores, so that the trainer keeps one."""
    ahead_tokens: int = 1 << 26
    """How far jobs write ahead of the loaders that follow their streams: 128 MiB of ids, some minutes of training."""
    preload: tuple[str, ...] = ()
    """Tokenizers to load before the first request."""
    max_inflight: int = 64
    """Requests one client may have waiting; more get BUSY."""
    max_queued_jobs: int = 10_000
    """Jobs that may wait."""
    max_queued_spec_bytes: int = 256 * 1024 * 1024
    """Bytes of their descriptions: a list of a million inputs is no few kilobytes."""
    kept_jobs: int = 1_000
    """Ended jobs that are remembered."""
    kept_s: float = 7 * 24 * 3600.0
    """How long an ended job is remembered."""
    inline_bytes: int = 16 * 1024
    """Texts up to this size are encoded on the I/O thread: a thread hop costs more than that."""
    large_bytes: int = 256 * 1024
    """Texts over this size have workers of their own, so that those below wait for a millisecond or two at most."""
    max_request_bytes: int = 256 * 1024 * 1024
    """Bytes of requests that wait for a worker or are worked on, of all clients; more get BUSY."""
    outbox_max_bytes: int = 192 * 1024 * 1024
    """Replies that may wait for clients that do not read; beyond it the slowest client is dropped. With the requests
    under way, and what the allocator keeps, the daemon stays under 700 MiB."""
    drain_timeout_s: float = 30.0
    """How long SIGTERM lets the running job go on; what is not done by then goes on at the next start."""
    idle_timeout_s: float | None = None
    """Stop after so long without requests and jobs; set where a client started the daemon by itself."""
