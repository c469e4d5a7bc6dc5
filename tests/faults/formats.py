"""14. SIGKILL before, and ENOSPC and EIO from, the N-th write, fsync, rename, link, ... of the commands that make the
formats of trainers, whole or in shards, split and shuffled; that make sets of several fields, with ids and lists; that
bring a set up to date; and that put a stream, a set or trainers' formats in the place of others that had more files.

Whatever has its final name is complete: it verifies. An error is told and leaves nothing half made. The same command
with --force (fields: --resume) then makes what an undisturbed one makes, byte for byte, and nothing hidden stays.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from inputs.containers import in_parts
from tokend import _core
from tokend_client.errors import TokendError

from .common import Row, Scale, need_strace, prose, workplace

FORMATS = ("nanogpt", "llmc", "megatron", "datatrove", "olmo", "litdata", "mds")
CALLS = ("write", "fsync", "rename", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "copy_file_range")
COMMANDS = ("convert", "encode", "layout", "fields", "update", "replace", "replace set", "replace formats")
OF_STREAMS = ("pwrite64", "fdatasync", "ftruncate")


def run(scale: Scale) -> Row:
    row = Row("SIGKILL, ENOSPC, EIO at the N-th call of convert, encode --format, shards, fields, --update, --force")
    chance = random.Random(scale.seed)
    hits = {"SIGKILL": 0, "ENOSPC": 0, "EIO": 0}
    need_strace()
    with workplace() as folder:
        # In the short form `layout` stands for all that make formats.
        for command in COMMANDS if scale.share == 1 else COMMANDS[2:]:
            ground = _Ground(folder / command, command, scale.seed)
            # The short form: one kill and one error for each command.
            for fault in hits if scale.share == 1 else ["SIGKILL", chance.choice(["ENOSPC", "EIO"])]:
                calls = CALLS + (OF_STREAMS if command in ("replace", "replace set", "fields") else ())
                if scale.share < 1:
                    first = "unlinkat" if command.startswith("replace") else "write"
                    calls = (chance.choice([first, "fsync", "renameat2"]),)
                for call in calls:
                    number = 0
                    while True:
                        number += 1 if scale.share == 1 else chance.randint(1, 12)
                        if not _try(row, ground, fault, call, number):
                            break
                        hits[fault] += 1
                        if scale.share < 1:
                            break
    row.worst = ", ".join(f"{fault} {n}" for fault, n in hits.items())
    return row


class _Ground:
    """A command, and what it makes when nothing disturbs it."""

    def __init__(self, folder: Path, command: str, seed: int) -> None:
        self.folder, self.command = folder, command
        folder.mkdir()
        chance = random.Random(seed)
        self.text = "".join(f"{prose(chance, 300)}||" for _ in range(60))
        (folder / "a.txt").write_text(self.text)
        lines = [f"{{bad {n}\n" if n % 9 == 0 else _line(n % 50, prose(chance, 300)) for n in range(60)]
        (folder / "a.jsonl.zst").write_bytes(in_parts("zst", "".join(lines).encode()))
        self.place = folder / "place"
        assert self.tokend("encode", str(folder / "a.txt"), "-o", str(folder / "source.bin"), *_LOCAL).returncode == 0
        self.prepare()
        assert self.run().returncode == 0
        self.expected = self.files()

    def prepare(self) -> None:
        """An empty place, or one with the set that is to be brought up to date."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        if self.command == "update":
            (self.folder / "a.txt").write_text(self.text[: len(self.text) // 2])
            made = self.tokend("encode", str(self.folder / "a.txt"), "-o", str(self.place / "o.bin"), *_LOCAL)
            assert made.returncode == 0, made.stderr
            (self.folder / "a.txt").write_text(self.text)
        if self.command.startswith("replace"):
            # Lists and sidecars that what takes its place has not.
            old = {
                "replace": ["-o", str(self.place / "o.stream"), "--format", "stream"],
                "replace set": ["-o", str(self.place / "o.bin")],
                "replace formats": ["-o", str(self.place / "o"), *_TWO, "--val-fraction", "0.2"],
            }[self.command]
            lines = [str(self.folder / "a.jsonl.zst"), "--field", "a", "--id-field", "id"]
            made = self.tokend("encode", *lines, *old, *_LOCAL[:3], *_LIMITS, "--no-reuse")
            assert made.returncode == 0 and len(list(self.place.glob("o.*"))) > 1, made.stderr

    def run(self, *before: str, is_again: bool = False) -> subprocess.CompletedProcess[str]:
        formats = [word for name in FORMATS for word in ("--format", name)]
        again = ["--force"] if is_again else []
        output = ["-o", str(self.place / "o")]
        if self.command == "convert":
            return self.tokend("convert", str(self.folder / "source.bin"), *output, *formats, *again, before=before)
        source = str(self.folder / "a.txt")
        lines, local = str(self.folder / "a.jsonl.zst"), [*_LOCAL[:3], *_LIMITS]
        if self.command == "layout":
            return self.tokend("encode", lines, "--field", "a", *output, *local, *_LAYOUT, *again, before=before)
        if self.command == "fields":
            fields = [word for name in "ab" for word in ("--field", f"{name}={self.place / name}.bin")]
            again = ["--resume"] if is_again else []
            return self.tokend("encode", lines, *fields, *local, "--id-field", "id", *again, before=before)
        if self.command == "encode":
            return self.tokend("encode", source, *output, *_LOCAL, *formats, *again, before=before)
        if self.command == "replace":
            again = ["--resume"] if is_again else []
            output = ["-o", str(self.place / "o.stream"), "--format", "stream", "--force"]
            return self.tokend("encode", source, *output, *_LOCAL, *again, before=before)
        if self.command == "replace set":
            output = ["-o", str(self.place / "o.bin"), "--force"]
            return self.tokend("encode", source, *output, *_WHOLE, before=before)
        if self.command == "replace formats":
            return self.tokend("encode", source, *output, *_TWO, "--force", *_WHOLE, before=before)
        return self.tokend("encode", source, "-o", str(self.place / "o.bin"), *_LOCAL, "--update", before=before)

    def tokend(self, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"TOKEND_STATE_DIR": str(self.folder / "state"), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [*before, sys.executable, "-m", "tokend", *arguments]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, timeout=120)

    def files(self) -> dict[str, bytes]:
        """Every file of the place; the hidden set's name, which is in no file, aside.

        Of a stream's manifest what chance and the number of commits do not make.
        """
        paths = [path for path in self.place.rglob("*") if path.is_file()]
        found = {path.relative_to(self.place).as_posix(): path.read_bytes() for path in paths}
        if (manifest := found.get("o.stream/manifest.json")) is not None:
            found["o.stream/manifest.json"] = repr(json.loads(manifest) | {"stream_id": 0, "commit": 0}).encode()
        return found

    def finals(self) -> list[Path]:
        """What is there under a final name, by what commits it."""
        if self.command in ("update", "replace set"):
            return [path for path in [self.place / "o.bin"] if Path(f"{path}.json").exists()]
        if self.command == "replace":
            return [path for path in [self.place / "o.stream"] if (path / "manifest.json").exists()]
        if self.command == "fields":
            return [path for path in [self.place / "a.bin", self.place / "b.bin"] if Path(f"{path}.json").exists()]
        places = [self.place / f"o.{name}" for name in FORMATS if name != "megatron"]
        index = self.place / "o.megatron.idx"
        return [place for place in [*places, index] if place.exists()]


_LOCAL = ["--local", "--threads", "1", "--separator", "||", "--no-reuse"]
_WHOLE = ["--local", "--threads", "1", "--no-reuse"]
_TWO = ["--format", "olmo", "--format", "mds"]
_LIMITS = ["--bad-documents", "skip", "--deduplicate", "--min-tokens", "2", "--truncate-tokens", "90"]
_LAYOUT = ["--format", "datatrove", "--format", "mds", "--shard-documents", "25", "--val-fraction", "0.2", "--shuffle"]


def _line(number: int, text: str) -> str:
    return json.dumps({"id": number, "a": text, "b": f"title {number}"}) + "\n"


def _try(row: Row, ground: _Ground, fault: str, call: str, number: int) -> bool:
    """One command with one fault; False if the call was not reached."""
    row.tries += 1
    what = f"{ground.command}, {fault} at {call} {number}"
    ground.prepare()
    log = ground.folder / "trace"
    action = f"signal={fault}" if fault == "SIGKILL" else f"error={fault}"
    strace = [need_strace(), "-f", "-o", str(log), "-e", f"trace={call}"]
    if fault != "SIGKILL":
        # Ten times as fast; but with it strace 6.1 injects no signal into any call but the first.
        strace += ["--seccomp-bpf"]
    strace += ["-e", f"inject={call}:{action}:when={number}"]
    done = ground.run(*strace)
    trace = log.read_text(errors="replace")
    was_hit = "killed by SIGKILL" in trace if fault == "SIGKILL" else "(INJECTED)" in trace
    if was_hit and fault != "SIGKILL":
        row.demand(done.returncode in (0, 1), f"{what}: exit code {done.returncode}")
        # What cannot be written cannot be told either: then Python itself says so when it ends.
        told = "error:" in done.stderr or call == "write"
        row.demand(done.returncode == 0 or told, f"{what}: nothing said: {done.stderr[-200:]}")
        row.demand("Traceback" not in done.stderr or call == "write", f"{what}: {done.stderr[-300:]}")
    for final in ground.finals():
        try:
            _core.verify(str(final))
        except TokendError as error:
            row.demand(False, f"{what}: {final.name} is not complete: {error}")
    again = ground.run(is_again=True)
    row.demand(again.returncode == 0, f"{what}: again: {again.stderr.strip()[-300:]}")
    found = ground.files()
    odd = [name for name in {*found, *ground.expected} if found.get(name) != ground.expected.get(name)]
    row.demand(not odd, f"{what}: not as undisturbed: {sorted(odd)[:4]}")
    return was_hit
