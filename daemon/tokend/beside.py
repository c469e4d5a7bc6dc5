"""What stands beside a trainer's set whose set of ours is not kept: the ids of its documents, and how it was split.

```text
OUT.ids                      a line for each document, in the order of OUT: that of the inputs, or a shuffle's
OUT.train.ids, OUT.val.ids   after a split: the same for each side
OUT.sides                    after a split: uint64 seed, float64 fraction of validation (both little-endian), and a
                             byte for each document in the order of the inputs, 1: validation
```

Documents of sources without ids have the line `null`, but in the order of the inputs none, as beside a set of ours.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, publish
from .sources import is_of_records

_HEAD_BYTES = 16


def keep(made: str, output: str, *, val_fraction: float, seed: int, is_shuffled: bool) -> list[str]:
    """Puts beside `output` what the set `made`, of which it was made, knows of its documents; returns the files."""
    with open(f"{made}.json", encoding="utf-8") as file:
        manifest: dict[str, Any] = json.load(file)
    n_documents = manifest["n_documents"]
    files: dict[str, bytes] = {}
    sides: NDArray[np.bool_] | None = None
    if val_fraction:
        sides = _core.sides(made, val_fraction, seed)
        files["sides"] = _head(seed, val_fraction) + sides.tobytes()
    if "ids" in manifest:
        ids = Path(f"{made}.ids").read_bytes()
        if not is_shuffled and sides is None:
            files["ids"] = ids
        else:
            order = _core.shuffled(n_documents, seed, n_documents) if is_shuffled else np.arange(n_documents)
            lines = _line_of_each(ids, manifest["sources"])
            if sides is None:
                files["ids"] = b"".join(lines[number] for number in order)
            else:
                files["train.ids"] = b"".join(lines[number] for number in order if not sides[number])
                files["val.ids"] = b"".join(lines[number] for number in order if sides[number])
    for name, data in files.items():
        _write(output, name, data)
    return [f"{output}.{name}" for name in files]


def _line_of_each(ids: bytes, sources: list[dict[str, Any]]) -> list[bytes]:
    lines = iter(ids.splitlines(keepends=True))
    return [
        next(lines) if is_of_records(source) else b"null\n" for source in sources for _ in range(source["n_documents"])
    ]


def _head(seed: int, val_fraction: float) -> bytes:
    return struct.pack("<Qd", seed, val_fraction)


def _write(output: str, name: str, data: bytes) -> None:
    partial = publish.hidden_folder(output, f"{name}.partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, f"{output}.{name}")


def read_sides(path: Path, n_documents: int, *, val_fraction: float, seed: int) -> NDArray[np.bool_] | None:
    """What `keep` wrote of the same split; None if nothing did."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) != _HEAD_BYTES + n_documents or data[:_HEAD_BYTES] != _head(seed, val_fraction):
        return None
    return np.frombuffer(data, np.bool_, offset=_HEAD_BYTES)
