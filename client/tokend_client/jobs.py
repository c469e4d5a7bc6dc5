"""What a client learns of a job: progress while it runs, a result or an error when it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import CancelledError, InternalError
from .protocol import JobInfo
from .stream import TokenStream


@dataclass(frozen=True)
class JobProgress:
    """A moment of a job."""

    state: str
    bytes_done: int
    bytes_total: int
    tokens: int
    documents: int
    skipped: int
    """Records that were left out."""
    bytes_per_s: float
    eta_s: float | None
    """Seconds to go at the present rate; None while the rate is unknown."""
    note: str | None = None
    """What the job waits for or is at, in words."""

    @classmethod
    def of(cls, info: JobInfo) -> JobProgress:
        """The progress in a daemon's report."""
        return cls(
            state=info.state,
            bytes_done=info.bytes_done,
            bytes_total=info.bytes_total,
            tokens=info.n_tokens,
            documents=info.n_documents,
            skipped=info.n_skipped,
            bytes_per_s=info.bytes_per_s,
            eta_s=info.eta_s,
            note=info.note,
        )


@dataclass(frozen=True)
class JobResult:
    """What a finished job made."""

    job_id: str
    output: str
    n_tokens: int
    n_documents: int
    up_to_date: bool
    """The output was there already, made from the same inputs in the same way."""
    manifest: dict[str, Any]
    reused: str | None = None
    """The set whose bytes the output shares: it was made from the same inputs in the same way, and verified."""
    encoded_bytes: int | None = None
    """How much of the inputs an update encoded; None for another job, and where all of it was."""
    note: str | None = None
    """How it was done, in words: why an update encoded all of it."""

    @classmethod
    def of(cls, info: JobInfo, manifest: dict[str, Any] | None) -> JobResult:
        """The result in a daemon's report; raises the job's error if it has none."""
        if info.error is not None:
            raise info.error.exception()
        if info.state == "cancelled":
            raise CancelledError(f"job {info.job_id} was cancelled")
        if manifest is None:
            raise InternalError(f"job {info.job_id} is {info.state} but has no manifest")
        return cls(
            job_id=info.job_id,
            output=info.output,
            n_tokens=manifest["n_tokens"],
            n_documents=manifest["n_documents"],
            up_to_date=info.up_to_date,
            manifest=manifest,
            reused=info.reused,
            encoded_bytes=info.encoded_bytes,
            note=info.note,
        )

    def open(self) -> TokenStream:
        """The output as an array; works as long as the files exist, with or without the daemon.

        Of a conversion it is read with the trainer's own reader; this raises `StreamError`.
        """
        return TokenStream(self.output)
