"""Keeps each stream that is read while it is written a set number of tokens ahead of its readers.

Four times a second and when loaders report, on a thread of its own: who reads what (`cursors`), how far each
running job is, which job gets how many threads (`shares`). Jobs with readers run beside each other and beside
the one job without; a job that stands still keeps its place and its threads, asleep. Every few seconds segments that
nobody will read again are retired, of streams whose jobs allow it.

    loader ─► CURSORS ─► Cursors ─► Pacer ─┬─► JobControl.set_threads
                                           ├─► JobControl.set_ceiling, set_wanted
                                           └─► JobControl.retire, or _core.retire for what no job writes
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tokend_client.errors import TokendError
from tokend_client.protocol import TERMINAL_STATES, CursorReport, StreamReport

from . import _core
from .config import ServerConfig
from .cursors import EXPIRY_S, Cursors, Reader
from .job import Job
from .jobs import JobTable
from .shares import Load, share

log = logging.getLogger("tokend.pacing")

_TICK_S = 0.25
_LEAST_S = 0.05
"""Between two looks, however much readers report."""
_RETIRE_S = min(5.0, EXPIRY_S)
_RATE_S = 3.0
"""Over which a job's rate is averaged."""
_HARMLESS_S = 60.0
"""A job that works for so long is none that kills daemons by what it goes on with."""
_NO_LIMIT = 1 << 20
_NO_CEILING = (1 << 64) - 1


class _Manifest(msgspec.Struct):
    """What retirement needs of a stream's manifest."""

    stream_id: str


@dataclass
class _Paced:
    """A job, and what was found of it at the last look."""

    job: Job
    n_tokens: int = 0
    tokens_per_s: float = 0.0
    worked_s: float = 0.0
    threads: int | None = None
    control: _core.JobControl | None = None
    """The one that `threads` was told to: each attempt of a job has its own."""


