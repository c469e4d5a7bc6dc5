"""The loader's examples, in docstrings and pages, run as they stand."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from tokend import Tokenizer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["permutation", "mix", "order"])
def test_docstrings(name: str) -> None:
    module = importlib.import_module(f"tokend_client.{name}")
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.attempted > 0 and result.failed == 0


def test_client_readme(
    tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loader's example runs as written."""
    (tmp_path / "corpus.txt").write_text("It was a bright cold day in April. " * 300)
    gpt2.encode_files([tmp_path / "corpus.txt"], tmp_path / "corpus.bin")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "client/README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(next(block for block in blocks if "TokenLoader" in block), "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(8, 64) int64 {'v': 2, 'k': 8")
