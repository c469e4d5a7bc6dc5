"""What is known of jobs: which there are, which wait, how they ended. Each change goes to the journal.

A job's record is what stands in the journal or is on its way there; its state is what clients are told and
follows when that is on disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future

import msgspec
from msgspec.structs import replace
from tokend_client.errors import BusyError, ConflictError, ShuttingDownError, TokendError, UnknownJobError
from tokend_client.protocol import TERMINAL_STATES, ErrorReply, JobSpec

from .config import ServerConfig
from .job import Job
from .journal import Journal
from .manifests import Manifests
from .outputs import Summary, discard_partials
from .record import Record

log = logging.getLogger("tokend.jobs")


class JobBook:
    """All jobs of a daemon, and the queue. Under `lock`, but for `get` and `all`; opening reads the journal.

    `on_end` is called, on any thread, whenever a job has ended.
    """

    def __init__(self, config: ServerConfig, on_end: Callable[[], None]) -> None:
        self._config = config
        self._on_end = on_end
        self.lock = threading.Condition()
        """Notified when jobs come to wait, and when what may run has changed."""
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.queue: deque[Job] = deque()
        self.admits = True
        """False once the daemon is to stop."""
        self.n_unsettled = 0
        """Ends of jobs that are on their way to the journal."""
        self._leaving: set[str] = set()
        """Jobs that are forgotten once what they kept is removed."""
        self._keys: dict[str, Job] = {}
        self._queued_bytes = 0
        self._manifests = Manifests()
        self.journal = Journal(config.state_dir, config.endpoint)

    def add(self, job: Job) -> None:
        """Makes a job known by its id and its key."""
        self.jobs[job.job_id] = job
        if job.record.key is not None:
            self._keys[job.record.key] = job

    def known(self, spec: JobSpec, key: str | None) -> Job | None:
        """The job that a key belongs to; raises `ConflictError` if that is another job."""
        job = self._keys.get(key) if key is not None else None
        if job is not None and job.record.spec != spec:
            raise ConflictError(f"key {key!r} belongs to job {job.job_id}, which is another one", "use a new key")
        return job

    def admit(self, record: Record) -> Job:
        """Takes a new job, whose `accepted` ends when it is in the journal. Raises `BusyError`, `ShuttingDownError`."""
        if not self.admits:
            raise stopping()
        spec_bytes = len(msgspec.msgpack.encode(record.spec))
        if len(self.queue) >= self._config.max_queued_jobs:
            raise BusyError(f"{len(self.queue)} jobs are waiting already", retry_after_s=1.0)
        if self._queued_bytes + spec_bytes > self._config.max_queued_spec_bytes:
            raise BusyError(f"the waiting jobs' lists of inputs fill {self._queued_bytes} bytes", retry_after_s=1.0)
        job = Job(record, "queued", spec_bytes)
        self.add(job)
        self._queued_bytes += spec_bytes
        job.accepted = self.journal.write(record)
        job.accepted.add_done_callback(lambda written: self._on_accepted(job, written))
        return job

    def _on_accepted(self, job: Job, written: Future[None]) -> None:
        with self.lock:
            self._queued_bytes -= job.spec_bytes
            if written.exception() is not None:
                self.drop(job)
                return
            if job.state == "queued":
                self.enqueue(job)
        log.info(
            "job %s accepted: %d inputs, %d bytes -> %s",
            job.job_id,
            len(job.record.spec.inputs),
            job.record.bytes_total,
            job.record.spec.output,
        )

    def enqueue(self, job: Job) -> None:
        """Puts a job at the end of the queue."""
        job.spec_bytes = job.spec_bytes or len(msgspec.msgpack.encode(job.record.spec))
        self._queued_bytes += job.spec_bytes
        self.queue.append(job)
        self.lock.notify_all()

    def unqueue(self, job: Job) -> None:
        """Takes a job out of the queue."""
        self.queue.remove(job)
        self._queued_bytes -= job.spec_bytes

    def drop(self, job: Job) -> None:
        """Forgets a job, here and not in the journal."""
        self.jobs.pop(job.job_id, None)
        self._manifests.let_go(job)
        if job.record.key is not None and self._keys.get(job.record.key) is job:
            del self._keys[job.record.key]

    def superseded(self, job: Job) -> list[Record]:
        """Failed jobs whose partial files nobody will go on with any more: `job` has made their output."""
        found = []
        with self.lock:
            going_on = {other.record.partial_key for other in self.jobs.values() if other.state not in TERMINAL_STATES}
            for other in self.jobs.values():
                same = other is not job and other.record.spec.output == job.record.spec.output
                if same and other.record.is_kept and other.job_id not in going_on:
                    found.append(other.record)
        return found

    def forget(self) -> None:
        """Forgets the ended jobs that are too old or too many; what they kept is removed beside."""
        ended = [job for job in self.jobs.values() if job.state in TERMINAL_STATES]
        oldest = time.time() - self._config.kept_s
        too_many = len(ended) - self._config.kept_jobs
        leaving = []
        for number, job in enumerate(ended):
            if number < too_many or (job.record.finished_s or 0.0) < oldest:
                if not job.record.is_kept:
                    self.drop(job)
                    self.journal.forget(job.job_id)
                elif job.job_id not in self._leaving:
                    self._leaving.add(job.job_id)
                    leaving.append(job)
        if leaving:
            # A disk may take its time, and the lock is everybody's.
            threading.Thread(target=self._discard, args=(leaving,), name="tokend-discard", daemon=True).start()

    def _discard(self, leaving: list[Job]) -> None:
        for job in leaving:
            # As long as it is known, its key cannot make another job of its name.
            discard_partials(job.record, self._config)
            with self.lock:
                self._leaving.discard(job.job_id)
                self.drop(job)
                self.journal.forget(job.job_id)

    def get(self, job_id: str) -> Job:
        """Raises `UnknownJobError`."""
        with self.lock:
            job = self.jobs.get(job_id)
        if job is None or not job.accepted.done():
            raise UnknownJobError(f"no job {job_id!r}", "`tokend jobs` lists those that are remembered")
        return job

    def all(self) -> list[Job]:
        """Oldest first."""
        with self.lock:
            return [job for job in self.jobs.values() if job.accepted.done()]

    def change(self, job: Job, **changes: object) -> Future[None]:
        """Changes a job's record; the future ends when that is in the journal."""
        job.record = replace(job.record, **changes)
        return self.journal.write(job.record, must=True)

    def end(
        self, job: Job, state: str, error: TokendError | None = None, summary: Summary | None = None
    ) -> Future[None]:
        """Ends a job; clients are told when it is in the journal."""
        changes: dict[str, object] = {"state": state, "finished_s": time.time()}
        if error is not None:
            changes["error"] = ErrorReply.of(error)
        if summary is not None:
            changes |= {
                "n_tokens": summary.n_tokens,
                "n_documents": summary.n_documents,
                "n_skipped": summary.n_skipped,
                "up_to_date": summary.up_to_date,
                "reused": summary.reused,
                "encoded_bytes": summary.encoded_bytes,
                "note": summary.note,
            }
            self._manifests.keep(job, summary.manifest)
        self.n_unsettled += 1
        written = self.change(job, **changes)
        written.add_done_callback(lambda written: self._on_settled(job, written))
        return written

    def _on_settled(self, job: Job, written: Future[None]) -> None:
        with self.lock:
            self.n_unsettled -= 1
            if written.exception() is not None:
                return
            job.state = job.record.state
            self.forget()
        error = job.record.error
        log.info("job %s %s%s", job.job_id, job.state, f": {error.message}" if error else "")
        self._on_end()


def stopping() -> ShuttingDownError:
    """The error for whoever wants something of a daemon that stops."""
    return ShuttingDownError("the daemon is stopping", "submit again to the next one", retry_after_s=0.2)
