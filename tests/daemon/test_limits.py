"""Memory, deadlines and numbers: what a request may ask for, and what is said of the rest."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from conftest import Daemon
from tokend.peers import Peer, Peers
from tokend_client import AsyncClient, Client, TokenStream, protocol
from tokend_client.errors import (
    BadRequestError,
    DeadlineExceededError,
    OutputExistsError,
    StreamError,
    TooLargeError,
)
from tokend_client.protocol import Op

PATIENCE_S = 60.0
LONGEST = 35496
"""Two bytes of a request that are 128 of a reply."""


def peak_bytes(daemon: Daemon) -> int:
    (line,) = [line for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def raw_peer(daemon: Daemon) -> zmq.Socket[bytes]:  # type: ignore[misc]
    """A peer that has said hello and keeps to nothing else."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.linger, peer.rcvtimeo, peer.rcvhwm = 0, 60_000, 1
        peer.connect(daemon.endpoint)
        hello = protocol.Hello(versions=[protocol.VERSION], client_id="x", client="x", pid=1)
        peer.send_multipart(protocol.pack(Op.HELLO, 0, 1, hello))
        assert protocol.unpack(peer.recv_multipart()).flags == protocol.FLAG_OK
        yield peer


def test_a_decoded_text_over_the_limit_is_refused_before_it_is_made(daemon: Daemon) -> None:
    with Client(daemon.endpoint, timeout=PATIENCE_S) as client:
        client.encode("warm " * 100_000)
        ids = np.full(8 << 20, LONGEST, np.uint16)
        with pytest.raises(TooLargeError, match="8388608 ids decode to 1073741824 bytes"):
            client.decode_bytes(ids)
        token = client.decode_bytes([LONGEST])
        assert len(token) == 128 and client.decode_bytes(ids[:400_000]) == token * 400_000
        with pytest.raises(TooLargeError):
            client.decode_bytes(np.full(600_000, LONGEST, np.uint16))
    assert peak_bytes(daemon) < 700 << 20


def unread(daemon: Daemon, n_replies: int) -> socket.socket:
    """A connection that asks for 1 MB replies and reads none."""
    from tokend_client.zmtp import Channel

    channel = Channel(daemon.endpoint.removeprefix("ipc://"), protocol.FRAME_MAX_BYTES)
    channel.connect()
    until = time.monotonic() + PATIENCE_S
    while not channel.is_open:
        assert time.monotonic() < until
        channel.wait(1.0)
        channel.receive()
    hello = protocol.Hello(versions=[protocol.VERSION], client_id="x", client="x", pid=1)
    channel.send(protocol.pack(Op.HELLO, 0, 1, hello), until)
    body = np.full(8_000, LONGEST, "<u2").tobytes()
    header = protocol.Decode(tokenizer="gpt2", dtype="uint16")
    with contextlib.suppress(OSError):
        for n in range(n_replies):
            channel.send(protocol.pack(Op.DECODE, 0, 2 + n, header, [body]), until)
    return channel._socket


def test_who_has_left_most_for_longest_is_the_slowest() -> None:
    reads = Peer(last_seen=100.0, window_bytes=50 << 20, unread_since=99.9)
    sleeps = Peer(last_seen=0.0, window_bytes=1 << 10, unread_since=0.0)
    leaves = Peer(last_seen=95.0, window_bytes=4 << 20, outbox_bytes=11 << 20, unread_since=95.0)
    assert max((reads, sleeps, leaves), key=lambda peer: peer.slowness(100.0)) is leaves


def test_who_has_read_all_is_not_hung_up_on_for_what_it_read_long_ago() -> None:
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(end) for _ in range(2) for end in socket.socketpair()]
        ends[2].send(b"not read")
        peers = Peers(stack.enter_context(zmq.Context.instance().socket(zmq.ROUTER)), 10 << 20)
        peers[b"has read"] = Peer(last_seen=0.0, fd=ends[0].fileno(), window_bytes=1 << 20)
        peers[b"leaves"] = Peer(time.monotonic(), ends[2].fileno(), unread_since=time.monotonic() - 1.0)
        peers._held_bytes = 1 << 20
        for _ in range(3):
            if b"leaves" in peers:
                peers._queue(b"leaves", peers[b"leaves"], [b"", b"", bytes(4 << 20)], 4 << 20)
        assert list(peers) == [b"has read"] and peers[b"has read"].window_bytes == 0


