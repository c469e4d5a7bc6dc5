"""What a job does to the disk: run the core, look at what is there, clean up after it.

A job's partial files carry its id, so that a daemon finds exactly those of the jobs in its journal. What an
interrupted run left is taken up by the next one; what a job that has ended left is removed here.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from tokend_client.errors import ConflictError, InputChangedError, TokendError, TokenizerInvalidError
from tokend_client.protocol import JobSpec

from . import _core
from .config import ServerConfig
from .record import Record
from .registry import Registry, eot_id

log = logging.getLogger("tokend.jobs")


@dataclass(frozen=True)
class Summary:
    """What a job made."""

    manifest: bytes
    n_tokens: int
    n_documents: int
    n_skipped: int
    up_to_date: bool


def run_job(record: Record, control: _core.JobControl, registry: Registry, config: ServerConfig) -> Summary:
    """Runs a job, from where it was interrupted if it was; blocks until its output is published.

    Raises the job's error.
    """
    spec = record.spec
    tokenizer = registry.get(spec.tokenizer)
    if tokenizer.fingerprint != record.fingerprint:
        raise TokenizerInvalidError(
            f"{tokenizer.name}: changed since the job was accepted", "submit the job again to use what is there now"
        )

    def encode(resume: bool) -> str:
        return _core.encode_files(
            tokenizer,
            spec.inputs,
            spec.output,
            separator=spec.separator,
            eot=spec.eot,
            eot_id=eot_id(tokenizer, spec.eot, spec.eot_token),
            special=spec.special,
            records=record_options(spec),
            errors=spec.errors,
            # Each thread has a chunk in memory; more of them than cores would not be faster.
            threads=min(spec.threads or config.threads, os.cpu_count() or 1),
            force=spec.force,
            roots=_roots(config),
            control=control,
            format=spec.format,
            resume=resume,
            partial_key=partial_key(record),
            retire=spec.retire,
            more=list(spec.more.items()),
        )

    resumes = record.attempts > 1 or record.partial_key is not None
    try:
        report = encode(resume=resumes)
    except (ConflictError, InputChangedError) as error:
        # An input that was mended since another job failed at it is no reason to fail.
        if not resumes or (isinstance(error, InputChangedError) and record.partial_key is None):
            raise
        # What is there cannot be gone on with, for instance after an upgrade.
        discard_partials(record, config)
        report = encode(resume=False)
    # The core has removed its checkpoint, or the disk would not let it; there is no later run to do so.
    discard_partials(record, config)
    manifest = msgspec.json.decode(report)
    up_to_date = manifest.pop("up_to_date")
    for other in manifest.get("more", ()):
        up_to_date &= other.pop("up_to_date")
    accounts = [source.get("records", {}) for source in manifest["sources"]]
    n_skipped = sum(account.get(name, 0) for account in accounts for name in ("n_bad", "n_filtered", "n_duplicates"))
    return Summary(msgspec.json.encode(manifest), manifest["n_tokens"], manifest["n_documents"], n_skipped, up_to_date)


def record_options(spec: JobSpec) -> dict[str, Any]:
    """What inputs are, and how their records become documents, as the core takes it."""
    names = ("input_format", "field", "id_field", "bad_documents")
    limits = ("min_tokens", "max_tokens", "truncate_tokens", "deduplicate")
    return {name: getattr(spec, name) for name in names + limits}


def partial_key(record: Record) -> str:
    """The key that the partial files of a job bear."""
    return record.partial_key or record.job_id


def manifest_path(record: Record) -> Path:
    """Where the manifest of a job's output is."""
    output = record.spec.output
    return Path(output, "manifest.json") if record.spec.format == "stream" else Path(f"{output}.json")


def read_manifest(record: Record) -> bytes | None:
    """The manifest of a job that is done, from the disk; None if what is there is not what it made."""
    data = _read_manifest(record)
    if data is None or not record.spec.more:
        return data
    manifest = msgspec.json.decode(data)
    manifest["more"] = []
    for output in record.spec.more.values():
        one = replace(record.spec, output=output, more={})
        # How much the others hold is not in the journal.
        other = _read_manifest(replace(record, spec=one), is_counted=False)
        if other is None:
            return None
        manifest["more"].append(msgspec.json.decode(other))
    return msgspec.json.encode(manifest)


def _read_manifest(record: Record, *, is_counted: bool = True) -> bytes | None:
    try:
        data = manifest_path(record).read_bytes()
        manifest = msgspec.json.decode(data)
        same = (
            manifest["tokenizer"]["fingerprint"] == record.fingerprint
            and [source["path"] for source in manifest["sources"]] == record.spec.inputs
            and (not is_counted or manifest["n_tokens"] == record.n_tokens)
            and (not is_counted or manifest["n_documents"] == record.n_documents)
            and manifest.get("state", "sealed") == "sealed"
            and all(os.stat(path).st_size >= size for path, size in _files(record, manifest))
        )
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None
    return data if same else None


def _files(record: Record, manifest: dict) -> list[tuple[str, int]]:  # type: ignore[type-arg]
    """The data files of an output and the least size of each."""
    output = record.spec.output
    if record.spec.format != "stream":
        folder = os.path.dirname(output)
        return [
            (os.path.join(folder, manifest[part]["file"]), manifest[part]["size_bytes"]) for part in ("data", "ends")
        ]
    width = 2 if manifest["dtype"] == "uint16" else 4
    there = [segment for segment in manifest["segments"] if not segment.get("retired")]
    sizes = [(segment["tokens"], segment["n_tokens"] * width) for segment in there]
    sizes += [(segment["ends"], segment["n_documents"] * 8) for segment in there]
    return [(os.path.join(output, name), size) for name, size in sizes]


def discard_partials(record: Record, config: ServerConfig) -> None:
    """Removes what an unfinished job left; what others left is not touched, nor what is finished."""
    for output in (record.spec.output, *record.spec.more.values()):
        try:
            _core.discard_partials(output, partial_key(record), record.spec.format, roots=_roots(config))
        except TokendError as error:
            log.warning("job %s: what it left cannot be removed: %s", record.job_id, error.message)


def _roots(config: ServerConfig) -> list[str]:
    return [str(root) for root in config.roots]


def free_bytes(output: str) -> int:
    """Free space beside an output, for this user."""
    try:
        found = os.statvfs(os.path.dirname(output))
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
