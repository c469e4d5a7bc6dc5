"""Jobs: accepted, journaled, run one after the other, remembered for a while.

One job at a time, with all the threads: two at once would share the same cores and finish later.

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
import os
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future

import msgspec
from msgspec.structs import replace
from tokend_client.errors import (
    BadDocumentError,
    BusyError,
    CancelledError,
    ConflictError,
    DeadlineExceededError,
    InternalError,
    NoSpaceError,
    PoisonError,
    ShuttingDownError,
    TokendError,
    UnknownJobError,
)
from tokend_client.protocol import TERMINAL_STATES, ErrorReply, JobSpec

from . import _core
from .config import ServerConfig
from .job import Job
from .journal import Journal, Record
from .outputs import (
    Summary,
    discard_partials,
    free_bytes,
    partial_key,
    read_manifest,
    record_options,
    run_job,
)
from .registry import Registry, eot_id

log = logging.getLogger("tokend.jobs")

_DEATHS_MAX = 2
_SPACE_POLL_S = 1.0
_BESIDE_MAX = 16
"""Jobs at a time: those with readers share the threads."""
_MANIFESTS_MAX_BYTES = 64 * 1024 * 1024


class JobTable:
    """All jobs of the daemon. Thread-safe.

    `on_end` is called, on any thread, whenever a job has ended. Opening reads the journal; the jobs that
    it holds run once `start` was called.
    """

    def __init__(self, config: ServerConfig, registry: Registry, on_end: Callable[[], None]) -> None:
        self._config = config
        self._registry = registry
        self._on_end = on_end
        self._lock = threading.Condition()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._keys: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._queued_bytes = 0
        self._running: list[Job] = []
        self.is_followed: Callable[[Job], bool] = lambda job: False
        """Whether loaders read what a job writes; the pacer's to say."""
        self.before_run: Callable[[Job], None] = lambda job: None
        """Called for a job that is about to run, with its new control."""
        self._unsettled = 0
        self._admits = True
        self._takes_queued = True
        self._last: Job | None = None
        self._manifests: OrderedDict[str, Job] = OrderedDict()
        """Jobs whose manifest is in memory, oldest first."""
        self._manifest_bytes = 0
        self.journal = Journal(config.state_dir, config.endpoint)
        self._runner = threading.Thread(target=self._run, name="tokend-jobs", daemon=True)

    def start(self) -> None:
        """Takes up what the journal holds and starts to work."""
        with self._lock:
            n_resumed = sum(self._recover(record) for record in self.journal.records)
            self._forget()
        if n_resumed:
            log.info("%d jobs of an earlier daemon go on", n_resumed)
        self._runner.start()

    def _recover(self, record: Record) -> bool:
        """Puts a journaled job in its place; True if it goes on."""
        job = Job(record, record.state)
        job.accepted.set_result(None)
        self._jobs[record.job_id] = job
        if record.key is not None:
            self._keys[record.key] = job
        if record.state in TERMINAL_STATES:
            if record.state == "done" and self.journal.damage is not None and read_manifest(record) is None:
                # What a damaged journal says is only believed where the disk says so too.
                self._drop(job)
            return False
        was_running = record.state == "running"
        job.state = "queued"
        if was_running:
            job.record = replace(record, deaths=record.deaths + 1, state="queued")
        if job.record.cancelled:
            discard_partials(record, self._config)
            self._end(job, "cancelled")
            return False
        if job.record.deaths >= _DEATHS_MAX:
            discard_partials(record, self._config)
            what = f"the daemon died {job.record.deaths} times while it ran this job"
            self._end(
                job, "failed", PoisonError(what, "look at the inputs and the daemon's log; submit again to retry")
            )
            return False
        if was_running:
            self.journal.write(job.record, must=True)
        self._enqueue(job)
        return True

    def submit(self, spec: JobSpec, key: str | None, deadline_s: float | None = None) -> Job:
        """Checks, journals and queues a job (blocking: it looks at every input, and waits for the disk).

        `deadline_s` is the time, in seconds since the epoch, by which the job must have ended. Raises
        what the job would fail with at once, `ConflictError` for a key of another job, `BusyError`,
        `ShuttingDownError`, and `NoSpaceError` or `IoError` if the journal cannot be written.
        """
        with self._lock:
            job = self._known(spec, key)
        if job is None:
            tokenizer = self._registry.get(spec.tokenizer)
            eot_id(tokenizer, spec.eot, spec.eot_token)
            job_id = self._name(key)
            failed = self._failed_at_document(spec)
            total = _core.check_paths(
                spec.inputs,
                spec.output,
                force=spec.force,
                retire=spec.retire,
                roots=[str(root) for root in self._config.roots],
                format=spec.format,
                resume=failed is not None,
                partial_key=failed or job_id,
                records=record_options(spec),
            )
            record = Record(
                job_id=job_id,
                key=key,
                spec=spec,
                tokenizer=tokenizer.name,
                fingerprint=tokenizer.fingerprint,
                bytes_total=total,
                state="queued",
                submitted_s=time.time(),
                deadline_s=deadline_s,
                partial_key=failed,
            )
            with self._lock:
                job = self._known(spec, key) or self._admit(record)
        job.accepted.result()
        return job

    def _failed_at_document(self, spec: JobSpec) -> str | None:
        """The key of what a job left that failed at a bad document and was this one but for what is done
        about these.
        """
        with self._lock:
            for job in reversed(self._jobs.values()):
                record = job.record
                if not is_kept(record) or record.spec.output != spec.output:
                    continue
                same = replace(record.spec, bad_documents=spec.bad_documents, threads=spec.threads, force=spec.force)
                return partial_key(record) if same == spec else None
        return None

    def _name(self, key: str | None) -> str:
        """A job's id; it follows from the key, so that partial files can be told from it too."""
        name = hashlib.blake2b((key or uuid.uuid4().hex).encode(), digest_size=6).hexdigest()
        return uuid.uuid4().hex[:12] if name in self._jobs else name

    def _known(self, spec: JobSpec, key: str | None) -> Job | None:
        job = self._keys.get(key) if key is not None else None
        if job is not None and job.record.spec != spec:
            raise ConflictError(f"key {key!r} belongs to job {job.job_id}, which is another one", "use a new key")
        return job

    def _admit(self, record: Record) -> Job:
        if not self._admits:
            raise stopping()
        spec_bytes = len(msgspec.msgpack.encode(record.spec))
        if len(self._queue) >= self._config.max_queued_jobs:
            raise BusyError(f"{len(self._queue)} jobs are waiting already", retry_after_s=1.0)
        if self._queued_bytes + spec_bytes > self._config.max_queued_spec_bytes:
            raise BusyError(f"the waiting jobs' lists of inputs fill {self._queued_bytes} bytes", retry_after_s=1.0)
        job = Job(record, "queued", spec_bytes)
        self._jobs[job.job_id] = job
        if record.key is not None:
            self._keys[record.key] = job
        self._queued_bytes += spec_bytes
        job.accepted = self.journal.write(record)
        job.accepted.add_done_callback(lambda written: self._on_accepted(job, written))
        return job

    def _on_accepted(self, job: Job, written: Future[None]) -> None:
        with self._lock:
            self._queued_bytes -= job.spec_bytes
            if written.exception() is not None:
                self._drop(job)
                return
            if job.state == "queued":
                self._enqueue(job)
        log.info(
            "job %s accepted: %d inputs, %d bytes -> %s",
            job.job_id,
            len(job.record.spec.inputs),
            job.record.bytes_total,
            job.record.spec.output,
        )

    def _enqueue(self, job: Job) -> None:
        job.spec_bytes = job.spec_bytes or len(msgspec.msgpack.encode(job.record.spec))
        self._queued_bytes += job.spec_bytes
        self._queue.append(job)
        self._lock.notify_all()

    def _drop(self, job: Job) -> None:
        self._jobs.pop(job.job_id, None)
        self._let_go(job)
        if job.record.key is not None and self._keys.get(job.record.key) is job:
            del self._keys[job.record.key]

    def _forget(self) -> None:
        ended = [job for job in self._jobs.values() if job.state in TERMINAL_STATES]
        oldest = time.time() - self._config.kept_s
        too_many = len(ended) - self._config.kept_jobs
        for number, job in enumerate(ended):
            if number < too_many or (job.record.finished_s or 0.0) < oldest:
                if is_kept(job.record):
                    discard_partials(job.record, self._config)
                self._drop(job)
                self.journal.forget(job.job_id)

    def get(self, job_id: str) -> Job:
        """Raises `UnknownJobError`."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None or not job.accepted.done():
            raise UnknownJobError(f"no job {job_id!r}", "`tokend jobs` lists those that are remembered")
        return job

    def all(self) -> list[Job]:
        """Oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if job.accepted.done()]

    def cancel(self, job_id: str) -> tuple[Job, Future[None] | None]:
        """Cancels a job; one that has ended stays as it is.

        Returns at once, with a future that ends when the wish is in the journal: from then on the job
        does not run again, whatever happens to the daemon.
        """
        job = self.get(job_id)
        with self._lock:
            if job.record.state in TERMINAL_STATES:
                return job, None
            job.control.cancel()
            if job in self._queue:
                self._unqueue(job)
                if not job.record.attempts:
                    return job, self._end(job, "cancelled")
                self._end_after_discarding(job, "cancelled")
            job.record = replace(job.record, cancelled=True)
            return job, self.journal.write(job.record, must=True)

    def _unqueue(self, job: Job) -> None:
        self._queue.remove(job)
        self._queued_bytes -= job.spec_bytes

    def _end_after_discarding(self, job: Job, state: str, error: TokendError | None = None) -> None:
        """Ends a job that waited to go on, once what it left is removed; not in the thread that answers."""
        self._unsettled += 1

        def discard() -> None:
            if job.record.attempts:
                discard_partials(job.record, self._config)
            with self._lock:
                self._unsettled -= 1
                self._end(job, state, error)

        threading.Thread(target=discard, name="tokend-discard", daemon=True).start()

    def expire(self) -> None:
        """Fails the jobs whose deadline has passed. Called every so often."""
        now = time.time()
        with self._lock:
            late = [job for job in self._queue if job.record.deadline_s is not None and now > job.record.deadline_s]
            for job in late:
                self._unqueue(job)
                self._end_after_discarding(job, "failed", _late())
            for running in self._running:
                if running.record.deadline_s is not None and now > running.record.deadline_s:
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
        with self._lock:
            return not self._running and not self._queue and self._unsettled == 0

    def is_over(self) -> bool:
        """After `stop_admitting`: whether nothing more will run, and how everything went is on disk."""
        with self._lock:
            return not self._runner.is_alive() and not self._running and self._unsettled == 0

    def stop_admitting(self, finish_queued: bool) -> None:
        """From now on submits are refused. The running job goes on, and with `finish_queued` all others;
        without it they stay in the journal for the next daemon.
        """
        with self._lock:
            if self._admits:
                self._last = next(iter([*self._running, *self._queue]), None)
            self._admits = False
            self._takes_queued &= finish_queued
            self._lock.notify_all()

    def suspend(self) -> None:
        """Stops the running job; it goes on with the next daemon."""
        with self._lock:
            self._admits = self._takes_queued = False
            self._last = None
            for running in self._running:
                running.is_suspended = True
                running.control.suspend()
            self._lock.notify_all()

    def cancel_all(self) -> None:
        """Cancels everything that has not ended."""
        for job in self.all():
            self.cancel(job.job_id)

    def close(self, timeout_s: float) -> None:
        """Waits for the runner after `stop_admitting` or `suspend`, and closes the journal."""
        with self._lock:
            self._lock.wait_for(lambda: not self._running, timeout_s)
        if self._runner.is_alive():
            self._runner.join(timeout_s)
        self.journal.close()

    # What the pacer needs.

    def running(self) -> list[Job]:
        """The jobs that run now."""
        with self._lock:
            return [job for job in self._running if job.state == "running"]

    def lives(self, job: Job) -> None:
        """Forgets the deaths of daemons that ran a job: it has run for so long now that it was not their cause."""
        with self._lock:
            if job.record.deaths and job in self._running and job.record.state == "running":
                job.record = replace(job.record, deaths=0)
                self.journal.write(job.record, must=True)

    def is_draining(self) -> bool:
        """Whether the daemon is to stop."""
        return not self._admits

    def start_beside(self) -> None:
        """Starts jobs with readers beside those that run, and one job without where all that run have some."""
        with self._lock:
            if not self._running or not self._takes_queued:
                return
            for job in list(self._queue):
                if len(self._running) == _BESIDE_MAX:
                    return
                if job.needed_bytes or not (self.is_followed(job) or all(map(self.is_followed, self._running))):
                    continue
                self._unqueue(job)
                self._running.append(job)
                threading.Thread(target=self._one, args=(job,), name="tokend-beside", daemon=True).start()

    # The runner's thread.

    def _run(self) -> None:
        while (job := self._next()) is not None:
            self._one(job)

    def _one(self, job: Job) -> None:
        try:
            self._attempt(job)
        except BaseException as failure:
            log.exception("job %s", job.job_id)
            self._fail(job, "failed", InternalError(f"{type(failure).__name__}: {failure}"))
        finally:
            with self._lock:
                self._running.remove(job)
                self._lock.notify_all()
            self._on_end()

    def _next(self) -> Job | None:
        while True:
            with self._lock:
                queue = list(self._queue) if self._takes_queued else [job for job in self._queue if job is self._last]
                is_taken = not all(map(self.is_followed, self._running))
                for job in queue:
                    if not job.needed_bytes and not is_taken:
                        self._unqueue(job)
                        self._running.append(job)
                        return job
                if not self._admits and not (queue and self._takes_queued):
                    return None
                self._lock.wait(_SPACE_POLL_S if queue else None)
            for job in queue:
                # Outside the lock: a file system may take its time to answer.
                if job.needed_bytes and free_bytes(job.record.spec.output) >= job.needed_bytes:
                    job.needed_bytes = 0

    def _attempt(self, job: Job) -> None:
        with self._lock:
            job.control, job.needed_bytes = _core.JobControl(), 0
            job.record = replace(
                job.record,
                state="running",
                started_s=time.time(),
                pid=os.getpid(),
                attempts=job.record.attempts + 1,
            )
            written = self.journal.write(job.record, must=True)
        # Before it runs: whatever it does to this process, the next one knows who it was.
        if not self._await(written, job):
            self._requeue(job)
            return
        with self._lock:
            job.state = "running"
            if job.record.cancelled:
                job.control.cancel()
            elif job.is_suspended:
                job.control.suspend()
        try:
            self.before_run(job)
            summary = run_job(job.record, job.control, self._registry, self._config)
        except CancelledError:
            self._on_cancelled(job)
        except NoSpaceError as error:
            self._on_no_space(job, error)
        except TokendError as error:
            self._fail(job, "failed", error)
        else:
            with self._lock:
                self._end(job, "done", summary=summary)
                is_last = not self._queue
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
        if job.is_expired and not job.record.cancelled:
            self._fail(job, "failed", _late())
        else:
            self._requeue(job)

    def _fail(self, job: Job, state: str, error: TokendError | None = None) -> None:
        """Ends a job that made nothing. What it left goes first: once it has ended nobody looks for that."""
        if not isinstance(error, BadDocumentError):
            discard_partials(job.record, self._config)
        with self._lock:
            self._end(job, state, error)

    def _on_no_space(self, job: Job, error: NoSpaceError) -> None:
        """A full disk is nobody's mistake: the job waits until there is more space than there was."""
        free = free_bytes(job.record.spec.output)
        if job.record.cancelled or free > 2 * job.record.bytes_total + (64 << 20):
            # There is space: a quota, or a file system that says so of something else.
            self._fail(job, "failed", error)
            return
        with self._lock:
            job.needed_bytes = free + max(1 << 20, min(job.record.bytes_total // 8, 1 << 29))
        log.warning("job %s waits for space: %s", job.job_id, error.message)
        self._requeue(job)

    def _requeue(self, job: Job) -> None:
        """Puts a job back that is to go on later."""
        with self._lock:
            if not job.record.cancelled:
                job.state = "queued"
                job.record = replace(job.record, state="queued")
                self.journal.write(job.record, must=True)
                self._enqueue(job)
                return
        self._fail(job, "cancelled")

    def _end(
        self, job: Job, state: str, error: TokendError | None = None, summary: Summary | None = None
    ) -> Future[None]:
        """Ends a job, under the lock: clients are told when it is in the journal."""
        changes: dict[str, object] = {"state": state, "finished_s": time.time()}
        if error is not None:
            changes["error"] = ErrorReply.of(error)
        if summary is not None:
            changes |= {
                "n_tokens": summary.n_tokens,
                "n_documents": summary.n_documents,
                "n_skipped": summary.n_skipped,
                "up_to_date": summary.up_to_date,
            }
            self._keep_manifest(job, summary.manifest)
        job.record = replace(job.record, **changes)
        self._unsettled += 1
        written = self.journal.write(job.record, must=True)
        written.add_done_callback(lambda written: self._on_settled(job, written))
        return written

    def _on_settled(self, job: Job, written: Future[None]) -> None:
        with self._lock:
            self._unsettled -= 1
            if written.exception() is not None:
                return
            job.state = job.record.state
            self._forget()
        error = job.record.error
        log.info("job %s %s%s", job.job_id, job.state, f": {error.message}" if error else "")
        self._on_end()

    def _keep_manifest(self, job: Job, manifest: bytes) -> None:
        job.manifest = manifest
        self._manifests[job.job_id] = job
        self._manifest_bytes += len(manifest)
        while self._manifest_bytes > _MANIFESTS_MAX_BYTES and len(self._manifests) > 1:
            self._let_go(next(iter(self._manifests.values())))

    def _let_go(self, job: Job) -> None:
        """Drops a job's manifest from memory; it is on the disk."""
        if self._manifests.pop(job.job_id, None) is not None:
            self._manifest_bytes -= len(job.manifest or b"")
            job.manifest = None


def is_kept(record: Record) -> bool:
    """Whether what a job left is kept: the same job can go on from it, leaving bad documents out."""
    return record.state == "failed" and record.error is not None and record.error.code == BadDocumentError.code


def stopping() -> ShuttingDownError:
    """The error for whoever wants something of a daemon that stops."""
    return ShuttingDownError("the daemon is stopping", "submit again to the next one", retry_after_s=0.2)


def _late() -> DeadlineExceededError:
    return DeadlineExceededError("the job did not end by its deadline", "give it more time, or more threads")
