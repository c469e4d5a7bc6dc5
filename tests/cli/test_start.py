"""What a command does before its work: a small file is encoded in the time that a few imports take."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from tokend.cli import early
from tokend.cli.parser import _COMMANDS, _width, build_parser
from tokend_client.inputs import Files, expand

SLOW = {"asyncio", "dataclasses", "hashlib", "inspect", "logging", "numpy", "pathlib", "shutil", "sqlite3", "zmq"}
"""Modules that take a millisecond or more, and that no small local job needs."""


def test_a_small_local_job_imports_nothing_slow(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hello, world!")
    arguments = ["encode", "--local", str(tmp_path / "a.txt"), "-o", str(tmp_path / "a.bin")]
    # Isolated from what the environment starts in every interpreter.
    code = "import sys; before = set(sys.modules); from tokend.cli import main; main(sys.argv[1:]); "
    code += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "tokend._core" in imported
    assert not SLOW & imported


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_command_s_own_parser_is_the_one_of_the_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for parser in (build_parser(name), build_parser(None), build_parser("--version")):
        with pytest.raises(SystemExit):
            parser.parse_args([name, "--help"])
        said.append(capsys.readouterr().out)
    assert said[0].startswith(f"usage: tokend {name}") and said[0] == said[1] == said[2]


@pytest.mark.parametrize("columns", ["50", "", "none", "-3", "0", "200"])
def test_help_is_as_wide_as_argparse_makes_it(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    _width.cache_clear()
    assert _width() == argparse.HelpFormatter("tokend")._width
    _width.cache_clear()


def test_a_tokenizer_is_begun_early_for_whom_it_is_likely() -> None:
    for given in (
        ["encode", "a", "-o", "b"],
        ["encode", "--local", "a", "--tokenizer", "x.json"],
        ["encode", "--local", "--tok=x"],
        ["text", "--local"],
        [],
    ):
        early.begin(given)
        assert early.take("gpt2") is None
    early.begin(["encode", "--local", "a", "-o", "b"])
    assert early.take("other") is None and early.take("gpt2") is None, "it is asked for once"
    early.begin(["encode", "--local", "a", "-o", "b"])
    begun = early.take("gpt2")
    assert begun is not None and begun.name == "gpt2"


def test_what_was_listed_is_not_listed_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    files = expand([tmp_path], tmp_path / "out")
    assert files == [str(tmp_path / "a")] and isinstance(files, Files)
    (tmp_path / "b").write_text("b")
    assert expand(files, tmp_path / "out") is files
    assert len(expand([tmp_path], tmp_path / "out")) == 2
