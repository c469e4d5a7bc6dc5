"""What stood beside a set goes when that is replaced: all of it, nothing else, and not before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon
from tokend import Tokenizer, _core, retired
from tokend.cli import main
from tokend.explain import explain
from tokend_client.sidecars import ALL

pytestmark = pytest.mark.timeout(300)


class _Killed(BaseException):
    pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Records of which one is bad."""
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"id": n, "text": f"text {n}"}) + "\n" for n in range(60)) + "{bad\n")
    return path


def plain(source: Path) -> Path:
    """One document of text, which has no places."""
    path = source.with_name("b.txt")
    path.write_text("a text")
    return path


def encode(source: Path, output: Path, *options: str) -> int:
    return main(["encode", str(source), "-o", str(output), "--local", "--no-reuse", *options])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


IDS = ("--id-field", "id", "--bad-documents", "skip")
SPLIT = ("--val-fraction", "0.3", "--seed", "3")
WHOLE = {"o.docs", "o.ids", "o.skipped.jsonl"}
IN_TWO = {"o.docs", "o.train.ids", "o.val.ids", "o.sides", "o.skipped.jsonl"}


def test_a_trainers_set_that_is_replaced_takes_its_files_along(source: Path, tmp_path: Path) -> None:
    made = ["--format", "olmo"]
    assert encode(source, tmp_path / "o", *made, *IDS) == 0
    assert files(tmp_path) == WHOLE == set(json.loads((tmp_path / "o/tokend.json").read_text())["beside"])
    for options, expected in (([*IDS, *SPLIT], IN_TWO), (IDS, WHOLE), ([*IDS, *SPLIT, "--shuffle"], IN_TWO)):
        assert encode(source, tmp_path / "o", *made, *options) == 1, "not without --force"
        assert encode(source, tmp_path / "o", *made, *options, "--force") == 0
        assert files(tmp_path) == expected
        assert main(["verify", str(tmp_path / "o")]) == 0
    (tmp_path / "o.ids").write_text("somebody's")
    assert encode(plain(source), tmp_path / "o", *made, "--force") == 0
    assert files(tmp_path) == {"o.ids"}, "which no note had listed"
    assert (tmp_path / "o.ids").read_text() == "somebody's"
    assert "beside" not in json.loads((tmp_path / "o/tokend.json").read_text())


def test_a_megatron_set_is_its_files(source: Path, tmp_path: Path) -> None:
    made = ["--format", "megatron", "--force"]
    note, whole = {"o.tokend.json", "o.docs"}, {"o.bin", "o.idx"}
    sides = {f"o_{side}.{end}" for side in ("train", "val") for end in ("bin", "idx")}
    (tmp_path / "o_test.bin").write_text("somebody's")
    for options, data in ((["--bad-documents", "skip", *SPLIT], sides), (["--bad-documents", "skip"], whole)) * 2:
        assert encode(source, tmp_path / "o", *made, *options) == 0
        lists = {"o.skipped.jsonl", "o.sides"} if data == sides else {"o.skipped.jsonl"}
        assert files(tmp_path) == note | data | lists | {"o_test.bin"}
        assert main(["verify", str(tmp_path / ("o" if data == whole else "o_val"))]) == 0


