"""Streams as arrays: growing directories, and the files of other tools byte by byte."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokend import Tokenizer
from tokend_client import TokenLoader, TokenStream
from tokend_client.errors import NotFoundError, RetiredError, StreamError
from tokend_client.stream.segment import Segments
from tokend_client.testing import StreamWriter

from . import naive

DOCUMENTS = naive.documents(seed=1, n=60, longest=90)
FLAT = np.concatenate(DOCUMENTS)
ENDS = np.cumsum([len(document) for document in DOCUMENTS])


def check(stream: TokenStream) -> None:
    """Everything that reads must agree with the plain arrays."""
    assert len(stream) == stream.n_tokens == len(FLAT)
    assert stream.n_documents == len(DOCUMENTS)
    assert np.array_equal(stream[:], FLAT) and np.array_equal(stream[7:-9], FLAT[7:-9])
    assert np.array_equal(stream[5:900:7], FLAT[5:900:7]) and np.array_equal(stream[900:5:-7], FLAT[900:5:-7])
    assert np.array_equal(stream[::-1], FLAT[::-1]) and len(stream[9:3]) == 0
    assert stream[0] == FLAT[0] and stream[-1] == FLAT[-1] and type(stream[3]) is int
    for bad in (len(FLAT), -len(FLAT) - 1):
        with pytest.raises(IndexError):
            stream[bad]
    for number, document in enumerate(DOCUMENTS):
        assert np.array_equal(stream.document(number), document)
    assert np.array_equal(stream.document(-1), DOCUMENTS[-1])
    for bad in (len(DOCUMENTS), -len(DOCUMENTS) - 1):
        with pytest.raises(IndexError):
            stream.document(bad)
    assert np.array_equal(stream.ends, ENDS)
    positions = np.arange(len(FLAT))
    assert np.array_equal(stream.documents_at(positions), np.searchsorted(ENDS, positions, "right"))
    rng = np.random.default_rng(0)
    for _ in range(50):
        start, stop = sorted(rng.integers(0, len(FLAT), 2).tolist())
        assert np.array_equal(stream.ends_between(start, stop), ENDS[(start < ENDS) & (stop >= ENDS)])
    starts = rng.integers(0, len(FLAT) - 150, 40)
    rows = stream.gather(starts, 150)
    assert np.array_equal(rows, FLAT[starts[:, None] + np.arange(150)])
    span, position, document = stream.boundaries(starts, np.full(40, 150))
    expected = [
        (n, end, number + 1)
        for n, start in enumerate(starts.tolist())
        for number, end in enumerate(ENDS.tolist())
        if start < end < start + 150
    ]
    assert list(zip(span.tolist(), position.tolist(), document.tolist(), strict=True)) == expected
    with pytest.raises(IndexError):
        stream.gather(np.array([len(FLAT) - 149]), 150)
    origin = stream.explain(int(ENDS[4]) + 1)
    assert (origin.document, origin.offset_in_document) == (5, 1)


def write_native(folder: Path, **options: Any) -> StreamWriter:
    writer = StreamWriter(folder, **options)
    for number, document in enumerate(DOCUMENTS):
        writer.append(document)
        if number % 7 == 6:
            writer.commit()
    return writer


@pytest.mark.parametrize("segment_tokens", [1, 300, 10**6])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_native(tmp_path: Path, segment_tokens: int, dtype: str) -> None:
    write_native(tmp_path / "s", segment_tokens=segment_tokens, dtype=dtype).seal()
    with TokenStream(tmp_path / "s") as stream:
        assert stream.dtype == dtype and stream.state == "sealed"
        check(stream)
        check(pickle.loads(pickle.dumps(stream)))
        assert not stream[2:5].flags.writeable
    with TokenStream(tmp_path / "s" / "manifest.json") as stream:
        check(stream)


def test_a_document_over_several_segments(tmp_path: Path) -> None:
    writer = StreamWriter(tmp_path, segment_tokens=10)
    for part in range(5):
        writer.append(np.arange(part * 12, part * 12 + 12), end_document=part == 4)
        writer.commit()
    stream = TokenStream(tmp_path)
    assert stream.n_documents == 1 and stream.document(0).tolist() == list(range(60))
    assert stream.documents_at(np.array([0, 30, 59])).tolist() == [0, 0, 0]
    writer.append([1, 2], end_document=False)
    writer.commit()
    assert stream.refresh() and stream.n_tokens == 62
    assert stream.documents_at(np.array([59, 60, 61])).tolist() == [0, 1, 1]


def test_growth(tmp_path: Path) -> None:
    writer = StreamWriter(tmp_path, segment_tokens=30)
    writer.append([1, 2, 3])
    writer.commit()
    stream = TokenStream(tmp_path)
    early = stream[:]
    assert not stream.refresh() and stream.state == "growing"
    writer.append([4] * 40)  # On disk, but not committed.
    assert not stream.refresh() and len(stream) == 3
    writer.commit()
    assert stream.refresh() and len(stream) == 43
    writer.append([5])
    writer.seal()
    assert stream.refresh() and stream.state == "sealed" and stream[-1] == 5
    assert not stream.refresh() and early.tolist() == [1, 2, 3]


def test_a_stream_that_is_replaced_or_shrinks(tmp_path: Path) -> None:
    writer = StreamWriter(tmp_path / "a", stream_id="one")
    writer.append([1, 2, 3])
    writer.commit()
    stream = TokenStream(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps({**manifest, "stream_id": "two"}))
    with pytest.raises(StreamError, match="replaced by two"):
        stream.refresh()
    empty = {**manifest, "n_tokens": 0, "n_documents": 0, "segments": [], "commit": 9}
    path.write_text(json.dumps(empty))
    with pytest.raises(StreamError, match="commit 9 has 0 tokens, but commit 1 had 3"):
        stream.refresh()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_tokens": 5}, "5 tokens and 1 documents, but its segments have 3 and 1"),
        ({"dtype": "float32"}, "neither uint16 nor uint32"),
        ({"state": "odd"}, "none of growing"),
        ({"version": 2}, "version 2"),
        ({"segments": 3}, "broken manifest"),
        ({"tokenizer": {}}, "broken manifest"),
    ],
)
def test_broken_manifests(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    writer = StreamWriter(tmp_path)
    writer.append([1, 2, 3])
    writer.commit()
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(StreamError, match=message):
        TokenStream(tmp_path)


def test_missing_and_short_files(tmp_path: Path) -> None:
    writer = write_native(tmp_path)
    writer.seal()
    os.truncate(tmp_path / "tokens-00000.bin", 100)
    with pytest.raises(StreamError, match=r"tokens-00000\.bin: 100 bytes, but \d+ bytes"):
        TokenStream(tmp_path)
    (tmp_path / "tokens-00000.bin").unlink()
    with pytest.raises(StreamError, match="missing"):
        TokenStream(tmp_path)
    with pytest.raises(StreamError, match="no manifest"):
        TokenStream(tmp_path / "nothing")


def test_tokenizer_is_checked(tmp_path: Path) -> None:
    write_native(tmp_path).seal()
    assert TokenStream(tmp_path, fingerprint="f" * 64).tokenizer == "fake"
    with pytest.raises(StreamError, match="made by tokenizer ffffffffffff, not 000000000000"):
        TokenStream(tmp_path, fingerprint="0" * 64)


def test_explain_names_the_input(tmp_path: Path, gpt2: Tokenizer) -> None:
    for name, text in (("a.txt", "one|two|three|"), ("b.txt", "four|five|")):
        (tmp_path / name).write_text(text)
    gpt2.encode_files([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "out.bin", separator="|")
    stream = TokenStream(tmp_path / "out.bin")
    start, _ = stream.document_bounds(4)
    origin = stream.explain(start)
    assert origin.source == str(tmp_path / "b.txt")
    assert (origin.document, origin.document_in_source, origin.offset_in_document) == (4, 1, 0)
    assert gpt2.decode(stream.document(4)) == "five<|endoftext|>"


def write_megatron(prefix: Path, dtype: str, code: int, split: int = 0) -> None:
    """With `split`, documents of more tokens have two sequences."""
    lengths: list[int] = []
    bounds = [0]
    for document in DOCUMENTS:
        parts = [split, len(document) - split] if split and len(document) > split else [len(document)]
        lengths += parts
        bounds.append(len(lengths))
    pointers = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * np.dtype(dtype).itemsize
    Path(f"{prefix}.bin").write_bytes(FLAT.astype(dtype).tobytes())
    Path(f"{prefix}.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, code, len(lengths), len(bounds))
        + np.array(lengths, "<i4").tobytes()
        + pointers.astype("<i8").tobytes()
        + np.array(bounds, "<i8").tobytes()
    )


@pytest.mark.parametrize(("dtype", "code"), [("<u2", 8), ("<i4", 4)])
@pytest.mark.parametrize("split", [0, 20])
@pytest.mark.parametrize("suffix", ["", ".bin", ".idx"])
def test_megatron(tmp_path: Path, dtype: str, code: int, split: int, suffix: str) -> None:
    write_megatron(tmp_path / "m", dtype, code, split)
    stream = TokenStream(f"{tmp_path}/m{suffix}")
    assert stream.dtype == np.dtype(dtype)
    check(stream)


def test_megatron_cut_short(tmp_path: Path) -> None:
    write_megatron(tmp_path / "m", "<u2", 8)
    os.truncate(tmp_path / "m.bin", 2 * len(FLAT) - 2)
    with pytest.raises(StreamError, match=r"m\.bin: \d+ bytes, but its header or index says"):
        TokenStream(tmp_path / "m")
    os.truncate(tmp_path / "m.idx", 100)
    with pytest.raises(StreamError, match=r"m\.idx: 100 bytes"):
        TokenStream(tmp_path / "m")


def write_llmc(folder: Path, magic: int, version: int, dtype: str) -> None:
    """As modded-nanogpt has it: the end-of-text id begins each document."""
    folder.mkdir()
    turned = [np.concatenate([document[-1:], document[:-1]]) for document in DOCUMENTS]
    for number, shard in enumerate((turned[:20], turned[20:])):
        tokens = np.concatenate(shard).astype(dtype)
        header = np.zeros(256, "<i4")
        header[:3] = magic, version, len(tokens)
        (folder / f"train_{number:06d}.bin").write_bytes(header.tobytes() + tokens.tobytes())


@pytest.mark.parametrize(("magic", "version", "dtype"), [(20240520, 1, "<u2"), (20240801, 7, "<u4")])
@pytest.mark.parametrize("path", ["llmc", "llmc/train_*.bin"])
def test_llmc(tmp_path: Path, magic: int, version: int, dtype: str, path: str) -> None:
    write_llmc(tmp_path / "llmc", magic, version, dtype)
    stream = TokenStream(tmp_path / path, eot_id=naive.EOT)
    assert stream.dtype == np.dtype(dtype) and stream.n_documents == len(DOCUMENTS)
    for number, document in enumerate(DOCUMENTS):
        assert np.array_equal(stream.document(number), [naive.EOT, *document[:-1]])
    without = TokenStream(tmp_path / path)
    assert np.array_equal(without[:], stream[:])
    with pytest.raises(StreamError, match="eot_id"):
        without.document(0)


@pytest.mark.parametrize("eot_at", ["start", "end"])
@pytest.mark.parametrize("sizes", [[100, 700, 0, 40], [1, 1, 1, 5], [60, 0]])
def test_llmc_documents_go_on_in_the_next_shard(tmp_path: Path, eot_at: Any, sizes: list[int]) -> None:
    """llm.c cuts its shards wherever they are full, so a document may begin in one and end in another."""
    documents = [document if eot_at == "end" else np.roll(document, 1) for document in DOCUMENTS]
    flat = np.concatenate(documents)
    at = 0
    for number, size in enumerate([*sizes, len(flat)]):
        part = flat[at : at + size].astype("<u2")
        at += size
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(part)
        (tmp_path / f"web_train_{number:06d}.bin").write_bytes(header.tobytes() + part.tobytes())
    stream = TokenStream(tmp_path, eot_id=naive.EOT, eot_at=eot_at)
    assert stream.n_documents == len(documents)
    for number, document in enumerate(documents):
        assert np.array_equal(stream.document(number), document)
    positions = np.arange(len(flat))
    expected = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    assert np.array_equal(stream.documents_at(positions), expected)


def test_splits_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_llmc(tmp_path / "llmc", 20240520, 1, "<u2")
    shard = tmp_path / "llmc" / "train_000000.bin"
    (tmp_path / "llmc" / "web_val_000000.bin").write_bytes(shard.read_bytes())
    with pytest.raises(StreamError, match=r"train and of val are no one stream\nhint: .*llmc/\*train\*'"):
        TokenStream(tmp_path / "llmc")
    assert len(TokenStream(tmp_path / "llmc/*train*")) == len(FLAT)


def test_llmc_of_a_wrong_length(tmp_path: Path) -> None:
    write_llmc(tmp_path / "llmc", 20240520, 1, "<u2")
    with (tmp_path / "llmc" / "train_000001.bin").open("ab") as file:
        file.write(b"xx")
    with pytest.raises(StreamError, match=r"train_000001\.bin: \d+ bytes, but its header"):
        TokenStream(tmp_path / "llmc")


@pytest.mark.parametrize("size", [2, 4])
def test_datatrove(tmp_path: Path, size: int) -> None:
    for name, part in (("000", DOCUMENTS[:25]), ("001", DOCUMENTS[25:])):
        (tmp_path / f"{name}_x.ds").write_bytes(np.concatenate(part).astype(f"<u{size}").tobytes())
        ends = np.cumsum([len(document) for document in part]).astype("<u8")
        (tmp_path / f"{name}_x.ds.index").write_bytes(ends.tobytes())
        (tmp_path / f"{name}_x.ds.metadata").write_text(f"gpt2|{size}\n{ends[-1]}\n1 KT")
    check(TokenStream(tmp_path))
    assert len(TokenStream(tmp_path / "000_x.ds")) == sum(len(document) for document in DOCUMENTS[:25])
    (tmp_path / "001_x.ds.metadata").write_text(f"mistral|{size}\n1\n1 KT")
    with pytest.raises(StreamError, match="tokenizer 'mistral' among files of 'gpt2'"):
        TokenStream(tmp_path)
    (tmp_path / "001_x.ds.metadata").unlink()
    with pytest.raises(NotFoundError, match=r"001_x\.ds\.metadata"):
        TokenStream(tmp_path)


def test_other_tools_tokenizers_are_not_mixed(tmp_path: Path) -> None:
    """As far as the formats tell: datatrove has a name, llm.c a word that stands for one."""
    for name, tokenizer, size in (("a", "gpt2", 2), ("b", "mistral", 2), ("c", "gpt2", 4)):
        (tmp_path / f"{name}.ds").write_bytes(FLAT.astype(f"<u{size}").tobytes())
        (tmp_path / f"{name}.ds.metadata").write_text(f"{tokenizer}|{size}\n")
    for number, (magic, version, dtype) in enumerate([(20240520, 1, "<u2"), (20240801, 7, "<u4")]):
        write_llmc(tmp_path / f"llmc{number}", magic, version, dtype)
    pairs = [("a.ds", "b.ds", "gpt2.* mistral"), ("a.ds", "c.ds", "16.* 32"), ("llmc0", "llmc1", "16 bits .* 32 bits")]
    for one, two, message in pairs:
        with pytest.raises(StreamError, match=f"different tokenizers: .*{message}"):
            TokenLoader({"one": tmp_path / one, "two": tmp_path / two}, seq_len=8, global_batch=2)
    TokenLoader({"one": tmp_path / "a.ds", "two": tmp_path / "llmc0"}, seq_len=8, global_batch=2)


def test_raw(tmp_path: Path) -> None:
    FLAT.astype("<u2").tofile(tmp_path / "train.bin")
    check(TokenStream(tmp_path / "train.bin", dtype="uint16", eot_id=naive.EOT))
    with pytest.raises(StreamError, match=r"no manifest\nhint: .*dtype='uint16'"):
        TokenStream(tmp_path / "train.bin")
    with pytest.raises(ValueError, match="token ids are"):
        TokenStream(tmp_path / "train.bin", dtype="float64")


def test_retired_segments(tmp_path: Path) -> None:
    """What is left reads as before; what is gone says so; counts stay."""
    writer = write_native(tmp_path / "s", segment_tokens=300)
    writer.commit()
    early = TokenStream(tmp_path / "s")
    assert early[5] == FLAT[5]
    at = early._snapshot.segments[2].first_token + 10
    writer.retire(at)
    writer.seal()
    files = sorted(path.name for path in (tmp_path / "s").glob("*-*"))
    assert files[0] == "ends-00002.u64" and "tokens-00002.bin" in files and "tokens-00001.bin" not in files
    assert early[5] == FLAT[5], "a map that is there still shows it"
    assert early.refresh()
    for stream in (early, TokenStream(tmp_path / "s")):
        first = int(stream._snapshot.firsts[2])
        assert stream.n_tokens == len(FLAT) and stream.n_documents == len(DOCUMENTS)
        assert np.array_equal(stream[first:], FLAT[first:])
        positions = np.arange(first, len(FLAT))
        assert np.array_equal(stream.documents_at(positions), np.searchsorted(ENDS, positions, "right"))
        for start in (0, first - 1):
            with pytest.raises(RetiredError, match=r"tokens-0000[01]\.bin: tokens [\d,]+ to [\d,]+ were retired"):
                stream[start : first + 5]
        with pytest.raises(RetiredError):
            stream.document(0)


def test_maps_are_let_go_and_made_again(tmp_path: Path) -> None:
    write_native(tmp_path / "s", segment_tokens=300).seal()
    stream = TokenStream(tmp_path / "s")
    check(stream)
    segments = stream._snapshot.segments
    kept = stream[0:20]
    stream.release(segments[2].first_token)
    assert "tokens" not in segments[1].__dict__ and "tokens" in segments[2].__dict__
    assert np.array_equal(kept, FLAT[:20]), "an array in use keeps its map"
    check(stream)


def test_many_segments(tmp_path: Path) -> None:
    """Only those that are read are opened; a manifest that has not changed is not read again."""
    writer = StreamWriter(tmp_path / "s", segment_tokens=1)
    for number in range(300):
        writer.append([number, naive.EOT])
        writer.commit()
    stream = TokenStream(tmp_path / "s")
    assert len(stream._snapshot.segments) == 300 and stream.n_documents == 300
    assert stream[401] == naive.EOT and stream[-2] == 299 and stream.document(200).tolist() == [200, naive.EOT]
    assert isinstance(stream._snapshot.segments, Segments)
    assert set(stream._snapshot.segments.made) <= {199, 200, 299}
    before = stream._snapshot
    assert not stream.refresh() and stream._snapshot is before
    writer.append([1, 2])
    writer.seal()
    assert stream.refresh() and stream[-2] == 1
    assert stream._snapshot.segments[200] is before.segments[200]


@pytest.mark.parametrize("format", ["bin", "stream"])
def test_verify_finds_flipped_bits_that_opening_does_not(format: str, tmp_path: Path) -> None:
    rng = random.Random(4)
    source, output = tmp_path / "a.txt", tmp_path / "out"
    source.write_text("".join(rng.choices(["one ", "two ", "|"], k=2000)))
    Tokenizer.load("gpt2").encode_files([source], output, format=format, separator="|")
    names = ("out", "out.ends") if format == "bin" else ("out/tokens-00000.bin", "out/ends-00000.u64")
    n_bytes = sum((tmp_path / name).stat().st_size for name in names)
    assert TokenStream(output).verify() == n_bytes
    for name in names:
        path = tmp_path / name
        good = path.read_bytes()
        for _ in range(20):
            bad = bytearray(good)
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            path.write_bytes(bad)
            with pytest.raises(StreamError, match=path.name):
                TokenStream(output).verify()
        path.write_bytes(good)
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(64))
    with pytest.raises(StreamError, match="no checksums"):
        TokenStream(raw, dtype="uint16").verify()
