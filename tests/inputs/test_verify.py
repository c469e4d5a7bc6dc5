"""`verify` reads what stands beside ids and ends too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokend import Tokenizer, _core
from tokend_client.errors import TokendError


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_damage_in_sidecars_is_found(format: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps({"id": n, "text": f"text {n % 7}"}) + "\n" for n in range(30)))
    gpt2.encode_files([source], output, format=format, id_field="id", deduplicate=True)
    _core.verify(str(output))
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = [path for path in found if "docs" in path.name or "ids" in path.name or "skipped" in path.name]
    assert len(names) == 3
    for path in names:
        data = path.read_bytes()
        path.write_bytes(data[:5] + bytes([data[5] ^ 4]) + data[6:])
        with pytest.raises(TokendError, match=path.name.replace(".", r"\.")):
            _core.verify(str(output))
        path.write_bytes(data[:-1])
        with pytest.raises(TokendError, match=f"{len(data) - 1} bytes, but the manifest says {len(data)}"):
            _core.verify(str(output))
        path.write_bytes(data)
    _core.verify(str(output))
