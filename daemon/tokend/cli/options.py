"""Options that several commands have, in groups."""

from __future__ import annotations

import argparse


def json_option(parser: argparse.ArgumentParser) -> None:
    """How results are printed."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def tokenizer_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str | None = "gpt2") -> None:
    """Which vocabulary."""
    shown = f" (default: {default})" if default else ""
    parser.add_argument(
        "--tokenizer",
        default=default,
        metavar="NAME|PATH",
        help="gpt2, a tokenizer.json, a .model file, a folder with vocab.json and merges.txt, or a published "
        f"encoding with its rank file (cl100k_base=PATH); see `tokend tokenizers`{shown}",
    )


def record_options(parser: argparse.ArgumentParser) -> None:
    """What inputs hold, and which of their documents are taken."""
    group = parser.add_argument_group("of what is in the inputs")
    group.add_argument(
        "--input-format",
        choices=["auto", "text", "jsonl"],
        default="auto",
        help="what files hold that are no parquet or arrow (default: auto, by first bytes, names and first lines)",
    )
    group.add_argument(
        "--field",
        action="append",
        metavar="NAME[=OUT]",
        help="field or column of the text, with dots: meta.body (default: text); with =OUT and without -o "
        "repeatable: each field goes to an output of its own, in one pass",
    )
    group.add_argument("--id-field", metavar="NAME", help="a field or column to keep in OUT.ids, a line per document")
    group.add_argument(
        "--bad-documents",
        choices=["fail", "skip"],
        default="fail",
        help="what to do about lines, rows and texts that are no document: fail at the first, or leave them out and "
        "list them in OUT.skipped.jsonl (default: fail)",
    )
    group.add_argument("--min-tokens", type=count, default=0, metavar="N", help="leave out shorter documents")
    group.add_argument("--max-tokens", type=count, metavar="N", help="leave out longer documents")
    group.add_argument("--truncate-tokens", type=count, metavar="N", help="cut longer documents")
    group.add_argument("--deduplicate", action="store_true", help="leave out documents whose text was there before")


def layout_options(parser: argparse.ArgumentParser) -> None:
    """How sets are laid out for trainers."""
    group = parser.add_argument_group("of the formats that trainers read")
    group.add_argument("--shard-tokens", type=count, metavar="N", help="most tokens of a file")
    group.add_argument("--shard-bytes", type=size, metavar="SIZE", help="most bytes of tokens of a file, e.g. 512M")
    group.add_argument("--shard-documents", type=count, metavar="N", help="most documents of a file")
    group.add_argument("--row-tokens", type=count, metavar="N", help="mds: rows of N tokens (default: documents)")
    group.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        metavar="X",
        help="part of the documents for validation, drawn by their content (default: 0)",
    )
    group.add_argument("--shuffle", action="store_true", help="shuffle the documents")
    group.add_argument("--seed", type=count, default=0, metavar="N", help="of the shuffle and the split (default: 0)")


def foreign_options(parser: argparse.ArgumentParser) -> None:
    """What files of other tools do not tell."""
    group = parser.add_argument_group("of other tools' files, which do not tell")
    tokenizer_option(group, default=None)
    group.add_argument("--dtype", choices=["uint16", "uint32"], help="of raw ids (default: told from the ids)")
    group.add_argument(
        "--vocab-size", type=count, metavar="N", help="ids in the vocabulary, of a tokenizer that tokend does not know"
    )
    group.add_argument("--eot-id", type=count, metavar="ID", help="the end-of-text id (default: the tokenizer's)")
    group.add_argument(
        "--eot-at",
        choices=["end", "start", "both", "none"],
        help="where documents have it (default: told from the first and last documents)",
    )


def size(text: str) -> int:
    """Bytes, with an optional unit of 1,024."""
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    word = text.upper().removesuffix("B").removesuffix("I")
    return count(word[:-1]) << units[word[-1]] if word[-1:] in units else count(word)


def count(text: str) -> int:
    """A number that is not negative."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number
