"""`tokend convert` of other tools' sets: documents equal one by one, and clear words where something is missing."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from tokend import Tokenizer, rewrite
from tokend.cli import main
from tokend.cli.parser import FOREIGN_FORMATS
from tokend_client import TokenStream

EOT = 50256
TEXTS = ["Hello, world!", "", "naïve", "x " * 40, "", *map(str, range(50))]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, gpt2: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    gpt2.encode_files([folder / "a.jsonl"], folder / "a.bin")
    return folder / "a.bin"


def documents(place: Path) -> list[list[int]]:
    with TokenStream(place) as stream:
        return [stream.document(number).tolist() for number in range(stream.n_documents)]


def own_ids(place: Path) -> list[list[int]]:
    """Documents without end-of-text ids."""
    return [[id for id in document if id != EOT] for document in documents(place)]


def convert(place: Path, output: Path, *options: str) -> int:
    return main(["convert", str(place), "-o", str(output), *options])


def without_notes(folder: Path) -> None:
    for path in [*folder.rglob("*tokend.json"), *folder.rglob("*.docs")]:
        path.unlink()


@pytest.mark.parametrize(
    ("name", "has_note", "target"),
    [
        *((name, False, "bin") for name in FOREIGN_FORMATS),
        ("llmc", True, "bin"),
        ("megatron", True, "stream"),
        ("mds", False, "stream"),
        ("olmo", True, "stream"),
    ],
)
def test_there_and_back(name: str, has_note: bool, target: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    place = tmp_path / "set" / "o"
    assert convert(source, place, "--format", name) == 0
    if not has_note:
        without_notes(tmp_path)
    told = [] if has_note else ["--tokenizer", "gpt2"]
    back = tmp_path / "back.bin"
    assert convert(place, back, "--format", target, *told) == 0
    assert main(["verify", str(back)]) == 0
    expected = [[EOT, *ids[:-1]] if name == "llmc" else ids for ids in documents(source)]
    assert documents(back) == expected
    with TokenStream(back) as stream:
        manifest = stream.manifest
        assert manifest["dtype"] == "uint16" and stream.tokenizer == "gpt2" and stream.eot_id == EOT
    if has_note:
        # What the set was made of goes with it, and where each document begins in that.
        assert manifest["sources"] == json.loads(Path(f"{source}.json").read_text())["sources"]
        kept = back / "docs-00000.u64" if target == "stream" else Path(f"{back}.docs")
        assert kept.read_bytes() == Path(f"{source}.docs").read_bytes()
    else:
        assert all(one["format"] == {"nanogpt": "raw"}.get(name, name) for one in manifest["sources"])
        assert all(str(tmp_path) in one["path"] for one in manifest["sources"])
    # Nothing else is left there, and again it is up to date.
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*")}
    assert convert(place, back, "--format", target, *told) == 0
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("target", FOREIGN_FORMATS)
def test_from_one_trainer_to_another(
    target: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files are those that our own set would have become."""
    (tmp_path / "other").mkdir()
    assert convert(source, tmp_path / "other" / "m", "--format", "megatron") == 0
    without_notes(tmp_path)
    for folder in ("mine", "theirs"):
        (tmp_path / folder).mkdir()
    assert convert(source, tmp_path / "mine" / "o", "--format", target, "--shuffle", "--seed", "3") == 0
    given = ["--tokenizer", "gpt2", "--format", target, "--shuffle", "--seed", "3"]
    assert convert(tmp_path / "other" / "m", tmp_path / "theirs" / "o", *given) == 0
    names = [path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*") if path.is_file()]
    assert [path for path in (tmp_path / "theirs").iterdir() if path.name.startswith(".")] == []
    for name in names:
        if name.name.endswith(("tokend.json", ".docs", ".csv.gz", "index.json")):
            continue
        assert (tmp_path / "theirs" / name).read_bytes() == (tmp_path / "mine" / name).read_bytes(), name
    capsys.readouterr()
    assert convert(tmp_path / "other" / "m", tmp_path / "theirs" / "o", *given) == 0
    assert "is up to date" in capsys.readouterr().err


def test_bin_and_stream_of_our_own(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "SEGMENT_BYTES", 64)
    monkeypatch.setattr(sys.modules["tokend.foreign.scan"], "_BLOCK_IDS", 20)
    stream, back = tmp_path / "s", tmp_path / "b.bin"
    assert convert(source, stream, "--format", "stream") == 0
    segments = json.loads((stream / "manifest.json").read_text())["segments"]
    assert len(segments) > 2 and all("docs" in segment for segment in segments)
    assert main(["verify", str(stream)]) == 0 and documents(stream) == documents(source)
    assert convert(stream, back, "--format", "bin") == 0
    for suffix in ("", ".ends", ".docs"):
        assert Path(f"{back}{suffix}").read_bytes() == Path(f"{source}{suffix}").read_bytes()
    ours, theirs = (json.loads(Path(f"{path}.json").read_text()) for path in (source, back))
    assert {**ours, "data": 0, "ends": 0, "docs": 0} == {**theirs, "data": 0, "ends": 0, "docs": 0}


def test_what_was_left_out_and_ids_go_along(tmp_path: Path, gpt2: Tokenizer) -> None:
    lines = [json.dumps({"text": f"text {number}", "id": number}) for number in range(9)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:4], "{broken", *lines[4:]]))
    (tmp_path / "b.txt").write_text("no record")
    inputs = [tmp_path / "b.txt", tmp_path / "a.jsonl"]
    gpt2.encode_files(inputs, tmp_path / "a.bin", id_field="id", bad_documents="skip")
    assert convert(tmp_path / "a.bin", tmp_path / "s", "--format", "stream") == 0
    assert convert(tmp_path / "s", tmp_path / "b.bin", "--format", "bin") == 0
    assert main(["verify", str(tmp_path / "s")]) == 0 and main(["verify", str(tmp_path / "b.bin")]) == 0
    for suffix in ("", ".ends", ".docs", ".ids", ".skipped.jsonl"):
        assert (tmp_path / f"b.bin{suffix}").read_bytes() == (tmp_path / f"a.bin{suffix}").read_bytes()
    assert (tmp_path / "s.skipped.jsonl").read_bytes() == (tmp_path / "a.bin.skipped.jsonl").read_bytes()


