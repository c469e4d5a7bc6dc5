"""Jobs: accepted, queued, run one after the other, remembered for a while.

One job at a time, with all the threads: two at once would share the same cores and finish later.
Jobs live in memory; a journal that survives a restart belongs where `JobTable.submit` admits a job.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tokend_client.errors import (
    BusyError,
    CancelledError,
    ConflictError,
    InternalError,
    ShuttingDownError,
    TokendError,
    UnknownJobError,
)
from tokend_client.protocol import TERMINAL_STATES, ErrorReply, JobInfo, JobSpec

from . import _core
from .config import ServerConfig
from .registry import Registry, eot_id

log = logging.getLogger("tokend.jobs")


@dataclass
class Job:
    """One job. Its state only changes under the table's lock."""

    job_id: str
    key: str | None
    spec: JobSpec
    tokenizer: _core.Tokenizer
    eot_id: int | None
    bytes_total: int
    state: str = "queued"
    control: _core.JobControl = field(default_factory=_core.JobControl)
    submitted_s: float = field(default_factory=time.time)
    started_s: float | None = None
    finished_s: float | None = None
    error: TokendError | None = None
    manifest: dict[str, Any] | None = None
    up_to_date: bool = False

    def info(self) -> JobInfo:
        """What clients see."""
        done, total, tokens, documents = self.control.progress()
        seconds = (self.finished_s or time.time()) - (self.started_s or time.time())
        if self.manifest is not None:
            done = total = self.bytes_total
            tokens, documents = self.manifest["n_tokens"], self.manifest["n_documents"]
        return JobInfo(
            job_id=self.job_id,
            state=self.state,
            output=self.spec.output,
            tokenizer=self.tokenizer.name,
            bytes_done=done,
            bytes_total=total or self.bytes_total,
            n_tokens=tokens,
            n_documents=documents,
            bytes_per_s=done / seconds if seconds > 0 else 0.0,
            submitted_s=self.submitted_s,
            started_s=self.started_s,
            finished_s=self.finished_s,
            error=ErrorReply.of(self.error) if self.error is not None else None,
            up_to_date=self.up_to_date,
        )


class JobTable:
    """All jobs of the daemon. Thread-safe.

    `on_end` is called, on the runner's thread, whenever a job has ended.
    """

    def __init__(self, config: ServerConfig, registry: Registry, on_end: Callable[[], None]) -> None:
        self._config = config
        self._registry = registry
        self._on_end = on_end
        self._lock = threading.Condition()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._keys: dict[str, str] = {}
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._stopping = False
        self._runner = threading.Thread(target=self._run, name="tokend-jobs", daemon=True)
        self._runner.start()

    def submit(self, spec: JobSpec, key: str | None) -> Job:
        """Checks and queues a job (blocking: it looks at every input).

        Raises what the job would fail with at once, `ConflictError` for a key of another job,
        `BusyError`, `ShuttingDownError`.
        """
        with self._lock:
            known = self._known(spec, key)
            if known is not None:
                return known
        tokenizer = self._registry.get(spec.tokenizer)
        eot = eot_id(tokenizer, spec.eot, spec.eot_token)
        roots = [str(root) for root in self._config.roots]
        total = _core.check_paths(spec.inputs, spec.output, force=spec.force, roots=roots)
        job = Job(uuid.uuid4().hex[:12], key, spec, tokenizer, eot, total)
        with self._lock:
            known = self._known(spec, key)
            if known is not None:
                return known
            if self._stopping:
                raise ShuttingDownError("the daemon is stopping", "submit again to the next one")
            if len(self._queue) >= self._config.max_queued_jobs:
                raise BusyError(f"{len(self._queue)} jobs are waiting already", retry_after_s=1.0)
            self._jobs[job.job_id] = job
            if key is not None:
                self._keys[key] = job.job_id
            self._queue.append(job)
            self._forget()
            self._lock.notify_all()
        log.info("job %s accepted: %d inputs, %d bytes -> %s", job.job_id, len(spec.inputs), total, spec.output)
        return job

    def _known(self, spec: JobSpec, key: str | None) -> Job | None:
        job = self._jobs.get(self._keys.get(key, "")) if key is not None else None
        if job is not None and job.spec != spec:
            raise ConflictError(f"key {key!r} belongs to job {job.job_id}, which is another one", "use a new key")
        return job

    def _forget(self) -> None:
        ended = [job for job in self._jobs.values() if job.state in TERMINAL_STATES]
        for job in ended[: max(0, len(ended) - self._config.kept_jobs)]:
            del self._jobs[job.job_id]
            if job.key is not None:
                self._keys.pop(job.key, None)

    def get(self, job_id: str) -> Job:
        """Raises `UnknownJobError`."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            raise UnknownJobError(f"no job {job_id!r}", "`tokend jobs` lists those that are remembered")
        return job

    def all(self) -> list[Job]:
        """Oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def cancel(self, job_id: str) -> Job:
        """Cancels a job; one that has ended stays as it is."""
        job = self.get(job_id)
        job.control.cancel()
        with self._lock:
            if job.state == "queued":
                self._queue.remove(job)
                self._end(job, "cancelled")
        self._on_end()
        return job

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        counts: dict[str, int] = {}
        for job in self.all():
            counts[job.state] = counts.get(job.state, 0) + 1
        return counts

    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        with self._lock:
            return self._running is None and not self._queue

    def stop_admitting(self) -> None:
        """From now on submits are refused; what was accepted goes on."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()

    def cancel_all(self) -> None:
        """Cancels everything that has not ended."""
        for job in self.all():
            if job.state not in TERMINAL_STATES:
                self.cancel(job.job_id)

    def join(self, timeout_s: float) -> None:
        """Waits for the runner after `stop_admitting`."""
        self._runner.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._queue and not self._stopping:
                    self._lock.wait()
                if not self._queue:
                    return
                job = self._running = self._queue.popleft()
                job.state, job.started_s = "running", time.time()
            try:
                self._work(job)
            finally:
                with self._lock:
                    self._running = None
                self._on_end()

    def _work(self, job: Job) -> None:
        spec = job.spec
        try:
            report = _core.encode_files(
                job.tokenizer,
                spec.inputs,
                spec.output,
                separator=spec.separator,
                eot=spec.eot,
                eot_id=job.eot_id,
                special=spec.special,
                errors=spec.errors,
                threads=spec.threads or self._config.threads,
                force=spec.force,
                roots=[str(root) for root in self._config.roots],
                control=job.control,
            )
        except CancelledError:
            state, error = "cancelled", None
        except TokendError as failure:
            state, error = "failed", failure
        except BaseException as failure:
            log.exception("job %s", job.job_id)
            state, error = "failed", InternalError(f"{type(failure).__name__}: {failure}")
        else:
            state, error = "done", None
            manifest = json.loads(report)
            job.up_to_date = manifest.pop("up_to_date")
            job.manifest = manifest
        with self._lock:
            self._end(job, state, error)

    def _end(self, job: Job, state: str, error: TokendError | None = None) -> None:
        job.error, job.finished_s, job.state = error, time.time(), state
        log.info("job %s %s%s", job.job_id, state, f": {error.message}" if error else "")
