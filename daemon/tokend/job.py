"""One job, as the daemon holds it and as clients see it."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from tokend_client.protocol import TERMINAL_STATES, JobInfo

from . import _core
from .record import Record
from .rewrite import Meter


@dataclass
class Job:
    """One job. It only changes under the table's lock."""

    record: Record
    state: str
    spec_bytes: int = 0
    accepted: Future[None] = field(default_factory=Future)
    control: _core.JobControl = field(default_factory=_core.JobControl)
    manifest: bytes | None = None
    """The manifest as JSON, of a job that is done, unless it has to be read from the disk."""
    needed_bytes: int = 0
    """Free space for which the job waits."""
    phase: str | None = None
    """What the job is at, in words."""
    phase_began_s: float = 0.0
    meter: Meter | None = None
    """How far that is, where the control does not know."""
    pace: str | None = None
    """How far it is ahead of its readers, in words; None without readers."""
    is_suspended: bool = False
    is_expired: bool = False

    @property
    def job_id(self) -> str:
        """Its name."""
        return self.record.job_id

    def is_late(self, now_s: float) -> bool:
        """Whether its deadline has passed."""
        return self.record.deadline_s is not None and now_s > self.record.deadline_s

    def info(self) -> JobInfo:
        """What clients see."""
        record = self.record
        done, total, tokens, documents = (self.meter or self.control).progress()
        # The rate is that of what the job is at: before it, nothing may have been counted.
        began = self.phase_began_s if self.state == "running" else 0.0
        seconds = (record.finished_s or time.time()) - (began or record.started_s or time.time())
        if self.state == "done":
            done = total = record.bytes_total
            tokens, documents = record.n_tokens, record.n_documents
        rate = done / seconds if seconds > 0 else 0.0
        eta_s = max(0.0, total - done) / rate if self.state == "running" and rate > 0 and total else None
        return JobInfo(
            job_id=record.job_id,
            state=self.state,
            output=record.spec.output,
            tokenizer=record.tokenizer,
            bytes_done=done,
            bytes_total=total or record.bytes_total,
            n_tokens=tokens,
            n_documents=documents,
            bytes_per_s=rate,
            submitted_s=record.submitted_s,
            started_s=record.started_s,
            finished_s=record.finished_s,
            error=record.error if self.state in TERMINAL_STATES else None,
            up_to_date=record.up_to_date,
            n_skipped=record.n_skipped if self.state == "done" else self.control.n_skipped(),
            note=self._note(),
            reused=record.reused,
            encoded_bytes=record.encoded_bytes,
            eta_s=eta_s,
        )

    def at(self, phase: str, meter: Meter | None = None) -> None:
        """Notes what the job is at, if that is not plain, and that counting begins: the control's, or a meter's."""
        self.phase, self.phase_began_s, self.meter = phase, time.time(), meter

    def _note(self) -> str | None:
        if self.needed_bytes > 0 and self.state == "queued":
            return f"waits for {self.needed_bytes} bytes of free space beside its output"
        if self.state == "running":
            return self.pace or self.phase or None
        return self.record.note if self.state == "done" else None
