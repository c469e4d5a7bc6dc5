"""The examples in docstrings, and the figures that several files must agree on."""

from __future__ import annotations

import doctest
import importlib
import re
import tomllib
from pathlib import Path

import pytest
import tokend
import tokend_client

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["tokend", "tokend.tokenizer", "tokend_client.errors"])
def test_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0


def test_one_version_everywhere() -> None:
    versions = {
        tokend.__version__,
        tokend_client.__version__,
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"],
        tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]["version"],
        tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"],
    }
    assert len(versions) == 1


def test_no_pickle_and_no_open_socket() -> None:
    for path in [*ROOT.glob("daemon/**/*.py"), *ROOT.glob("client/**/*.py")]:
        code = path.read_text()
        assert not re.search(r"import pickle|send_pyobj|recv_pyobj|tcp://\*", code), path


def test_readme_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's in-process example runs as written."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("a b c")
    exec(compile(blocks[0], "README.md", "exec"), {})
