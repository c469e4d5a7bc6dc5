"""The client's own end of ZeroMQ, and how it goes on after refusals and losses."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from conftest import Daemon
from tokend_client import Client, protocol
from tokend_client.errors import BusyError, DeadlineExceededError, NotConnectedError, ShuttingDownError, TokendError
from tokend_client.protocol import Op
from tokend_client.zmtp import Channel

SIZES = [0, 1, 255, 256, 257, 32_000, 65_535, 65_536, 70_000, 3_000_000]


@pytest.fixture
def echo(run_folder: Path) -> Iterator[str]:
    """libzmq, which sends back what it gets."""
    path = run_folder / "echo.sock"
    stopping = threading.Event()

    def serve() -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(f"ipc://{path}")
            while not stopping.is_set():
                if router.poll(50):
                    router.send_multipart(router.recv_multipart())

    thread = threading.Thread(target=serve)
    thread.start()
    while not path.exists():
        time.sleep(0.01)
    yield str(path)
    stopping.set()
    thread.join(60)


def receive(channel: Channel, n_messages: int) -> list[list[bytes]]:
    messages: list[list[bytes]] = []
    deadline = time.monotonic() + 60
    while len(messages) < n_messages:
        assert time.monotonic() < deadline
        if channel.wait(1.0):
            messages += [[bytes(frame) for frame in message] for message in channel.receive()]
    return messages


def opened(path: str) -> Channel:
    """A channel that may be sent on."""
    channel = Channel(path, protocol.FRAME_MAX_BYTES)
    channel.connect()
    deadline = time.monotonic() + 60
    while not channel.is_open:
        assert time.monotonic() < deadline
        if channel.wait(1.0):
            assert channel.receive() == []
    return channel


def test_frames_of_all_sizes_there_and_back(echo: str) -> None:
    chance = random.Random(3)
    channel = opened(echo)
    sent = [[chance.randbytes(size)] for size in SIZES]
    sent += [[chance.randbytes(chance.choice(SIZES)) for _ in range(chance.randint(1, 16))] for _ in range(60)]
    got: list[list[bytes]] = []
    for message in sent:
        channel.send(message, time.monotonic() + 60)
        if chance.random() < 0.5:
            got += receive(channel, 1)
    got += receive(channel, len(sent) - len(got))
    assert got == sent
    channel.close()


def test_bytes_that_come_one_by_one(run_folder: Path) -> None:
    path = str(run_folder / "slow.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        channel = Channel(path, 100_000)
        channel.connect()
        peer, _ = listener.accept()
        with peer:
            greeting = b"\xff" + bytes(7) + b"\x01\x7f\x03\x01NULL" + bytes(48)
            ready = b"\x04\x06\x05READY"
            message = b"\x01\x02ab" + b"\x03" + (300).to_bytes(8, "big") + b"x" * 300 + b"\x00\x00"
            got: list[list[bytes]] = []
            for byte in greeting + ready + message * 2:
                peer.sendall(bytes([byte]))
                got += channel.receive()
            assert got == [[b"ab", b"x" * 300, b""]] * 2
            peer.sendall(b"\x02" + (100_001).to_bytes(8, "big"))
            with pytest.raises(ConnectionError, match="over the limit"):
                channel.receive()
        channel.close()


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request" + bytes(64), b"\xff" * 64, bytes(64)])
def test_a_peer_of_another_kind_is_refused(run_folder: Path, greeting: bytes) -> None:
    path = str(run_folder / "other.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        channel = Channel(path, 100_000)
        channel.connect()
        peer, _ = listener.accept()
        with peer:
            peer.sendall(greeting)
            with pytest.raises(ConnectionError, match="does not speak"):
                channel.receive()
        channel.close()


def test_nothing_is_said_before_the_peer_is_ready(run_folder: Path) -> None:
    """A message behind the greeting of a peer that was late to accept ends the connection in libzmq."""
    path = str(run_folder / "late.sock")
    with socket.socket(socket.AF_UNIX) as listener, Client(f"ipc://{path}") as client:
        listener.bind(path)
        listener.listen()
        errors: list[BaseException] = []

        def ask() -> None:
            with pytest.raises(NotConnectedError) as raised:
                client.ping(timeout=60)
            errors.append(raised.value)

        asking = background(ask)
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(60)
            got = b""
            while not got.endswith(b"DEALER\x08Identity" + bytes(4)):
                got += peer.recv(1000)
            peer.settimeout(0.2)
            with pytest.raises(TimeoutError):
                peer.recv(1)
            peer.sendall(b"\xff" + bytes(7) + b"\x01\x7f\x03\x01NULL" + bytes(48))
            with pytest.raises(TimeoutError):
                peer.recv(1)
            peer.sendall(b"\x04\x06\x05READY")
            peer.settimeout(60)
            # The magic of a request is in its first frame.
            assert len(peer.recv(1000)) > 2
        client.close()
        asking.join(60)
        assert len(errors) == 1


def test_a_daemon_that_is_late_to_accept_is_connected_to_once(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    n_connects = []
    connect = Channel.connect

    def counted(channel: Channel) -> None:
        n_connects.append(1)
        connect(channel)

    monkeypatch.setattr(Channel, "connect", counted)
    daemon.process.send_signal(signal.SIGSTOP)
    with Client(daemon.endpoint, timeout=60) as client:
        calls = [background(client.ping) for _ in range(3)]
        time.sleep(0.3)
        daemon.process.send_signal(signal.SIGCONT)
        for call in calls:
            call.join(60)
        assert len(n_connects) == 1


def test_one_who_accepts_and_hangs_up_is_not_called_without_end(run_folder: Path) -> None:
    path = str(run_folder / "rude.sock")
    stop = threading.Event()
    n_accepted = [0]

    def serve() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            listener.settimeout(0.05)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    listener.accept()[0].close()
                    n_accepted[0] += 1

    serving = background(serve)
    with (
        Client(f"ipc://{path}", connect_timeout=0.6, reconnect_timeout=0.6) as client,
        pytest.raises(NotConnectedError, match="no daemon answers"),
    ):
        client.ping(timeout=60)
    stop.set()
    serving.join(60)
    assert 1 < n_accepted[0] < 100


class Script:
    """A stand-in for a daemon, which answers as a test wants."""

    def __init__(self, path: Path) -> None:
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.linger = 0
        self.router.rcvtimeo = 60_000
        self.router.bind(f"ipc://{path}")
        self.ops: list[int] = []

    def next(self) -> tuple[bytes, protocol.Message]:
        identity, *frames = self.router.recv_multipart()
        message = protocol.unpack(frames)
        self.ops.append(message.op)
        return identity, message

    def reply(self, identity: bytes, message: protocol.Message, header: object, flags: int = protocol.FLAG_OK) -> None:
        self.router.send_multipart([identity, *protocol.pack(message.op, flags, message.request_id, header)])

    def hello(self) -> None:
        identity, message = self.next()
        assert message.op == Op.HELLO
        limits = protocol.Limits(max_frame_bytes=1 << 20, max_inflight=4)
        self.reply(
            identity,
            message,
            protocol.HelloReply(version=1, server_version="x", server_epoch="x", pid=1, uid=1, limits=limits, roots=[]),
        )

    def refuse(self, error: TokendError) -> None:
        identity, message = self.next()
        self.reply(identity, message, protocol.ErrorReply.of(error), protocol.FLAG_ERROR)

    def pong(self) -> None:
        identity, message = self.next()
        self.reply(identity, message, protocol.Empty())

    def close(self) -> None:
        self.router.close()
        self.context.term()


@pytest.fixture
def script(run_folder: Path) -> Iterator[Script]:
    made = Script(run_folder / "s.sock")
    yield made
    made.close()


def background(work: object) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_busy_is_waited_out(script: Script, run_folder: Path) -> None:
    def serve() -> None:
        script.hello()
        for _ in range(3):
            script.refuse(BusyError("full", retry_after_s=0.02))
        script.pong()

    serving = background(serve)
    with Client(f"ipc://{run_folder}/s.sock") as client:
        assert client.ping(timeout=60) < 60
    serving.join(60)
    assert script.ops == [Op.HELLO] + [Op.PING] * 4


@contextlib.contextmanager
def refusing(script: Script, error: TokendError) -> Iterator[None]:
    """A daemon that says hello and then refuses everything."""
    stop = threading.Event()

    def serve() -> None:
        script.router.rcvtimeo = 100
        script.hello()
        while not stop.is_set():
            with contextlib.suppress(zmq.Again):
                script.refuse(error)

    serving = background(serve)
    yield
    stop.set()
    serving.join(60)


def test_busy_for_ever_ends_at_the_deadline_with_its_reason(script: Script, run_folder: Path) -> None:
    with (
        refusing(script, BusyError("full", retry_after_s=0.05)),
        Client(f"ipc://{run_folder}/s.sock") as client,
        pytest.raises(BusyError, match="full"),
    ):
        client.ping(timeout=0.5)
    assert script.ops.count(Op.PING) > 2


def test_a_daemon_that_stops_is_waited_for_only_so_long(script: Script, run_folder: Path) -> None:
    client = Client(f"ipc://{run_folder}/s.sock", connect_timeout=0.3, reconnect_timeout=0.3)
    with (
        refusing(script, ShuttingDownError("stopping", retry_after_s=0.02)),
        client,
        pytest.raises(ShuttingDownError),
    ):
        client.ping(timeout=60)


def test_shutdown_is_not_sent_to_the_next_daemon(daemon: Daemon) -> None:
    with Client(daemon.endpoint, reconnect_timeout=60) as client:
        client.ping()
        daemon.process.send_signal(signal.SIGSTOP)
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                client.shutdown(timeout=60)
            except TokendError as error:
                errors.append(error)

        asking = background(ask)
        time.sleep(0.3)
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        asking.join(60)
        assert [type(error) for error in errors] == [NotConnectedError]
        assert client.ping() < 60


def test_forks_while_other_threads_call(daemon: Daemon) -> None:
    """A fork may happen while any lock of the client is held."""
    with Client(daemon.endpoint) as client:
        stop = threading.Event()
        wrong: list[object] = []

        def call() -> None:
            while not stop.is_set():
                if client.encode("Hello").tolist() != [15496]:
                    wrong.append("parent")

        threads = [background(call) for _ in range(3)]
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if client.encode("Hello", timeout=60).tolist() == [15496] else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not wrong


def test_an_interrupted_call_costs_nobody_else_a_reply(client: Client) -> None:
    """Ctrl-C at any place in the client, also in the thread that drives."""
    chance = random.Random(5)
    wrong: list[object] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            if client.encode("Hello", timeout=60).tolist() != [15496]:
                wrong.append("thread")

    threads = [background(call) for _ in range(3)]

    def alarm(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, alarm)
    interrupted = 0
    try:
        for _ in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, 0.004))
                while True:
                    client.encode("Hello")
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)
        stop.set()
    for thread in threads:
        thread.join(60)
    assert interrupted == 200 and not wrong
    assert client.encode("Hello").tolist() == [15496]


def test_a_full_budget_of_requests_is_busy_and_pings_go_on(run_folder: Path) -> None:
    daemon = Daemon(run_folder)
    try:
        with Client(daemon.endpoint, timeout=120) as client:
            text = "words and words " * 2_000_000
            answers: list[int] = []
            calls = [background(lambda: answers.append(client.count(text, timeout=120))) for _ in range(12)]
            slowest = max(client.ping(timeout=60) for _ in range(50))
            for call in calls:
                call.join(120)
            assert len(set(answers)) == 1 and len(answers) == 12
            assert slowest < 30
            assert client.status().rss_bytes < 1_500_000_000
    finally:
        daemon.stop()


def test_a_call_to_a_frozen_daemon_ends_in_time(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        client.ping()
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            late: list[float] = []

            def call(timeout_s: float) -> None:
                start = time.monotonic()
                with pytest.raises(DeadlineExceededError):
                    client.encode("x" * 5_000_000, timeout=timeout_s)
                late.append(time.monotonic() - start - timeout_s)

            calls = [background(lambda t=t: call(t)) for t in (0.3, 0.6, 0.9)]
            for each in calls:
                each.join(60)
            assert len(late) == 3 and max(late) < 30
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert client.encode("Hello", timeout=60).tolist() == [15496]
