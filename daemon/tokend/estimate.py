"""What a job would make, told from a sample: tokens with their error, time, disk.

Text and JSON lines are sampled in windows that lie evenly over all bytes of all inputs; each is encoded by a real job.
With `b` bytes and `t` tokens in each of `k` windows, the tokens of a byte are `R = sum(t) / sum(b)`, and their standard
error is that of a ratio, `sqrt(sum((t - R b)^2) / (k (k - 1))) / mean(b)`, less what the sample itself makes certain.
What is told is twice that: 95 of 100 samples lie within.

Compressed files and columns cannot be entered in the middle: there the real job runs on the files in a drawn order,
and is stopped after some seconds. Its windows are the steps of its progress. That is no sample of the whole of one
big file, and the estimate says so.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokend_client.errors import BadRequestError, CancelledError

from . import _core
from .tokenizer import Tokenizer

_WINDOW_BYTES = 1 << 18
_N_WINDOWS = 32
_ALIGN_BYTES = 1 << 16
_PREFIX_BYTES = 1 << 26
_PREFIX_SECONDS = 5.0
_NOT_ENTERED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0", b"PAR1", b"ARROW1")
"""First bytes of gzip, zstd, bzip2, xz, parquet and arrow."""
_KEPT = ("separator", "eot", "eot_token", "input_format", "field", "min_tokens", "max_tokens", "truncate_tokens")

Window = tuple[int, int, int]
"""Bytes, tokens, documents."""


@dataclass
class Estimate:
    """What a job would make."""

    n_files: int
    n_bytes: int
    sample_bytes: int
    n_tokens: int
    n_tokens_error: int
    """95 of 100 samples lie within so many."""
    n_documents: int
    n_documents_error: int
    output_bytes: int
    free_bytes: int
    seconds: float
    """At the rate of the sample, which includes starting a job."""
    n_bad: int
    """Documents of the sample that the job would fail at, or leave out with `bad_documents="skip"`: not in the counts.
    (The part of a line of JSON that is longer than a window is one as well.)"""
    how: str


def estimate(
    tokenizer: Tokenizer,
    files: Sequence[str],
    output: str,
    options: dict[str, Any],
    *,
    n_formats: int = 1,
    seed: int = 0,
) -> Estimate:
    """Estimates the job that `Tokenizer.encode_files` with `options` would be. Blocks for some seconds.

    `n_formats` is how many copies of the ids it would write. Nothing is written beside the output.
    """
    sizes = [os.stat(path).st_size for path in files]
    n_bytes = sum(sizes)
    if not n_bytes:
        raise BadRequestError("the inputs are empty: there is nothing to estimate")
    sample = {name: options[name] for name in _KEPT if name in options}
    # What the job would refuse is left out, and counted.
    sample |= {"special": options.get("special"), "errors": options.get("errors", "strict")}
    sample |= {"bad_documents": "skip", "threads": options.get("threads", 0)}
    with tempfile.TemporaryDirectory(prefix="tokend-estimate-") as folder:
        if any(_is_closed(path) for path in files):
            windows, seconds, n_bad = _prefix(tokenizer, files, folder, sample, seed)
            how = (
                "the first of the inputs in a drawn order; compressed files and columns cannot be entered in the middle"
            )
        else:
            windows, seconds, n_bad = _spread(tokenizer, files, sizes, folder, sample)
            how = f"{len(windows)} windows spread over all inputs"
    sample_bytes = sum(window[0] for window in windows)
    n_tokens, tokens_error = _scaled([(b, t) for b, t, _ in windows], n_bytes)
    n_documents, documents_error = _scaled([(b, d) for b, _, d in windows], n_bytes)
    if sample_bytes >= n_bytes:
        how = "all of the inputs"
    place = os.path.dirname(os.path.abspath(output))
    return Estimate(
        n_files=len(files),
        n_bytes=n_bytes,
        sample_bytes=min(sample_bytes, n_bytes),
        n_tokens=n_tokens,
        n_tokens_error=tokens_error,
        n_documents=n_documents,
        n_documents_error=documents_error,
        output_bytes=n_formats * n_tokens * tokenizer.dtype.itemsize + 8 * n_documents,
        free_bytes=shutil.disk_usage(place if os.path.isdir(place) else "/").free,
        seconds=seconds * n_bytes / max(1, sample_bytes),
        n_bad=n_bad,
        how=how,
    )


def _is_closed(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(8).startswith(_NOT_ENTERED)


def _scaled(pairs: list[tuple[int, int]], n_bytes: int) -> tuple[int, int]:
    """A count for all bytes from counts of windows, and twice its standard error."""
    total_bytes, total = sum(b for b, _ in pairs), sum(n for _, n in pairs)
    ratio = total / max(1, total_bytes)
    if total_bytes >= n_bytes:
        return total, 0
    k = len(pairs)
    if k < 2:
        return round(ratio * n_bytes), round(ratio * n_bytes)
    spread = sum((n - ratio * b) ** 2 for b, n in pairs) / (k * (k - 1))
    left = 1 - total_bytes / n_bytes
    error = 2 * math.sqrt(spread * left) / (total_bytes / k)
    return round(ratio * n_bytes), max(1, math.ceil(error * n_bytes))


def _spread(
    tokenizer: Tokenizer, files: Sequence[str], sizes: Sequence[int], folder: str, options: dict[str, Any]
) -> tuple[list[Window], float, int]:
    n_bytes = sum(sizes)
    if n_bytes <= _WINDOW_BYTES * _N_WINDOWS:
        places = [(path, 0, size) for path, size in zip(files, sizes, strict=True) if size]
    else:
        places = []
        first = at = 0
        for number in range(_N_WINDOWS):
            middle = (2 * number + 1) * n_bytes // (2 * _N_WINDOWS)
            while middle >= first + sizes[at]:
                first += sizes[at]
                at += 1
            start = max(0, min(middle - first - _WINDOW_BYTES // 2, sizes[at] - _WINDOW_BYTES))
            places.append((files[at], start, _WINDOW_BYTES))
    copies = []
    for number, (path, start, length) in enumerate(places):
        data = _window(path, start, length)
        if data:
            place = os.path.join(folder, str(number))
            os.mkdir(place)
            copies.append(os.path.join(place, os.path.basename(path)))
            with open(copies[-1], "wb") as file:
                file.write(data)
    start_s = time.monotonic()
    made = tokenizer.encode_files(copies, os.path.join(folder, "out.bin"), **options)
    seconds = time.monotonic() - start_s
    windows = [(s["size_bytes"], s["n_tokens"], s["n_documents"]) for s in made["sources"]]
    return windows, seconds, sum(s.get("records", {}).get("n_bad", 0) for s in made["sources"])


def _window(path: str, start: int, length: int) -> bytes:
    """Whole lines of a file near a place, where its lines are not too long; whole characters where they are."""
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(length)
        if start:
            cut = data.find(b"\n", 0, _ALIGN_BYTES) + 1
            data = data[cut or _first_character(data) :]
        if file.read(1):
            end = data.rfind(b"\n", max(0, len(data) - _ALIGN_BYTES)) + 1
            data = data[: end or _last_character(data)]
        return data


def _first_character(data: bytes) -> int:
    """Where the first character begins, of UTF-8 that was entered anywhere."""
    return next((at for at in range(min(4, len(data))) if data[at] & 0xC0 != 0x80), 0)


def _last_character(data: bytes) -> int:
    """Where the last character ends that is whole."""
    for at in range(len(data) - 1, max(-1, len(data) - 5), -1):
        lead = data[at]
        if lead & 0xC0 != 0x80:
            n_bytes = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
            return at if at + n_bytes > len(data) else len(data)
    return len(data)


def _prefix(
    tokenizer: Tokenizer, files: Sequence[str], folder: str, options: dict[str, Any], seed: int
) -> tuple[list[Window], float, int]:
    drawn = random.Random(seed).sample(list(files), len(files))
    control = _core.JobControl()
    ended: list[BaseException | dict[str, Any]] = []

    def work() -> None:
        try:
            ended.append(tokenizer.encode_files(drawn, os.path.join(folder, "out.bin"), control=control, **options))
        except BaseException as error:
            ended.append(error)

    worker = threading.Thread(target=work)
    start_s = time.monotonic()
    worker.start()
    marks = [(0, 0, 0)]
    try:
        while worker.is_alive():
            worker.join(0.05)
            n_bytes, _, n_tokens, n_documents = control.progress()
            if n_bytes > marks[-1][0]:
                marks.append((n_bytes, n_tokens, n_documents))
            if n_bytes >= _PREFIX_BYTES or (time.monotonic() - start_s > _PREFIX_SECONDS and n_tokens):
                break
    finally:
        seconds = time.monotonic() - start_s
        control.cancel()
        worker.join()
    outcome = ended[0]
    n_bad = 0
    if isinstance(outcome, dict):
        totals = (sum(s["size_bytes"] for s in outcome["sources"]), outcome["n_tokens"], outcome["n_documents"])
        return [totals], seconds, sum(s.get("records", {}).get("n_bad", 0) for s in outcome["sources"])
    if not isinstance(outcome, CancelledError):
        raise outcome
    steps = zip(marks[1:], marks, strict=False)
    return [(a[0] - b[0], a[1] - b[1], a[2] - b[2]) for a, b in steps], seconds, n_bad
