"""The commands and their options."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

from .. import __version__
from .options import count, foreign_options, json_option, layout_options, record_options, tokenizer_option

FOREIGN_FORMATS = ["nanogpt", "llmc", "megatron", "datatrove", "olmo", "litdata", "mds"]
"""What `_core.export_formats()` gives; a copy, for the help needs no core."""


class _Formatter(argparse.HelpFormatter):
    """As wide as argparse's own, which imports archives and compressors to ask how wide a terminal is."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"width": _width(), **options})


@cache
def _width() -> int:
    columns = 0
    with contextlib.suppress(ValueError):
        columns = int(os.environ.get("COLUMNS", "0"))
    if columns <= 0 and sys.__stdout__ is not None:
        with contextlib.suppress(ValueError, OSError):
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns
    return (columns if columns > 0 else 80) - 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as every other error is said, not after a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        self.exit(2, f"tokend: error: {message}\nhint: {self.prog} --help\n")


def build_parser(first: str | None = None) -> argparse.ArgumentParser:
    """The command line: all of it, or if `first` is a command no more than that, which takes a fifth of the time."""
    parser = _Parser(
        prog="tokend",
        description="Exact BPE tokens for training, from one daemon per machine.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"tokend {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in [first] if first in _COMMANDS else _COMMANDS:
        module, help, options = _COMMANDS[name]
        added = commands.add_parser(name, help=help, description=help, formatter_class=_Formatter)
        added.set_defaults(run=_late(module, name))
        options(added)
    return parser


def _late(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        result: int = getattr(import_module(f".{module}", __package__), name)(arguments)
        return result

    return run


def _endpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--endpoint", metavar="ipc://PATH", help="the daemon's socket (default: TOKEND_ENDPOINT, else this user's own)"
    )


def _client(parser: argparse.ArgumentParser) -> None:
    _endpoint(parser)
    json_option(parser)


def _serve(parser: argparse.ArgumentParser) -> None:
    _endpoint(parser)
    parser.add_argument(
        "--root", action="append", default=[], metavar="DIR", help="serve only paths beneath DIR (repeatable)"
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help="where the daemon keeps its state (default: TOKEND_STATE_DIR, else ~/.local/state/tokend)",
    )
    parser.add_argument(
        "--threads",
        type=count,
        default=0,
        metavar="N",
        help="worker threads of a job (default: one less than there are cores)",
    )
    parser.add_argument(
        "--ahead-tokens",
        type=count,
        default=1 << 26,
        metavar="N",
        help="how far jobs write ahead of the loaders that follow their streams (default: 67108864)",
    )
    parser.add_argument(
        "--preload", action="append", default=[], metavar="NAME_OR_PATH", help="load a tokenizer at start (repeatable)"
    )
    parser.add_argument(
        "--idle-timeout", type=float, metavar="SECONDS", help="stop when idle for so long (default: never)"
    )
    parser.add_argument(
        "--drain-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long SIGTERM lets the running job go on; it is resumed at the next start (default: 30)",
    )


def _encode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="files, in the order of the output: text or JSON lines (in gzip, zstd, bzip2 or xz too), parquet, arrow; "
        "directories (every file in them); quoted patterns ('data/**/*.jsonl.zst'); - for stdin",
    )
    parser.add_argument(
        "--files-from", metavar="FILE|-", help="read the input paths from FILE, one per line (or NUL-separated)"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="the data file (OUT.ends and OUT.json are made beside it), or the directory of another format",
    )
    tokenizer_option(parser)
    parser.add_argument(
        "--format",
        action="append",
        choices=["bin", "stream", *FOREIGN_FORMATS],
        metavar="FORMAT",
        help="bin: one raw file, published as a whole; stream: a directory that can be read while it grows; or what "
        f"a trainer reads: {', '.join(FOREIGN_FORMATS)}. Repeatable: each is then made beside OUT, as OUT.FORMAT "
        "(default: bin)",
    )
    parser.add_argument(
        "--separator", metavar="STR", help="text that ends a document (default: each file is one document)"
    )
    parser.add_argument(
        "--eot",
        choices=["append", "prepend", "both", "none"],
        help="where the end-of-text id goes (default: append, but prepend for llmc)",
    )
    parser.add_argument("--eot-token", metavar="STR", help="the end-of-text token, where it is not obvious")
    parser.add_argument(
        "--special",
        choices=["raise", "text", "token"],
        help="what a special token's text in a document means (default: raise for text, text for JSON lines and "
        "columns)",
    )
    parser.add_argument(
        "--errors",
        choices=["strict", "replace"],
        default="strict",
        help="what to do about bytes that are not UTF-8 (default: strict)",
    )
    parser.add_argument(
        "--threads", type=count, default=0, metavar="N", help="worker threads (default: one less than there are cores)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="make nothing: estimate tokens, time and disk from a sample"
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="bring OUT up to date with inputs that have grown or are new, and encode only what is new",
    )
    group = parser.add_argument_group("of directories that are watched")
    group.add_argument(
        "--watch",
        action="append",
        metavar="DIR",
        help="keep the stream OUT up to date with the files in DIR (repeatable)",
    )
    group.add_argument(
        "--interval", type=float, default=2.0, metavar="SECONDS", help="time between two looks (default: 2)"
    )
    group.add_argument("--once", action="store_true", help="look once")
    group.add_argument("--seal", action="store_true", help="look once more, and say that nothing more will come")
    parser.add_argument(
        "--no-reuse",
        action="store_true",
        help="encode again, even where the same inputs, 8 MB of them or more, were encoded the same way: their set's "
        "bytes are shared otherwise, as hard links where the file system has no reflinks",
    )
    parser.add_argument("--local", action="store_true", help="work in this process, without a daemon")
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and return at once")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace an existing output: a file of its name whoever made it, a directory only if tokend did",
    )
    parser.add_argument(
        "--key", metavar="KEY", help="a name for this job: giving it again, also after a crash, finds the same job"
    )
    parser.add_argument(
        "--resume", action="store_true", help="with --local: go on from what an interrupted run left, if anything"
    )
    parser.add_argument(
        "--retire",
        action="store_true",
        help="of a stream: delete segments that no loader of the daemon will read again; it need not fit on the disk",
    )
    record_options(parser)
    layout_options(parser)
    parser.set_defaults(eot_id=None)
    _client(parser)


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="SET",
        help="OUT.bin, its manifest or a sealed stream of tokend's; or another tool's set: Megatron, llm.c, datatrove, "
        "OLMo-core, litData, MDS, .npy, raw ids",
    )
    parser.add_argument(
        "--format",
        action="append",
        required=True,
        choices=["bin", "stream", *FOREIGN_FORMATS],
        metavar="FORMAT",
        help=f"bin or stream, which are tokend's own, or {', '.join(FOREIGN_FORMATS)}; repeatable: bin or stream is "
        "then made as OUT, each other as OUT.FORMAT",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="the new directory; for bin the data file; for megatron the prefix of its files",
    )
    parser.add_argument(
        "--eot",
        choices=["append", "prepend", "both", "none"],
        help="where end-of-text ids go in formats of trainers (default: where their readers expect them); bin and "
        "stream have them where SET has",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output that tokend made")
    parser.add_argument(
        "--no-wait", action="store_true", help="hand it to the daemon, print the job's id and return at once"
    )
    foreign_options(parser)
    layout_options(parser)
    _client(parser)


def _decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="a token file (default: ids on stdin)")
    tokenizer_option(parser, default=None)
    parser.add_argument("--start", type=count, default=0, metavar="N", help="first token (default: 0)")
    parser.add_argument("--count", type=count, metavar="N", help="number of tokens (default: all)")
    parser.add_argument(
        "--dtype", choices=["uint16", "uint32"], help="for a file without a manifest (default: the tokenizer's)"
    )


