"""Running jobs: one after the other with all the threads, since two at once would share the same cores and
finish later; beside it those that loaders read while they are written.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from tokend_client.errors import (
    BadDocumentError,
    CancelledError,
    DeadlineExceededError,
    InternalError,
    NoSpaceError,
    TokendError,
)

from . import _core
from .config import ServerConfig
from .job import Job
from .job_book import JobBook
from .outputs import discard_partials, free_bytes, run_job
from .registry import Registry

log = logging.getLogger("tokend.jobs")

_SPACE_POLL_S = 1.0
_BESIDE_MAX = 16
"""Jobs at a time: those with readers share the threads."""


class Runner:
    """Takes jobs from the queue and runs them, once `start` was called, until it is told to stop.

    `on_end` is called, on any thread, whenever a job has ended. Thread-safe.
    """

    def __init__(self, book: JobBook, config: ServerConfig, registry: Registry, on_end: Callable[[], None]) -> None:
        self._book = book
        self._config = config
        self._registry = registry
        self._on_end = on_end
        self.running: list[Job] = []
        """What runs; under the book's lock."""
        self.is_followed: Callable[[Job], bool] = lambda job: False
        """Whether loaders read what a job writes; the pacer's to say."""
        self.before_run: Callable[[Job], None] = lambda job: None
        """Called for a job that is about to run, with its new control."""
        self._takes_queued = True
        self._last: Job | None = None
        self._thread = threading.Thread(target=self._run, name="tokend-jobs", daemon=True)

    def start(self) -> None:
        """Starts to work."""
        self._thread.start()

    def is_over(self) -> bool:
        """Whether nothing runs and nothing more will. Under the lock."""
        return not self._thread.is_alive() and not self.running

    def finish(self, finish_queued: bool) -> None:
        """Runs no more than what runs now, or with `finish_queued` what waits. Under the lock."""
        if self._book.admits:
            self._last = next(iter([*self.running, *self._book.queue]), None)
        self._takes_queued &= finish_queued

    def suspend(self) -> None:
        """Stops what runs; it goes on with the next daemon. Under the lock."""
        self._takes_queued = False
        self._last = None
        for running in self.running:
            running.is_suspended = True
            running.control.suspend()

    def join(self, timeout_s: float) -> None:
        """Waits for what runs, after `finish` or `suspend`."""
        with self._book.lock:
            self._book.lock.wait_for(lambda: not self.running, timeout_s)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def start_beside(self) -> None:
        """Starts jobs with readers beside those that run, and one job without where all that run have some."""
        with self._book.lock:
            if not self.running or not self._takes_queued:
                return
            for job in list(self._book.queue):
                if len(self.running) == _BESIDE_MAX:
                    return
                if job.needed_bytes or not (self.is_followed(job) or all(map(self.is_followed, self.running))):
                    continue
                self._book.unqueue(job)
                self.running.append(job)
                threading.Thread(target=self._one, args=(job,), name="tokend-beside", daemon=True).start()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            self._one(job)

    def _one(self, job: Job) -> None:
        try:
            self._attempt(job)
        except BaseException as failure:
            log.exception("job %s", job.job_id)
            self.fail(job, "failed", InternalError(f"{type(failure).__name__}: {failure}"))
        finally:
            with self._book.lock:
                self.running.remove(job)
                self._book.lock.notify_all()
            self._on_end()

    def _next(self) -> Job | None:
        while True:
            with self._book.lock:
                queue = [job for job in self._book.queue if self._takes_queued or job is self._last]
                is_taken = not all(map(self.is_followed, self.running))
                for job in queue:
                    if not job.needed_bytes and not is_taken:
                        self._book.unqueue(job)
                        self.running.append(job)
                        return job
                if not self._book.admits and not (queue and self._takes_queued):
                    return None
                self._book.lock.wait(_SPACE_POLL_S if queue else None)
            for job in queue:
                # Outside the lock: a file system may take its time to answer.
                if job.needed_bytes and free_bytes(job.record.spec.output) >= job.needed_bytes:
                    job.needed_bytes = 0

    def _attempt(self, job: Job) -> None:
        if job.is_late(time.time()):
            self.fail(job, "failed", late())
            return
        with self._book.lock:
            job.control, job.needed_bytes = _core.JobControl(), 0
            job.phase, job.phase_began_s = None, 0.0
            if job.record.deadline_s is not None:
                # The core looks at it, too: what is late is not published.
                job.control.set_deadline(int(job.record.deadline_s * 1000))
            written = self._book.change(
                job, state="running", started_s=time.time(), pid=os.getpid(), attempts=job.record.attempts + 1
            )
        # Before it runs: whatever it does to this process, the next one knows who it was.
        if not self._await(written, job):
            self._requeue(job)
            return
        with self._book.lock:
            job.state = "running"
            if job.record.cancelled:
                job.control.cancel()
            elif job.is_suspended:
                job.control.suspend()
        try:
            self.before_run(job)
            summary = run_job(job.record, job.control, self._registry, self._config, job.at)
        except CancelledError:
            self._on_cancelled(job)
        except NoSpaceError as error:
            self._on_no_space(job, error)
        except TokendError as error:
            self.fail(job, "failed", error)
        else:
            for record in self._book.superseded(job):
                discard_partials(record, self._config)
            with self._book.lock:
                self._book.end(job, "done", summary=summary)
                is_last = not self._book.queue
            if is_last:
                self._registry.keep_words()

    def _await(self, written: Future[None], job: Job) -> bool:
        """Waits for the journal; False if the daemon stops meanwhile."""
        while True:
            try:
                written.result(0.1)
                return True
            except TimeoutError:
                if job.is_suspended or job.record.cancelled:
                    return False
            except TokendError:
                return False

    def _on_cancelled(self, job: Job) -> None:
        if (job.is_expired or job.is_late(time.time())) and not job.record.cancelled:
            self.fail(job, "failed", late())
        else:
            self._requeue(job)

    def fail(self, job: Job, state: str, error: TokendError | None = None) -> None:
        """Ends a job that made nothing. What it left goes first: once it has ended nobody looks for that."""
        if not isinstance(error, BadDocumentError):
            discard_partials(job.record, self._config)
        with self._book.lock:
            self._book.end(job, state, error)

    def _on_no_space(self, job: Job, error: NoSpaceError) -> None:
        """A full disk is nobody's mistake: the job waits until there is more space than there was."""
        free = free_bytes(job.record.spec.output)
        if job.record.cancelled or free > 2 * job.record.bytes_total + (64 << 20):
            # There is space: a quota, or a file system that says so of something else.
            self.fail(job, "failed", error)
            return
        with self._book.lock:
            job.needed_bytes = free + max(1 << 20, min(job.record.bytes_total // 8, 1 << 29))
        log.warning("job %s waits for space: %s", job.job_id, error.message)
        self._requeue(job)

    def _requeue(self, job: Job) -> None:
        """Puts a job back that is to go on later."""
        with self._book.lock:
            if not job.record.cancelled:
                job.state = "queued"
                self._book.change(job, state="queued")
                self._book.enqueue(job)
                return
        self.fail(job, "cancelled")


def late() -> DeadlineExceededError:
    """The error of a job whose deadline has passed."""
    return DeadlineExceededError("the job did not end by its deadline", "give it more time, or more threads")
