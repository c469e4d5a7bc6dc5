"""Sets in trainers' formats: the bytes as they were when each was made, and documents equal one by one."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from formats import layouts
from tokend import Tokenizer, _core
from tokend.cli import main
from tokend.cli.parser import FOREIGN_FORMATS
from tokend_client import TokenStream
from tokend_client.errors import BadRequestError, TokendError

EOT = 50256
TEXTS = ["Hello, world!", "", "naïve", "x " * 40, "Hello, world!", *map(str, range(50))]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, gpt2: Tokenizer) -> Path:
    """A set with empty, equal and longer documents."""
    folder = tmp_path_factory.mktemp("narrow")
    (folder / "a.txt").write_text("".join(f"{text}|" for text in TEXTS))
    gpt2.encode_files([folder / "a.txt"], folder / "a.bin", separator="|")
    return folder / "a.bin"


def vocabulary(n_ids: int) -> Tokenizer:
    """Bytes, and two special tokens under the largest ids."""
    return Tokenizer.from_merges(
        {id: bytes([id]) for id in range(256)}, [], {"<|high|>": n_ids - 2, "<|endoftext|>": n_ids - 1}
    )


def own(source: Path) -> list[list[int]]:
    """The documents of a set of ours without end-of-text ids, which stand at their ends."""
    with TokenStream(source) as stream:
        return [stream.document(n).tolist()[:-1] for n in range(stream.n_documents)]


def convert(source: Path, output: Path, *options: str) -> None:
    assert main(["convert", str(source), "-o", str(output), *options]) == 0


def read(name: str, place: Path, eot: int = EOT, dtype: str = "<u2") -> layouts.Documents:
    match name:
        case "nanogpt":
            return layouts.nanogpt(place / "train.bin", eot)
        case "olmo":
            return layouts.olmo(place, dtype)
        case _:
            made: layouts.Documents = getattr(layouts, name)(place)
            return made


def test_the_help_names_what_the_core_makes() -> None:
    assert _core.export_formats() == FOREIGN_FORMATS


@pytest.mark.parametrize("name", FOREIGN_FORMATS)
def test_golden(name: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    """The bytes of three documents, the second of them empty, as they were when the layouts were made."""
    (tmp_path / "a.txt").write_text("Hello, world!||naïve|")
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "a.bin", separator="|")
    (tmp_path / "set").mkdir()
    place = tmp_path / "set" / "g"
    convert(tmp_path / "a.bin", place, "--format", name)
    found = {}
    for path in sorted(p for p in (tmp_path / "set").rglob("*") if p.is_file() and not p.name.endswith("tokend.json")):
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data).replace(str(tmp_path).encode(), b"DIR")
        found[path.relative_to(tmp_path / "set").as_posix()] = data.hex()
    places = np.frombuffer(bytes.fromhex(found.pop("g.docs")), "<u8").tolist()
    assert places == [0, 13, 14, 0, 15, 6]
    assert found == json.loads((Path(__file__).parent / "golden.json").read_text())[name]


@pytest.mark.parametrize("name", FOREIGN_FORMATS)
@pytest.mark.parametrize(
    "options",
    [[], ["--shard-tokens", "7"], ["--shard-bytes", "14"], ["--shard-documents", "3"]],
    ids=["whole", "tokens", "bytes", "documents"],
)
def test_documents_are_equal(name: str, options: list[str], narrow: Path, tmp_path: Path) -> None:
    if name in ("nanogpt", "megatron") and options:
        assert main(["convert", str(narrow), "-o", str(tmp_path / "out"), "--format", name, *options]) == 2
        assert not list(tmp_path.iterdir())
        return
    convert(narrow, tmp_path / "out", "--format", name, *options)
    ours = own(narrow)
    expected = [[EOT, *ids] for ids in ours] if name == "llmc" else [[*ids, EOT] for ids in ours]
    found = read(name, tmp_path / "out")
    if name == "llmc" and options:
        # A document that is longer than a shard is cut; nothing else is.
        found, expected = [layouts.flat(found)], [layouts.flat(expected)]
        assert len(list((tmp_path / "out").glob("*.bin"))) > 3
    assert found == expected
    if options[:1] == ["--shard-documents"]:
        patterns = {"llmc": "*.bin", "datatrove": "*.ds", "olmo": "*.npy", "litdata": "chunk*", "mds": "shard*"}
        assert len(list((tmp_path / "out").glob(patterns[name]))) == -(-len(ours) // 3)


@pytest.mark.parametrize("n_ids", [65_535, 65_536, 65_537])
@pytest.mark.parametrize("name", FOREIGN_FORMATS)
def test_the_largest_ids(name: str, n_ids: int, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a<|high|>\n\nb\n")
    tokenizer = vocabulary(n_ids)
    tokenizer.encode_files([tmp_path / "a.txt"], tmp_path / "a.bin", separator="\n", special="token")
    eot, dtype = n_ids - 1, "<u2" if n_ids <= 65_536 else "<u4"
    if name == "nanogpt" and n_ids > 65_536:
        assert main(["convert", str(tmp_path / "a.bin"), "-o", str(tmp_path / "out"), "--format", name]) == 2
        assert sorted(os.listdir(tmp_path)) == ["a.bin", "a.bin.docs", "a.bin.ends", "a.bin.json", "a.txt"]
        return
    convert(tmp_path / "a.bin", tmp_path / "out", "--format", name)
    bare = [[97, n_ids - 2], [], [98]]
    expected = [[eot, *ids] for ids in bare] if name == "llmc" else [[*ids, eot] for ids in bare]
    assert read(name, tmp_path / "out", eot, dtype) == expected


@pytest.mark.parametrize("name", FOREIGN_FORMATS)
def test_no_documents_and_one(name: str, tmp_path: Path, gpt2: Tokenizer) -> None:
    for text, bare in (("", []), ("ab|", [[397]])):
        (tmp_path / "a.txt").write_text(text or "|")
        gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "a.bin", separator="|", force=True)
        convert(tmp_path / "a.bin", tmp_path / "out", "--format", name, "--force")
        documents = bare or [[]]
        assert read(name, tmp_path / "out") == [[EOT, *d] if name == "llmc" else [*d, EOT] for d in documents]


def test_a_stream_and_a_set_give_the_same(narrow: Path, tmp_path: Path, gpt2: Tokenizer) -> None:
    gpt2.encode_files([narrow.with_suffix(".txt")], tmp_path / "s", separator="|", format="stream")
    every = [word for name in FOREIGN_FORMATS for word in ("--format", name)]
    convert(narrow, tmp_path / "a", *every)
    convert(tmp_path / "s" / "manifest.json", tmp_path / "b", *every)
    for name in FOREIGN_FORMATS:
        suffix = f".{name}.bin" if name == "megatron" else f".{name}"
        paths = [tmp_path / f"{stem}{suffix}" for stem in "ab"]
        if name == "megatron":
            assert paths[0].read_bytes() == paths[1].read_bytes()
        elif name != "olmo":
            assert read(name, paths[0]) == read(name, paths[1]) != []


def test_the_client_reads_them(narrow: Path, tmp_path: Path) -> None:
    convert(narrow, tmp_path / "o", "--format", "megatron", "--format", "datatrove", "--format", "llmc")
    expected = own(narrow)
    for place in (f"{tmp_path}/o.megatron.idx", f"{tmp_path}/o.datatrove", f"{tmp_path}/o.llmc"):
        with TokenStream(place, eot_id=EOT) as stream:
            found = [stream.document(n).tolist() for n in range(stream.n_documents)]
        assert [[id for id in ids if id != EOT] for ids in found] == expected


@pytest.mark.parametrize("name", FOREIGN_FORMATS)
def test_a_split_loses_nothing_and_goes_by_content(name: str, narrow: Path, tmp_path: Path) -> None:
    convert(narrow, tmp_path / "o", "--format", name, "--val-fraction", "0.5", "--seed", "3", "--shuffle")
    parts = []
    for part in ("train", "val"):
        match name:
            case "nanogpt":
                parts.append(layouts.nanogpt(tmp_path / "o" / f"{part}.bin", EOT))
            case "llmc":
                parts.append(layouts.llmc(tmp_path / "o", f"*_{part}_*.bin"))
            case "megatron":
                parts.append(layouts.megatron(tmp_path / f"o_{part}"))
            case _:
                parts.append(read(name, tmp_path / "o" / part))
    train, val = ([[id for id in ids if id != EOT] for ids in part] for part in parts)
    assert sorted(train + val) == sorted(own(narrow))
    assert train and val and not any(ids in val for ids in train)


def test_rows_of_one_length(narrow: Path, tmp_path: Path) -> None:
    convert(narrow, tmp_path / "o", "--format", "mds", "--row-tokens", "7")
    flat = np.fromfile(narrow, "<u2").tolist()
    assert layouts.flat(layouts.mds(tmp_path / "o")) == flat[: len(flat) // 7 * 7]
    note = json.loads((tmp_path / "o" / "tokend.json").read_text())
    assert note["arrangement"]["n_tokens_left_out"] == len(flat) % 7 > 0


def test_the_same_bytes_are_not_written_twice(narrow: Path, tmp_path: Path) -> None:
    convert(narrow, narrow.with_name("linked"), "--format", "nanogpt")
    assert os.path.samefile(narrow.with_name("linked") / "train.bin", narrow)


@pytest.mark.parametrize("options", [[], ["--val-fraction", "0.5"], ["--shuffle"], ["--eot", "prepend"]])
def test_formats_of_one_run_share_their_bytes(options: list[str], narrow: Path, tmp_path: Path) -> None:
    names = ["nanogpt", "megatron", "datatrove", "olmo", "llmc"]
    every = [word for name in names for word in ("--format", name)]
    convert(narrow, tmp_path / "o", *every, *options)
    splits = ["_train", "_val"] if "--val-fraction" in options else [""]
    for split in splits:
        folder = f"{split[1:]}/" if split else ""
        same = [
            tmp_path / "o.nanogpt" / ("val.bin" if split == "_val" else "train.bin"),
            tmp_path / f"o.megatron{split}.bin",
            tmp_path / "o.datatrove" / f"{folder}000_o.datatrove.ds",
            tmp_path / "o.olmo" / f"{folder}part-0-00000.npy",
        ]
        data = same[0].read_bytes()
        assert data and all(path.read_bytes() == data for path in same)
        probe = subprocess.run(["cp", "--reflink=always", same[0], tmp_path / "probe"], capture_output=True)
        if probe.returncode != 0:
            # Without reflinks they are one file.
            assert all(os.path.samefile(path, same[0]) for path in same)
    for place in ("o.nanogpt", "o.megatron.tokend.json", "o.datatrove", "o.olmo", "o.llmc"):
        assert main(["verify", str(tmp_path / place)]) == 0
    # What each has alone is the same bytes.
    convert(narrow, tmp_path / "alone", "--format", "olmo", *options)
    for path in (tmp_path / "alone").rglob("*.npy"):
        assert path.read_bytes() == (tmp_path / "o.olmo" / path.relative_to(tmp_path / "alone")).read_bytes()


def test_what_is_there_stays(narrow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    arguments = ["convert", str(narrow), "-o", str(tmp_path / "mine"), "--format", "nanogpt"]
    assert main(arguments) == 1 and main([*arguments, "--force"]) == 2
    convert(narrow, tmp_path / "made", "--format", "nanogpt")
    (tmp_path / "made" / "meta.pkl").write_bytes(b"x")
    assert main([*arguments[:3], str(tmp_path / "made"), "--format", "nanogpt", "--force"]) == 2
    assert "meta.pkl, which tokend did not make" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists() and (tmp_path / "made" / "meta.pkl").exists()
    (tmp_path / "made" / "meta.pkl").unlink()
    convert(narrow, tmp_path / "made", "--format", "nanogpt", "--force")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_force_spares_the_set_itself(tmp_path: Path, gpt2: Tokenizer) -> None:
    """A Megatron prefix whose data file has the name of a set of ours."""
    (tmp_path / "a.txt").write_text("ab|ab|")
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "a.bin", separator="|")
    before = sorted((name, (tmp_path / name).read_bytes()) for name in os.listdir(tmp_path))
    arguments = ["convert", str(tmp_path / "a.bin"), "-o", str(tmp_path / "a"), "--format", "megatron"]
    assert main(arguments) == 1
    for options in ([], ["--eot", "prepend"]):
        assert main([*arguments, "--force", *options]) == 2
    assert sorted((name, (tmp_path / name).read_bytes()) for name in os.listdir(tmp_path)) == before
    arguments[3] = str(tmp_path / "m")
    for options in ([], ["--force", "--eot", "prepend"]):
        assert main([*arguments, *options]) == 0
    assert layouts.megatron(tmp_path / "m") == [[EOT, 397]] * 2
    assert main([*arguments, "--val-fraction", "0.5"]) == 1


def test_damaged_and_unfinished_sets_are_refused(tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("abc")
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "a.bin")
    data = bytearray((tmp_path / "a.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "a.bin").write_bytes(data)
    assert main(["convert", str(tmp_path / "a.bin"), "-o", str(tmp_path / "o"), "--format", "olmo"]) == 1
    assert main(["convert", str(tmp_path / "a.txt"), "-o", str(tmp_path / "o"), "--format", "olmo"]) == 1
    with pytest.raises(TokendError):
        _core.export(str(tmp_path / "missing.bin"), str(tmp_path / "o"), "olmo")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", FOREIGN_FORMATS)
def test_verify(name: str, narrow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(narrow, tmp_path / "o", "--format", name)
    place = str(tmp_path / ("o.idx" if name == "megatron" else "o"))
    assert main(["verify", place]) == 0
    assert f"complete, {np.fromfile(narrow, '<u2').size} tokens, {len(TEXTS)} documents" in capsys.readouterr().out
    listed = json.loads((tmp_path / ("o.tokend.json" if name == "megatron" else "o/tokend.json")).read_text())["files"]
    for file in listed:
        path = (tmp_path if name == "megatron" else tmp_path / "o") / file["file"]
        data = path.read_bytes()
        path.unlink()
        for damage in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1]):
            path.write_bytes(damage)
            assert main(["verify", place]) == 1
            assert file["file"] in capsys.readouterr().err
        path.write_bytes(data)
    assert main(["verify", place]) == 0


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"val_fraction": float("nan")}, "val_fraction"),
        ({"shard_tokens": 0}, "shard_tokens"),
        ({"shard_bytes": 0}, "shard_bytes"),
        ({"row_tokens": 8}, "row_tokens"),
        ({"eot": "middle"}, "eot"),
    ],
)
def test_options_that_do_not_go(options: dict[str, object], what: str, narrow: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match=what):
        _core.export(str(narrow), str(tmp_path / "o"), "olmo", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_end_of_text_that_the_set_has_not(tmp_path: Path, gpt2: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("ab|ab|")
    gpt2.encode_files([tmp_path / "a.txt"], tmp_path / "a.bin", separator="|", eot="none")
    arguments = ["convert", str(tmp_path / "a.bin"), "-o", str(tmp_path / "o"), "--format", "datatrove"]
    assert main(arguments) == 2
    assert main([*arguments, "--eot-id", "65536"]) == 2
    assert main([*arguments, "--eot-id", str(EOT)]) == 0
    assert layouts.datatrove(tmp_path / "o") == [[397, EOT]] * 2


def tokend(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tokend", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("where", ["local", "daemon"])
def test_encode_makes_them_in_one_run(where: str, narrow: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = str(narrow.with_suffix(".txt"))
    how = ["--local"] if where == "local" else ["--endpoint", request.getfixturevalue("daemon").endpoint]
    common = ["encode", source, "--separator", "|", *how]
    alone = tokend(*common, "-o", str(tmp_path / "m"), "--format", "megatron")
    assert alone.returncode == 0, alone.stderr
    assert sorted(os.listdir(tmp_path)) == ["m.bin", "m.docs", "m.idx", "m.tokend.json"]
    both = tokend(*common, "-o", str(tmp_path / "c.bin"), "--format", "bin", "--format", "llmc", "--format", "mds")
    assert both.returncode == 0, both.stderr
    assert (tmp_path / "c.bin").read_bytes() == narrow.read_bytes() == (tmp_path / "m.bin").read_bytes()
    assert layouts.megatron(tmp_path / "m") == layouts.mds(tmp_path / "c.mds") == [[*ids, EOT] for ids in own(narrow)]
    assert layouts.llmc(tmp_path / "c.llmc") == [[EOT, *ids] for ids in own(narrow)]
    # The same again is up to date, something else is not replaced, damage is not taken for a set.
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*")}
    again = tokend(*common, "-o", str(tmp_path / "m"), "--format", "megatron")
    assert again.returncode == 0 and "(megatron) is up to date" in again.stderr
    again = tokend(*common, "-o", str(tmp_path / "c.bin"), "--format", "bin", "--format", "llmc", "--format", "mds")
    assert again.returncode == 0 and again.stderr.count("up to date") == 3, again.stderr
    assert before == {path: path.stat().st_ino for path in tmp_path.rglob("*")}
    for options in (["--shuffle"], ["--eot", "none"], ["--special", "token"], ["--val-fraction", "0.5"]):
        again = tokend(*common, "-o", str(tmp_path / "m"), "--format", "megatron", *options)
        assert again.returncode == 1 and "output exists" in again.stderr, options
    again = tokend("convert", str(tmp_path / "c.bin"), "-o", str(tmp_path / "c.llmc"), "--format", "llmc")
    assert again.returncode == 0 and "up to date" in again.stderr
    again = tokend(
        "convert", str(tmp_path / "c.bin"), "-o", str(tmp_path / "c.llmc"), "--format", "llmc", "--shard-tokens", "9"
    )
    assert again.returncode == 1 and "output exists" in again.stderr
    index = (tmp_path / "m.idx").read_bytes()
    (tmp_path / "m.idx").write_bytes(index[:-1] + bytes([index[-1] ^ 1]))
    again = tokend(*common, "-o", str(tmp_path / "m"), "--format", "megatron")
    assert again.returncode == 1 and "m.tokend.json: output exists" in again.stderr


def test_encode_refuses_what_does_not_go_before_it_works(narrow: Path, tmp_path: Path) -> None:
    common = ["encode", str(narrow.with_suffix(".txt")), "-o", str(tmp_path / "o"), "--local"]
    for options in (
        ["--format", "bin", "--format", "stream"],
        ["--shuffle"],
        ["--format", "mds", "--key", "k"],
        ["--format", "mds", "--no-wait"],
        ["--format", "mds", "--val-fraction", "2"],
    ):
        assert main([*common, *options]) == 2, options
    assert not list(tmp_path.iterdir())
