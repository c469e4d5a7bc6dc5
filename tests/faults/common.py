"""What every item of the campaign shares: a daemon that is killed at will, work to do, and the oracle **G**.

G, for each output: it is not there, or it is complete: a manifest, files of the lengths and with the bytes
of the reference encoding. Every job that a client saw accepted is known after a restart, every job seen
`done` has its output, and no other file is touched. At the end no partial file is left.

The reference encoding comes from another code path than jobs: each text at once, through
`Tokenizer.encode`. What was accepted and what was seen done is kept here, outside the daemon.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokend import Tokenizer
from tokend_client import Client
from tokend_client.errors import TokendError, UnknownJobError
from tokend_client.sidecars import MANIFEST, OF_SET

SETTLED = ("done", "failed", "cancelled")

PATIENCE_S = 180.0
"""How long to wait for what has no limit of its own: under strace, on a busy machine, anything takes long."""

_daemons: list[subprocess.Popen[bytes]] = []
"""Daemons that run; whoever leaves a workplace, be it by an exception, ends them."""


@dataclass
class Scale:
    """How long an item may run: `share` is 1 for the whole campaign, less for its short forms."""

    share: float
    seed: int = 1

    def n(self, whole: int, least: int = 1) -> int:
        """A number of tries."""
        return max(least, round(whole * self.share))


@dataclass
class Row:
    """One line of the table."""

    fault: str
    tries: int = 0
    violations: list[str] = field(default_factory=list)
    worst: str = ""
    skipped: str | None = None

    def demand(self, holds: bool, otherwise: str) -> None:
        """Notes a violation unless `holds`."""
        if not holds:
            self.violations.append(otherwise)


class Skip(Exception):
    """The item cannot run here; says why."""


def need_strace() -> str:
    """The path of strace; skips where it is missing or may not attach."""
    found = shutil.which("strace")
    if found is None:
        raise Skip("strace is not installed")
    probe = subprocess.run([found, "-o", os.devnull, "true"], capture_output=True)
    if probe.returncode != 0:
        raise Skip("this process may not trace others")
    return found


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of its own that can be filled; skips where it cannot be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="tkd-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        folder.rmdir()
        raise Skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def prose(chance: random.Random, n_bytes: int) -> str:
    """Text with words, numbers, several scripts, and now and then an awkward place."""
    words = ["the", "tokenizer", "naïve", "日本語", "данные", "x = f(y)", "3.14159", "😀", "it's", "don't", "\t", "ok"]
    parts: list[str] = []
    size = 0
    while size < n_bytes:
        part = chance.choice(words) + chance.choice([" ", " ", " ", ", ", ".\n", "  ", "\n\n"])
        part *= chance.choice([1, 1, 1, 2, 30])
        parts.append(part)
        size += len(part.encode())
    return "".join(parts)


class Ground:
    """Inputs and an output directory of one item, with the reference encodings."""

    def __init__(self, folder: Path, seed: int, sizes: list[int]) -> None:
        self.folder = folder
        self.outputs = folder / "out"
        self.outputs.mkdir()
        self.tokenizer = Tokenizer.load("gpt2")
        self.chance = random.Random(seed)
        self.texts = [prose(self.chance, size) for size in sizes]
        self.inputs = []
        for number, text in enumerate(self.texts):
            path = folder / f"in{number}.txt"
            path.write_text(text)
            self.inputs.append(path)
        self.foreign = self.outputs / "foreign.bin"
        self.foreign.write_bytes(b"not ours")
        self.foreign_partial = self.outputs / ".someone.bin.12345-0.partial"
        self.foreign_partial.write_bytes(b"not ours either")

    def reference(self, inputs: list[int]) -> tuple[bytes, bytes]:
        """The data file and the ends file of a job over some of the inputs."""
        eot = np.array([self.tokenizer.eot_id], self.tokenizer.dtype)
        parts = [np.concatenate([self.tokenizer.encode(self.texts[number]), eot]) for number in inputs]
        ends = np.cumsum([len(part) for part in parts], dtype="<u8")
        return np.concatenate(parts).tobytes(), ends.tobytes()

    def check_set(self, output: Path, inputs: list[int]) -> str | None:
        """What is wrong with an output, in words; None if it is absent or complete and right."""
        manifest_path = Path(f"{output}.json")
        if not manifest_path.exists():
            return None
        try:
            manifest = json.loads(manifest_path.read_bytes())
            data, ends = output.read_bytes(), Path(f"{output}.ends").read_bytes()
        except (OSError, ValueError) as error:
            return f"{output.name}: a manifest, but {error}"
        expected_data, expected_ends = self.reference(inputs)
        if manifest["n_tokens"] * 2 != len(data) or manifest["data"]["size_bytes"] != len(data):
            return f"{output.name}: the manifest says {manifest['n_tokens']} tokens, there are {len(data)} bytes"
        if data != expected_data:
            return f"{output.name}: not the reference encoding"
        if ends != expected_ends:
            return f"{output.name}: the ends are not those of the reference encoding"
        return None

    def strays(self) -> list[str]:
        """Files in the output directory that belong to no complete set."""
        names = {path.name for path in self.outputs.iterdir()} - {self.foreign.name, self.foreign_partial.name}
        sets = {name.removesuffix(MANIFEST) for name in names if name.endswith(MANIFEST)}
        own = sets | {f"{name}{suffix}" for name in sets for suffix in (MANIFEST, *OF_SET.values())}
        return sorted(names - own)

    def check_foreign(self, row: Row) -> None:
        """What others put there is still there."""
        untouched = self.foreign.read_bytes() == b"not ours" and self.foreign_partial.read_bytes() == b"not ours either"
        row.demand(untouched, "a foreign file was touched")


@dataclass
class Known:
    """A job as its client knows it."""

    output: Path
    inputs: list[int]
    key: str
    is_accepted: bool = False
    state: str = ""

    @property
    def job_id(self) -> str:
        """Ids follow from keys."""
        return hashlib.blake2b(self.key.encode(), digest_size=6).hexdigest()


class Rig:
    """A daemon on a state directory of its own, and the jobs that its clients know."""

    def __init__(self, folder: Path, *options: str, state_dir: Path | None = None) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/run/t.sock"
        self.state_dir = state_dir or folder / "state"
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.jobs: list[Known] = []
        self.log = folder / "daemon.log"

    def start(self) -> None:
        """Starts the daemon and waits until it answers."""
        command = [sys.executable, "-m", "tokend", "serve", "--endpoint", self.endpoint]
        command += ["--state-dir", str(self.state_dir), "--drain-timeout", "2", *self.options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _daemons.append(self.process)
        with Client(self.endpoint, connect_timeout=PATIENCE_S) as client:
            self.close_once_dead(client)
            try:
                client.ping(timeout=PATIENCE_S)
            except TokendError as error:
                log = self.log.read_text(errors="replace").splitlines()[-20:]
                said = [f"no daemon: {error}; exit code {self.process.poll()}", *log]
                raise AssertionError("\n".join(said)) from error

    def close_once_dead(self, client: Client) -> None:
        """Lets a client that waits for this daemon fail as soon as it is gone."""
        process = self.process
        assert process is not None

        def wait() -> None:
            process.wait()
            client.close()

        threading.Thread(target=wait, daemon=True).start()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def is_alive(self) -> bool:
        """Whether the daemon still runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                return self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                return -9
        return self.process.returncode

    def client(self, **options: float) -> Client:
        """A client of this daemon."""
        patient = dict.fromkeys(("timeout", "connect_timeout", "reconnect_timeout"), PATIENCE_S)
        return Client(self.endpoint, **{**patient, **options})  # type: ignore[arg-type]

    def submit(self, client: Client, ground: Ground, known: Known, timeout_s: float = PATIENCE_S) -> TokendError | None:
        """Submits a job; its error, if it is not accepted."""
        try:
            job = client.submit(
                [ground.inputs[number] for number in known.inputs], known.output, key=known.key, timeout=timeout_s
            )
        except TokendError as error:
            return error
        assert job.job_id == known.job_id
        known.is_accepted = True
        return None

    def look(self, client: Client, row: Row, ground: Ground) -> None:
        """Asks for every accepted job: none may be forgotten, and those that are done have their output."""
        for known in self.jobs:
            if not known.is_accepted:
                continue
            try:
                info = client.job(known.job_id).status()
            except UnknownJobError:
                row.demand(False, f"{known.output.name}: accepted, and unknown after the restart")
                continue
            row.demand(
                known.state not in SETTLED or info.state == known.state,
                f"{known.output.name}: was {known.state} and is {info.state}",
            )
            known.state = info.state
            if known.state == "done":
                row.demand(Path(f"{known.output}.json").exists(), f"{known.output.name}: done, and there is no output")

    def check(self, row: Row, ground: Ground) -> None:
        """G, over all outputs."""
        for known in self.jobs:
            problem = ground.check_set(known.output, known.inputs)
            row.demand(problem is None, problem or "")
        ground.check_foreign(row)

    def settle(self, client: Client, row: Row, ground: Ground, timeout_s: float = PATIENCE_S) -> None:
        """Waits until every accepted job has ended, then checks everything."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.look(client, row, ground)
            if all(known.state in SETTLED for known in self.jobs if known.is_accepted):
                break
            time.sleep(0.05)
        else:
            states = {known.output.name: known.state for known in self.jobs if known.is_accepted}
            row.demand(False, f"jobs have not ended after {timeout_s:g} s: {states}")
        self.check(row, ground)
        row.demand(not ground.strays(), f"left behind: {ground.strays()}")


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder with a short path on a real disk."""
    folder = Path(tempfile.mkdtemp(prefix="tkd-f-"))
    try:
        yield folder
    finally:
        while _daemons:
            daemon = _daemons.pop()
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


Item = Callable[[Scale], Row]
