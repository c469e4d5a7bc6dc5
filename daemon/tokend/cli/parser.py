"""The commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

from .. import __version__


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="tokend", description="Exact BPE tokens for training, from one daemon per machine."
    )
    parser.add_argument("--version", action="version", version=f"tokend {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, module: str, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(run=_late(module, name))
        return added

    _serve(command("serve", "daemon", "run a daemon in the foreground"))
    _encode(command("encode", "encode", "files -> one token set on disk"))
    _decode(command("decode", "decode", "tokens -> text on stdout"))
    text = command("text", "text", "text -> ids on one line")
    text.add_argument("text", help="the text, or - for stdin")
    text.add_argument(
        "--special",
        choices=["raise", "text", "token"],
        default="raise",
        help="what a special token's text means (default: raise)",
    )
    _tokenizer(text)
    _json(text)
    inspect = command("inspect", "inspect", "what a token set holds")
    inspect.add_argument("path", help="OUT.bin or its manifest")
    _json(inspect)
    verify = command("verify", "verify", "read a token set again: checksums, lengths, ids, document ends")
    verify.add_argument("path", help="OUT.bin, a stream's directory, or the manifest of either")
    _json(verify)
    _json(command("tokenizers", "tokenizers", "the vocabularies that this machine has"))
    for name, help in (("jobs", "the daemon's jobs"), ("status", "how the daemon is")):
        _client(command(name, "daemon", help))
    stop = command("stop", "daemon", "stop the daemon after its running jobs")
    stop.add_argument("--now", action="store_true", help="cancel running jobs")
    _client(stop)
    for name, help in (("wait", "wait for a job, with progress"), ("cancel", "cancel a job")):
        one = command(name, "daemon", help)
        one.add_argument("job", metavar="JOB")
        _client(one)
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


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _client(parser: argparse.ArgumentParser) -> None:
    _endpoint(parser)
    _json(parser)


def _tokenizer(parser: argparse.ArgumentParser, default: str | None = "gpt2") -> None:
    shown = f" (default: {default})" if default else ""
    parser.add_argument(
        "--tokenizer",
        default=default,
        metavar="NAME|PATH",
        help="gpt2, a tokenizer.json, a .model file, a folder with vocab.json and merges.txt, or a published "
        f"encoding with its rank file (cl100k_base=PATH); see `tokend tokenizers`{shown}",
    )


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
        type=_count,
        default=0,
        metavar="N",
        help="worker threads of a job (default: one less than there are cores)",
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
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="text files, in the order of the output")
    parser.add_argument(
        "--files-from", metavar="FILE|-", help="read the input paths from FILE, one per line (or NUL-separated)"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="the data file (OUT.ends and OUT.json are made beside it), or a stream's directory",
    )
    _tokenizer(parser)
    parser.add_argument(
        "--format",
        choices=["bin", "stream"],
        default="bin",
        help="one raw file, published as a whole, or a directory that can be read while it grows (default: bin)",
    )
    parser.add_argument(
        "--separator", metavar="STR", help="text that ends a document (default: each file is one document)"
    )
    parser.add_argument(
        "--eot",
        choices=["append", "prepend", "both", "none"],
        default="append",
        help="where the end-of-text id goes (default: append)",
    )
    parser.add_argument("--eot-token", metavar="STR", help="the end-of-text token, where it is not obvious")
    parser.add_argument(
        "--special",
        choices=["raise", "text", "token"],
        default="raise",
        help="what a special token's text means (default: raise)",
    )
    parser.add_argument(
        "--errors",
        choices=["strict", "replace"],
        default="strict",
        help="what to do about bytes that are not UTF-8 (default: strict)",
    )
    parser.add_argument(
        "--threads", type=_count, default=0, metavar="N", help="worker threads (default: one less than there are cores)"
    )
    parser.add_argument("--local", action="store_true", help="work in this process, without a daemon")
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and return at once")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--key", metavar="KEY", help="a name for this job: giving it again, also after a crash, finds the same job"
    )
    parser.add_argument(
        "--resume", action="store_true", help="with --local: go on from what an interrupted run left, if anything"
    )
    _client(parser)


def _decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="a token file (default: ids on stdin)")
    _tokenizer(parser, default=None)
    parser.add_argument("--start", type=_count, default=0, metavar="N", help="first token (default: 0)")
    parser.add_argument("--count", type=_count, metavar="N", help="number of tokens (default: all)")
    parser.add_argument(
        "--dtype", choices=["uint16", "uint32"], help="for a file without a manifest (default: the tokenizer's)"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number