def _text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", help="the text, or - for stdin")
    parser.add_argument(
        "--special",
        choices=["raise", "text", "token"],
        default="raise",
        help="what a special token's text means (default: raise)",
    )
    tokenizer_option(parser)
    json_option(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", help="a set of tokend's, or of Megatron, llm.c, datatrove, OLMo-core, litData, MDS; raw ids"
    )
    foreign_options(parser)
    json_option(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", help="OUT.bin, a stream's directory, the manifest of either, what convert made, or another tool's set"
    )
    foreign_options(parser)
    json_option(parser)


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", help="OUT.bin, a stream, or what convert or encode made of them for a trainer, or one file of that"
    )
    parser.add_argument("--token", type=count, required=True, metavar="N", help="position of the token, from 0")
    parser.add_argument("--set", metavar="SET", help="what a trainer's set was made of, where its name does not tell")
    parser.add_argument("--context", type=count, default=200, metavar="BYTES", help="text to show (default: 200)")
    json_option(parser)


def _gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", metavar="DIR", help="where half made files of dead runs are removed too")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    json_option(parser)


def _stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--now", action="store_true", help="cancel running jobs")
    _client(parser)


def _job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB")
    _client(parser)


_COMMANDS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "serve": ("daemon", "run a daemon in the foreground", _serve),
    "encode": ("encode", "files -> one token set on disk", _encode),
    "convert": ("convert", "a token set, ours or another tool's -> another format of it", _convert),
    "decode": ("decode", "tokens -> text on stdout", _decode),
    "text": ("text", "text -> ids on one line", _text),
    "inspect": ("inspect", "what a token set holds", _inspect),
    "verify": ("verify", "read a token set again: checksums, lengths, ids, document ends", _verify),
    "explain": ("explain", "the source text around a token", _explain),
    "tokenizers": ("tokenizers", "the vocabularies that this machine has", json_option),
    "gc": ("gc", "forget outputs that are gone; remove what dead runs left in directories", _gc),
    "jobs": ("daemon", "the daemon's jobs", _client),
    "status": ("daemon", "how the daemon is", _client),
    "stop": ("daemon", "stop the daemon after its running jobs", _stop),
    "wait": ("daemon", "wait for a job, with progress", _job),
    "cancel": ("daemon", "cancel a job", _job),
}
"""Module, help and options of each command."""
