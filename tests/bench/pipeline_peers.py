"""JSON lines to token files with other tools, each as its users run it.

    python tests/bench/pipeline_peers.py NAME INPUT.jsonl FOLDER VOCABULARY.json THREADS

Each writes uint16 ids with an end-of-text id after each document to `FOLDER/tokens`, as far as it can be told where,
and prints how many documents it took to have been there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Any

EOT = 50256


def gigatoken(source: Path, folder: Path, vocabulary: Path, threads: int) -> int:
    """Its reader of JSON lines; end-of-text ids and files are the caller's business, here numpy's."""
    import awkward as ak
    import gigatoken as module
    import numpy as np

    tokenizer = module.Tokenizer.from_json(vocabulary.read_text())
    documents = tokenizer.encode_files(module.JsonlFileSource([str(source)], field="text"))
    ends = np.cumsum(np.asarray(ak.num(documents)) + 1)
    out = np.empty(int(ends[-1]), np.uint16)
    own = np.ones(len(out), bool)
    own[ends - 1] = False
    out[own] = np.asarray(ak.flatten(documents))
    out[ends - 1] = EOT
    out.tofile(folder / "tokens")
    ends.astype(np.uint64).tofile(folder / "ends")
    return len(ends)


_tokenizer: Any = None


def _load(path: str) -> None:
    global _tokenizer
    from tokenizers import Tokenizer

    _tokenizer = Tokenizer.from_file(path)


def _encode(line: str) -> list[int]:
    ids: list[int] = _tokenizer.encode(json.loads(line)["text"]).ids
    return [*ids, EOT]


def megatron(source: Path, folder: Path, vocabulary: Path, threads: int) -> int:
    """What preprocess_data.py does: a pool of processes that take lines, 32 at a time; the parent writes.

    Its index is kept in lists and written at the end.
    """
    import numpy as np

    lengths = []
    with (
        source.open(encoding="utf-8") as lines,
        (folder / "tokens").open("wb") as data,
        Pool(threads, _load, (str(vocabulary),)) as pool,
    ):
        for ids in pool.imap(_encode, lines, 32):
            data.write(np.array(ids, np.uint16).tobytes())
            lengths.append(len(ids))
    with (folder / "index").open("wb") as index:
        index.write(b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\x08")
        index.write(len(lengths).to_bytes(8, "little") + (len(lengths) + 1).to_bytes(8, "little"))
        index.write(np.array(lengths, np.int32).tobytes())
        index.write(np.array(list(_pointers(lengths)), np.int64).tobytes())
        index.write(np.arange(len(lengths) + 1, dtype=np.int64).tobytes())
    return len(lengths)


def _pointers(lengths: list[int]) -> Iterator[int]:
    at = 0
    for length in lengths:
        yield at
        at += 2 * length


def datatrove(source: Path, folder: Path, vocabulary: Path, threads: int) -> int:
    """Its reader and tokenizer blocks; a file is one task, whose batches take all threads."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    blocks = [
        JsonlReader(str(source.parent), glob_pattern=source.name, compression=None),
        DocumentTokenizer(
            str(folder), tokenizer_name_or_path=str(vocabulary), eos_token="<|endoftext|>", shuffle_documents=False
        ),
    ]
    LocalPipelineExecutor(blocks, tasks=1, workers=1, logging_dir=str(folder / "log")).run()
    made = next(folder.glob("*.ds"))
    made.rename(folder / "tokens")
    return Path(f"{made}.index").stat().st_size // 8


def tokbin(source: Path, folder: Path, vocabulary: Path, threads: int) -> int:
    """Its command, in its default settings."""
    command = [str(Path(sys.executable).with_name("tokbin")), "build", str(folder / "set"), "--from-jsonl", str(source)]
    done = subprocess.run([*command, "--tokenizer", str(vocabulary), "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr or done.stdout)
    with (folder / "tokens").open("wb") as out:
        for shard in sorted((folder / "set").glob("train-*.bin")):
            shutil.copyfileobj(shard.open("rb"), out)
    import numpy as np

    return len(np.load(folder / "set" / "train-offsets.npy", mmap_mode="r")) - 1


PEERS = {"gigatoken": gigatoken, "megatron": megatron, "datatrove": datatrove, "tokbin": tokbin}

if __name__ == "__main__":
    name, *paths, n_threads = sys.argv[1:]
    source, folder, vocabulary = map(Path, paths)
    print(json.dumps({"n_documents": PEERS[name](source, folder, vocabulary, int(n_threads))}))