def test_raw_ids_and_their_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "x.bin", tmp_path / "o.bin"
    np.array([5, 6, EOT, EOT, 7, EOT], "<u2").tofile(raw)
    assert convert(raw, out, "--format", "bin") == 2
    told = capsys.readouterr().err
    assert "do not say which tokenizer made them" in told and "--tokenizer" in told
    assert convert(raw, out, "--format", "bin", "--vocab-size", "50257") == 2
    assert "no end-of-text id is known" in capsys.readouterr().err
    assert convert(raw, out, "--format", "bin", "--tokenizer", "gpt2", "--dtype", "uint32") == 1
    assert "id 393221 at token 0" in capsys.readouterr().err
    assert not out.exists() and len(list(tmp_path.iterdir())) == 1
    assert convert(raw, out, "--format", "bin", "--tokenizer", "gpt2", "--dtype", "uint16") == 0
    assert documents(out) == [[5, 6, EOT], [EOT], [7, EOT]]
    # A tokenizer that is not known here: its size and its id are enough.
    given = ["--vocab-size", "50300", "--eot-id", "7"]
    assert convert(raw, out, "--format", "bin", *given, "--force", "--dtype", "uint16") == 0
    assert "the last document had no end-of-text id: 7 was added" in capsys.readouterr().err
    assert documents(out) == [[5, 6, EOT, EOT, 7], [EOT, 7]] and main(["verify", str(out)]) == 0
    assert main(["inspect", str(out)]) == 0
    told = capsys.readouterr().out
    assert "tokenizer    unknown, of 50,300 ids" in told and "converted    from raw: 1 file" in told
    assert convert(raw, tmp_path / "w.bin", "--format", "bin", "--vocab-size", "7", "--eot-id", "7") == 2
    assert "the end-of-text id 7 is not below 7" in capsys.readouterr().err


