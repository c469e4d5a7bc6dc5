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
    preload: tuple[str, ...] = ()
    """Tokenizers to load before the first request."""
    max_inflight: int = 64
    """Requests one client may have waiting; more get BUSY."""
    max_queued_jobs: int = 10_000
    """Jobs that may wait; each is a few kilobytes."""
    kept_jobs: int = 1_000
    """Ended jobs that are remembered."""
    inline_bytes: int = 16 * 1024
    """Texts up to this size are encoded on the I/O thread: a thread hop costs more than that."""
    outbox_max_bytes: int = 256 * 1024 * 1024
    """Replies that may wait for one client that does not read; beyond it the client is dropped."""
    drain_timeout_s: float = 30.0
    """How long SIGTERM waits for running jobs before it cancels them."""
    idle_timeout_s: float | None = None
    """Stop after so long without requests and jobs; set where a client started the daemon by itself."""
