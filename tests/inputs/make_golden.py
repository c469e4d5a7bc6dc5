"""Makes the parquet and arrow files of these tests with pyarrow, a writer that is not ours.

`python tests/inputs/make_golden.py`, in an environment that has pyarrow; its results are committed, so that the
tests need none. `documents()` is what they hold.
"""

from __future__ import annotations

import random
from pathlib import Path

HERE = Path(__file__).parent / "golden"


def documents() -> list[str | None]:
    """300 texts of all lengths; each hundredth is null."""
    chance = random.Random(5)
    words = ["word", " the", "\n", " naïve", " 日本", "123", "  ", "😀", '"quoted"', "\\n", "\0", "<|endoftext|>"]
    texts: list[str | None] = ["".join(chance.choices(words, k=chance.randrange(0, 40))) for _ in range(300)]
    texts[50::100] = [None] * len(texts[50::100])
    return texts


def main() -> None:
    """Writes the files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = documents()
    ids = list(range(1000, 1300))
    names = [f"doc-{number}" for number in ids]
    other = [float(number) for number in ids]
    flat = pa.table({"id": pa.array(ids, pa.int64()), "text": pa.array(texts, pa.string()), "score": other})
    HERE.mkdir(exist_ok=True)
    for compression in ("none", "snappy", "gzip", "zstd", "lz4", "brotli"):
        pq.write_table(flat, HERE / f"{compression}.parquet", row_group_size=70, compression=compression)
    pq.write_table(flat, HERE / "checked.parquet", compression="snappy", write_page_checksum=True, use_dictionary=False)
    large = flat.set_column(1, "text", pa.array(texts, pa.large_string()))
    pq.write_table(large, HERE / "large.parquet", data_page_size=1000, version="1.0", data_page_version="2.0")
    inner = pa.StructArray.from_arrays([pa.array(texts, pa.string()), pa.array(names)], names=["body", "name"])
    nested = pa.table({"other": other, "meta": inner})
    pq.write_table(nested, HERE / "nested.parquet")
    repeated = pa.table({"id": pa.array(names), "text": pa.array(texts).dictionary_encode()})
    for name, table in (("flat", flat), ("view", flat.set_column(1, "text", pa.array(texts, pa.string_view())))):
        with pa.ipc.new_file(HERE / f"{name}.arrow", table.schema) as file:
            # A batch of views takes all of its buffers along.
            file.write_table(table, max_chunksize=None if name == "view" else 40)
    binary = pa.array([None if text is None else text.encode() for text in texts], pa.binary())
    with pa.ipc.new_stream(HERE / "stream.arrow", pa.schema([("text", pa.binary())])) as stream:
        stream.write_table(pa.table({"text": binary}), max_chunksize=40)
    with pa.ipc.new_stream(
        HERE / "dictionary.arrow", repeated.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as stream:
        stream.write_table(repeated)
    with pa.ipc.new_file(
        HERE / "nested.arrow", nested.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")
    ) as file:
        file.write_table(nested, max_chunksize=110)


if __name__ == "__main__":
    main()
