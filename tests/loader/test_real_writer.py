"""Streams of the real encoder: read while it writes them, and the same run over a stream and a set."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokend import Tokenizer
from tokend_client import Client, TokenLoader, TokenStream
from tokend_client.daemon_feed import DaemonFeed
from tokend_client.feed import Cursor

from . import naive

OPTIONS: dict[str, Any] = {"seq_len": 64, "global_batch": 8, "window_tokens": 1 << 15, "seed": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    words = [word for word in Path(__file__).with_name("naive.py").read_text().split() if word.isascii()]
    paths = []
    for number in range(12):
        paths.append(folder / f"{number}.txt")
        documents = [" ".join(rng.choice(words, rng.integers(0, 300))) for _ in range(150)]
        paths[-1].write_text("|".join(documents) + "|")
    return paths


def test_stream_and_set(tmp_path: Path, gpt2: Tokenizer, corpus: list[Path]) -> None:
    gpt2.encode_files(corpus, tmp_path / "set.bin", separator="|")
    gpt2.encode_files(corpus, tmp_path / "stream", separator="|", format="stream")
    one, two = TokenStream(tmp_path / "set.bin"), TokenStream(tmp_path / "stream")
    assert np.array_equal(one[:], two[:]) and np.array_equal(one.ends, two.ends)
    assert one.identity == two.identity and two.explain(len(two) - 1).source == str(corpus[-1])
    for pack in ("concat", "bos", "bestfit"):
        first = TokenLoader(one, **OPTIONS, pack=pack)
        expected = naive.digest(first)
        assert naive.digest(TokenLoader(two, **OPTIONS, pack=pack)) == expected
        first.seek(80)
        second = TokenLoader(two, **OPTIONS, pack=pack)
        second.load_state_dict(first.state_dict())
        assert naive.digest(second) == expected[10:]


def test_followed_from_before_it_begins(tmp_path: Path, gpt2: Tokenizer, corpus: list[Path]) -> None:
    gpt2.encode_files(corpus, tmp_path / "set.bin", separator="|")
    expected = naive.digest(TokenLoader(tmp_path / "set.bin", **OPTIONS))
    got: list[list[str]] = []

    def train() -> None:
        with TokenLoader(tmp_path / "stream", follow=True, stall_timeout_s=60, **OPTIONS) as loader:
            got.append(naive.digest(loader))

    threads = [threading.Thread(target=train) for _ in range(3)]
    for thread in threads:
        thread.start()
    gpt2.encode_files(corpus, tmp_path / "stream", separator="|", format="stream")
    for thread in threads:
        thread.join(60)
    assert got == [expected] * 3


def test_with_a_daemon(tmp_path: Path, gpt2: Tokenizer, corpus: list[Path], client: Client) -> None:
    """The daemon writes the stream; the feed tells of its job, and of a daemon that has gone."""
    gpt2.encode_files(corpus, tmp_path / "set.bin", separator="|")
    feed = DaemonFeed(client, interval_s=0.05)
    job = client.submit(corpus, tmp_path / "stream", separator="|", format="stream")
    loader = TokenLoader(tmp_path / "stream", follow=True, feed=feed, stall_timeout_s=60, **OPTIONS)
    assert naive.digest(loader) == naive.digest(TokenLoader(tmp_path / "set.bin", **OPTIONS))
    job.wait(timeout=60)
    path = str(tmp_path / "stream")
    feed.report([Cursor(name, at, None, 0, 0, 0) for name, at in (("stream", path), ("other", f"{path}2"))])
    feed._known.clear()
    while feed.status("other") is None:
        feed.wait(0.1)
    status, other = feed.status("stream"), feed.status("other")
    assert status is not None and status.n_tokens == len(TokenStream(path))
    assert status.note == f"job {job.job_id} is done"
    assert other is not None and other.note == "no job of the daemon writes it"
    feed.close()
    gone = DaemonFeed(Client(f"ipc://{tmp_path}/nobody.sock", connect_timeout=0.2), interval_s=0.05)
    gone.report([Cursor("stream", path, None, 0, 0, 0)])
    while (status := gone.status("stream")) is None:
        gone.wait(0.1)
    assert status.note.startswith("the daemon does not answer")
    gone.close()
