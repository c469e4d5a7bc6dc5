"""Which format a path holds, by content."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tokend_client.errors import StreamError

MEGATRON_MAGIC = b"MMIDIDX\0\0"
NUMPY_MAGIC = b"\x93NUMPY"
LLMC_MAGICS = {20240520: 2, 20240801: 4, 278895051: 0}
"""Magic numbers and bytes of an id; 0: the header's fourth word tells."""


def recognise(path: Path) -> tuple[str, list[Path]] | None:
    """The format of a set and its files, or None for what is none that is known here.

    A folder may be `train` and `val` folders of one format. Megatron sets are known by their common prefix too, also
    of two that are `PREFIX_train` and `PREFIX_val`. A file of ids without any header is `raw`, if its name ends in
    `.bin`. The note of a set that tokend converted stands for it.
    Raises `StreamError` for an `index.json` that is none.
    """
    if path.name == "tokend.json":
        path = path.parent
    if path.is_dir():
        return _folder(path)
    if path.name == "index.json":
        return _by_index(path)
    prefix = str(path).removesuffix(".tokend.json").removesuffix(".idx").removesuffix(".bin")
    if _is_megatron(prefix):
        return "megatron", [Path(prefix)]
    if parts := [Path(f"{prefix}{part}") for part in ("_train", "_val") if _is_megatron(f"{prefix}{part}")]:
        return "megatron", parts
    return _file(path) if path.is_file() else None


def _is_megatron(prefix: str) -> bool:
    return _head(Path(f"{prefix}.idx"), 9) == MEGATRON_MAGIC


def _file(path: Path) -> tuple[str, list[Path]] | None:
    head = _head(path, 6)
    if int.from_bytes(head[:4], "little") in LLMC_MAGICS:
        return "llmc", [path]
    if path.suffix == ".ds":
        return "datatrove", [path]
    if head == NUMPY_MAGIC:
        return "npy", [path]
    if path.suffix == ".npy":
        return "olmo", [path]
    return ("raw", [path]) if path.suffix == ".bin" else None


def _folder(folder: Path) -> tuple[str, list[Path]] | None:
    if (folder / "index.json").is_file():
        return _by_index(folder / "index.json")
    names = sorted(os.listdir(folder))
    parts = [folder / name for name in ("train", "val") if name in names and (folder / name).is_dir()]
    if parts:
        found = [recognise(part) for part in parts]
        kinds = {part[0] for part in found if part is not None}
        files = [file for part in found if part is not None for file in part[1]]
        return (kinds.pop(), files) if len(kinds) == 1 else None
    for suffix in (".idx", ".ds", ".npy", ".bin"):
        files = [folder / name for name in names if name.endswith(suffix) and not name.endswith(".bos.idx")]
        found = [recognise(file) for file in files]
        kinds = {part[0] for part in found if part is not None}
        if len(kinds) == 1 and None not in found:
            return kinds.pop(), [file for part in found if part is not None for file in part[1]]
    return None


def _by_index(path: Path) -> tuple[str, list[Path]]:
    try:
        index = json.loads(path.read_bytes())
    except ValueError as error:
        raise StreamError(f"{path}: it is cut off or no JSON: {error}", "copy it again") from None
    if isinstance(index, dict) and isinstance(index.get("chunks"), list) and isinstance(index.get("config"), dict):
        return "litdata", [path]
    if isinstance(index, dict) and isinstance(index.get("shards"), list):
        return "mds", [path]
    raise StreamError(f"{path}: no index of litData (chunks, config) or of MDS (shards)", "copy it again")


def _head(path: Path, n_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError:
        return b""
