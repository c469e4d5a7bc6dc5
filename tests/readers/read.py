"""Run by the interpreter of a reader's environment: compares what the reader gives with what is expected.

Arguments: the reader, the place of its set, and a JSON file with the documents, end-of-text ids included. Only
the reader's own package is imported; tokend is not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

BLOCK = 5
"""Length of a window, for readers that give windows over all ids."""

Documents = list[list[int]]


def windows(files: Iterable[list[int]], length: int) -> Documents:
    """Windows of each file in turn, without what is left at its end."""
    return [ids[at : at + length] for ids in files for at in range(0, len(ids) - length + 1, length)]


def same(found: Iterable[Any], expected: Documents) -> int:
    """Compares sequences of ids one by one; gives how many there were."""
    lists = [[int(id) for id in ids] for ids in found]
    assert lists == expected, f"{len(lists)} from the reader, {len(expected)} expected"
    return len(lists)


def megatron(place: Path, documents: Documents) -> int:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    found = IndexedDataset(str(place))
    assert found.document_indices.tolist() == list(range(len(documents) + 1))
    return same((found[at] for at in range(len(found))), documents)


def datatrove(place: Path, documents: Documents) -> int:
    from datatrove.utils.dataset import DatatroveFolderDataset

    width = int((place / f"000_{place.name}.ds.metadata").read_text().split("|")[1].split()[0])
    found = DatatroveFolderDataset(str(place), seq_len=BLOCK - 1, token_size=width)
    rows = (found[at]["input_ids"] for at in range(len(found)))
    return same(rows, windows([list(chain.from_iterable(documents))], BLOCK))


def olmo(place: Path, documents: Documents) -> int:
    from olmo_core.data.utils import iter_document_indices

    file = place / "part-0-00000.npy"
    eot = documents[0][-1]
    import numpy as np

    dtype = np.uint16 if file.stat().st_size == 2 * sum(map(len, documents)) else np.uint32
    ids = np.fromfile(file, dtype)
    # Once by the end-of-text id, as it reads local files, and once by the list of documents.
    for how in ({"eos_token_id": eot, "dtype": dtype}, {"use_array_if_local": False}):
        n = same((ids[a:b] for a, b in iter_document_indices(file, **how)), documents)  # type: ignore[arg-type]
    return n


def litdata(place: Path, documents: Documents) -> int:
    from litdata import StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    found = StreamingDataset(str(place), item_loader=TokensLoader(block_size=BLOCK), shuffle=False)
    return same((found[at] for at in range(len(found))), windows([list(chain.from_iterable(documents))], BLOCK))


def mds(place: Path, documents: Documents) -> int:
    from streaming import StreamingDataset

    found = StreamingDataset(local=str(place), shuffle=False, batch_size=1)
    return same((found[at]["tokens"] for at in range(found.num_samples)), documents)


READERS: dict[str, Callable[[Path, Documents], int]] = {
    "megatron": megatron,
    "datatrove": datatrove,
    "olmo": olmo,
    "litdata": litdata,
    "mds": mds,
}

if __name__ == "__main__":
    name, place, expected = sys.argv[1:]
    n_read = READERS[name](Path(place), json.loads(Path(expected).read_text()))
    print(f"{n_read} equal")
