from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "JobControl",
    "StreamEncoder",
    "Tokenizer",
    "check_export",
    "check_paths",
    "default_threads",
    "discard_partials",
    "encode_files",
    "export",
    "export_formats",
    "hash_prefixes",
    "published_encoding",
    "read_record",
    "retire",
    "verify",
]

@final
class Tokenizer:
    @staticmethod
    def load(name_or_path: str) -> Tokenizer: ...
    @staticmethod
    def from_tiktoken(path: str, pattern: str, special_tokens: dict[str, int], name: str) -> Tokenizer: ...
    @staticmethod
    def from_merges(
        vocab: dict[int, bytes],
        merges: list[tuple[bytes, bytes]],
        special_tokens: list[tuple[str, int]],
        pattern: str,
    ) -> Tokenizer: ...
    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def is_wide(self) -> bool: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def special_tokens(self) -> dict[str, int]: ...
    @property
    def eot_id(self) -> int | None: ...
    @property
    def pattern(self) -> str: ...
    @property
    def reference(self) -> str: ...
    def encode(self, text: str, special: str) -> NDArray[Any]: ...
    def encode_utf8(self, data: bytes, special: str) -> NDArray[Any]: ...
    def encode_batch(self, texts: list[str], special: str) -> tuple[NDArray[Any], NDArray[np.uint64]]: ...
    def encode_batch_utf8(
        self, data: bytes, ends: NDArray[np.uint64], special: str
    ) -> tuple[NDArray[Any], NDArray[np.uint64]]: ...
    def count_utf8(self, data: bytes, special: str) -> int: ...
    def decode_bytes(self, ids: NDArray[np.uint32]) -> bytes: ...
    def token_bytes(self, id: int) -> bytes: ...
    def cache_stats(self) -> dict[str, int]: ...
    def cache_clear(self) -> None: ...
    def load_cache(self, path: str) -> bool: ...
    def save_cache(self, path: str) -> bool: ...
    def stream(self, special: str) -> StreamEncoder: ...

@final
class StreamEncoder:
    def push(self, text: str) -> NDArray[Any]: ...
    def finish(self) -> NDArray[Any]: ...

@final
class JobControl:
    def __new__(cls) -> JobControl: ...
    def cancel(self) -> None: ...
    def suspend(self) -> None: ...
    def set_threads(self, n_threads: int) -> None: ...
    def set_ceiling(self, n_tokens: int) -> None: ...
    def set_wanted(self, n_tokens: int) -> None: ...
    def retire(self, before: int) -> None: ...
    def progress(self) -> tuple[int, int, int, int]: ...
    def n_skipped(self) -> int: ...

def encode_files(
    tokenizer: Tokenizer,
    inputs: list[str],
    output: str,
    *,
    separator: str | None,
    eot: str,
    eot_id: int | None,
    special: str | None,
    errors: str,
    threads: int,
    force: bool,
    roots: list[str],
    control: JobControl,
    format: str = "bin",
    resume: bool = False,
    partial_key: str | None = None,
    records: dict[str, Any] | None = None,
    retire: bool = False,
    known_texts: list[str] | None = None,
    more: list[tuple[str, str]] = ...,
) -> str: ...
def check_paths(
    inputs: list[str],
    output: str,
    *,
    force: bool,
    roots: list[str],
    format: str = "bin",
    resume: bool = False,
    partial_key: str | None = None,
    records: dict[str, Any] | None = None,
    retire: bool = False,
    more: list[tuple[str, str]] = ...,
) -> int: ...
def discard_partials(
    output: str, partial_key: str | None = None, format: str = "bin", *, roots: list[str] = ...
) -> bool: ...
def export(
    input: str,
    output: str,
    format: str,
    *,
    eot: str | None = None,
    eot_id: int | None = None,
    shard_tokens: int | None = None,
    shard_bytes: int | None = None,
    shard_documents: int | None = None,
    row_tokens: int | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
    shuffle: bool = False,
    force: bool = False,
    sibling: tuple[str, str] | None = None,
    control: JobControl | None = None,
) -> str: ...
def check_export(
    output: str,
    format: str,
    *,
    shard_tokens: int | None,
    shard_bytes: int | None,
    shard_documents: int | None,
    row_tokens: int | None,
    val_fraction: float,
    force: bool,
) -> None: ...
def hash_prefixes(path: str, lengths: list[int], control: JobControl | None = None) -> list[str]: ...
def read_record(path: str, place: int, n_bytes: int, field: str | None = None) -> bytes: ...
def export_formats() -> list[str]: ...
def retire(output: str, before: int, *, roots: list[str] = ...) -> int: ...
def verify(path: str, *, roots: list[str] = ...) -> str: ...
def default_threads() -> int: ...
def published_encoding(name: str) -> tuple[str, str, list[tuple[str, int]]] | None: ...