@pytest.mark.parametrize("begins", [True, False])
def test_shards_that_cut_documents(begins: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arrays with their header, cut at a round number of ids, each document behind an end-of-text id."""
    ids = [EOT, 1, 2, 3, EOT, EOT, 4, 5, 6, 7, 8, EOT, 9]
    ids = ids if begins else ids[1:]
    (tmp_path / "shards").mkdir()
    parts = [ids[at : at + 4] for at in range(0, len(ids), 4)]
    for number, part in enumerate(parts):
        np.save(tmp_path / "shards" / f"edu_{number:06}.npy", np.array(part, "<u2"))
    options = ["--format", "bin", "--tokenizer", "gpt2"] + ([] if begins else ["--eot-at", "start"])
    assert convert(tmp_path / "shards", tmp_path / "o.bin", *options) == 0
    assert documents(tmp_path / "o.bin") == [[EOT, 1, 2, 3], [EOT], [EOT, 4, 5, 6, 7, 8], [EOT, 9]]
    told = capsys.readouterr().err
    assert ("end-of-text ids at their starts" in told) == begins
    assert ("the first document had no end-of-text id" in told) != begins
    assert convert(tmp_path / "o.bin", tmp_path / "m", "--format", "megatron") == 0
    assert own_ids(tmp_path / "m") == [[1, 2, 3], [], [4, 5, 6, 7, 8], [9]]


def test_llmc_documents_that_go_on_in_the_next_shard(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "l"
    assert convert(source, place, "--format", "llmc", "--shard-tokens", "60") == 0
    assert len(list(place.glob("*.bin"))) > 2
    without_notes(place)
    assert convert(place, tmp_path / "o.bin", "--format", "bin", "--tokenizer", "gpt2") == 0
    assert own_ids(tmp_path / "o.bin") == own_ids(source)
    for path in place.glob("*.bos.idx"):
        path.unlink()
    assert convert(place, tmp_path / "p.bin", "--format", "bin", "--tokenizer", "gpt2") == 0
    assert documents(tmp_path / "p.bin") == documents(tmp_path / "o.bin")


def mds(folder: Path, samples: list[list[int]], dtype: str) -> None:
    """What MosaicML's writer makes: the length of a sample in the narrowest integer that holds it."""
    encoded = []
    for ids in samples:
        code, form = next((code, form) for code, form in enumerate("BHI") if len(ids) < 256 ** (1 << code))
        array = struct.pack(f"<B{form}", 1 << 2 | code, len(ids)) + np.array(ids, dtype).tobytes()
        encoded.append(struct.pack("<I", len(array)) + array)
    config = json.dumps({"column_names": ["tokens"]}).encode()
    first = 4 * (len(samples) + 2) + len(config)
    offsets = np.cumsum([first, *map(len, encoded)]).astype("<u4")
    data = struct.pack("<I", len(samples)) + offsets.tobytes() + config + b"".join(encoded)
    folder.mkdir()
    (folder / "shard.00000.mds").write_bytes(data)
    shard = {
        "column_encodings": [f"ndarray:{np.dtype(dtype).name}"], "column_names": ["tokens"], "column_sizes": [None],
        "compression": None, "format": "mds", "samples": len(samples),
        "raw_data": {"basename": "shard.00000.mds", "bytes": len(data), "hashes": {}},
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))


