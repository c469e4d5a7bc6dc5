"""Inputs that are cut, written to, replaced or removed while a job reads them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokend import Tokenizer, _core
from tokend_client.errors import InputChangedError, InputInvalidError, TokendError

TEXT = "some words of a text, " * 6_000_000
"""Long enough that a job is still reading when the input has changed, with or without a lease."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    old = time.time() - 60
    os.utime(path, (old, old))
    return path


def cut(path: Path) -> None:
    os.truncate(path, 100_000)


def empty_by_copying(path: Path) -> None:
    path.write_bytes(b"")


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(len(TEXT) // 2)
        file.write(b"OTHER")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def during(
    gpt2: Tokenizer, source: Path, output: Path, change: Callable[[Path], None], **options: str
) -> BaseException | None:
    """Encodes, and changes the input once some of it is done; returns the job's error."""
    control = _core.JobControl()
    raised: list[BaseException | None] = []

    def work() -> None:
        try:
            gpt2.encode_files([source], output, threads=1, control=control, **options)
            raised.append(None)
        except TokendError as error:
            raised.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    while worker.is_alive() and control.progress()[0] == 0:
        time.sleep(0.001)
    assert worker.is_alive(), "the job was done before its input could be changed"
    start = time.monotonic()
    change(source)
    waited_s = time.monotonic() - start
    worker.join(60)
    assert waited_s < 5, "the writer was kept waiting"
    return raised[0]


@pytest.mark.parametrize("change", [cut, empty_by_copying, rewrite, append])
@pytest.mark.parametrize("is_open_for_writing", [False, True], ids=["lease", "no lease"])
def test_changed(
    change: Callable[[Path], None], is_open_for_writing: bool, source: Path, tmp_path: Path, gpt2: Tokenizer
) -> None:
    # The kernel grants no lease on a file that somebody has open for writing.
    writer = source.open("r+b") if is_open_for_writing else None
    error = during(gpt2, source, tmp_path / "out.bin", change)
    if writer is not None:
        writer.close()
    assert isinstance(error, InputChangedError) and str(source) in str(error)
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("change", ["rename", "unlink"])
def test_what_was_opened_is_read_to_its_end(change: str, source: Path, tmp_path: Path, gpt2: Tokenizer) -> None:
    def replace(path: Path) -> None:
        if change == "unlink":
            path.unlink()
        else:
            (tmp_path / "new").write_text("new content")
            (tmp_path / "new").rename(path)

    assert during(gpt2, source, tmp_path / "out.bin", replace) is None
    assert gpt2.decode(np.fromfile(tmp_path / "out.bin", "<u2")[:-1]) == TEXT


def test_a_page_that_vanishes_fails_the_job_not_the_process(source: Path, tmp_path: Path) -> None:
    """In a process of its own, with a handler there before ours: faulthandler's must not be disturbed."""
    script = f"""
import faulthandler, os, threading, time
faulthandler.enable()
import tokend
from tokend_client.errors import InputChangedError
keep = open({str(source)!r}, "r+b")
tokenizer = tokend.Tokenizer.load("gpt2")
for n in range(3):
    control = tokend._core.JobControl()
    def cut():
        while control.progress()[0] == 0:
            time.sleep(0.001)
        keep.truncate(50_000)
    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        tokenizer.encode_files([{str(source)!r}], {str(tmp_path / "out.bin")!r}, threads=1, control=control)
        raise SystemExit("no error")
    except InputChangedError as error:
        print("changed")
    cutter.join()
    keep.seek(0)
    keep.write(b"some words of a text, " * 1_500_000)
    keep.flush()
    os.utime({str(source)!r}, (1, 1))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "changed\n" * 3), result.stderr


def test_files_that_the_kernel_makes_up(tmp_path: Path, gpt2: Tokenizer) -> None:
    with pytest.raises(InputInvalidError, match="not a regular file"):
        gpt2.encode_files(["/proc/cpuinfo"], tmp_path / "out.bin")
