"""What a job does to the disk: run the core, look at what is there, clean up after a daemon that died."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tokend_client.errors import OutputExistsError, TokenizerInvalidError

from . import _core
from .config import ServerConfig
from .journal import Record
from .registry import Registry, eot_id

_SUFFIXES = ("", ".ends", ".json")


@dataclass(frozen=True)
class Summary:
    """What a job made."""

    manifest: bytes
    n_tokens: int
    n_documents: int
    up_to_date: bool


def run_job(record: Record, control: _core.JobControl, registry: Registry, config: ServerConfig) -> Summary:
    """Runs a job; blocks until its output is published. Raises the job's error."""
    spec = record.spec
    tokenizer = registry.get(spec.tokenizer)
    if tokenizer.fingerprint != record.fingerprint:
        raise TokenizerInvalidError(
            f"{tokenizer.name}: changed since the job was accepted", "submit the job again to use what is there now"
        )
    threads = min(spec.threads or config.threads, os.cpu_count() or 1)

    def encode(force: bool) -> str:
        return _core.encode_files(
            tokenizer,
            spec.inputs,
            spec.output,
            separator=spec.separator,
            eot=spec.eot,
            eot_id=eot_id(tokenizer, spec.eot, spec.eot_token),
            special=spec.special,
            errors=spec.errors,
            threads=threads,
            force=force,
            roots=[str(root) for root in config.roots],
            control=control,
        )

    if spec.force and record.deaths:
        # The daemon that died may have published it: then there is nothing left to replace.
        try:
            report = encode(force=False)
        except OutputExistsError:
            report = encode(force=True)
    else:
        report = encode(force=spec.force)
    manifest = msgspec.json.decode(report)
    up_to_date = manifest.pop("up_to_date")
    return Summary(msgspec.json.encode(manifest), manifest["n_tokens"], manifest["n_documents"], up_to_date)


def read_manifest(record: Record) -> bytes | None:
    """The manifest of a job that is done, from the disk; None if what is there is not what it made."""
    try:
        data = Path(f"{record.spec.output}.json").read_bytes()
        manifest = msgspec.json.decode(data)
        same = (
            manifest["tokenizer"]["fingerprint"] == record.fingerprint
            and [source["path"] for source in manifest["sources"]] == record.spec.inputs
            and manifest["n_tokens"] == record.n_tokens
            and manifest["n_documents"] == record.n_documents
            and os.stat(record.spec.output).st_size == manifest["data"]["size_bytes"]
        )
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None
    return data if same else None


def discard_partials(record: Record) -> None:
    """Removes the partial files of a job whose daemon died: those that carry its number, no others."""
    if record.pid is None:
        return
    folder, name = os.path.split(record.spec.output)
    names = "|".join(re.escape(f".{name}{suffix}.{record.pid}-") for suffix in _SUFFIXES)
    ours = re.compile(f"(?:{names})[0-9]+\\.partial")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if ours.fullmatch(entry.name) and stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                os.unlink(entry.path)


def free_bytes(output: str) -> int:
    """Free space beside an output, for this user."""
    try:
        found = os.statvfs(os.path.dirname(output))
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
