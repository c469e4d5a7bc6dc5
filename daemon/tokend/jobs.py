"""Jobs: accepted, journaled, run one after the other, remembered for a while.

A job's life, each step in the journal before anybody hears of it:

    queued ─► running ─► done | failed | cancelled
      ▲          │
      └──────────┘  the daemon stopped or died, or the disk is full: it goes on later

A job's record is what stands in the journal or is on its way there; its state is what clients are told and
follows when that is on disk. A daemon that dies leaves `running` behind, so the next one can count
the deaths. It looks at the disk before it believes anything: running a job whose output is complete
finds that, by checksums, and is done.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future

from msgspec.structs import replace
from tokend_client.errors import BadRequestError, PoisonError, TokendError
from tokend_client.protocol import TERMINAL_STATES, JobSpec

from . import _core, conversions
from .config import ServerConfig
from .eot import eot_id
from .job import Job
from .job_book import JobBook
from .made import read_manifest
from .outputs import discard_partials, is_replacing, logged_bytes, partial_key, record_options
from .record import Record
from .registry import Registry
from .runner import Runner, late

log = logging.getLogger("tokend.jobs")

_DEATHS_MAX = 2
_FURTHER_BYTES = 64 << 20
"""More input than is in the workers' hands at a time: a job that got so much further is at another place. Of a job
of less than ten times that it is a tenth."""


class JobTable:
    """All jobs of the daemon. Thread-safe.

    `on_end` is called, on any thread, whenever a job has ended. Opening reads the journal; the jobs that
    it holds run once `start` was called.
    """

    def __init__(self, config: ServerConfig, registry: Registry, on_end: Callable[[], None]) -> None:
        self._config = config
        self._registry = registry
        self._book = JobBook(config, on_end)
        self.journal = self._book.journal
        self.runner = Runner(self._book, config, registry, on_end)
        self.get, self.all = self._book.get, self._book.all

    def start(self) -> None:
        """Takes up what the journal holds and starts to work."""
        with self._book.lock:
            n_resumed = sum(self._recover(record) for record in self.journal.records)
            self._book.forget()
        if n_resumed:
            log.info("%d jobs of an earlier daemon go on", n_resumed)
        self.runner.start()

    def _recover(self, record: Record) -> bool:
        """Puts a journaled job in its place; True if it goes on."""
        job = Job(record, record.state)
        job.accepted.set_result(None)
        self._book.add(job)
        if record.state in TERMINAL_STATES:
            if record.state == "done" and self.journal.damage is not None and read_manifest(record) is None:
                # What a damaged journal says is only believed where the disk says so too.
                self._book.drop(job)
            return False
        was_running = record.state == "running"
        job.state = "queued"
        if was_running:
            job.record = self._after_death(record)
        if job.record.cancelled:
            discard_partials(record, self._config)
            self._book.end(job, "cancelled")
            return False
        if job.record.deaths >= _DEATHS_MAX:
            discard_partials(record, self._config)
            what = f"the daemon died {job.record.deaths} times while it ran this job, at about the same place"
            self._book.end(
                job, "failed", PoisonError(what, "look at the inputs and the daemon's log; submit again to retry")
            )
            return False
        if was_running:
            self.journal.write(job.record, must=True)
        self._book.enqueue(job)
        return True

    def _after_death(self, record: Record) -> Record:
        """The record of a job that ran when the daemon died: one more death, or the first at another place.

        A job that has got a good deal further since the last death met the one and survived the other: it was not
        what killed both, and each such death costs it nothing but time.
        """
        at_bytes = logged_bytes(record, self._config)
        step = min(_FURTHER_BYTES, max(record.bytes_total // 10, 1))
        if record.deaths and at_bytes < record.died_at_bytes + step:
            return replace(record, deaths=record.deaths + 1, state="queued")
        return replace(record, deaths=1, died_at_bytes=at_bytes, state="queued")

    def submit(self, spec: JobSpec, key: str | None, deadline_s: float | None = None) -> Job:
        """Checks, journals and queues a job (blocking: it looks at every input, and waits for the disk).

        `deadline_s` is the time, in seconds since the epoch, by which the job must have ended. Raises
        what the job would fail with at once, `ConflictError` for a key of another job, `BusyError`,
        `ShuttingDownError`, and `NoSpaceError` or `IoError` if the journal cannot be written.
        """
        with self._book.lock:
            job = self._book.known(spec, key)
        if job is None:
            job_id = self._name(key)
            name, fingerprint, total, failed = self._check(spec, job_id)
            record = Record(
                job_id=job_id,
                key=key,
                spec=spec,
                tokenizer=name,
                fingerprint=fingerprint,
                bytes_total=total,
                state="queued",
                submitted_s=time.time(),
                deadline_s=deadline_s,
                partial_key=failed,
            )
            with self._book.lock:
                job = self._book.known(spec, key) or self._book.admit(record)
        job.accepted.result()
        return job

    def _check(self, spec: JobSpec, job_id: str) -> tuple[str, str, int, str | None]:
        """Raises what a job would fail with at once; returns its tokenizer's name and fingerprint, the bytes of its
        inputs, and the key of what it goes on with.
        """
        if spec.layout is not None:
            made_by, n_bytes = conversions.check(spec, self._config)
            return made_by["name"], made_by["fingerprint"], n_bytes, None
        if spec.update and spec.format != "bin":
            raise BadRequestError("update goes with format bin")
        if spec.more and (spec.update or spec.known_texts is not None):
            raise BadRequestError("update and known_texts are of one output, not of several")
        tokenizer = self._registry.get(spec.tokenizer)
        eot_id(tokenizer, spec.eot, spec.eot_token)
        conversions.check_exports(spec, self._config, is_wide=tokenizer.is_wide)
        failed = self._failed_at_document(spec)
        total = _core.check_paths(
            spec.inputs,
            spec.output,
            force=is_replacing(spec),
            retire=spec.retire,
            roots=[str(root) for root in self._config.roots],
            format=spec.format,
            resume=failed is not None,
            partial_key=failed or job_id,
            records=record_options(spec),
            more=list(spec.more.items()),
            stdin=spec.stdin,
        )
        return tokenizer.name, tokenizer.fingerprint, total, failed

    def _failed_at_document(self, spec: JobSpec) -> str | None:
        """The key of what a job left that failed at a bad document and was this one but for what is done
        about these.
        """
        with self._book.lock:
            for job in reversed(self._book.jobs.values()):
                record = job.record
                if not record.is_kept or record.spec.output != spec.output:
                    continue
                same = replace(record.spec, bad_documents=spec.bad_documents, threads=spec.threads, force=spec.force)
                return partial_key(record) if same == spec else None
        return None

    def _name(self, key: str | None) -> str:
        """A job's id; it follows from the key, so that partial files can be told from it too."""
        name = hashlib.blake2b((key or uuid.uuid4().hex).encode(), digest_size=6).hexdigest()
        return uuid.uuid4().hex[:12] if name in self._book.jobs else name

    def cancel(self, job_id: str) -> tuple[Job, Future[None] | None]:
        """Cancels a job; one that has ended stays as it is.

        Returns at once, with a future that ends when the wish is in the journal: from then on the job
        does not run again, whatever happens to the daemon.
        """
        job = self.get(job_id)
        with self._book.lock:
            if job.record.state in TERMINAL_STATES:
                return job, None
            job.control.cancel()
            if job in self._book.queue:
                self._book.unqueue(job)
                if not job.record.attempts:
                    return job, self._book.end(job, "cancelled")
                self._end_after_discarding(job, "cancelled")
            return job, self._book.change(job, cancelled=True)

    def _end_after_discarding(self, job: Job, state: str, error: TokendError | None = None) -> None:
        """Ends a job that waited to go on, once what it left is removed; not in the thread that answers."""
        self._book.n_unsettled += 1

        def discard() -> None:
            if job.record.attempts:
                discard_partials(job.record, self._config)
            with self._book.lock:
                self._book.n_unsettled -= 1
                self._book.end(job, state, error)

        threading.Thread(target=discard, name="tokend-discard", daemon=True).start()

    def expire(self) -> None:
        """Fails the jobs whose deadline has passed. Called every so often."""
        now = time.time()
        with self._book.lock:
            for job in [job for job in self._book.queue if job.is_late(now)]:
                self._book.unqueue(job)
                self._end_after_discarding(job, "failed", late())
            for running in self.runner.running:
                if running.is_late(now):
                    running.is_expired = True
                    running.control.cancel()

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        counts: dict[str, int] = {}
        for job in self.all():
            counts[job.state] = counts.get(job.state, 0) + 1
        return counts

    def problems(self) -> list[str]:
        """What somebody should look at."""
        return [text for text in (self.journal.damage, self.journal.trouble) if text is not None]

    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        with self._book.lock:
            return not self.runner.running and not self._book.queue and self._book.n_unsettled == 0

    def is_over(self) -> bool:
        """After `stop_admitting`: whether nothing more will run, and how everything went is on disk."""
        with self._book.lock:
            return self.runner.is_over() and self._book.n_unsettled == 0

    def stop_admitting(self, finish_queued: bool) -> None:
        """From now on submits are refused. The running job goes on, and with `finish_queued` all others;
        without it they stay in the journal for the next daemon.
        """
        with self._book.lock:
            self.runner.finish(finish_queued)
            self._book.admits = False
            self._book.lock.notify_all()

    def suspend(self) -> None:
        """Stops the running jobs; they go on with the next daemon."""
        with self._book.lock:
            self._book.admits = False
            self.runner.suspend()
            self._book.lock.notify_all()

    def cancel_all(self) -> None:
        """Cancels everything that has not ended."""
        for job in self.all():
            self.cancel(job.job_id)

    def close(self, timeout_s: float) -> None:
        """Waits for the runner after `stop_admitting` or `suspend`, and closes the journal."""
        self.runner.join(timeout_s)
        self.journal.close()

    # What the pacer needs.

    def running(self) -> list[Job]:
        """The jobs that run now."""
        with self._book.lock:
            return [job for job in self.runner.running if job.state == "running"]

    def lives(self, job: Job) -> None:
        """Forgets the deaths of daemons that ran a job: it has run for so long now that it was not their cause."""
        with self._book.lock:
            if job.record.deaths and job in self.runner.running and job.record.state == "running":
                self._book.change(job, deaths=0)

    def is_draining(self) -> bool:
        """Whether the daemon is to stop."""
        return not self._book.admits
