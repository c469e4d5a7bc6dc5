"""Every way in which a content can lie in a file: plain, or compressed in one piece or in several.

Python's modules write one member, stream or frame at a time; several in a row are one content. What they do not
write is put together here: BGZF members, which say how long they are, and an xz stream of several blocks:

    header (12 bytes) | block | block | ... | index | footer (12 bytes)
    index  = 0 | number of blocks | for each: unpadded size, content size | zeros up to 4 bytes | CRC-32
    footer = CRC-32 of what follows | (bytes of index / 4 - 1): u32 | flags: u16 | "YZ"

Numbers of the index have seven bits a byte, the low ones first, the high bit set in all but the last.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable
from functools import partial
from itertools import accumulate

from . import naive


def bgzf(part: bytes) -> bytes:
    """A gzip member that says how long it is."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = packer.compress(part) + packer.flush()
    head = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H2sHH", 6, b"BC", 2, len(data) + 25)
    return head + data + struct.pack("<II", zlib.crc32(part), len(part))


def xz_blocks(parts: list[bytes]) -> bytes:
    """One xz stream with a block for each part."""
    head, blocks, sizes = b"", b"", b""
    for part in parts:
        stream = lzma.compress(part)
        n_index = 4 * (struct.unpack("<I", stream[-8:-4])[0] + 1)
        head, flags = stream[:12], stream[-4:-2]
        index = stream[-12 - n_index : -12]
        # 0, one block, its two sizes, zeros, checksum.
        blocks += stream[12 : -12 - n_index]
        sizes += b"".join(_number(size) for size in _numbers(index[2:-4])[:2])
    index = b"\0" + _number(len(parts)) + sizes
    index += bytes(-len(index) % 4)
    index += struct.pack("<I", zlib.crc32(index))
    foot = struct.pack("<I", len(index) // 4 - 1) + flags
    return head + blocks + index + struct.pack("<I", zlib.crc32(foot)) + foot + b"YZ"


def _number(value: int) -> bytes:
    low = b""
    while value >= 0x80:
        low += bytes([value & 0x7F | 0x80])
        value >>= 7
    return low + bytes([value])


def _numbers(data: bytes) -> list[int]:
    found, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift = shift + 7 if byte & 0x80 else 0
        if not byte & 0x80:
            found.append(value)
            value = 0
    return found


def pieces(kind: str, data: bytes, n_bytes: int = 5000) -> list[bytes]:
    """Frames, members or streams of a few bytes of content each, cut wherever that is; an empty one among them."""
    parts = [data[at : at + n_bytes] for at in range(0, len(data), n_bytes)]
    parts.insert(3, b"")
    if kind == "xz-blocks":
        return [xz_blocks([part for part in parts if part])]
    packed = [bgzf(part) if kind == "bgzf" else naive.compress_one(kind, part) for part in parts]
    if kind == "zst":
        # A skippable frame, as the seekable format ends with.
        packed.append(struct.pack("<II", 0x184D2A5E, 9) + b"123456789")
    return packed


def in_parts(kind: str, data: bytes, n_bytes: int = 5000) -> bytes:
    """All of them in a row."""
    return b"".join(pieces(kind, data, n_bytes))


IN_PARTS = ("bgzf", "bz2", "xz", "xz-blocks", "zst")
"""The kinds whose parts are decoded side by side."""


def _n_bytes(data: bytes) -> int:
    return min(len(data) // 5 + 1, 5000)


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    **{kind: partial(naive.compress_one, kind) for kind in naive.KINDS},
    **{f"{kind} in parts": lambda data, kind=kind: in_parts(kind, data, _n_bytes(data)) for kind in ("gz", *IN_PARTS)},
}


def borders(container: str, data: bytes) -> set[int]:
    """Where a file may be cut without anybody being able to tell: between its pieces."""
    kind, _, in_parts = container.partition(" ")
    return set(accumulate(map(len, pieces(kind, data, _n_bytes(data))))) if in_parts else set()