class Pacer:
    """Paces the jobs of a table. Thread-safe; `start` begins, `stop` ends within a tick."""

    def __init__(self, config: ServerConfig, jobs: JobTable) -> None:
        self._config = config
        self._jobs = jobs
        self.cursors = Cursors(config.state_dir, config.endpoint)
        self._n_threads = config.threads or _core.default_threads()
        self._lock = threading.Lock()
        self._paced: dict[str, _Paced] = {}
        self._outputs: dict[str, str] = {}
        """Real paths of the outputs of stream jobs, by job."""
        self._looked_s = time.monotonic()
        self._retired_s = self._looked_s
        self._told: dict[str, int] = {}
        """Low waters that retirement was told, by path."""
        self._stopped = threading.Event()
        self._news = threading.Event()
        """A reader wants more than before."""
        self._thread = threading.Thread(target=self._run, name="tokend-pacer", daemon=True)
        jobs.runner.is_followed, jobs.runner.before_run = self._is_followed, self._before_run

    def start(self) -> None:
        """Begins to pace."""
        self._thread.start()

    def stop(self) -> None:
        """Ends pacing; jobs stay as they are. Waits a second at most."""
        self._stopped.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def problems(self) -> list[str]:
        """What somebody should look at."""
        return [self.cursors.damage] if self.cursors.damage is not None else []

    def report(self, run: str, loader: str, reports: Sequence[CursorReport], is_over: bool) -> list[StreamReport]:
        """Takes how far a loader is; says of each stream how far its writer is (blocking, for a new run)."""
        if is_over:
            self.cursors.over(run, [report.path for report in reports])
        else:
            self.cursors.report(run, loader, reports)
            self._news.set()
        writers = self._writers()
        return [self._of(report.path, writers.get(os.path.realpath(report.path))) for report in reports]

    def _writers(self) -> dict[str, Job]:
        """The latest job of each stream, by real path."""
        return {self._output(job): job for job in self._jobs.all() if job.record.spec.format == "stream"}

    def _output(self, job: Job) -> str:
        known = self._outputs.get(job.job_id)
        if known is None:
            known = self._outputs[job.job_id] = os.path.realpath(job.record.spec.output)
        return known

    def _of(self, path: str, job: Job | None) -> StreamReport:
        if job is None:
            return StreamReport(path=path, note="no job of the daemon writes it")
        with self._lock:
            paced = self._paced.get(job.job_id)
            rate, threads = (paced.tokens_per_s, paced.threads) if paced is not None else (0.0, None)
        info = job.info()
        if job.state == "running":
            note = info.note or (f"job {job.job_id} has {threads} threads" if threads else "")
        elif job.state == "queued":
            note = info.note or f"job {job.job_id} waits for its turn"
        else:
            note = f"job {job.job_id} is {job.state}"
        return StreamReport(
            path=path,
            job_id=job.job_id,
            state=job.state,
            n_tokens=info.n_tokens,
            tokens_per_s=rate,
            note=note,
        )

    def _before_run(self, job: Job) -> None:
        readers = self._readers(job)
        if readers and not self._jobs.is_draining():
            job.control.set_ceiling(_wanted(readers) + self._limit(readers))
            job.control.set_wanted(_wanted(readers))

    def _readers(self, job: Job) -> list[Reader]:
        return self.cursors.live(self._output(job)) if job.record.spec.format == "stream" else []

    def _is_followed(self, job: Job) -> bool:
        return bool(self._readers(job))

    def _run(self) -> None:
        while not self._stopped.wait(_LEAST_S):
            self._news.wait(_TICK_S)
            self._news.clear()
            try:
                self.tick()
            except Exception:
                log.exception("pacing")

    def tick(self) -> None:
        """One look at everything."""
        self._jobs.runner.start_beside()
        now = time.monotonic()
        seconds, self._looked_s = now - self._looked_s, now
        running = self._jobs.running()
        with self._lock:
            before, self._paced = self._paced, {}
            loads = []
            for job in running:
                paced = self._paced[job.job_id] = before.get(job.job_id) or _Paced(job)
                loads.append(self._look(paced, seconds))
            draining = self._jobs.is_draining()
            alone = len(running) == 1 or draining
            for paced, load, n in zip(self._paced.values(), loads, share(loads, self._n_threads), strict=True):
                # Alone, or when the daemon is to stop: whatever the job itself was given.
                self._tell(paced, load, _NO_LIMIT if draining or (alone and n) else n)
        self.cursors.tick()
        if now - self._retired_s >= _RETIRE_S:
            self._retired_s = now
            self._retire()

    def _look(self, paced: _Paced, seconds: float) -> Load:
        job = paced.job
        n_bytes, _, n_tokens, _ = job.control.progress()
        paced.worked_s += seconds if n_bytes else 0.0
        if job.record.deaths and paced.worked_s > _HARMLESS_S:
            self._jobs.lives(job)
        if seconds > 0 and paced.n_tokens:
            part = min(1.0, seconds / _RATE_S)
            paced.tokens_per_s += part * (max(n_tokens - paced.n_tokens, 0) / seconds - paced.tokens_per_s)
        paced.n_tokens = n_tokens
        readers = self._readers(job)
        if not readers:
            job.control.set_ceiling(_NO_CEILING)
            return Load(None)
        wanted, limit = _wanted(readers), self._limit(readers)
        job.control.set_ceiling(_NO_CEILING if self._jobs.is_draining() else wanted + limit)
        job.control.set_wanted(wanted)
        return Load(
            lead=n_tokens - wanted,
            limit=limit,
            tokens_per_s=max(reader.tokens_per_s for reader in readers),
            is_paused=paced.threads == 0,
        )

    def _limit(self, readers: list[Reader]) -> int:
        # A window is the unit of a reader's progress: with less than one ahead it would wait at each.
        return max(self._config.ahead_tokens, *(reader.wanted - reader.position for reader in readers))

    def _tell(self, paced: _Paced, load: Load, n_threads: int) -> None:
        job = paced.job
        if paced.control is not job.control or paced.threads != n_threads:
            paced.control, paced.threads = job.control, n_threads
            job.control.set_threads(n_threads)
        lead = load.lead
        if lead is None:
            job.pace = None
        elif n_threads == 0:
            job.pace = f"stands still: {lead:,} tokens ahead of its readers"
        elif lead < 0:
            rate = paced.tokens_per_s
            eta = f"ETA {-lead / rate:.1f} s" if rate > 0 else "no ETA"
            wanted = paced.n_tokens - lead
            job.pace = f"its readers wait for token {wanted:,}: at {paced.n_tokens:,}, {rate / 1e6:.1f} M/s, {eta}"
        else:
            job.pace = f"{lead:,} tokens ahead of its readers"

    def _retire(self) -> None:
        writers = self._writers()
        for path, job in writers.items():
            if job.record.spec.retire and job.state != "cancelled":
                self.cursors.may_retire(path)
        for path in self.cursors.retiring():
            try:
                self._retire_of(path, writers.get(path))
            except FileNotFoundError:
                if path not in writers or writers[path].state in TERMINAL_STATES:
                    self.cursors.forget(path)
            except (TokendError, OSError, msgspec.DecodeError) as error:
                log.warning("%s: segments cannot be retired: %s", path, error)
        known = {job.job_id for job in writers.values()}
        self._outputs = {job_id: output for job_id, output in self._outputs.items() if job_id in known}

    def _retire_of(self, path: str, job: Job | None) -> None:
        manifest = msgspec.json.decode(Path(path, "manifest.json").read_bytes(), type=_Manifest)
        before = self.cursors.low_water(path, manifest.stream_id)
        if before <= 0:
            return
        if job is not None and job.state == "running":
            job.control.retire(before)
        elif self._told.get(path) != before:
            n_retired = _core.retire(path, before, roots=[str(root) for root in self._config.roots])
            self._told[path] = before
            log.info("%s: %d segments are retired; no reader is before token %d", path, n_retired, before)


def _wanted(readers: list[Reader]) -> int:
    """The token that the furthest reader waits for next."""
    return max(reader.wanted for reader in readers)
