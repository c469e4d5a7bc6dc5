"""Whether SQLite's write-ahead log is whole, which SQLite itself does not say.

It ends its reading of a log at the first frame that does not check, and takes what follows for never
written. After a crash that is right for the last transaction. Frames of the same log *behind* a bad one
were written after it, so the bad one was good once.

    header 32 bytes: magic, version, page size, checkpoint, salt 1, salt 2, checksum 1, checksum 2
    frame  24 bytes: page number, database pages (0: no commit), salt 1, salt 2, checksum 1 and 2; page

All numbers are u32 big-endian; the checksums go over the words in the byte order that the magic names.
"""

from __future__ import annotations

import struct
from pathlib import Path


def damage_of(path: Path) -> str | None:
    """What is wrong with a write-ahead log, in words; None if nothing is, or if there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if not data:
        return None
    if len(data) < 32:
        return f"its log is cut short at {len(data)} bytes"
    magic, _, page_size, _, salt_1, salt_2, sum_1, sum_2 = struct.unpack(">8I", data[:32])
    if magic not in (0x377F0682, 0x377F0683) or not 512 <= page_size <= 65536:
        return "its log has a damaged header"
    order = ">" if magic & 1 else "<"
    state = _checksum(data[:24], (0, 0), order)
    if state != (sum_1, sum_2):
        return "its log has a damaged header"
    good = True
    for start in range(32, len(data) - 24 - page_size + 1, 24 + page_size):
        fields = struct.unpack(">6I", data[start : start + 24])
        if fields[2:4] != (salt_1, salt_2):
            break
        if not good:
            return "a frame in the middle of its log is damaged"
        state = _checksum(data[start : start + 8], state, order)
        state = _checksum(data[start + 24 : start + 24 + page_size], state, order)
        good = state == fields[4:6]
    return None


def _checksum(data: bytes, state: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = state
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for left, right in zip(words[::2], words[1::2], strict=True):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF
    return first, second
