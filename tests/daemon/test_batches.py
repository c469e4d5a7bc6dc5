"""Batches in parts, and what a client keeps of requests that were given up."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from conftest import Daemon
from tokend import Tokenizer
from tokend_client import AsyncClient, Client, parts, protocol, requests
from tokend_client.connection import Connection
from tokend_client.errors import BadRequestError, DeadlineExceededError, SpecialTokenError
from tokend_client.protocol import Op
from tokend_client.slot import Slot

PATIENCE_S = 60.0
PIECES = ["", "a", "b c", " the", "日本", "ö" * 30, "\n\n", "🙂", "x" * 900, "<|endoftext|>", "words and words " * 200]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many parts of what is quick to make."""
    monkeypatch.setattr(parts, "PART_BYTES", 2_000)


def batches() -> Iterator[list[str]]:
    chance = random.Random(7)
    for n_texts in (0, 1, 2, 40, 40, 400, 2_000):
        yield ["".join(chance.choices(PIECES, k=chance.randint(0, 5))) for _ in range(n_texts)]
    yield ["z " * 4_000]
    yield [""] * 1_000
    yield ["a", "z " * 4_000, "", "b"]


def same(got: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> bool:  # type: ignore[type-arg]
    return all(
        mine.dtype == theirs.dtype and mine.flags.writeable and np.array_equal(mine, theirs)
        for mine, theirs in zip(got, expected, strict=True)
    )


@pytest.mark.usefixtures("small_parts")
def test_parts_make_the_batch(daemon: Daemon, client: Client, gpt2: Tokenizer) -> None:
    for texts in batches():
        expected = gpt2.encode_batch(texts, special="token")
        before = client.status().n_requests
        assert same(client.encode_batch(texts, special="token", timeout=PATIENCE_S), expected)
        n_requests = client.status().n_requests - before - 1
        n_bytes = sum(len(text.encode()) + 8 for text in texts)
        assert (n_requests > 1) == (n_bytes > 2_000 and len(texts) > 1), (n_requests, n_bytes)

    async def main() -> None:
        async with AsyncClient(daemon.endpoint, timeout=PATIENCE_S) as client:
            for texts in batches():
                assert same(await client.encode_batch(texts, special="token"), gpt2.encode_batch(texts, "token"))

    asyncio.run(main())


def test_a_batch_larger_than_any_message(client: Client, gpt2: Tokenizer) -> None:
    texts = ["words and words " * 65_536] * 70
    assert sum(map(len, texts)) > protocol.FRAME_MAX_BYTES
    ids, ends = client.encode_batch(texts, timeout=300)
    one = gpt2.encode(texts[0])
    assert ends.tolist() == [len(one) * (n + 1) for n in range(70)]
    assert (ids.reshape(70, -1) == one).all()


def test_a_reply_to_a_batch_names_its_tokenizer(client: Client, gpt2: Tokenizer) -> None:
    part = client._call(requests.encode_batch([b"a", b"b c"], "gpt2", "raise", PATIENCE_S))
    assert (part.ids.tolist(), part.ends.tolist()) == ([64, 65, 269], [1, 3])
    assert part.fingerprint == gpt2.fingerprint.encode()


@pytest.mark.usefixtures("small_parts")
def test_an_error_is_that_of_the_first_bad_text(daemon: Daemon, client: Client, gpt2: Tokenizer) -> None:
    texts = [f"text {n} " * 100 for n in range(60)]
    texts[31], texts[50] = "ab <|endoftext|>", "<|endoftext|>"
    with pytest.raises(SpecialTokenError) as expected:
        gpt2.encode_batch(texts)
    for _ in range(20):
        with pytest.raises(SpecialTokenError) as raised:
            client.encode_batch(texts)
        assert str(raised.value) == str(expected.value)
        assert not client._connection._slots
    texts[31] = "\ud800"
    hello = client._connection._channel
    with pytest.raises(UnicodeEncodeError):
        client.encode_batch(texts)
    # Neither cost the connection.
    assert client.encode("Hello").tolist() == [15496] and client._connection._channel is hello
    with pytest.raises(BadRequestError, match="use encode"):
        client.encode_batch("text")

    async def main() -> None:
        async with AsyncClient(daemon.endpoint) as client:
            texts[31] = "ab <|endoftext|>"
            with pytest.raises(SpecialTokenError) as raised:
                await client.encode_batch(texts)
            assert str(raised.value) == str(expected.value)
            assert not client._connection._slots
            with pytest.raises(BadRequestError, match="use encode"):
                await client.encode_batch("text")

    asyncio.run(main())


class Changing:
    """A stand-in for a daemon whose tokenizer changes while a batch is on its way: each byte is an id."""

    def __init__(self, path: Path, fingerprints: list[bytes | None]) -> None:
        self.fingerprints = fingerprints
        self.n_texts: list[int] = []
        self.stopping = threading.Event()
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.linger = 0
        self.router.bind(f"ipc://{path}")
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        limits = protocol.Limits(max_frame_bytes=1 << 20, max_inflight=8)
        hello = protocol.HelloReply(
            version=1, server_version="x", server_epoch="x", pid=1, uid=1, limits=limits, roots=[]
        )
        while not self.stopping.is_set():
            if not self.router.poll(50):
                continue
            identity, *frames = self.router.recv_multipart()
            message = protocol.unpack(frames)
            if message.op == Op.HELLO:
                reply = protocol.pack(message.op, protocol.FLAG_OK, message.request_id, hello)
            else:
                text, ends = message.body
                fingerprint = self.fingerprints[min(len(self.n_texts), len(self.fingerprints) - 1)]
                self.n_texts.append(len(ends) // 8)
                # Another tokenizer's ids are others.
                ids = np.frombuffer(text, np.uint8).astype("<u2") + (1000 if fingerprint == b"old" else 0)
                header = protocol.EncodeReply(dtype="uint16", n_tokens=len(ids))
                body = [ids.tobytes(), ends, *([] if fingerprint is None else [fingerprint])]
                reply = protocol.pack(message.op, protocol.FLAG_OK, message.request_id, header, body)
            self.router.send_multipart([identity, *reply])

    def close(self) -> None:
        self.stopping.set()
        self.thread.join(PATIENCE_S)
        self.router.close()
        self.context.term()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("fingerprints", [[b"old", b"old", b"new"], [b"new", None], [None]])
def test_a_batch_is_of_one_tokenizer(run_folder: Path, fingerprints: list[bytes | None]) -> None:
    texts = ["t" * 990] * 10
    for is_async in (False, True):
        stand_in = Changing(run_folder / f"s{is_async}.sock", fingerprints)
        endpoint = f"ipc://{run_folder}/s{is_async}.sock"
        try:
            if is_async:

                async def main(endpoint: str = endpoint) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
                    async with AsyncClient(endpoint, timeout=PATIENCE_S) as client:
                        return await client.encode_batch(texts)

                ids, ends = asyncio.run(main())
            else:
                with Client(endpoint, timeout=PATIENCE_S) as client:
                    ids, ends = client.encode_batch(texts)
            assert (ids == ord("t")).all() and ends.tolist() == [990 * (n + 1) for n in range(10)]
            # In parts first, and then all of it at once.
            assert len(stand_in.n_texts) > 2 and stand_in.n_texts[-1] == 10
        finally:
            stand_in.close()


@pytest.mark.usefixtures("small_parts")
def test_batches_survive_deaths_of_the_daemon(daemon: Daemon, gpt2: Tokenizer) -> None:
    texts = [f"text {n} " * 200 for n in range(1_000)]
    expected = gpt2.encode_batch(texts)
    stop = threading.Event()
    outcomes: list[bool] = []

    def call() -> None:
        with Client(daemon.endpoint, timeout=PATIENCE_S, reconnect_timeout=PATIENCE_S) as client:
            while not stop.is_set():
                outcomes.append(same(client.encode_batch(texts), expected))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 2 * PATIENCE_S
    for _ in range(3):
        seen = len(outcomes)
        while len(outcomes) < seen + 2 and time.monotonic() < until:
            time.sleep(0.01)
        daemon.kill()
        daemon.start()
    stop.set()
    for thread in threads:
        thread.join(2 * PATIENCE_S)
    assert len(outcomes) > 5 and all(outcomes)


@pytest.mark.usefixtures("small_parts")
def test_interrupted_batches_cost_nobody_else_a_reply(client: Client, gpt2: Tokenizer) -> None:
    """Ctrl-C at any place of a batch, while other threads call."""
    chance = random.Random(5)
    wrong: list[object] = []
    stop = threading.Event()
    texts = [f"text {n} " * 20 for n in range(200)]
    expected = gpt2.encode_batch(texts)

    def call() -> None:
        while not stop.is_set():
            if client.encode("Hello", timeout=PATIENCE_S).tolist() != [15496]:
                wrong.append("small")
            if not same(client.encode_batch(texts, timeout=PATIENCE_S), expected):
                wrong.append("batch")

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()

    def alarm(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, alarm)
    interrupted = 0
    try:
        for _ in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, 0.02))
                while True:
                    client.encode_batch(texts)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)
        stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert interrupted == 100 and not wrong
    assert same(client.encode_batch(texts), expected) and not client._connection._slots