def test_clients_that_do_not_read_fill_no_more_than_their_share(daemon: Daemon) -> None:
    """12 of them, and 840 MB of replies: 200 MB may wait."""
    connections = []
    try:
        for _ in range(12):
            connections.append(unread(daemon, 70))
        with Client(daemon.endpoint, timeout=PATIENCE_S) as client:
            assert client.encode("Hello").tolist() == [15496]
            assert len(client.decode_bytes(np.full(400_000, LONGEST))) == 128 * 400_000
            assert client.status().problems == []
        assert peak_bytes(daemon) < 700 << 20
        assert "is hung up on" in (daemon.folder / "daemon.log").read_text()
    finally:
        for connection in connections:
            connection.close()


def test_deadlines_that_make_no_sense(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c")
    for deadline in (0, -5, math.nan):
        with pytest.raises(BadRequestError, match="not a number of seconds above 0"):
            client.submit([tmp_path / "a.txt"], tmp_path / "out.bin", deadline=deadline)
    spec = msgspec.msgpack.encode(protocol.JobSpec(inputs=[str(tmp_path / "a.txt")], output=str(tmp_path / "o.bin")))
    with raw_peer(daemon) as peer:
        for deadline_ms in (0, -5, 1 << 60):
            peer.send_multipart(protocol.pack(Op.SUBMIT, 0, 9, protocol.Submit(deadline_ms=deadline_ms), [spec]))
            reply = protocol.unpack(peer.recv_multipart())
            assert protocol.decode_header(reply.header, protocol.ErrorReply).code == "BAD_REQUEST"
    assert client.submit([tmp_path / "a.txt"], tmp_path / "b.bin", deadline=math.inf).wait(timeout=60).n_tokens == 4
    assert not (tmp_path / "out.bin").exists() and not (tmp_path / "o.bin").exists()


def test_what_is_late_is_not_published(client: Client, tmp_path: Path) -> None:
    """The least deadline there is, many times: it has passed before the job could begin or end."""
    (tmp_path / "a.txt").write_text("a b c " * 200_000)
    for n in range(10):
        job = client.submit([tmp_path / "a.txt"], tmp_path / f"{n}.bin", deadline=0.001)
        with pytest.raises(DeadlineExceededError, match="by its deadline"):
            job.wait(timeout=PATIENCE_S)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["threads", "min_tokens", "max_tokens", "truncate_tokens"])
