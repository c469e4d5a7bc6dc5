"""With the real PyTorch: its DataLoader, torchdata's, distributed checkpoints, and a step of training.

`make test` does not install PyTorch; `make loader-torch` does, and runs these tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokend_client import Stream, TokenLoader, TokenStream
from tokend_client.errors import BadRequestError
from tokend_client.testing import FakeDaemon, StreamWriter

from . import naive

torch = pytest.importorskip("torch", reason="PyTorch is not installed (make loader-torch)")

from tokend_client.torch import MapDataset, TokenDataset, _through, _widen, signed, to_device  # noqa: E402
from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

DOCUMENTS = naive.documents(seed=11, n=150, longest=90)
SOURCES = [{"path": "a.txt", "size_bytes": 9, "xxh3": None, "n_tokens": None, "n_documents": None}]
OPTIONS: dict[str, Any] = {"seq_len": 16, "global_batch": 4, "window_tokens": 1500, "block_tokens": 700}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = StreamWriter(tmp_path_factory.mktemp("web"), sources=SOURCES)
    for document in DOCUMENTS:
        writer.append(document)
    writer.seal()
    return writer.folder


def same(batches: Any, path: Path, start: int = 0, **options: Any) -> None:
    expected = list(TokenLoader(path, **{**OPTIONS, **options}))[start:]
    got = list(batches)
    assert len(got) == len(expected)
    for item, batch in zip(got, expected, strict=True):
        assert item["inputs"].dtype == torch.int32 and item["targets"].dtype == torch.int64
        assert np.array_equal(item["inputs"], batch.inputs) and np.array_equal(item["targets"], batch.targets)
        assert np.array_equal(item["samples"], batch.samples)
        assert item["state"] == batch.state


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("pack", ["concat", "bestfit"])
def test_dataloader(web: Path, workers: int, pack: Any) -> None:
    data = DataLoader(TokenDataset(TokenLoader(web, **OPTIONS, pack=pack)), batch_size=None, num_workers=workers)
    same(data, web, pack=pack)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_dataloader_start_methods(web: Path, start_method: str) -> None:
    loader = TokenLoader(TokenStream(web), **OPTIONS)
    data = DataLoader(TokenDataset(loader), batch_size=None, num_workers=2, multiprocessing_context=start_method)
    same(data, web)


def test_the_state_of_a_batch_goes_on_anywhere(web: Path) -> None:
    data = DataLoader(TokenDataset(TokenLoader(web, **OPTIONS)), batch_size=None, num_workers=2)
    items = [item for item, _ in zip(data, range(7), strict=False)]
    loader = TokenLoader(web, **OPTIONS)
    loader.load_state_dict(json.loads(json.dumps(items[4]["state"])))
    same(DataLoader(TokenDataset(loader), batch_size=None, num_workers=3), web, start=5)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("stop", [0, 1, 6])
def test_stateful_dataloader(web: Path, workers: int, stop: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> Any:
        return stateful.StatefulDataLoader(
            TokenDataset(TokenLoader(web, **OPTIONS)), batch_size=None, num_workers=workers
        )

    first = make()
    batches = iter(first)
    for _ in range(stop):
        next(batches)
    state = first.state_dict()
    second = make()
    second.load_state_dict(state)
    same(second, web, start=stop)


def test_distributed_checkpoint(web: Path, tmp_path: Path) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.stateful import Stateful

    loader = TokenLoader(web, **OPTIONS)
    assert isinstance(loader, Stateful)
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    checkpoint.save({"loader": loader}, checkpoint_id=str(tmp_path), no_dist=True)
    loader.close()
    other = TokenLoader(web, **OPTIONS)
    checkpoint.load({"loader": other}, checkpoint_id=str(tmp_path), no_dist=True)
    assert other.position == 20
    assert naive.digest(other) == naive.digest(TokenLoader(web, **OPTIONS))[5:]


def test_map_style(web: Path) -> None:
    streams = {"a": Stream(web, weight=2), "b": Stream(web, max_epochs=None)}
    loader = TokenLoader(streams, **OPTIONS)
    dataset = MapDataset(loader)
    data = DataLoader(dataset, batch_size=4, num_workers=2)
    for item, batch in zip(data, TokenLoader(streams, **OPTIONS), strict=False):
        assert np.array_equal(item["inputs"], batch.inputs) and np.array_equal(item["targets"], batch.targets)
    assert np.array_equal(dataset[-1]["inputs"], dataset[len(dataset) - 1]["inputs"])
    with pytest.raises(IndexError, match="sample"):
        dataset[len(dataset)]
    halves = [DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=False) for rank in range(2)]
    assert len(list(halves[0])) == len(list(halves[1]))
    with pytest.raises(BadRequestError, match="known length"):
        MapDataset(TokenLoader(Stream(web, max_epochs=None), **OPTIONS))


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("follow", [False, True])
def test_map_style_in_workers_of_any_start(web: Path, start_method: str, follow: bool) -> None:
    """forkserver is Python 3.14's default; an unpickled loader has nothing open yet."""
    loader = TokenLoader(web, **OPTIONS, follow=follow)
    data = DataLoader(MapDataset(loader), batch_size=4, num_workers=1, multiprocessing_context=start_method)
    expected = list(TokenLoader(web, **OPTIONS))
    items = list(data)
    assert len(items) >= len(expected)
    for item, batch in zip(items, expected, strict=False):
        assert np.array_equal(item["inputs"], batch.inputs) and np.array_equal(item["targets"], batch.targets)


