"""What a daemon does with sets that are there: updates, sets of the same inputs, conversions, watched directories."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Daemon
from tokend import Tokenizer, splice
from tokend._core import JobControl
from tokend.cli import main
from tokend.cli import watch as watching
from tokend.config import ServerConfig
from tokend.outputs import run_job
from tokend.record import Record
from tokend.registry import Registry
from tokend_client import AsyncClient, Client, TokenStream
from tokend_client.errors import BadRequestError, NoSpaceError, NotFoundError, OutputExistsError, StreamError
from tokend_client.protocol import TERMINAL_STATES, JobSpec

PARTS = ("", ".ends", ".docs", ".json")
LINE = json.dumps({"text": "words and words, 123 times, naïve" + " and so on" * 30}, ensure_ascii=False) + "\n"
pytestmark = pytest.mark.timeout(280)


def lines(path: Path, first: int, n_lines: int, mode: str = "w") -> Path:
    with path.open(mode, encoding="utf-8") as file:
        file.writelines(LINE.replace("123", str(number)) for number in range(first, first + n_lines))
    return path


def same(folder: Path, one: str, other: str) -> None:
    """Two sets are the same but for their names."""
    for part in PARTS:
        first, second = ((folder / f"{name}{part}").read_bytes() for name in (one, other))
        assert first.replace(one.encode(), other.encode()) == second if part == ".json" else first == second


def until(condition: object, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_update(client: Client, tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", 0, 100)
    arguments = ([source], tmp_path / "set.bin")
    first = client.submit(*arguments, update=True).wait(timeout=60)
    assert first.encoded_bytes is None and first.note is None
    before = source.stat().st_size
    lines(source, 100, 7, "a")
    result = client.submit(*arguments, update=True).wait(timeout=60)
    assert result.encoded_bytes == source.stat().st_size - before and not result.up_to_date
    assert client.submit(*arguments, update=True).wait(timeout=60).up_to_date
    client.submit([source], tmp_path / "full.bin").wait(timeout=60)
    same(tmp_path, "set.bin", "full.bin")
    # Options of another kind: the whole is encoded, and why is said.
    result = client.submit(*arguments, update=True, eot="prepend").wait(timeout=60)
    assert result.note == "all of it is encoded: it was made with other options" and result.n_documents == 107
    # Somebody else's file is not replaced.
    (tmp_path / "mine.bin").write_text("mine")
    with pytest.raises(OutputExistsError):
        client.submit([source], tmp_path / "mine.bin", update=True)
    with pytest.raises(BadRequestError, match="format bin"):
        client.submit([source], tmp_path / "s", update=True, format="stream")
    assert (tmp_path / "mine.bin").read_text() == "mine"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_an_update_is_killed_and_goes_on(daemon: Daemon, tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", 0, 1000)
    with Client(daemon.endpoint) as client:
        client.submit([source], tmp_path / "set.bin").wait(timeout=60)
        lines(source, 1000, 150_000, "a")
        job = client.submit([source], tmp_path / "set.bin", update=True, threads=1)
        # Most of it is still to be done.
        until(lambda: client.job(job.job_id).status().bytes_done > 4_000_000)
    daemon.kill()
    assert (tmp_path / ".set.bin.update" / "plan.json").exists() and (tmp_path / "set.bin.json").exists()
    daemon.start()
    with Client(daemon.endpoint) as client:
        result = client.job(job.job_id).wait(timeout=120)
        assert result.n_documents == 151_000 and result.encoded_bytes is not None
        client.submit([source], tmp_path / "full.bin").wait(timeout=120)
        same(tmp_path, "set.bin", "full.bin")
        # One that is cancelled leaves the set as it was, and nothing else.
        lines(source, 0, 60_000, "a")
        job = client.submit([source], tmp_path / "set.bin", update=True, threads=1)
        until(lambda: job.status().state != "queued")
        job.cancel()
        until(lambda: job.status().state in TERMINAL_STATES)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_known_sets_are_shared(client: Client, tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", 0, 25_000)
    assert source.stat().st_size > 8_000_000
    moved = shutil.copy(source, tmp_path / "b.jsonl")
    assert client.submit([source], tmp_path / "a.bin", reuse=True).wait(timeout=60).reused is None
    result = client.submit([moved], tmp_path / "b.bin", reuse=True).wait(timeout=60)
    assert result.reused == str(tmp_path / "a.bin") and result.manifest["sources"][0]["path"] == str(moved)
    assert client.job(result.job_id).status().reused == result.reused
    client.submit([moved], tmp_path / "c.bin").wait(timeout=60)
    same(tmp_path, "b.bin", "c.bin")
    # Again, and something else that stands there.
    assert client.submit([moved], tmp_path / "b.bin", reuse=True).wait(timeout=60).up_to_date
    (tmp_path / "d.bin.ends").write_text("mine")
    with pytest.raises(OutputExistsError):
        client.submit([moved], tmp_path / "d.bin", reuse=True).wait(timeout=60)
    # The command asks for it.
    common = ["--endpoint", client.endpoint, "--json"]
    assert main(["encode", str(moved), "-o", str(tmp_path / "e.bin"), *common]) == 0
    with TokenStream(tmp_path / "e.bin") as stream:
        assert stream.n_documents == 25_000
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_conversion_is_a_job(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lines(tmp_path / "a.jsonl", 0, 40_000)
    with Client(daemon.endpoint) as client:
        made = client.submit([source], tmp_path / "a.bin").wait(timeout=60)
        result = client.convert(tmp_path / "a.bin", tmp_path / "m", format="megatron").wait(timeout=60)
        assert result.n_tokens == made.n_tokens and result.manifest["kind"] == "megatron"
        info = client.job(result.job_id).status()
        assert info.bytes_done == info.bytes_total == 2 * made.n_tokens
        assert client.convert(tmp_path / "a.bin", tmp_path / "m", format="megatron").wait(timeout=60).up_to_date
        with pytest.raises(OutputExistsError):
            client.convert(tmp_path / "a.bin", tmp_path / "m", format="megatron", val_fraction=0.1)
        with pytest.raises(NotFoundError):
            client.convert(tmp_path / "none.bin", tmp_path / "n", format="megatron")
        job = client.convert(
            tmp_path / "a.bin", tmp_path / "l", format="llmc", shuffle=True, seed=3, shard_documents=999
        )
        until(lambda: client.job(job.job_id).status().state != "queued")
    daemon.kill()
    daemon.start()
    with Client(daemon.endpoint) as client:
        result = client.job(job.job_id).wait(timeout=120)
        assert result.n_documents == 40_000
    assert main(["verify", str(tmp_path / "l")]) == 0
    options = ["--format", "llmc", "--shuffle", "--seed", "3", "--shard-documents", "999"]
    assert main(["convert", str(tmp_path / "a.bin"), "-o", str(tmp_path / "k"), *options]) == 0
    for path in (tmp_path / "k").iterdir():
        renamed = path.read_bytes().replace(b'"k_', b'"l_').replace(b'"k.docs"', b'"l.docs"')
        assert renamed == (tmp_path / "l" / path.name.replace("k_", "l_")).read_bytes()
    # From text to a trainer's files, all of it by the daemon.
    capsys.readouterr()
    arguments = ["encode", str(source), "-o", str(tmp_path / "n"), "--format", "nanogpt", "--format", "olmo"]
    assert main([*arguments, "--no-reuse", "--endpoint", daemon.endpoint]) == 0
    assert "n.olmo (olmo)" in capsys.readouterr().err
    assert main(["jobs", "--json", "--endpoint", daemon.endpoint]) == 0
    outputs = [job["output"] for job in json.loads(capsys.readouterr().out)]
    assert outputs[-2:] == [str(tmp_path / "n.nanogpt"), str(tmp_path / "n.olmo")]
    assert main(["convert", str(tmp_path / "a.bin"), "-o", str(tmp_path / "q"), "--format", "olmo", "--no-wait",
                 "--endpoint", daemon.endpoint]) == 0  # fmt: skip
    assert main(["wait", capsys.readouterr().out.strip(), "--endpoint", daemon.endpoint]) == 0
    assert f"{tmp_path / 'q'} (olmo): " in capsys.readouterr().err
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_watched_directory(daemon: Daemon, tmp_path: Path, gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "DAEMON_MIN_BYTES", 200)
    (tmp_path / "in").mkdir()
    arguments = ["encode", "--watch", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--endpoint", daemon.endpoint]
    lines(tmp_path / "in" / "a.jsonl", 0, 3)
    assert main([*arguments, "--once"]) == 0
    # What a killed watch had asked for is cancelled, and asked for again.
    hidden = tmp_path / "out" / ".watch.partial"
    hidden.mkdir()
    big = lines(tmp_path / "big.jsonl", 0, 150_000)
    with Client(daemon.endpoint) as client:
        left = client.submit([big], hidden / "new.bin", threads=1)
        lines(tmp_path / "in" / "a.jsonl", 3, 2, "a")
        assert main([*arguments, "--seal"]) == 0
        assert left.status().state in TERMINAL_STATES
        # What came of at least 200 bytes was the daemon's to encode.
        assert [job.output for job in client.jobs()].count(str(hidden / "new.bin")) == 3
    with TokenStream(tmp_path / "out") as stream:
        found = [gpt2.decode(stream.document(number)[:-1]) for number in range(stream.n_documents)]
        assert stream.state == "sealed"
    assert found == [json.loads(LINE.replace("123", str(number)))["text"] for number in range(5)]
    assert not hidden.exists()


def test_another_tools_set_is_converted(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the daemon: into a trainer's format, into a set of ours, and what is missing is refused at once."""
    ids = np.arange(1_000_000) % 5000
    ids[99::100] = 50256
    ids.astype("<u2").tofile(tmp_path / "x.bin")
    with Client(daemon.endpoint) as client:
        for format in ("bin", "megatron"):
            with pytest.raises(BadRequestError, match="do not say which tokenizer"):
                client.convert(tmp_path / "x.bin", tmp_path / "none", format=format)
        given = {"tokenizer": "gpt2", "dtype": "uint16"}
        result = client.convert(tmp_path / "x.bin", tmp_path / "m", format="megatron", **given).wait(timeout=60)
        assert (result.n_documents, result.n_tokens, result.up_to_date) == (10_000, 1_000_000, False)
        result = client.convert(tmp_path / "x.bin", tmp_path / "o.bin", format="bin", **given).wait(timeout=60)
        info = client.job(result.job_id).status()
        assert result.n_documents == 10_000 and info.bytes_done == info.bytes_total == 2_000_000
        assert client.convert(tmp_path / "x.bin", tmp_path / "o.bin", format="bin", **given).wait(timeout=60).up_to_date
        with result.open() as stream:
            assert stream[:].tolist() == ids.tolist()
        with pytest.raises(OutputExistsError):
            client.convert(tmp_path / "x.bin", tmp_path / "o.bin", format="bin", eot_id=7, **given)
        # What was made of the same files is the same.
        assert client.convert(tmp_path / "m", tmp_path / "o.bin", format="bin").wait(timeout=60).up_to_date
        with pytest.raises(BadRequestError, match="bin and stream have all documents"):
            client.convert(tmp_path / "m", tmp_path / "p.bin", format="bin", shuffle=True)
    arguments = ["convert", str(tmp_path / "m"), "-o", str(tmp_path / "s"), "--format", "stream"]
    assert main([*arguments, "--endpoint", daemon.endpoint]) == 0
    assert "s (stream): 1,000,000 tokens, 10,000 documents" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "s")]) == 0
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_such_a_conversion_is_killed_and_runs_again(daemon: Daemon, tmp_path: Path) -> None:
    ids = np.arange(12_000_000) % 5000
    ids[99::100] = 50256
    ids.astype("<u2").tofile(tmp_path / "x.bin")
    with Client(daemon.endpoint) as client:
        job = client.convert(tmp_path / "x.bin", tmp_path / "m", format="megatron", tokenizer="gpt2", dtype="uint16")
        until(lambda: client.job(job.job_id).status().state != "queued")
        daemon.kill()
    daemon.start()
    with Client(daemon.endpoint) as client:
        assert client.job(job.job_id).wait(timeout=120).n_documents == 120_000
        job = client.convert(tmp_path / "x.bin", tmp_path / "o.bin", format="bin", tokenizer="gpt2", dtype="uint16")
        job.cancel()
        until(lambda: job.status().state in TERMINAL_STATES)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert (tmp_path / "m.bin").read_bytes() == (tmp_path / "x.bin").read_bytes()


