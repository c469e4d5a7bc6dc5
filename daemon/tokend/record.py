"""What is remembered of a job, on disk and after a restart."""

from __future__ import annotations

import msgspec
from tokend_client.errors import BadDocumentError
from tokend_client.protocol import ErrorReply, JobSpec


class Record(msgspec.Struct, kw_only=True):
    """What is remembered of a job. Times are seconds since the epoch."""

    job_id: str
    key: str | None
    spec: JobSpec
    tokenizer: str
    fingerprint: str
    bytes_total: int
    state: str
    submitted_s: float
    deadline_s: float | None = None
    started_s: float | None = None
    finished_s: float | None = None
    attempts: int = 0
    """How often it was begun; more than once, and there may be something to go on from."""
    deaths: int = 0
    """Daemons that died while they ran this job, without its having got further in between."""
    died_at_bytes: int = 0
    """How far its log says that it was at the first of these deaths."""
    pid: int | None = None
    """The daemon that runs or last ran the job."""
    cancelled: bool = False
    """Somebody asked for the job's end; it must not run again."""
    error: ErrorReply | None = None
    n_tokens: int = 0
    n_documents: int = 0
    up_to_date: bool = False
    n_skipped: int = 0
    reused: str | None = None
    encoded_bytes: int | None = None
    note: str | None = None
    """How the job was done."""
    partial_key: str | None = None
    """The job that failed at a bad document and that this one goes on with: its files bear that one's id."""

    @property
    def is_kept(self) -> bool:
        """Whether what the job left is kept: the same job can go on from it, leaving bad documents out."""
        return self.state == "failed" and self.error is not None and self.error.code == BadDocumentError.code
