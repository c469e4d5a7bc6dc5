"""Token sets on disk as arrays, with no daemon and no Rust.

A set is `OUT.bin` (raw little-endian ids), `OUT.bin.ends` (uint64: tokens up to the end of each
document) and `OUT.bin.json` (the manifest, published last). The stream is one memory map and plain
numpy views over it: a slice costs a microsecond and copies nothing.
"""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from .errors import StreamError

_FORMAT = "tokend-bin"


class TokenStream:
    """A finished token set, as a read-only sequence of ids.

    `stream[i]` is an int, `stream[a:b]` a numpy view in the set's dtype (uint16 or uint32),
    `stream.document(i)` the ids of a document, its end-of-text id included. Thread-safe; after a fork
    the child may go on using it. Checks the files' lengths against the manifest when it opens.

    Parameters: `path` of the data file or its manifest; `fingerprint`, if given, must be that of the
    tokenizer that made the set.

    Raises `StreamError` for a set without a manifest, with files of the wrong length, or made by
    another tokenizer.

        with TokenStream("corpus.bin") as stream:
            x, y = stream[0:1024], stream[1:1025]
    """

    def __init__(self, path: str | os.PathLike[str], *, fingerprint: str | None = None) -> None:
        text = os.fspath(path)
        self.path = Path(text.removesuffix(".json"))
        manifest_path = Path(f"{self.path}.json")
        try:
            manifest: dict[str, Any] = json.loads(manifest_path.read_bytes())
        except FileNotFoundError:
            hint = "the set is incomplete or was not made by tokend" if self.path.exists() else "check the path"
            raise StreamError(f"{manifest_path}: no manifest", hint) from None
        except ValueError as error:
            raise StreamError(f"{manifest_path}: not valid JSON: {error}") from None
        if not isinstance(manifest, dict):
            raise StreamError(f"{manifest_path}: not a manifest")
        if manifest.get("format") != _FORMAT or manifest.get("version") != 1:
            found = f"{manifest.get('format')!r} version {manifest.get('version')!r}"
            raise StreamError(f"{manifest_path}: expected {_FORMAT!r} version 1, found {found}")
        self.manifest = manifest
        try:
            self._open_set(manifest, fingerprint)
        except (KeyError, TypeError) as error:
            raise StreamError(
                f"{manifest_path}: broken manifest ({type(error).__name__}: {error})", "encode the inputs again"
            ) from None

    def _open_set(self, manifest: dict[str, Any], fingerprint: str | None) -> None:
        made_by = manifest["tokenizer"]["fingerprint"]
        if fingerprint is not None and fingerprint != made_by:
            raise StreamError(
                f"{self.path}: made by tokenizer {made_by[:12]}, not {fingerprint[:12]}",
                "encode the inputs again with the tokenizer that you train with",
            )
        folder = self.path.parent
        self._maps: list[mmap.mmap] = []
        self.tokens: NDArray[Any] = self._open(
            folder, manifest["data"], np.dtype(manifest["dtype"]), manifest["n_tokens"]
        )
        """All ids, a read-only view of the file."""
        self.ends: NDArray[np.uint64] = self._open(
            folder, manifest["ends"], np.dtype(np.uint64), manifest["n_documents"]
        )
        """Tokens up to the end of each document, uint64."""
        self._check_ends()

    def _open(self, folder: Path, info: dict[str, Any], dtype: np.dtype[Any], n_items: int) -> NDArray[Any]:
        path = folder / info["file"]
        try:
            with path.open("rb") as file:
                n_bytes = os.fstat(file.fileno()).st_size
                if n_bytes != n_items * dtype.itemsize:
                    raise StreamError(
                        f"{path}: {n_bytes} bytes, but {n_items} items of {dtype.itemsize} bytes are in the manifest"
                    )
                if n_bytes == 0:
                    return np.empty(0, dtype)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise StreamError(f"{path}: missing, though the manifest names it") from None
        self._maps.append(mapped)
        return np.frombuffer(mapped, dtype.newbyteorder("<"))

    def _check_ends(self) -> None:
        last = int(self.ends[-1]) if len(self.ends) else 0
        if last != len(self.tokens):
            raise StreamError(f"{self.path}.ends: the last document ends at {last} of {len(self.tokens)} tokens")

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 or uint32."""
        return self.tokens.dtype

    @property
    def n_tokens(self) -> int:
        """The number of ids."""
        return len(self.tokens)

    @property
    def n_documents(self) -> int:
        """The number of documents."""
        return len(self.ends)

    @property
    def fingerprint(self) -> str:
        """That of the tokenizer that made the set."""
        return str(self.manifest["tokenizer"]["fingerprint"])

    @property
    def tokenizer(self) -> str:
        """The name or path of the tokenizer that made the set."""
        return str(self.manifest["tokenizer"]["name"])

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> NDArray[Any]: ...
    def __getitem__(self, index: int | slice) -> int | NDArray[Any]:
        if isinstance(index, slice):
            view: NDArray[Any] = self.tokens[index]
            return view
        return int(self.tokens[index])

    def document(self, index: int) -> NDArray[Any]:
        """The ids of a document, a view; negative indices count from the end. Raises `IndexError`."""
        n = len(self.ends)
        if not -n <= index < n:
            raise IndexError(f"document {index} of {n}")
        index %= n
        start = int(self.ends[index - 1]) if index else 0
        view: NDArray[Any] = self.tokens[start : int(self.ends[index])]
        return view

    def close(self) -> None:
        """Lets the maps go; arrays that are still in use keep theirs until they are gone."""
        self.tokens = self.tokens[:0].copy()
        self.ends = self.ends[:0].copy()
        self._maps.clear()

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TokenStream({str(self.path)!r}, {len(self)} tokens, {self.n_documents} documents, {self.dtype})"