def test_what_is_somebodys_is_not_replaced(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("o.ids", "o.train.ids", "o.sides", "o.skipped.jsonl", "o.docs"):
        (tmp_path / name).write_text("somebody's")
        options = SPLIT if name in ("o.train.ids", "o.sides") else ()
        assert encode(source, tmp_path / "o", "--format", "mds", *IDS, *options) == 1
        assert f"{name}: output exists" in capsys.readouterr().err
        assert not (tmp_path / "o").exists() and files(tmp_path) == {name}
        assert (tmp_path / name).read_text() == "somebody's"
        (tmp_path / name).unlink()


def test_formats_share_their_lists(source: Path, tmp_path: Path) -> None:
    assert encode(source, tmp_path / "o", "--format", "olmo", "--format", "mds", *IDS) == 0
    shared = {"o.ids", "o.skipped.jsonl"}
    assert files(tmp_path) == {"o.olmo.docs", "o.mds.docs", *shared}
    # Only one of the two is replaced: the other's list stays.
    assert encode(plain(source), tmp_path / "o.olmo", "--format", "olmo", "--force") == 0
    assert files(tmp_path) == {"o.mds.docs", *shared}
    # Both are.
    assert encode(plain(source), tmp_path / "o", "--format", "olmo", "--format", "mds", "--force") == 0
    assert files(tmp_path) == set()


@pytest.mark.parametrize("how", ["again", "gc"])
@pytest.mark.parametrize("format", ["olmo", "megatron"])
def test_a_run_that_was_killed_in_between(
    format: str, how: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert encode(source, tmp_path / "o", "--format", format, *IDS) == 0
    old = files(tmp_path)
    finish, calls = retired.finish, []

    def killed(output: str) -> None:
        calls.append(output)
        # The first looks for what an earlier run left.
        if len(calls) > 1:
            raise _Killed
        finish(output)

    with monkeypatch.context() as patched, pytest.raises(_Killed):
        patched.setattr(retired, "finish", killed)
        encode(plain(source), tmp_path / "o", "--format", format, "--force")
    assert old < files(tmp_path), "nothing is gone yet"
    if how == "again":
        assert encode(plain(source), tmp_path / "o", "--format", format) == 0
    else:
        assert main(["gc", str(tmp_path)]) == 0
    assert files(tmp_path) == {name for name in old if not name.endswith(tuple(ALL - {".json"}))}
    assert main(["verify", str(tmp_path / "o")]) == 0


def test_the_old_set_is_whole_until_the_new_one_is_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpt2: Tokenizer
) -> None:
    assert encode(source, tmp_path / "o", "--format", "olmo", *IDS, *SPLIT) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def killed(*arguments: Any, **options: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patched, pytest.raises(_Killed):
        patched.setattr(_core, "export", killed)
        encode(plain(source), tmp_path / "o", "--format", "olmo", "--force")
    assert {path: path.read_bytes() for path in before} == before
    assert explain(tmp_path / "o/train", 3, tokenizer=gpt2).is_exact
    assert not (tmp_path / ".o.tokend-retired").exists(), "its note lists what stands there"


def test_a_set_of_ours_takes_along_what_its_manifest_names(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.bin"
    assert encode(source, output, *IDS) == 0
    usual = {"o.bin", "o.bin.ends", "o.bin.json"}
    assert files(tmp_path) == usual | {"o.bin.docs", "o.bin.ids", "o.bin.skipped.jsonl"}
    assert encode(plain(source), output, "--force") == 0
    assert files(tmp_path) == usual
    foreign = {"o.bin.docs", "o.bin.ids", "o.bin.skipped.jsonl"}
    for name in foreign:
        (tmp_path / name).write_text("somebody's")
    assert encode(plain(source), output, "--force") == 0
    assert files(tmp_path) == usual | foreign
    assert {(tmp_path / name).read_text() for name in foreign} == {"somebody's"}
    # Converted into its place, and updated.
    source.with_name("c.txt").write_text("another|text|")
    assert encode(source.with_name("c.txt"), tmp_path / "c.bin", "--separator", "|", "--eot", "none") == 0
    for name in foreign:
        (tmp_path / name).unlink()
    (tmp_path / "o.bin.ids").write_text("somebody's")
    assert main(["convert", str(tmp_path / "c.bin"), "-o", str(output), "--format", "bin", "--force"]) == 0
    assert files(tmp_path) - files_of("c.bin") == usual | {"o.bin.docs", "o.bin.ids"}
    assert (tmp_path / "o.bin.ids").read_text() == "somebody's"


def files_of(name: str) -> set[str]:
    return {name, *(f"{name}{suffix}" for suffix in ALL)}


def test_a_stream_takes_its_list_along(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "o"
    assert encode(source, output, "--format", "stream", *IDS) == 0
    assert files(tmp_path) == {"o.skipped.jsonl"}
    assert encode(plain(source), output, "--format", "stream", "--force") == 0
    assert files(tmp_path) == set()
    (tmp_path / "o.skipped.jsonl").write_text("somebody's")
    assert encode(plain(source), output, "--format", "stream", "--force") == 0
    assert files(tmp_path) == {"o.skipped.jsonl"}
    (tmp_path / "o.skipped.jsonl").unlink()
    # By a conversion.
    assert encode(source, output, "--format", "stream", *IDS, "--force") == 0
    assert encode(plain(source), tmp_path / "b.bin") == 0
    assert main(["convert", str(tmp_path / "b.bin"), "-o", str(output), "--format", "stream", "--force"]) == 0
    assert files(tmp_path) - files_of("b.bin") == set()


def test_by_a_daemon(source: Path, tmp_path: Path, daemon: Daemon) -> None:
    """Its conversions note what the command puts beside them; and a job with formats of its own."""
    place = ["-o", str(tmp_path / "o"), "--format", "olmo", "--no-reuse", "--endpoint", daemon.endpoint]
    assert main(["encode", str(source), *place, *IDS]) == 0
    assert files(tmp_path) == WHOLE == set(json.loads((tmp_path / "o/tokend.json").read_text())["beside"])
    assert main(["encode", str(source), *place, *IDS, *SPLIT, "--force"]) == 0
    assert files(tmp_path) == IN_TWO
    assert main(["encode", str(plain(source)), *place, "--force"]) == 0
    assert files(tmp_path) == set()
    both = ["-o", str(tmp_path / "b.bin"), "--format", "bin", "--format", "mds", "--endpoint", daemon.endpoint]
    assert main(["encode", str(source), *both, *IDS]) == 0
    assert "b.mds.docs" in files(tmp_path)
    assert main(["encode", str(plain(source)), *both, "--force"]) == 0
    assert files(tmp_path) == {"b.bin", "b.bin.ends", "b.bin.json"}
