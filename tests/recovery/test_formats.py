"""Trainers' formats whose run was killed when they were there, and not yet what stands beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokend import conversions
from tokend.cli import convert, main

FORMATS = ["--format", "mds", "--format", "llmc"]


class _Killed(BaseException):
    pass


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "module", "name", "n_calls", "is_before"),
    [
        ("encode", conversions, "keep_places", 1, True),
        ("encode", conversions, "keep_places", 1, False),
        ("encode", conversions, "keep_places", 2, True),
        ("encode", convert, "keep_account", 1, True),
        ("encode", convert, "keep_account", 1, False),
        ("encode", conversions, "remove_set", 1, True),
        ("convert", conversions, "keep_places", 1, True),
        ("convert", conversions, "keep_places", 1, False),
        ("convert", conversions, "keep_places", 2, True),
    ],
)
def test_the_same_command_ends_it(
    command: str,
    module: Any,
    name: str,
    n_calls: int,
    is_before: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"id": n, "text": f"text {n}"}) + "\n" for n in range(50)) + "{bad\n")
    words = ["encode", str(source), "--local", "--no-reuse", "--bad-documents", "skip", "--id-field", "id", "-o"]
    if command == "convert":
        assert main([*words, str(tmp_path / "set.bin")]) == 0
        words = ["convert", str(tmp_path / "set.bin"), "-o"]
    assert main([*words, str(whole / "o"), *FORMATS]) == 0
    function, n_left = getattr(module, name), n_calls

    def killed(*arguments: Any) -> None:
        nonlocal n_left
        n_left -= 1
        if n_left == 0 and is_before:
            raise _Killed
        function(*arguments)
        if n_left == 0:
            raise _Killed

    with monkeypatch.context() as patched, pytest.raises(_Killed):
        patched.setattr(module, name, killed)
        main([*words, str(again / "o"), *FORMATS])
    assert {"o.mds", "o.llmc"} <= {path.name for path in again.iterdir()}
    assert main([*words, str(again / "o"), *FORMATS]) == 0
    assert files(again) == files(whole)
    assert {"o.mds.docs", "o.llmc.docs"} <= set(files(again))


def test_a_set_of_other_options_is_kept(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text":"a text"}\n{"text":"b"}\n')
    command = ["encode", str(tmp_path / "in.jsonl"), "--local", "--no-reuse", *FORMATS, "-o", str(tmp_path / "o")]
    assert main(command) == 0
    other = conversions.hidden_set(str(tmp_path / "o"))
    assert main(["encode", str(tmp_path / "in.jsonl"), "--local", "--min-tokens", "2", "-o", other]) == 0
    before = files(tmp_path)
    assert main(command) == 0
    assert files(tmp_path) == before