@pytest.mark.parametrize("number", [-1, 1 << 63])
def test_numbers_of_jobs_are_checked(name: str, number: int, client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c")
    with pytest.raises(BadRequestError, match=f"{name} is {number}"):
        client.submit([tmp_path / "a.txt"], tmp_path / "out.bin", **{name: number})  # type: ignore[arg-type]
    assert client.jobs() == []


def test_time_outs_of_any_size(client: Client, daemon: Daemon) -> None:
    assert client.encode("Hello", timeout=math.inf).tolist() == [15496]
    assert client.encode("Hello", timeout=1e300).tolist() == [15496]
    for timeout in (math.nan, -math.nan):
        with pytest.raises(BadRequestError, match="timeout is nan"):
            client.encode("Hello", timeout=timeout)
        with pytest.raises(BadRequestError, match="timeout is nan"):
            client.job("x").wait(timeout=timeout)
        with pytest.raises(BadRequestError, match="connect_timeout is nan"):
            AsyncClient(daemon.endpoint, connect_timeout=timeout)
    with Client(daemon.endpoint, timeout=math.inf, connect_timeout=math.inf, reconnect_timeout=math.inf) as patient:
        assert patient.count("Hello") == 1


def test_a_foreign_directory_is_said_to_be_one(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(OutputExistsError, match="tokend did not make it") as caught:
        client.submit([tmp_path / "a.txt"], tmp_path / "out", format="stream", force=True)
    assert "pass --force" not in str(caught.value)
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_waiting_for_a_job_across_a_stop(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_text("words and words, 123 times\n" * 15_000_000)
    daemon = Daemon(run_folder, "--drain-timeout", "0.1")
    try:
        with Client(daemon.endpoint, reconnect_timeout=0.5) as client:
            for n in range(8):
                job = client.submit([tmp_path / "big.txt"], tmp_path / f"{n}.bin", threads=1).job_id
        command = [sys.executable, "-m", "tokend", "wait", job, "--endpoint", daemon.endpoint]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as waiting:
            with Client(daemon.endpoint) as client:
                # Its hello, its first look at the job, and the wait; the others are ours.
                base, n = client.status().n_requests, 0
                while client.status().n_requests - base - (n := n + 1) < 3:
                    time.sleep(0.05)
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(PATIENCE_S) == 0
            said = waiting.communicate(timeout=PATIENCE_S)[1]
        # It was told, or the daemon was gone before it could be.
        assert waiting.returncode in (1, 3)
        assert f"job {job} is kept" in said and "submit again" not in said and "Traceback" not in said
        daemon.start()
        with Client(daemon.endpoint) as client:
            assert client.job(job).status().state == "queued"
            for info in client.jobs():
                client.job(info.job_id).cancel()
    finally:
        daemon.stop()


def test_a_socket_of_another_daemon_stays(daemon: Daemon, tmp_path: Path) -> None:
    """Socket and lock of the first are removed, so a second takes the place; the first ends and leaves it alone."""
    path = Path(daemon.endpoint.removeprefix("ipc://"))
    path.unlink()
    Path(f"{path}.lock").unlink()
    second = Daemon.__new__(Daemon)
    second.endpoint, second.folder, second.options = daemon.endpoint, tmp_path, ()
    second.start()
    try:
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_S) == 0
        with Client(daemon.endpoint) as client:
            assert client.status().pid == second.process.pid
    finally:
        second.stop()
    assert not path.exists()


def test_a_journal_that_cannot_be_opened(run_folder: Path) -> None:
    """It says so, and nothing of writing."""
    daemon = Daemon(run_folder)
    daemon.stop()
    (journal,) = (run_folder / "state").glob("journal-*.db")
    journal.unlink()
    journal.mkdir()
    command = [sys.executable, "-m", "tokend", "serve", "--endpoint", daemon.endpoint, "--state-dir"]
    done = subprocess.run([*command, str(run_folder / "state")], capture_output=True, text=True, timeout=PATIENCE_S)
    shutil.rmtree(journal)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{journal}: the journal cannot be opened" in done.stderr and "hint:" in done.stderr


def test_jobs_that_get_further_are_not_poison(daemon: Daemon, tmp_path: Path) -> None:
    """Killed three times from outside, each time a good deal later."""
    line = "words and words, 123 times\n"
    (tmp_path / "big.txt").write_text(line * (400_000_000 // len(line)))
    with Client(daemon.endpoint) as client:
        job = client.submit([tmp_path / "big.txt"], tmp_path / "out.bin", threads=1).job_id
    for share in (0.15, 0.4, 0.65):
        with Client(daemon.endpoint) as client:
            while client.job(job).status().bytes_done < share * 400_000_000:
                assert client.job(job).status().state in ("queued", "running")
                time.sleep(0.002)
        daemon.kill()
        daemon.start()
    with Client(daemon.endpoint) as client:
        assert client.job(job).wait(timeout=120).n_documents == 1
    assert os.path.getsize(tmp_path / "out.bin") > 1 << 20


@pytest.mark.parametrize("name", ["out.bin.json", "out/manifest.json"])
def test_manifests_that_are_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (tmp_path / "out.bin").touch()
    output = tmp_path / name.removesuffix(".json").removesuffix("/manifest")
    path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(StreamError, match="nested too deeply"):
        TokenStream(output)
    path.unlink()
    path.mkdir()
    with pytest.raises(StreamError):
        TokenStream(output)
