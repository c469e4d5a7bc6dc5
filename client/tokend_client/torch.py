"""A loader's batches as PyTorch tensors: for a training loop, and for PyTorch's own DataLoader.

Ids stay as narrow as they are on disk until the last moment: they cross processes and the bus as two
bytes each, and are widened (inputs to int32, targets to int64, as `embedding` and `cross_entropy` want
them) where they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .batch import IGNORED, Batch
from .errors import BadRequestError
from .loader import TokenLoader

__all__ = ["MapDataset", "TokenDataset", "to_device"]


class TokenDataset(IterableDataset[dict[str, Any]]):
    """A loader as an `IterableDataset` of whole batches, in the loader's order with any number of workers.

        data = DataLoader(TokenDataset(loader), batch_size=None, num_workers=2)
        for batch in data:
            step(batch["inputs"], batch["targets"])
            save(batch["state"])  # for loader.load_state_dict, whatever the workers have read ahead

    An item has `inputs` (int32), `targets` (int64), `samples` (int64), and `state` (plain); with
    `documents=True` also `cu_seqlens`, `positions` (int32) and `document_ids` (int64). The loader may be
    any; its own threads and workers are not used. With torchdata's `StatefulDataLoader` the DataLoader's
    own `state_dict` works as well, for the same number of workers.
    """

    def __init__(self, loader: TokenLoader, *, documents: bool = False) -> None:
        super().__init__()
        self._loader = loader
        self._documents = documents
        self._resume: Mapping[str, Any] | None = None
        self._last: Batch | None = None
        self._skip: int | None = None
        """Batches of other workers between the last one made here and the next; None before the first."""

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        if self._resume is not None:
            self._loader.load_state_dict(self._resume["loader"])
            first, self._resume = int(self._resume["skip"]), None
        self._skip, self._last = first, None
        for batch in self._loader.every(first, step):
            self._skip, self._last = step - 1, batch
            yield self._item(batch)

    def _item(self, batch: Batch) -> dict[str, Any]:
        item = {"inputs": batch.inputs, "targets": batch.targets, "samples": batch.samples}
        if self._documents:
            item |= {
                "cu_seqlens": batch.cu_seqlens,
                "positions": batch.positions,
                "document_ids": batch.document_ids,
            }
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in item.items()}
        return tensors | {"state": batch.state}

    def state_dict(self) -> dict[str, Any]:
        """The state of this copy of the dataset (a DataLoader's worker has its own)."""
        if self._resume is not None:
            return dict(self._resume)
        skip = self._skip
        if skip is None:
            worker = get_worker_info()
            skip = worker.id if worker is not None else 0
        state = self._loader.state_dict() if self._last is None else self._last.state
        return {"loader": state, "skip": skip}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on after that state."""
        self._resume = dict(state)


class MapDataset(Dataset[dict[str, torch.Tensor]]):
    """A run as a map-style dataset: item k is the row of the run's k-th sample.

    For frameworks that bring their own sampler; a sequential one gives the loader's order. The streams
    must be sealed and the run must end. Items have `inputs` (int32) and `targets` (int64).
    """

    def __init__(self, loader: TokenLoader) -> None:
        n_samples = loader.n_samples
        if n_samples is None:
            raise BadRequestError("a map-style dataset needs a run of known length", "use TokenDataset")
        self._loader = loader
        self._n_samples = n_samples

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, sample: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([sample])[0]

    def __getitems__(self, samples: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        n = self._n_samples
        for sample in samples:
            if not -n <= sample < n:
                raise IndexError(f"sample {sample} of {n}")
        batch = self._loader.rows(np.asarray(samples, np.int64) % n)
        inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
        return [{"inputs": x, "targets": y} for x, y in zip(inputs, targets, strict=True)]


def to_device(
    batches: Iterable[Batch], device: torch.device | str, *, slots: int = 3
) -> Iterator[tuple[torch.Tensor, torch.Tensor, Batch]]:
    """Yields `(inputs, targets, batch)` with int32 inputs and int64 targets on a device.

    For a CUDA device the ids are staged in a ring of `slots` pinned buffers and copied as they are, on a stream
    of their own; the stream that is current where the next batch is asked for waits for the copy (the host does
    not) and widens. So the copy runs beside the kernels of the step before that are still queued. A slot is
    used again only after its copy has completed. For the CPU the batch's own arrays are used.

    A batch is yielded before the next one is asked for: none waits for its successor, and `loader.state_dict()`
    in the loop is the state of the batch in hand.
    """
    where = torch.device(device)
    if where.type == "cpu":
        for batch in batches:
            yield torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets), batch
        return
    yield from _through(_PinnedRing(where, slots), batches)


class _Ring(Protocol):
    """Brings arrays to a device."""

    def send(self, ids: torch.Tensor, masked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...


def _through(ring: _Ring, batches: Iterable[Batch]) -> Iterator[tuple[torch.Tensor, torch.Tensor, Batch]]:
    for batch in batches:
        ids, masked = ring.send(torch.from_numpy(signed(batch)), torch.from_numpy(batch.masked))
        yield *_widen(ids, masked), batch


class _PinnedRing:
    """Pinned buffers that ids are copied from, each with the event of its last copy."""

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)
        self._slots: list[tuple[torch.Tensor, torch.cuda.Event] | None] = [None] * slots
        self._turn = 0

    def send(self, ids: torch.Tensor, masked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same on the device, for the stream that is current now."""
        slot = self._slots[self._turn]
        if slot is not None:
            slot[1].synchronize()
        if slot is None or slot[0].shape != ids.shape or slot[0].dtype != ids.dtype:
            slot = torch.empty_like(ids, pin_memory=True), torch.cuda.Event()
            self._slots[self._turn] = slot
        self._turn = (self._turn + 1) % len(self._slots)
        staged, copied = slot
        staged.copy_(ids)
        with torch.cuda.stream(self._copies):
            sent = staged.to(self._device, non_blocking=True)
            # Few, and their number differs: PyTorch's own pinned memory keeps them until they are copied.
            sent_masked = masked.pin_memory().to(self._device, non_blocking=True) if len(masked) else masked
            copied.record(self._copies)
        using = torch.cuda.current_stream(self._device)
        using.wait_event(copied)
        for tensor in (sent, sent_masked):
            if tensor.is_cuda:
                # Made on one stream and used on another: their memory is free only when both are done.
                tensor.record_stream(using)
        return sent, sent_masked


def signed(batch: Batch) -> np.ndarray[Any, np.dtype[Any]]:
    """The ids in a dtype that devices know well: int16 by bits for uint16, int32 for uint32."""
    return batch.tokens.view(np.int16 if batch.tokens.dtype.itemsize == 2 else np.int32)


def _widen(ids: torch.Tensor, masked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets from the ids of `signed`, on whatever device they are; `masked` as in `Batch`."""
    wide = ids.to(torch.int32)
    if ids.dtype == torch.int16:
        wide &= 0xFFFF
    targets = wide[:, 1:].to(torch.int64)
    if len(masked):
        targets.view(-1).index_fill_(0, masked, IGNORED)
    return wide[:, :-1], targets
