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


def texts_and_others() -> list[bytes | None]:
    """30 values of a column of text, of which those with other bytes than UTF-8 should not be there."""
    wrong = [
        b"a\xffb",
        "euro \u20ac".encode()[:-1],
        b"\xac at the start",
        b"\xed\xa0\x80 is a surrogate",
        b"\xf5\x80\x80\x80",
    ]
    right = [b"plain", "naïve 日本 😀".encode(), b"", b"same", b"same"]
    return [value for number in range(3) for value in (*wrong, None, *right[number:], *right[:number])][:30]


def invalid() -> None:
    """Writes files whose columns of text have values that are none, also in columns that nobody asks for."""
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    values = texts_and_others()
    folder = HERE.parent / "invalid_utf8"
    folder.mkdir(exist_ok=True)
    rows = range(len(values))
    names = [b"row %d" % row if row % 7 else b"row \xff %d" % row for row in rows]

    def text(values: list[bytes | None], kind: object) -> object:
        large = pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary())
        if kind == pa.string_view():
            return pa.array(values, pa.binary_view()).view(kind)
        return pa.Array.from_buffers(kind, len(large), large.buffers(), large.null_count)

    def table(column: object) -> object:
        """With columns of most other kinds around it: their types are to be understood as well."""
        name = text(names, pa.string())
        columns = {
            "day": pa.array([datetime.date(2020, 1, 1)] * len(values)),
            "name": name,
            "tags": pa.ListArray.from_arrays(pa.array([*rows, len(values)], pa.int32()), name),
            "pairs": pa.array([[("k", row)] for row in rows], pa.map_(pa.string(), pa.int64())),
            "meta": pa.StructArray.from_arrays([column, name], names=["body", "name"]),
            "price": pa.array([None] * len(values), pa.decimal128(20, 3)),
            "at": pa.array([0] * len(values), pa.timestamp("us", tz="UTC")),
            "kind": pa.array([["a", "b", None][row % 3] for row in rows]).dictionary_encode(),
            "fixed": pa.array([b"1234"] * len(values), pa.binary(4)),
            "text": column,
        }
        return pa.table(columns)

    plain, large, view = (text(values, kind) for kind in (pa.string(), pa.large_string(), pa.string_view()))
    for encoding in ("PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"):
        pq.write_table(
            table(plain),
            folder / f"{encoding.lower()}.parquet",
            use_dictionary=False,
            column_encoding={"text": encoding},
            row_group_size=11,
        )
    pq.write_table(table(large), folder / "dictionary.parquet", data_page_version="2.0", store_schema=False)
    pq.write_table(table(large), folder / "large.parquet")
    is_same = {value: number for number, value in enumerate(dict.fromkeys(v for v in values if v is not None))}
    keys = pa.array([None if value is None else is_same[value] for value in values], pa.int8())
    repeated = pa.DictionaryArray.from_arrays(keys, text(list(is_same), pa.string()))
    for name, column in (("plain", plain), ("large", large), ("view", view), ("dictionary", repeated)):
        made, options = table(column), pa.ipc.IpcWriteOptions(compression="zstd" if name == "large" else None)
        with pa.ipc.new_file(folder / f"{name}_file.arrow", made.schema, options=options) as file:
            file.write_table(made, max_chunksize=None if name == "view" else 11)
        with pa.ipc.new_stream(folder / f"{name}_stream.arrow", made.schema, options=options) as file:
            file.write_table(made, max_chunksize=None if name == "view" else 11)


def main() -> None:
    """Writes the files."""
    invalid()
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
