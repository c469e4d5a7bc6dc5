"""`tokend inspect` and `verify` of other tools' files: each fault is named by path, place and value."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokend import Tokenizer
from tokend.cli import main
from tokend.cli.parser import FOREIGN_FORMATS

EOT = 50256
TEXTS = ["Hello, world!", "", "naïve", "x " * 40, *map(str, range(50))]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, gpt2: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (folder / "a.txt").write_text("".join(f"{text}|" for text in TEXTS))
    gpt2.encode_files([folder / "a.txt"], folder / "a.bin", separator="|")
    return folder / "a.bin"


def made(name: str, source: Path, folder: Path, *options: str) -> Path:
    """A set without tokend's note: what another tool would have made."""
    place = folder / "o"
    assert main(["convert", str(source), "-o", str(place), "--format", name, *options]) == 0
    for note in folder.glob("**/*tokend.json"):
        note.unlink()
    for file in folder.glob("**/*"):
        if file.is_file():
            # A file of its own: a link would change the set that it was made of.
            data = file.read_bytes()
            file.unlink()
            file.write_bytes(data)
    return place


def verify(place: Path, *options: str) -> int:
    return main(["verify", str(place), "--tokenizer", "gpt2", *options])


@pytest.mark.parametrize("name", FOREIGN_FORMATS)
@pytest.mark.parametrize("options", [[], ["--val-fraction", "0.5"]])
def test_sound_sets(
    name: str, options: list[str], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = made(name, source, tmp_path, *options)
    places = [Path(f"{place}_train"), Path(f"{place}_val")] if name == "megatron" and options else [place]
    n_tokens = 0
    for part in places:
        capsys.readouterr()
        assert verify(part, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        n_tokens += found["n_tokens"]
        assert found["format"] == {"nanogpt": "raw"}.get(name, name)
        assert found["largest_id"] == EOT
        assert main(["inspect", str(part), "--tokenizer", "gpt2"]) == 0
        told = capsys.readouterr().out
        assert f"{found['n_tokens']:,}" in told and "another tool" in told and "head" in told
        assert main(["inspect", str(part), "--json"]) == 0
        capsys.readouterr()
    assert n_tokens == len(np.fromfile(source, "<u2"))


def write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def cut(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def widen(path: Path) -> None:
    np.fromfile(path, "<u2").astype("<u4").tofile(path)


DAMAGES: list[tuple[str, str, Callable[[Path], object], list[str]]] = [
    ("megatron", ".bin", lambda p: cut(p, 3), ["o.bin: at byte ", "o.idx says", "it is cut off"]),
    ("megatron", ".bin", widen, ["o.bin: ", "of 4 bytes each instead of 2"]),
    ("megatron", ".bin", lambda p: write(p, 2, b"\xff\xff"), ["o.bin: at byte 2: id 65535 at token 1", "50257"]),
    ("megatron", ".bin", lambda p: write(p, p.stat().st_size - 2, b"\1\0"), ["document 53 ends with id 1"]),
    ("megatron", ".idx", lambda p: cut(p, 1), ["o.idx: at byte ", "need 1122"]),
    ("megatron", ".idx", lambda p: write(p, 17, b"\7"), ["o.idx: at byte 17: dtype code 7 (<f4)"]),
    ("megatron", ".idx", lambda p: write(p, 9, b"\2"), ["o.idx: at byte 9: version 2, not 1"]),
    ("megatron", ".idx", lambda p: write(p, 34, b"\xff\xff\xff\xff"), ["at byte 34: sequence 0 has length -1"]),
    ("megatron", ".idx", lambda p: write(p, 34, b"\1\0\0\0"), ["at byte 258: sequence 1 begins at byte 10"]),
    ("datatrove", "/000_o.ds", lambda p: cut(p, 2), ["000_o.ds: at byte", ".metadata says", "cut off"]),
    ("datatrove", "/000_o.ds", widen, ["000_o.ds: ", "of 4 bytes each instead of 2"]),
    ("datatrove", "/000_o.ds.index", lambda p: cut(p, 8), ["ds.index: at byte 416: the last document ends at id"]),
    ("datatrove", "/000_o.ds.index", lambda p: write(p, 0, b"\xff"), ["ds.index: at byte 8: document 1 ends at id 6"]),
    ("datatrove", "/000_o.ds.metadata", lambda p: p.unlink(), ["000_o.ds.metadata: is missing"]),
    ("llmc", "/o_train_000000.bin", lambda p: cut(p, 2), ["o_train_000000.bin: at byte", "its header says"]),
    ("llmc", "/o_train_000000.bin", lambda p: write(p, 4, b"\3"), ["at byte 4: version 3"]),
    ("llmc", "/o_train_000000.bin", lambda p: write(p, 1024, b"\1\0"), ["at byte 1024: document 0 begins with id 1"]),
    ("olmo", "/part-0-00000.npy", lambda p: cut(p, 2), ["part-0-00000.npy: at byte", "csv.gz says"]),
    ("olmo", "/part-0-00000.csv.gz", lambda p: cut(p, 9), ["part-0-00000.csv.gz: after"]),
    ("litdata", "/chunk-0-0.bin", lambda p: cut(p, 2), ["chunk-0-0.bin: at byte", "chunk 0 of index.json says"]),
    ("litdata", "/chunk-0-0.bin", lambda p: write(p, 0, b"\1"), ["chunk-0-0.bin: at byte 0: 1 items"]),
    ("litdata", "/chunk-0-0.bin", lambda p: p.unlink(), ["chunk-0-0.bin: is missing"]),
    ("mds", "/shard.00000.mds", lambda p: cut(p, 1), ["shard.00000.mds: at byte", "index.json says"]),
    ("mds", "/shard.00000.mds", lambda p: write(p, 4, b"\0\0\0\0"), ["shard.00000.mds: at byte 0: sample 0"]),
    ("nanogpt", "/train.bin", lambda p: cut(p, 1), ["train.bin: at byte", "no whole number of uint16"]),
    (
        "nanogpt",
        "/train.bin",
        lambda p: write(p, p.stat().st_size, bytes(400)),
        ["the last 200 of", "never written"],
    ),
    ("nanogpt", "/train.bin", widen, ["its ids look like uint32, those of 50257 are uint16"]),
    ("nanogpt", "/train.bin", lambda p: np.full(9, 7, "<u2").tofile(p), ["none of the 9 ids is the end-of-text id"]),
]


@pytest.mark.parametrize(("name", "file", "damage", "expected"), DAMAGES)
def test_faults_are_named(
    name: str,
    file: str,
    damage: Callable[[Path], object],
    expected: list[str],
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = made(name, source, tmp_path)
    assert verify(place) == 0
    damage(Path(f"{place}{file}"))
    capsys.readouterr()
    assert verify(place) == 1
    told = capsys.readouterr().err
    for part in expected:
        assert part in told
    assert "hint:" in told and "Traceback" not in told


def test_wide_ids_and_other_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """dtypes are told from raw ids; NumPy's own files from their header."""
    chance = np.random.default_rng(1)
    for dtype, limit in (("<u2", 60_000), ("<u4", 200_000)):
        ids = chance.integers(1, limit, 5000)
        ids.astype(dtype).tofile(tmp_path / "x.bin")
        assert main(["verify", str(tmp_path / "x.bin"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["dtype"] == np.dtype(dtype).name
        np.save(tmp_path / "x.npy", ids.astype(dtype))
        assert main(["verify", str(tmp_path / "x.npy"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["format"], found["n_tokens"], found["largest_id"]) == ("npy", 5000, ids.max())
    cut(tmp_path / "x.npy", 4)
    assert main(["verify", str(tmp_path / "x.npy")]) == 1
    # A file that gives itself out for one of Megatron's, with 65,537 ids in int32 and one below 0.
    ids = np.array([65_536, -5, 65_536], "<i4")
    ids.tofile(tmp_path / "m.bin")
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, 1, 2) + struct.pack("<iqqq", 3, 0, 0, 1)
    (tmp_path / "m.idx").write_bytes(index)
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "m")]) == 1
    assert "m.bin: at byte 4: id -5 at token 1 is below 0" in capsys.readouterr().err


def test_what_is_no_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("text")
    for command in ("inspect", "verify"):
        assert main([command, str(tmp_path / "a.txt")]) == 1
        assert main([command, str(tmp_path / "missing")]) == 1
        told = capsys.readouterr().err
        assert "no token set that is known here" in told or "manifest" in told
        assert "Traceback" not in told


def test_ids_of_documents_keep_to_their_order(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {number}", "id": number}) for number in range(9)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    encode = ["encode", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "o"), "--local", "--id-field", "id"]
    assert main([*encode, "--format", "megatron"]) == 0
    assert (tmp_path / "o.ids").read_text().split() == [str(number) for number in range(9)]
    for beside in ("o.ids", "o.docs"):
        (tmp_path / beside).unlink()
    assert main([*encode, "--format", "bin", "--format", "megatron", "--shuffle"]) == 0
    assert (tmp_path / "o.ids").read_text().split() == [str(number) for number in range(9)]


@pytest.mark.parametrize("name", ["megatron", "nanogpt"])
def test_a_missing_directory_is_named(
    name: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(source), "-o", str(tmp_path / "none" / "o"), "--format", name]) == 1
    assert f"error: {tmp_path / 'none'}: no such directory" in capsys.readouterr().err


def test_an_index_cut_within_a_word(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = made("llmc", source, tmp_path)
    cut(place / "o_train_000000.bos.idx", 2)
    capsys.readouterr()
    assert verify(place) == 1
    assert "o_train_000000.bos.idx: at byte 212: 214 bytes are no whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("datatrove", "001_b.ds.index"),
        ("olmo", "part-1.csv.gz"),
        ("llmc", "b_train_000001.bos.idx"),
        ("llmc", "b_train_000001.bin"),
    ],
)
def test_one_missing_among_others(
    name: str, file: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = made(name, source, tmp_path)
    stem = {"datatrove": "000_o.ds", "olmo": "part-0-00000", "llmc": "o_train_000000"}[name]
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3):
        to = {"datatrove": f"00{number}_b.ds", "olmo": f"part-{number}", "llmc": f"b_train_00000{number}"}[name]
        for found in place.glob(f"{stem}*"):
            (folder / found.name.replace(stem, to)).write_bytes(found.read_bytes())
    assert verify(folder) == 0
    (folder / file).unlink()
    if file.endswith(".bin"):
        (folder / "b_train_000001.bos.idx").unlink()
    capsys.readouterr()
    assert verify(folder) == 1
    assert f"{file}: is missing" in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"shards": [', "[]", "{}"])
def test_an_index_that_is_none_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "index.json").write_text(text)
    assert verify(tmp_path) == 1
    assert f"{tmp_path / 'index.json'}: " in capsys.readouterr().err