def test_mds_of_its_own_writer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [[*([3] * 300), EOT], [4, EOT], [*([5] * 70_000), EOT]]
    mds(tmp_path / "d", wanted, "<i4")
    assert main(["verify", str(tmp_path / "d"), "--tokenizer", "gpt2"]) == 0
    assert convert(tmp_path / "d", tmp_path / "d.bin", "--format", "bin", "--tokenizer", "gpt2") == 0
    assert documents(tmp_path / "d.bin") == wanted
    # Rows of one length, as llm-foundry writes them.
    mds(tmp_path / "r", [[1, 2, EOT, 3], [4, 5, 6, EOT], [EOT, 7, 8, 9]], "<i8")
    assert main(["verify", str(tmp_path / "r"), "--tokenizer", "gpt2"]) == 0
    capsys.readouterr()
    assert convert(tmp_path / "r", tmp_path / "r.bin", "--format", "bin", "--tokenizer", "gpt2") == 0
    told = capsys.readouterr().err
    assert "all samples have 4 ids: rows" in told and "the last document had no" in told
    assert documents(tmp_path / "r.bin") == [[1, 2, EOT], [3, 4, 5, 6, EOT], [EOT], [7, 8, 9, EOT]]


def megatron(prefix: Path, sequences: list[list[int]], dtype: str = "<u2") -> None:
    lengths = np.array([len(ids) for ids in sequences], "<i4")
    data = np.concatenate([np.array(ids, dtype) for ids in sequences])
    pointers = (np.cumsum([0, *lengths[:-1]]) * data.itemsize).astype("<i8")
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8 if dtype == "<u2" else 4, len(sequences), len(sequences) + 1)
    bounds = np.arange(len(sequences) + 1, dtype="<i8")
    Path(f"{prefix}.idx").write_bytes(head + lengths.tobytes() + pointers.tobytes() + bounds.tobytes())
    data.tofile(f"{prefix}.bin")


def test_where_the_end_of_text_id_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = [[1, 2], [3], [4, 5, 6]]
    arranged = {
        "append": [[*ids, EOT] for ids in plain],
        "prepend": [[EOT, *ids] for ids in plain],
        "both": [[EOT, 1, 2, EOT], [3, EOT], [4, 5, 6, EOT]],
    }
    for name, wanted in arranged.items():
        megatron(tmp_path / name, wanted)
        out = tmp_path / f"{name}.out"
        assert convert(tmp_path / name, out, "--format", "bin", "--tokenizer", "gpt2") == 0
        manifest = json.loads(Path(f"{out}.json").read_text())
        assert documents(out) == wanted and manifest["options"]["eot"] == name
        told = capsys.readouterr().err
        assert ("as their ids tell" in told) == (name != "append")
        # A trainer's format of it has them where its readers expect them.
        assert convert(tmp_path / name, tmp_path / f"{name}.m", "--format", "megatron", "--tokenizer", "gpt2") == 0
        assert documents(tmp_path / f"{name}.m") == arranged["append"]
        capsys.readouterr()
    # None at all is a fault, unless that is said.
    megatron(tmp_path / "none", plain)
    command = [tmp_path / "none", tmp_path / "none.out", "--format", "bin", "--tokenizer", "gpt2"]
    assert convert(*command) == 1  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert "end-of-text id" in told and "--eot-at none" in told
    assert main(["verify", str(tmp_path / "none"), "--tokenizer", "gpt2", "--eot-at", "none"]) == 0
    assert convert(*command, "--eot-at", "none") == 0  # type: ignore[arg-type]
    assert documents(tmp_path / "none.out") == plain
    assert convert(tmp_path / "none.out", tmp_path / "n.m", "--format", "megatron") == 2
    capsys.readouterr()
    assert convert(tmp_path / "none.out", tmp_path / "n.m", "--format", "megatron", "--eot-id", str(EOT)) == 0
    assert documents(tmp_path / "n.m") == arranged["append"]
    # Some have it and some have not: the first that has not is named.
    megatron(tmp_path / "some", [[1, EOT], [2, 3], [4, EOT]])
    assert convert(tmp_path / "some", tmp_path / "some.out", "--format", "bin", "--tokenizer", "gpt2") == 1
    assert "document 1 ends with id 3" in capsys.readouterr().err
    assert not [name for name in os.listdir(tmp_path) if name.startswith((".", "some.out"))]