def test_calls_to_a_frozen_daemon_end_in_time_and_leave_nothing(daemon: Daemon) -> None:
    texts = ["x" * 500_000] * 20
    with Client(daemon.endpoint) as client:
        client.ping()
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceededError):
                client.encode_batch(texts, timeout=0.5)
            assert not client._connection._slots

            async def main() -> None:
                async with AsyncClient(daemon.endpoint, connect_timeout=PATIENCE_S) as client:
                    with pytest.raises(DeadlineExceededError):
                        await client.encode_batch(texts, timeout=0.5)
                    assert not client._connection._slots

            asyncio.run(main())
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert client.encode("Hello", timeout=PATIENCE_S).tolist() == [15496]


def test_what_asyncio_gives_up_while_it_is_sent_is_not_kept(daemon: Daemon) -> None:
    """A text that the daemon does not take goes out from a thread of its own, which knows nothing of a cancel."""

    async def main() -> None:
        async with AsyncClient(daemon.endpoint, timeout=PATIENCE_S) as client:
            await client.ping()
            connection = client._connection
            daemon.process.send_signal(signal.SIGSTOP)
            try:
                call = asyncio.create_task(client.encode("x" * 30_000_000))
                while not connection._inflight:
                    await asyncio.sleep(0.01)
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await call
            finally:
                daemon.process.send_signal(signal.SIGCONT)
            assert (await client.encode("Hello")).tolist() == [15496]
            assert not connection._slots

    asyncio.run(main())


