"""Manifests of jobs that are done, in memory as far as they fit; the others are on the disk."""

from __future__ import annotations

from collections import OrderedDict

from .job import Job

_MAX_BYTES = 64 * 1024 * 1024


class Manifests:
    """Keeps the newest. Under the job table's lock."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        """Jobs whose manifest is in memory, oldest first."""
        self._n_bytes = 0

    def keep(self, job: Job, manifest: bytes) -> None:
        """Gives a job its manifest."""
        job.manifest = manifest
        self._jobs[job.job_id] = job
        self._n_bytes += len(manifest)
        while self._n_bytes > _MAX_BYTES and len(self._jobs) > 1:
            self.let_go(next(iter(self._jobs.values())))

    def let_go(self, job: Job) -> None:
        """Drops a job's manifest from memory."""
        if self._jobs.pop(job.job_id, None) is not None:
            self._n_bytes -= len(job.manifest or b"")
            job.manifest = None