def test_formats_of_trainers_in_one_job(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lines(tmp_path / "a.jsonl", 0, 2000)
    places = {name: tmp_path / f"o-{name}" for name in ("megatron", "olmo", "mds")}
    arguments = ([source], tmp_path / "o.bin")
    how = {"exports": places, "layout": {"shuffle": True, "seed": 3, "row_tokens": 16}}
    with Client(daemon.endpoint) as client:
        job = client.submit(*arguments, **how, key="k")
        result = job.wait(timeout=60)
        notes = result.manifest["exports"]
        assert [note["kind"] for note in notes] == list(places) and result.n_documents == 2000
        assert [note["path"] for note in notes] == [str(place) for place in places.values()]
        assert notes[2]["arrangement"]["row_tokens"] == 16 and notes[0]["arrangement"]["row_tokens"] is None
        # The ids lie alike: they are written once.
        assert os.path.samefile(tmp_path / "o-megatron.bin", tmp_path / "o-olmo" / "part-0-00000.npy")
        # The same job again, by its key and by what it makes; and after a restart.
        assert client.submit(*arguments, **how, key="k").job_id == job.job_id
        assert client.submit(*arguments, **how).wait(timeout=60).up_to_date
        daemon.kill()
        daemon.start()
        assert [note["kind"] for note in client.job(job.job_id).wait(timeout=60).manifest["exports"]] == list(places)
        for refused, what in (
            ({"exports": {"bin": tmp_path / "x"}}, "no format of trainers"),
            ({"exports": {"olmo": tmp_path / "o.bin"}}, "the same place"),
            ({"layout": {"shuffle": True}}, "is of formats that trainers read"),
            ({"exports": places, "layout": {"wrong": 1}}, "has no wrong"),
            ({"exports": places, "more": {"title": tmp_path / "t.bin"}}, "of one output"),
        ):
            with pytest.raises(BadRequestError, match=what):
                client.submit([source], tmp_path / "o.bin", **refused)
        with pytest.raises(OutputExistsError):
            client.submit(*arguments, exports=places)
        # An update brings all of them up to date.
        lines(source, 2000, 10, "a")
        with pytest.raises(OutputExistsError):
            client.submit([source], tmp_path / "p.bin", **how)
        result = client.submit(*arguments, **how, update=True).wait(timeout=60)
        assert [note["n_documents"] for note in result.manifest["exports"]] == [2010] * 3
        assert client.submit(*arguments, **how, update=True).wait(timeout=60).up_to_date
    for place in (tmp_path / "o.bin", tmp_path / "o-megatron.idx", tmp_path / "o-olmo", tmp_path / "o-mds"):
        assert main(["verify", str(place)]) == 0
    # The command asks for it, without waiting too.
    command = ["encode", str(source), "-o", str(tmp_path / "c.bin"), "--format", "bin", "--format", "llmc"]
    command += ["--endpoint", daemon.endpoint]
    capsys.readouterr()
    assert main([*command, "--no-wait"]) == 0
    assert main(["wait", capsys.readouterr().out.strip(), "--endpoint", daemon.endpoint]) == 0
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().err.count("is up to date") == 2
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_such_a_job_is_killed_in_its_second_half(daemon: Daemon, tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", 0, 60_000)
    places = {"mds": tmp_path / "m", "litdata": tmp_path / "l"}
    with Client(daemon.endpoint) as client:
        job = client.submit([source], tmp_path / "o.bin", exports=places, layout={"shuffle": True})
        notes = set()

        def is_there() -> bool:
            info = client.job(job.job_id).status()
            notes.add(info.note)
            return (tmp_path / "o.bin.json").exists() or info.state in TERMINAL_STATES

        until(is_there)
        daemon.kill()
        inode = (tmp_path / "o.bin").stat().st_ino
        daemon.start()
        until(lambda: notes.add(client.job(job.job_id).status().note) or (tmp_path / "l" / "tokend.json").exists())
        result = client.job(job.job_id).wait(timeout=120)
        assert len(result.manifest["exports"]) == 2 and (tmp_path / "o.bin").stat().st_ino == inode
        assert main(["verify", str(tmp_path / "m")]) == 0 and main(["verify", str(tmp_path / "l")]) == 0
        # Cancelled: what is complete stays, nothing else does.
        job = client.submit([source], tmp_path / "p.bin", exports={"mds": tmp_path / "q"}, layout={"shuffle": True})
        until(lambda: (tmp_path / "p.bin.json").exists() or job.status().state in TERMINAL_STATES)
        job.cancel()
        until(lambda: job.status().state in TERMINAL_STATES)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert (tmp_path / "q").exists() == (job_state(daemon, job.job_id) == "done")


def job_state(daemon: Daemon, job_id: str) -> str:
    with Client(daemon.endpoint) as client:
        return client.job(job_id).status().state


def test_a_daemon_with_roots_reads_no_sets(run_folder: Path, tmp_path: Path) -> None:
    daemon = Daemon(run_folder, "--root", str(tmp_path))
    try:
        source = lines(tmp_path / "a.jsonl", 0, 10)
        with Client(daemon.endpoint) as client:
            client.submit([source], tmp_path / "a.bin").wait(timeout=60)
            lines(source, 10, 1, "a")
            result = client.submit([source], tmp_path / "a.bin", update=True, reuse=True).wait(timeout=60)
            assert result.n_documents == 11 and "--root" in (result.note or "")
            with pytest.raises(BadRequestError, match="--root"):
                client.convert(tmp_path / "a.bin", tmp_path / "m", format="megatron")
            assert client.roots() == [str(tmp_path)]
        # The command makes it by itself then.
        arguments = ["encode", str(source), "-o", str(tmp_path / "m"), "--format", "megatron"]
        assert main([*arguments, "--endpoint", daemon.endpoint]) == 0
        assert main(["verify", str(tmp_path / "m.idx")]) == 0
    finally:
        daemon.stop()


def test_what_the_system_says_is_an_error_with_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that went away since the job was accepted, and a disk that is full."""
    source = lines(tmp_path / "a.jsonl", 0, 10)
    spec = JobSpec(inputs=[str(source)], output=str(tmp_path / "a.bin"), update=True, reuse=True)
    registry, config = Registry(), ServerConfig(state_dir=tmp_path / "state")
    record = Record(
        job_id="one", key=None, spec=spec, tokenizer="gpt2", fingerprint=registry.get("gpt2").fingerprint,
        bytes_total=1, state="running", submitted_s=0.0, attempts=1,
    )  # fmt: skip
    phases: list[str] = []
    assert run_job(record, JobControl(), registry, config, phases.append).n_documents == 10
    lines(source, 10, 1, "a")
    assert run_job(record, JobControl(), registry, config, phases.append).encoded_bytes == len(LINE.encode()) - 1
    assert phases[-1] == "what is new"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    lines(source, 11, 1, "a")
    with monkeypatch.context() as patch:
        patch.setattr(splice, "copy", full)
        with pytest.raises(NoSpaceError, match="x: No space left"):
            run_job(record, JobControl(), registry, config)
    source.unlink()
    with pytest.raises(NotFoundError, match=r"a\.jsonl"):
        run_job(record, JobControl(), registry, config)
    assert main(["verify", str(tmp_path / "a.bin")]) == 0


def test_the_asynchronous_client(daemon: Daemon, tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", 0, 10)

    async def run() -> None:
        async with AsyncClient(daemon.endpoint, timeout=60.0) as client:
            assert await client.roots() == []
            await (await client.submit([source], tmp_path / "a.bin", update=True)).wait(timeout=60)
            lines(source, 10, 1, "a")
            job = await client.submit([source], tmp_path / "a.bin", update=True)
            assert (await job.wait(timeout=60)).encoded_bytes == len(LINE.encode()) - 1
            job = await client.convert(tmp_path / "a.bin", tmp_path / "m", format="megatron", val_fraction=0.5)
            result = await job.wait(timeout=60)
            assert result.n_documents == 11 and result.manifest["kind"] == "megatron"
            with pytest.raises(StreamError):
                result.open()

    asyncio.run(run())