def test_asyncio_waits_no_longer_for_what_takes_long_to_send(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time given is for sending and waiting together."""
    may_go_on = threading.Event()
    begin = Connection.begin

    def slow(connection: Connection, slot: Slot) -> None:
        may_go_on.wait(PATIENCE_S)
        begin(connection, slot)

    async def main() -> None:
        async with AsyncClient(daemon.endpoint, timeout=PATIENCE_S) as client:
            await client.ping()
            monkeypatch.setattr(Connection, "begin", slow)
            with pytest.raises(DeadlineExceededError):
                await client.encode("x" * 2_000_000, timeout=0.1)
            assert not may_go_on.is_set()
            may_go_on.set()
            assert (await client.encode("Hello")).tolist() == [15496]
            assert not client._connection._slots

    asyncio.run(main())


def test_long_texts_hold_up_none_but_long_texts(daemon: Daemon) -> None:
    chance = random.Random(9)
    # Words that no cache knows: they take far longer to encode than to send. (Of hex digits the runs of letters are
    # short, and known.)
    letters = str.maketrans("0123456789", "ghijklmnop")
    slow = [chance.randbytes(1_000_000).hex(" ", 20).translate(letters).encode() for _ in range(5)]
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.linger, peer.rcvtimeo = 0, 60_000
        peer.connect(daemon.endpoint)
        hello = protocol.Hello(versions=[protocol.VERSION], client_id="x", client="x", pid=1)
        peer.send_multipart(protocol.pack(Op.HELLO, 0, 1, hello))
        assert protocol.unpack(peer.recv_multipart()).flags == protocol.FLAG_OK
        header = protocol.Encode(tokenizer="gpt2")
        peer.send_multipart(protocol.pack(Op.COUNT, 0, 2, header, [b"load it"]))
        peer.recv_multipart()
        for n, text in enumerate(slow):
            peer.send_multipart(protocol.pack(Op.COUNT, 0, 10 + n, header, [text]))
        peer.send_multipart(protocol.pack(Op.COUNT, 0, 20, header, [b"words and words " * 4_000]))
        replies = [protocol.unpack(peer.recv_multipart()) for _ in range(6)]
        assert all(reply.flags == protocol.FLAG_OK for reply in replies)
        assert replies[0].request_id == 20
