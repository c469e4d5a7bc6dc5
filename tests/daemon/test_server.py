"""A real daemon: what it answers, what it survives, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from conftest import Daemon
from tokend import Tokenizer
from tokend_client import AsyncClient, Client, TokenStream, protocol
from tokend_client.errors import (
    CancelledError,
    ConflictError,
    DeadlineExceededError,
    InputInvalidError,
    NotConnectedError,
    NotFoundError,
    PathDeniedError,
    SpecialTokenError,
    TokenizerInvalidError,
    TooLargeError,
    UnknownIdError,
    UnknownJobError,
)
from tokend_client.protocol import Op


def test_requests(client: Client, gpt2: Tokenizer) -> None:
    text = "Hello, wörld! 日本 " * 10_000
    for given in ("", "Hello", text):
        assert client.encode(given).tolist() == gpt2.encode(given).tolist()
        assert client.decode(client.encode(given)) == given
        assert client.count(given) == len(gpt2.encode(given))
    ids, ends = client.encode_batch(["a", "", "b c"])
    assert (ids.tolist(), ends.tolist()) == ([64, 65, 269], [1, 1, 3])
    assert ids.dtype == np.uint16 and ids.flags.writeable
    assert client.encode("<|endoftext|>", special="token").tolist() == [50256]
    with pytest.raises(SpecialTokenError, match="at byte 2"):
        client.encode("a <|endoftext|>")
    with pytest.raises(UnknownIdError, match="50257"):
        client.decode([50257])
    with pytest.raises(TokenizerInvalidError, match="unknown tokenizer"):
        client.encode("a", tokenizer="gpt-17")
    with pytest.raises(TooLargeError, match="submit its path"):
        client.encode("x" * (protocol.FRAME_MAX_BYTES + 1))
    assert client.ping() < 60
    status = client.status()
    assert status.pid != os.getpid() and status.n_clients >= 1
    assert client.cache_stats()["gpt2"]["hits"] > 0
    client.cache_clear()


def test_jobs(client: Client, tmp_path: Path, gpt2: Tokenizer) -> None:
    text = "some words, and more of them\n" * 50_000
    (tmp_path / "a.txt").write_text(text)
    job = client.submit([tmp_path / "a.txt"], tmp_path / "out.bin", key="k")
    moments = list(job.progress(interval=0.05))
    assert moments[-1].state == "done" and moments[-1].bytes_done == len(text)
    result = job.wait(timeout=60)
    with result.open() as stream:
        assert stream[:-1].tolist() == gpt2.encode(text).tolist()
    again = client.submit([tmp_path / "a.txt"], tmp_path / "out.bin", key="k")
    assert again.job_id == job.job_id
    with pytest.raises(ConflictError):
        client.submit([tmp_path / "a.txt"], tmp_path / "other.bin", key="k")
    assert client.submit([tmp_path / "a.txt"], tmp_path / "out.bin").wait(timeout=60).up_to_date
    assert [info.state for info in client.jobs()] == ["done", "done"]
    with pytest.raises(NotFoundError):
        client.submit([tmp_path / "none.txt"], tmp_path / "x.bin")
    with pytest.raises(UnknownJobError):
        client.job("nonsense").status()
    (tmp_path / "bad.txt").write_bytes(b"ok \xff")
    with pytest.raises(InputInvalidError, match=r"bad.txt: not valid UTF-8 at byte 3 \(0xff\)"):
        client.submit([tmp_path / "bad.txt"], tmp_path / "x.bin").wait(timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.txt",
        "bad.txt",
        "out.bin",
        "out.bin.ends",
        "out.bin.json",
    ]


def test_cancel_leaves_nothing(client: Client, tmp_path: Path) -> None:
    with (tmp_path / "big.txt").open("w") as file:
        for _ in range(100):
            file.write("words and words, 123 times\n" * 40_000)
    job = client.submit([tmp_path / "big.txt"], tmp_path / "out.bin", threads=1)
    waiting = client.submit([tmp_path / "big.txt"], tmp_path / "out2.bin", threads=1)
    assert waiting.cancel().state == "cancelled"
    job.cancel()
    with pytest.raises(CancelledError):
        job.wait(timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["big.txt"]


def test_the_output_is_read_without_the_daemon(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three")
    with Client(daemon.endpoint) as client:
        client.submit([tmp_path / "a.txt"], tmp_path / "out.bin").wait(timeout=60)
    daemon.stop()
    code = (
        f"from tokend_client import TokenStream; print(TokenStream({str(tmp_path / 'out.bin')!r}).document(0).tolist())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[505, 734, 1115, 50256]"


def test_roots(run_folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a.txt").write_text("a")
    (tmp_path / "secret.txt").write_text("s")
    (inside / "link.txt").symlink_to("../secret.txt")
    daemon = Daemon(run_folder, "--root", str(inside))
    try:
        with Client(daemon.endpoint) as client:
            client.submit([inside / "a.txt"], inside / "out.bin").wait(timeout=60)
            for path in (tmp_path / "secret.txt", inside / "link.txt"):
                with pytest.raises(PathDeniedError):
                    client.submit([path], inside / "x.bin")
            with pytest.raises(PathDeniedError):
                client.submit([inside / "a.txt"], tmp_path / "x.bin")
    finally:
        daemon.stop()


def test_malformed_messages_are_answered_and_survived(daemon: Daemon) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        raw.rcvtimeo = 60_000
        raw.connect(daemon.endpoint)

        def ask(*frames: bytes) -> protocol.ErrorReply:
            raw.send_multipart(frames)
            reply = protocol.unpack(raw.recv_multipart())
            assert reply.flags == protocol.FLAG_ERROR
            return protocol.decode_header(reply.header, protocol.ErrorReply)

        fixed = struct.Struct("<BBQ")
        empty = msgspec.msgpack.encode({})
        assert ask(b"junk").code == "BAD_REQUEST"
        assert ask(protocol.MAGIC, b"short", empty).code == "BAD_REQUEST"
        assert ask(protocol.MAGIC, fixed.pack(200, 0, 1), empty).code == "UNKNOWN_OP"
        assert ask(protocol.MAGIC, fixed.pack(Op.PING, 0, 1), empty).code == "HELLO_REQUIRED"
        hello = {"versions": [99], "client_id": "x", "client": "x", "pid": 1}
        assert (
            ask(protocol.MAGIC, fixed.pack(Op.HELLO, 0, 1), msgspec.msgpack.encode(hello)).code == "UNSUPPORTED_VERSION"
        )
        hello["versions"] = [1]
        raw.send_multipart([protocol.MAGIC, fixed.pack(Op.HELLO, 0, 2), msgspec.msgpack.encode(hello)])
        assert protocol.unpack(raw.recv_multipart()).flags == protocol.FLAG_OK
        for op in Op:
            if op in (Op.HELLO, Op.PING, Op.STATUS, Op.JOB_LIST):
                continue
            for header in (b"\xc1", b"\x93\x01\x02\x03", b"\x80" * 70_000, msgspec.msgpack.encode({"x": 1})):
                assert ask(protocol.MAGIC, fixed.pack(op, 0, 7), header).code == "BAD_REQUEST", (op, header[:8])
        encode = msgspec.msgpack.encode({"tokenizer": "gpt2"})
        assert ask(protocol.MAGIC, fixed.pack(Op.ENCODE, 0, 8), encode, b"\xff").code == "INPUT_INVALID"
        assert ask(protocol.MAGIC, fixed.pack(Op.ENCODE, 0, 8), encode).code == "BAD_REQUEST"
        assert ask(protocol.MAGIC, fixed.pack(Op.ENCODE, 0, 8), encode, *[b""] * 17).code == "BAD_REQUEST"
    # Garbage below the protocol.
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(daemon.endpoint.removeprefix("ipc://"))
        plain.sendall(os.urandom(4096))
    with Client(daemon.endpoint) as client:
        assert client.encode("a").tolist() == [64]


def test_a_second_daemon_is_refused(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "tokend", "serve", "--endpoint", daemon.endpoint]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"(pid {daemon.process.pid})" in second.stderr and "Traceback" not in second.stderr
    with Client(daemon.endpoint) as client:
        assert client.ping() < 60


def test_sigterm_lets_a_job_finish(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words and words, 123 times\n" * 1_000_000)
    with Client(daemon.endpoint) as client:
        client.submit([tmp_path / "a.txt"], tmp_path / "out.bin", threads=1)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    assert TokenStream(tmp_path / "out.bin").n_tokens > 1_000_000
    assert not Path(daemon.endpoint.removeprefix("ipc://")).exists()


def test_a_stale_socket_is_replaced(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait()
    assert Path(daemon.endpoint.removeprefix("ipc://")).exists()
    daemon.start()


def test_clients_survive_a_restart(daemon: Daemon) -> None:
    with Client(daemon.endpoint, connect_timeout=60) as client:
        epoch = client.status().epoch
        daemon.process.kill()
        daemon.process.wait()
        answers: list[object] = []
        caller = threading.Thread(target=lambda: answers.append(client.encode("Hello", timeout=60).tolist()))
        caller.start()
        time.sleep(0.3)
        daemon.start()
        caller.join(60)
        assert answers == [[15496]]
        assert client.status().epoch != epoch


def test_no_daemon_is_said_soon(run_folder: Path) -> None:
    start = time.monotonic()
    with (
        Client(f"ipc://{run_folder}/none.sock", connect_timeout=0.3) as client,
        pytest.raises(NotConnectedError, match="tokend serve"),
    ):
        client.ping()
    assert time.monotonic() - start < client.timeout


def test_a_stopped_daemon_ends_calls_by_their_deadline(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        client.ping()
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceededError):
                client.ping(timeout=0.5)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert client.ping(timeout=60) < 60


def test_threads_share_a_client_and_forks_make_their_own(client: Client) -> None:
    wrong: list[object] = []

    def call(n: int) -> None:
        for k in range(50):
            text = f"thread {n} call {k}"
            if client.decode(client.encode(text)) != text:
                wrong.append(text)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    child = os.fork()
    if child == 0:
        os._exit(0 if client.encode("Hello", timeout=60).tolist() == [15496] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.encode("Hello").tolist() == [15496]


def test_asyncio_loses_nothing_when_calls_are_cancelled(daemon: Daemon) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.endpoint) as client:
            await client.ping()

            async def one(n: int) -> bool:
                text = f"number {n}"
                try:
                    ids = await asyncio.wait_for(client.encode(text), 0.0005 if n % 3 == 0 else 60)
                except TimeoutError:
                    return n % 3 == 0
                return await client.decode(ids) == text

            assert all(await asyncio.gather(*(one(n) for n in range(600))))

    asyncio.run(main())


def test_the_wire_format_is_what_it_was() -> None:
    """Golden bytes: a change here is a new protocol version."""
    frames = protocol.pack(Op.ENCODE, 0, 0x0102030405060708, protocol.Encode(tokenizer="gpt2"), [b"text"])
    assert frames[0] == b"TKD1"
    assert frames[1] == bytes.fromhex("03000807060504030201")
    assert frames[2] == bytes.fromhex(
        "83a9746f6b656e697a6572a467707432a77370656369616ca57261697365ab646561646c696e655f6d73c0"
    )
    assert frames[3:] == [b"text"]