def test_wide_ids(tmp_path: Path) -> None:
    wanted = [[70_000, 1, 99_999], [99_999]]
    megatron(tmp_path / "m", wanted, "<i4")
    given = ["--vocab-size", "100000", "--eot-id", "99999"]
    assert convert(tmp_path / "m", tmp_path / "s", "--format", "stream", *given) == 0
    assert documents(tmp_path / "s") == wanted
    with TokenStream(tmp_path / "s") as stream:
        assert stream.dtype == np.uint32
    assert convert(tmp_path / "m", tmp_path / "n", "--format", "nanogpt", *given) == 2
    # Ids below 65,536 in int32 become uint16 where the vocabulary is small.
    megatron(tmp_path / "small", [[3, 9], [9]], "<i4")
    assert (
        convert(tmp_path / "small", tmp_path / "o.bin", "--format", "bin", "--vocab-size", "10", "--eot-id", "9") == 0
    )
    assert np.fromfile(tmp_path / "o.bin", "<u2").tolist() == [3, 9, 9]


def test_what_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(code: int, *arguments: object) -> str:
        assert main(["convert", *map(str, arguments)]) == code
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    assert convert(source, tmp_path / "n", "--format", "nanogpt", "--val-fraction", "0.5") == 0
    without_notes(tmp_path)
    out = tmp_path / "o.bin"
    said = told(2, tmp_path / "n", "-o", out, "--format", "bin", "--tokenizer", "gpt2")
    assert "files of train and of val are no one set" in said and "train.bin" in said
    assert convert(source, tmp_path / "l", "--format", "litdata", "--val-fraction", "0.5") == 0
    capsys.readouterr()
    assert f"instance {tmp_path}/l/train\n" in told(2, tmp_path / "l", "-o", out, "--format", "bin")
    assert "--eot is of the formats that trainers read" in told(
        2, source, "-o", out, "--format", "bin", "--eot", "none"
    )
    assert "--shuffle is of the formats" in told(2, source, "-o", out, "--format", "stream", "--shuffle")
    assert "--tokenizer is of other tools' files" in told(
        2, source, "-o", out, "--format", "bin", "--tokenizer", "gpt2"
    )
    out.write_text("mine")
    assert "output exists" in told(1, source, "-o", out, "--format", "bin")
    assert "is no set that tokend made" in told(2, source, "-o", out, "--format", "bin", "--force")
    (tmp_path / "s").mkdir()
    assert "is no stream that tokend made" in told(2, source, "-o", tmp_path / "s", "--format", "stream", "--force")
    assert out.read_text() == "mine"
    # A set that does not verify is not converted.
    megatron(tmp_path / "m", [[1, EOT], [2, EOT]])
    with (tmp_path / "m.bin").open("ab") as file:
        file.write(b"12")
    said = told(1, tmp_path / "m", "-o", tmp_path / "x.bin", "--format", "bin", "--tokenizer", "gpt2")
    assert "m.idx says 8: there is more" in said
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "x"))]


def test_a_stream_is_replaced(source: Path, tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "b.txt").write_text("another")
    gpt2.encode_files([tmp_path / "b.txt"], tmp_path / "b.bin")
    for format in ("stream", "bin"):
        out = tmp_path / f"o.{format}"
        assert convert(source, out, "--format", format) == 0
        assert convert(tmp_path / "b.bin", out, "--format", format) == 1
        assert documents(out) == documents(source)
        assert convert(tmp_path / "b.bin", out, "--format", format, "--force") == 0
        assert documents(out) == documents(tmp_path / "b.bin") and main(["verify", str(out)]) == 0
    assert not (tmp_path / "o.bin.docs").exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
