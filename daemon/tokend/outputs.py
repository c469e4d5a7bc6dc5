"""What a job does to the disk: run the core, look at what is there, clean up after it.

A job's partial files carry its id, so that a daemon finds exactly those of the jobs in its journal. What an
interrupted run left is taken up by the next one; what a job that has ended left is removed here.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace
from tokend_client.errors import (
    ConflictError,
    InputChangedError,
    IoError,
    NoSpaceError,
    NotFoundError,
    OutputExistsError,
    TokendError,
    TokenizerInvalidError,
)
from tokend_client.protocol import Export, JobSpec

from . import _core, conversions, publish, reuse
from . import update as updates
from .config import ServerConfig
from .eot import eot_id
from .record import Record
from .registry import Registry
from .reuse import read_manifest as read_own_manifest
from .update import NotPossible, update

log = logging.getLogger("tokend.jobs")


@dataclass(frozen=True)
class Summary:
    """What a job made."""

    manifest: bytes
    n_tokens: int
    n_documents: int
    n_skipped: int
    up_to_date: bool
    reused: str | None = None
    encoded_bytes: int | None = None
    note: str | None = None


def run_job(
    record: Record,
    control: _core.JobControl,
    registry: Registry,
    config: ServerConfig,
    say: conversions.Say = lambda phase, meter=None: None,
) -> Summary:
    """Runs a job, from where it was interrupted if it was; blocks until its output is published.

    `say` is told what it is at. Raises the job's error.
    """
    try:
        return _run(record, control, registry, config, say)
    except TokendError:
        raise
    except OSError as error:
        raise _named(error, record.spec.output) from error


def _named(error: OSError, output: str) -> TokendError:
    """What the system said, as an error of ours."""
    message = f"{error.filename or output}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(message)
    return NotFoundError(message) if error.errno == errno.ENOENT else IoError(message)


def _run(
    record: Record, control: _core.JobControl, registry: Registry, config: ServerConfig, say: conversions.Say
) -> Summary:
    made = _make(record, control, registry, config, say)
    return _export(record, made, control, say) if record.spec.exports else made


def _export(record: Record, made: Summary, control: _core.JobControl, say: conversions.Say) -> Summary:
    """The second half of a job: trainers' formats of the set that it has made."""
    spec, notes, up_to_date = record.spec, [], made.up_to_date
    raw: tuple[str, str] | None = None
    for number, export in enumerate(spec.exports, 1):
        step = f" ({number} of {len(spec.exports)} formats)"
        conversion = export_spec(spec, export, sibling=raw)
        done = conversions.convert(
            conversion,
            control,
            lambda phase, meter=None, step=step: say(phase + step, meter),
            # What stands there may be of this job, or of this set before its update.
            is_again=record.attempts > 1 or spec.update,
        )
        up_to_date &= done.up_to_date
        notes.append({"path": export.output, **done.note, "up_to_date": done.up_to_date})
        if export.format in conversions.RAW:
            raw = export.output, export.format
    manifest = {**msgspec.json.decode(made.manifest), "exports": notes}
    return dataclasses.replace(made, manifest=msgspec.json.encode(manifest), up_to_date=up_to_date)


def _make(
    record: Record, control: _core.JobControl, registry: Registry, config: ServerConfig, say: conversions.Say
) -> Summary:
    spec = record.spec
    if spec.layout is not None:
        made = conversions.convert(spec, control, say, is_again=record.attempts > 1)
        return _summary(made.note, made.up_to_date, note="; ".join(made.remarks) or None)
    tokenizer = registry.get(spec.tokenizer)
    if tokenizer.fingerprint != record.fingerprint:
        raise TokenizerInvalidError(
            f"{tokenizer.name}: changed since the job was accepted", "submit the job again to use what is there now"
        )
    key = _known_key(spec, config)
    remark: str | None = None
    if spec.update and not config.roots:
        try:
            return _update(record, control, tokenizer, config, say)
        except NotPossible as reason:
            remark = None if read_own_manifest(spec.output) is None else f"all of it is encoded: {reason}"
    elif spec.update:
        remark = "all of it is encoded: a daemon with --root reads no sets"
    if key is not None and (found := _reuse(spec, control, tokenizer, config, key, say)) is not None:
        return found
    say("")
    manifest = _encode(record, control, tokenizer, config)
    if key is not None:
        reuse.remember(key, spec.output, config.state_dir)
    up_to_date = manifest.pop("up_to_date")
    for other in manifest.get("more", ()):
        up_to_date &= other.pop("up_to_date")
    return _summary(manifest, up_to_date, note=remark)


