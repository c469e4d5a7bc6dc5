"""Directories, patterns and stdin; and the daemon, which gets what they stand for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
from tokend import Tokenizer
from tokend.cli import main
from tokend_client import Client
from tokend_client.errors import BadDocumentError, BadRequestError, NotFoundError
from tokend_client.inputs import expand

from . import naive


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_directories_and_patterns(tmp_path: Path) -> None:
    touch(
        tmp_path, "b/2.txt", "b/10.txt", "b/.hidden", "b/.git/x", "b/c/a.jsonl", "a.txt", "b/out.bin", "b/out.bin.json"
    )
    (tmp_path / "b/out.bin.json").write_text('{"format": "tokend-bin"}')
    (tmp_path / "b/loop").symlink_to(tmp_path / "b")
    (tmp_path / "b/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b/round").symlink_to("round")
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "odd[1].txt")

    def names(*inputs: str) -> list[str]:
        found = expand([tmp_path / name for name in inputs], tmp_path / "b/out.bin")
        return [os.path.relpath(path, tmp_path) for path in found]

    assert names("b") == ["b/10.txt", "b/2.txt", "b/c/a.jsonl", "b/gone", "b/round"]
    assert names("a.txt", "b/c", "a.txt") == ["a.txt", "b/c/a.jsonl", "a.txt"]
    assert names("*.txt") == ["a.txt", "odd[1].txt"]
    assert names("odd[1].txt") == ["odd[1].txt"]
    assert names("**/*.jsonl", "b/?.txt") == ["b/c/a.jsonl", "b/2.txt"]
    assert names("b/c*") == ["b/c/a.jsonl"]
    assert names("none.txt") == ["none.txt"], "told where it is opened"
    for name, message in (("empty", "holds no files"), ("*.none", "nothing matches")):
        with pytest.raises(NotFoundError, match=message):
            names(name)


def test_a_corpus_that_is_called_like_the_output_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", "train.json", "train.txt", "val.jsonl")
    touch(tmp_path, "train.ids", "train.megatron.bin", "_SUCCESS")
    os.mkfifo(tmp_path / "val.json")
    found = expand([tmp_path / "val.js*"], tmp_path / "val")
    assert [os.path.basename(path) for path in found] == ["val.json", "val.jsonl"], "and not read for that"
    (tmp_path / "val.json").unlink()
    for given in (tmp_path, tmp_path / "*"):
        found = [os.path.basename(path) for path in expand([given], tmp_path / "train")]
        assert found == ["train.json", "train.jsonl", "train.txt", "val.jsonl"]
    # A name of its own is meant.
    assert expand([tmp_path / "_SUCCESS"], tmp_path / "train") == [str(tmp_path / "_SUCCESS")]


def test_what_was_made_beside_an_output_is_no_input(tmp_path: Path) -> None:
    """The same command once more, over the directory that it writes to."""
    touch(tmp_path, "d/a.txt", "d/o.txt", "d/o.jsonl")
    (tmp_path / "d/b.jsonl").write_text('{"id":1,"text":"x"}\n{bad\n')
    record = ["--id-field", "id", "--bad-documents", "skip", "--val-fraction", "0.5", "--local"]
    both = ["--format", "megatron", "--format", "olmo"]
    for output, formats in (("o.bin", ["--format", "bin", *both]), ("p", both), ("q", both[:2])):
        given = ["encode", str(tmp_path / "d"), "-o", str(tmp_path / "d" / output), *record, *formats]
        assert main(given) == 0
        made = {path.name for path in (tmp_path / "d").iterdir()}
        found = expand([tmp_path / "d"], tmp_path / "d" / output)
        assert [os.path.basename(path) for path in found] == ["a.txt", "b.jsonl", "o.jsonl", "o.txt"]
        assert main(given) == 0, "up to date"
        for name in made - {"a.txt", "b.jsonl", "o.txt", "o.jsonl"}:
            path = tmp_path / "d" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_two_links_to_one_file_are_two_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "blob")
    for name in ("a", "b"):
        (tmp_path / "hub" / name).mkdir(parents=True)
        (tmp_path / "hub" / name / "x.jsonl").symlink_to(tmp_path / "blob")
    (tmp_path / "hub" / "round").symlink_to(tmp_path / "hub")
    for pattern in ("hub/**/*.jsonl", "hub/[ab]/*.jsonl"):
        found = expand([tmp_path / pattern], tmp_path / "out.bin")
        assert [os.path.relpath(path, tmp_path) for path in found] == ["hub/a/x.jsonl", "hub/b/x.jsonl"], pattern


def tokend(*arguments: str | Path, stdin: bytes | Path = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tokend", *map(str, arguments)]
    if isinstance(stdin, Path):
        with stdin.open("rb") as file:
            return subprocess.run(command, stdin=file, capture_output=True, timeout=120)
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120)


def test_stdin(tmp_path: Path, tiktoken_gpt2: tiktoken.Encoding) -> None:
    data = b'{"text":"one"}\n{bad\n{"text":"two"}\n'
    output = tmp_path / "out.bin"
    failed = tokend("encode", "--local", "-", "-o", output, stdin=naive.compress("gz", data))
    assert failed.returncode == 1 and b"line 2, byte 15 (decompressed)" in failed.stderr
    assert (tmp_path / ".out.bin.stdin").exists(), "a resumed run needs it"
    done = tokend("encode", "--local", "-", "-o", output, "--bad-documents", "skip", "--resume", "--json")
    assert done.returncode == 0, done.stderr
    naive.check(json.loads(done.stdout), output, naive.jsonl(tiktoken_gpt2, data))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    source = tmp_path / "in.jsonl"
    source.write_bytes(data)
    done = tokend(
        "encode", "--local", "-", "-o", tmp_path / "own.bin", "--bad-documents", "skip", "--json", stdin=source
    )
    assert json.loads(done.stdout)["sources"][0]["path"] == str(source), "a file is taken by its own path"
    twice = tokend("encode", "--local", "-", "-", "-o", output)
    assert twice.returncode == 2 or b"stdin is named twice" in twice.stderr


def test_inspect_has_an_account_of_each_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(23):
        (tmp_path / f"{number:02}.jsonl").write_text('{"text":"one"}\n' + '{"text":null}\n' * (number % 3))
    encode = ["--local", "-o", str(tmp_path / "o.bin"), "--bad-documents", "skip", "--force"]
    inputs = [str(tmp_path / f"{number:02}.jsonl") for number in range(23)]
    for n_inputs, n_lines in (1, 0), (2, 2), (20, 20), (23, 21):
        assert main(["encode", *inputs[:n_inputs], *encode]) == 0
        capsys.readouterr()
        assert main(["inspect", str(tmp_path / "o.bin")]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  of ")]
        assert len(lines) == n_lines
    assert lines[2] == f"  of         3 = 1 out + 2 bad + 0 filtered + 0 duplicates: {inputs[2]}"
    assert "and 3 more" in lines[-1]


def test_through_the_daemon(tmp_path: Path, client: Client, gpt2: Tokenizer) -> None:
    (tmp_path / "in").mkdir()
    data = b'{"text":"one"}\n{bad\n{"text":"two"}\n'
    (tmp_path / "in" / "x.jsonl.xz").write_bytes(naive.compress("xz", data))
    for format in ("bin", "stream"):
        output = tmp_path / f"out.{format}"
        with pytest.raises(BadDocumentError, match=r"line 2, byte 15 \(decompressed\)"):
            client.submit([tmp_path / "in"], output, format=format).wait(60)
        assert [path for path in tmp_path.glob("**/.*") if path.is_file()], "for who goes on with it"
        job = client.submit([tmp_path / "in"], output, format=format, bad_documents="skip")
        result = job.wait(60)
        assert (result.n_documents, job.status().n_skipped) == (2, 1)
        assert [entry["line"] for entry in naive.skipped_of(output)] == [2]
        assert not list(tmp_path.glob("**/.*"))
        again = client.submit([tmp_path / "in"], output, format=format, bad_documents="skip").wait(60)
        assert again.up_to_date
    assert result.manifest["sources"][0]["records"]["n_bad"] == 1
    # A mended input is another one: the job begins anew.
    output = tmp_path / "mended.bin"
    source = tmp_path / "m.jsonl"
    source.write_bytes(data)
    with pytest.raises(BadDocumentError):
        client.submit([source], output).wait(60)
    source.write_bytes(data.replace(b"{bad\n", b""))
    assert client.submit([source], output).wait(60).n_documents == 2
    assert not list(tmp_path.glob(".*"))


def test_of_many_paths_directories_are_found_as_of_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"many/{n:04}" for n in range(1200)), "many/in/a", "many/in/b", "alone/c", "other/deep/d")
    (tmp_path / "many/link").symlink_to(tmp_path / "other")
    (tmp_path / "many/gone").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path / "many")
    listed = [entry.name for entry in os.scandir(".")]
    listed += ["../alone", "./../many/in", "../missing", "in/a", "/nowhere/x"]
    found = expand(listed, tmp_path / "out.bin")
    assert found == [path for given in listed for path in expand([given], tmp_path / "out.bin")]
    assert len(found) == 1200 + 2 + 1 + 1 + 1 + 2 + 3


def test_a_set_of_many_files_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEND_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "in").mkdir()
    for n in range(1001):
        (tmp_path / f"in/{n:04}.txt").write_text(f"{n} words of a file. " * 450)
    command = ["encode", "--local", str(tmp_path / "in"), "-o"]
    assert main([*command, str(tmp_path / "a.bin")]) == 0
    assert main([*command, str(tmp_path / "b.bin")]) == 0
    assert os.path.samefile(tmp_path / "a.bin", tmp_path / "b.bin")
    (tmp_path / "in/0500.txt").write_text("501 words of a file. " * 450)
    assert main([*command, str(tmp_path / "c.bin")]) == 0
    assert (tmp_path / "a.bin").read_bytes() != (tmp_path / "c.bin").read_bytes()


@pytest.mark.parametrize("given", ["d", "d/*"])
def test_a_found_name_that_is_not_utf8_is_refused(given: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.txt").write_text("a")
    with open(os.fsencode(tmp_path / "d") + b"/\xff.txt", "w"):
        pass
    with pytest.raises(BadRequestError, match=r"udcff\.txt' is not valid UTF-8"):
        expand([tmp_path / given], tmp_path / "out.bin")


@pytest.mark.timeout(280)
@pytest.mark.parametrize("formats", ["megatron llmc", "mds", "olmo", "megatron", "llmc"])
def test_trainers_sets_in_the_input_directory_are_no_inputs(formats: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.jsonl").write_text('{"text": "one"}\n')
    chosen = [word for name in formats.split() for word in ("--format", name)]
    common = ["encode", str(tmp_path / "d"), "--local", "--no-reuse", *chosen]
    assert main([*common, "-o", str(tmp_path / "d/o")]) == 0
    # Of other options, so that it is encoded anew, over what stands there.
    other = ["--eot", "none", "--bad-documents", "skip"]
    assert main([*common, "-o", str(tmp_path / "d/o"), "--force", *other]) == 0
    for path in (tmp_path / "d").rglob("*tokend.json"):
        assert [source["path"] for source in json.loads(path.read_text())["sources"]] == [str(tmp_path / "d/a.jsonl")]
