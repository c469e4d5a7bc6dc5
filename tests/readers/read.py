"""Run by the interpreter of a reader's environment: compares what the reader gives with what is expected.

Arguments: the reader, and a JSON file with a list of cases. A case has the `place` of a set, its `parts` (the
documents of each of its files, end-of-text ids included), its `vocab_size` and the `eot` id. Only the reader's own
package is imported; tokend is not. Prints one JSON line for each case: how many were equal, or what was wrong.

Readers that give windows over all ids are asked for windows of one id, so that every id is compared, tails too,
and for windows of `BLOCK`, where what is left at the end of a file is dropped by the reader.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypedDict

BLOCK = 5
LONGEST = 1024

Documents = list[list[int]]


class Case(TypedDict):
    place: str
    parts: list[Documents]
    vocab_size: int
    eot: int


def flat(documents: Documents) -> list[int]:
    return list(chain.from_iterable(documents))


def every(case: Case) -> Documents:
    """The documents of all files."""
    return list(chain.from_iterable(case["parts"]))


def windows(case: Case, length: int) -> Documents:
    """Windows of each file in turn, without what is left at its end."""
    files = map(flat, case["parts"])
    return [ids[at : at + length] for ids in files for at in range(0, len(ids) - length + 1, length)]


def same(found: Iterable[Any], expected: Documents) -> int:
    """Compares sequences of ids one by one; gives how many there were."""
    n_found = 0
    for ids in found:
        own = [int(id) for id in ids]
        assert n_found < len(expected), f"more than the {len(expected)} expected"
        assert own == expected[n_found], f"number {n_found}: {own[:8]}, expected {expected[n_found][:8]}"
        n_found += 1
    assert n_found == len(expected), f"{n_found} from the reader, {len(expected)} expected"
    return n_found


def megatron(case: Case) -> str:
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset

    documents = every(case)
    for how in ({"mmap": True}, {"mmap": False}):
        found = IndexedDataset(case["place"], **how)
        assert found.document_indices.tolist() == list(range(len(documents) + 1))
        assert found.sequence_lengths.tolist() == list(map(len, documents))
        assert found.index.dtype == (DType.uint16 if case["vocab_size"] <= 65_536 else DType.int32).dtype_from_code(
            8 if case["vocab_size"] <= 65_536 else 4
        )
        n = same((found[at] for at in range(len(found))), documents)
    return f"{n} documents, mapped and read"


def datatrove(case: Case) -> str:
    from datatrove.utils.dataset import DatatroveFolderDataset

    width = int(next(Path(case["place"]).glob("*.metadata")).read_text().splitlines()[0].split("|")[1])
    for length in (1, BLOCK):
        found = DatatroveFolderDataset(case["place"], seq_len=length - 1, token_size=width)
        same((found[at]["input_ids"] for at in range(len(found))), windows(case, length))
    # Where documents begin, by the index: positions count from 0 again. A window of each whole file.
    n = 0
    for file, documents in zip(found.files, case["parts"], strict=True):
        n_ids = len(flat(documents))
        whole = type(file)(
            (file.file_path, file.fs), seq_len=n_ids - 1, token_size=width, return_positions=True, fsize=file.fsize
        )
        positions = whole[0]["positions"].tolist()
        starts = [at for at, position in enumerate(positions) if position == 0] + [n_ids]
        ids = whole[0]["input_ids"].tolist()
        n += same((ids[start:end] for start, end in pairwise(starts)), documents)
    return f"{n} documents by positions; all windows of 1 and {BLOCK}"


def olmo(case: Case) -> str:
    import numpy as np
    from olmo_core.data import NumpyFSLDataset, NumpyPaddedFSLDataset
    from olmo_core.data.utils import iter_document_indices

    files = sorted(Path(case["place"]).glob("*.npy"))
    dtype: Any = np.uint16 if case["vocab_size"] <= 65_536 else np.uint32
    eot = case["eot"]
    # Once by the end-of-text id, as it reads local files, and once by the list of documents.
    for how in ({"eos_token_id": eot, "dtype": dtype}, {"use_array_if_local": False}):
        for file, documents in zip(files, case["parts"], strict=True):
            ids = np.fromfile(file, dtype)
            same((ids[a:b] for a, b in iter_document_indices(file, **how)), documents)
    common: Any = {"pad_token_id": 0, "eos_token_id": eot, "vocab_size": case["vocab_size"], "dtype": dtype}
    with tempfile.TemporaryDirectory() as folder:
        documents = every(case)
        padded = NumpyPaddedFSLDataset(*files, sequence_length=LONGEST, **common)
        padded.work_dir = Path(folder)
        padded.prepare()
        rows = (padded[at]["input_ids"].tolist() for at in range(len(padded)))
        n = same(rows, [ids + [0] * (LONGEST - len(ids)) for ids in documents])
        cut = NumpyFSLDataset(*files, sequence_length=BLOCK, **common)
        cut.work_dir = Path(folder)
        cut.prepare()
        same((cut[at]["input_ids"] for at in range(len(cut))), windows(case, BLOCK))
    return f"{n} documents of NumpyPaddedFSLDataset, by EOT and by csv.gz; windows of NumpyFSLDataset"


def litdata(case: Case) -> str:
    from litdata import StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    for length in (1, BLOCK):
        found = StreamingDataset(case["place"], item_loader=TokensLoader(block_size=length), shuffle=False)
        n = same((found[at] for at in range(len(found))), windows(case, length))
    return f"{len(flat(every(case)))} ids one by one, {n} windows of {BLOCK}"


def mds(case: Case) -> str:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    found = StreamingDataset(local=case["place"], shuffle=False, batch_size=1)
    n = same((found[at]["tokens"] for at in range(found.num_samples)), every(case))
    again = same((sample["tokens"] for sample in found), every(case))
    assert n == again
    return f"{n} documents by number and in turn"


def llmc(case: Case) -> str:
    from nemo_automodel.components.datasets.llm.nanogpt_dataset import load_bin_shard

    n = 0
    for file, documents in zip(sorted(Path(case["place"]).glob("*.bin")), case["parts"], strict=True):
        ids = load_bin_shard(file).tolist()
        starts = [at for at, id in enumerate(ids) if id == case["eot"]] + [len(ids)]
        n += same((ids[start:end] for start, end in pairwise(starts)), documents)
    return f"{n} documents, cut before each end of text"


READERS: dict[str, Callable[[Case], str]] = {
    "megatron": megatron,
    "datatrove": datatrove,
    "olmo": olmo,
    "litdata": litdata,
    "mds": mds,
    "llmc": llmc,
}


def main() -> int:
    """Reads each case; the exit code says only that it was tried."""
    name, cases = sys.argv[1:]
    for case in json.loads(Path(cases).read_text()):
        try:
            outcome: dict[str, str] = {"equal": READERS[name](case)}
        except Exception as error:
            outcome = {"wrong": f"{type(error).__name__}: {error}"}
        print("\n" + json.dumps(outcome), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