def _encode(
    record: Record, control: _core.JobControl, tokenizer: _core.Tokenizer, config: ServerConfig
) -> dict[str, Any]:
    """Encodes all the inputs into the output, or what is left to do of that."""
    spec = record.spec
    force = is_replacing(spec, is_again=record.attempts > 1)

    def encode(resume: bool) -> str:
        key = partial_key(record)
        more, inputs, output = list(spec.more.items()), spec.inputs, spec.output
        return encode_part(
            spec, control, tokenizer, config, inputs, output, resume=resume, force=force, key=key, more=more
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
    manifest: dict[str, Any] = msgspec.json.decode(report)
    return manifest


def encode_part(
    spec: JobSpec,
    control: _core.JobControl,
    tokenizer: _core.Tokenizer,
    config: ServerConfig,
    inputs: list[str],
    output: str,
    *,
    resume: bool,
    force: bool = False,
    key: str | None = None,
    more: list[tuple[str, str]] | None = None,
) -> str:
    """Encodes files with the options of a job; returns the report."""
    return _core.encode_files(
        tokenizer,
        inputs,
        output,
        separator=spec.separator,
        eot=spec.eot,
        eot_id=eot_id(tokenizer, spec.eot, spec.eot_token),
        special=spec.special,
        records=record_options(spec),
        errors=spec.errors,
        # Each thread has a chunk in memory; more of them than cores would not be faster.
        threads=min(spec.threads or config.threads, os.cpu_count() or 1),
        force=force,
        roots=_roots(config),
        control=control,
        format=spec.format,
        resume=resume,
        partial_key=key,
        retire=spec.retire,
        known_texts=spec.known_texts,
        more=more or [],
        stdin=spec.stdin,
    )


def _update(
    record: Record, control: _core.JobControl, tokenizer: _core.Tokenizer, config: ServerConfig, say: conversions.Say
) -> Summary:
    """Encodes what is new in the inputs. Raises `NotPossible`."""
    spec = record.spec

    def encode(parts: list[str], place: str, resume: bool) -> str:
        say("what is new")
        return encode_part(spec, control, tokenizer, config, parts, place, resume=resume)

    say("compares the inputs with what was encoded of them")
    manifest, n_bytes = update(
        tokenizer.fingerprint,
        eot_id(tokenizer, spec.eot, spec.eot_token),
        spec.inputs,
        spec.output,
        options_of(spec),
        encode,
        control,
        names=spec.names(),
    )
    up_to_date = manifest.pop("up_to_date")
    return _summary(manifest, up_to_date, encoded_bytes=n_bytes)


def _known_key(spec: JobSpec, config: ServerConfig) -> str | None:
    """What a job is looked up by; None if it is not to be."""
    if not spec.reuse or spec.format != "bin" or config.roots or spec.known_texts is not None or spec.more:
        return None
    sizes = [os.stat(path).st_size for path in spec.inputs]
    return reuse.key_of(options_of(spec), sizes) if sum(sizes) >= reuse.MIN_BYTES else None


def _reuse(
    spec: JobSpec,
    control: _core.JobControl,
    tokenizer: _core.Tokenizer,
    config: ServerConfig,
    key: str,
    say: conversions.Say,
) -> Summary | None:
    """Shares the bytes of a known set of the same inputs, if there is one and nothing stands under this one's name."""
    folder = publish.hidden_folder(spec.output, reuse.PURPOSE)
    if reuse.is_taken(spec.output) and not os.path.isdir(folder):
        return None
    say("looks for a set of the same inputs")
    found = reuse.find(key, spec.inputs, spec.names(), lambda: tokenizer.fingerprint, config.state_dir, control)
    if found is None:
        return None
    try:
        manifest = reuse.link(*found, spec.output, spec.names())
    except OutputExistsError:
        # Whether what stands there is this very set, the core finds out.
        return None
    reuse.remember(key, spec.output, config.state_dir)
    return _summary(manifest, False, reused=found[0])


def _summary(
    manifest: dict[str, Any],
    up_to_date: bool,
    *,
    reused: str | None = None,
    encoded_bytes: int | None = None,
    note: str | None = None,
) -> Summary:
    accounts = [source.get("records") or {} for source in manifest["sources"]]
    n_skipped = sum(account.get(name, 0) for account in accounts for name in ("n_bad", "n_filtered", "n_duplicates"))
    n_skipped = 0 if manifest["format"] == "tokend-export" else n_skipped
    return Summary(
        manifest=msgspec.json.encode(manifest),
        n_tokens=manifest["n_tokens"],
        n_documents=manifest["n_documents"],
        n_skipped=n_skipped,
        up_to_date=up_to_date,
        reused=reused,
        encoded_bytes=encoded_bytes,
        note=note,
    )


def is_replacing(spec: JobSpec, *, is_again: bool = False) -> bool:
    """Whether what stands at the output goes: an update replaces a set of tokend's, and nothing else.

    `is_again`: a run that was interrupted may have taken that set's manifest away.
    """
    return spec.force or (spec.update and (is_again or read_own_manifest(spec.output) is not None))


def options_of(spec: JobSpec) -> dict[str, Any]:
    """What decides the ids of given inputs, and the threads; as `cli.encode` has it."""
    names = ("separator", "eot", "eot_token", "special", "errors", "threads")
    return {name: getattr(spec, name) for name in names} | record_options(spec)


def export_spec(spec: JobSpec, export: Export, *, sibling: tuple[str, str] | None = None) -> JobSpec:
    """A job's export as a conversion."""
    layout = replace(export.layout, sibling=sibling)
    return JobSpec(inputs=[spec.output], output=export.output, format=export.format, layout=layout, force=spec.force)


def record_options(spec: JobSpec) -> dict[str, Any]:
    """What inputs are, and how their records become documents, as the core takes it."""
    names = ("input_format", "field", "id_field", "bad_documents")
    limits = ("min_tokens", "max_tokens", "truncate_tokens", "deduplicate")
    return {name: getattr(spec, name) for name in names + limits}


def partial_key(record: Record) -> str:
    """The key that the partial files of a job bear."""
    return record.partial_key or record.job_id


def logged_bytes(record: Record, config: ServerConfig) -> int:
    """How far an unfinished job got, in bytes of input, as what it left says; 0 where it leaves no log."""
    if record.spec.layout is not None:
        return 0
    try:
        return _core.logged_bytes(record.spec.output, partial_key(record), record.spec.format, roots=_roots(config))
    except TokendError as error:
        log.warning("job %s: what it left cannot be read: %s", record.job_id, error.message)
        return 0


def discard_partials(record: Record, config: ServerConfig) -> None:
    """Removes what an unfinished job left; what others left is not touched, nor what is finished."""
    try:
        if record.spec.layout is not None:
            conversions.discard(record.spec.output)
            return
        for export in record.spec.exports:
            conversions.discard(export.output)
        if record.spec.update and not config.roots:
            updates.discard(record.spec.output)
        for output in (record.spec.output, *record.spec.more.values()):
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