class Copy:
    """A ring for a device that is not there."""

    def __init__(self) -> None:
        self.n_sent = 0

    def send(self, ids: Any, masked: Any) -> tuple[Any, Any]:
        self.n_sent += 1
        return ids.clone(), masked.clone()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_batch_on_its_way_to_a_device_waits_for_no_other(web: Path, prefetch: int) -> None:
    """It is yielded before the next one is asked for, so the loader's state is its own."""
    loader = TokenLoader(web, **OPTIONS, pack="bestfit", prefetch=prefetch)
    ring = Copy()
    n = 0
    for inputs, targets, batch in _through(ring, loader):
        n += 1
        assert ring.n_sent == n and loader.position == batch.end and loader.state_dict() == batch.state
        assert np.array_equal(inputs, batch.inputs) and np.array_equal(targets, batch.targets)
    assert n == len(TokenLoader(web, **OPTIONS, pack="bestfit"))


def test_a_starved_stream_delays_no_batch_that_is_ready(tmp_path: Path) -> None:
    writer = StreamWriter(tmp_path)
    writer.append(np.arange(4 * 16 + 1))
    writer.commit()
    loader = TokenLoader(tmp_path, seq_len=16, global_batch=4, shuffle="none", follow=True, stall_timeout_s=60)
    inputs, _, batch = next(_through(Copy(), loader))
    assert batch.end == 4 and inputs[0, 0] == 0
    loader.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("slots", [1, 3])
def test_on_a_device(web: Path, slots: int) -> None:
    got = [(x, y, batch) for x, y, batch in to_device(TokenLoader(web, **OPTIONS, pack="bestfit"), "cuda", slots=slots)]
    for inputs, targets, batch in got:
        assert np.array_equal(inputs.cpu(), batch.inputs) and np.array_equal(targets.cpu(), batch.targets)


def test_documents(web: Path) -> None:
    loader = TokenLoader(web, **OPTIONS, pack="bestfit")
    data = DataLoader(TokenDataset(loader, documents=True), batch_size=None, num_workers=1)
    for item, batch in zip(data, TokenLoader(web, **OPTIONS, pack="bestfit"), strict=True):
        assert np.array_equal(item["cu_seqlens"], batch.cu_seqlens) and item["cu_seqlens"].dtype == torch.int32
        assert np.array_equal(item["positions"], batch.positions)
        assert np.array_equal(item["document_ids"], batch.document_ids)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_widening_as_on_a_device(tmp_path: Path, dtype: str) -> None:
    """What a GPU does with the narrow ids, done on the CPU: large ids and masks must survive it."""
    writer = StreamWriter(tmp_path, dtype=dtype)
    high = 65535 if dtype == "uint16" else 200_000
    for document in DOCUMENTS:
        writer.append(high - document)
    writer.seal()
    for batch in TokenLoader(tmp_path, **OPTIONS, pack="bestfit"):
        inputs, targets = _widen(torch.from_numpy(signed(batch)), torch.from_numpy(batch.masked))
        assert inputs.dtype == torch.int32 and targets.dtype == torch.int64
        assert np.array_equal(inputs, batch.inputs) and np.array_equal(targets, batch.targets)


def test_a_step_of_training(web: Path) -> None:
    torch.manual_seed(0)
    table = torch.nn.Embedding(50_257, 8)
    head = torch.nn.Linear(8, 50_257)
    losses = []
    with TokenLoader(web, **OPTIONS, pack="bestfit") as loader:
        for (inputs, targets, _), _ in zip(to_device(loader, "cpu"), range(3), strict=False):
            loss = torch.nn.functional.cross_entropy(head(table(inputs)).flatten(0, 1), targets.flatten())
            loss.backward()
            losses.append(loss.item())
    assert all(np.isfinite(losses))


def test_workers_over_a_growing_stream(web: Path, tmp_path: Path) -> None:
    with FakeDaemon(tmp_path) as daemon:
        path = daemon.stream("web", DOCUMENTS, tokens_per_commit=500, pause_s=0.01, sources=SOURCES)
        loader = TokenLoader(path, follow=True, **OPTIONS)
        same(DataLoader(TokenDataset(loader), batch_size=None, num_workers=2), web)
