"""What the inputs of a job are: files, directories, patterns; made into a list of files where the job is asked for.

A directory stands for every file in it and beneath it, in the order of their paths, but not for names
that begin with a dot, nor for the output of the job itself and what tokend makes beside one (by its exact
names: a corpus `train.jsonl` beside an output `train` is an input), nor for the empty marks that other
tools leave (`_SUCCESS`). Links to directories are followed, each directory once. A path that is not there and
has `*`, `?` or `[` in it is a pattern (`**` for any depth), and stands for what it matches, in the order of the
paths; a directory that it matches stands for its files. Whatever else it is, a path stands for itself:
whether there is such a file is told where it is opened.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from .errors import BadRequestError, IoError, NotFoundError
from .sidecars import ALL, MANIFEST

STDIN = "-"
"""What manifests, lists and errors call the input that came through stdin; the job reads it from a file."""


class Files(list[str]):
    """What `expand` gave: it is not looked at again."""


def names_of(files: Sequence[str], stdin: str | None) -> list[str]:
    """What inputs are called, of which `stdin` is the file with what came through stdin, if any did."""
    return list(files) if stdin is None else [STDIN if path == stdin else path for path in files]


def expand(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    others: Iterable[str | os.PathLike[str]] = (),
) -> Files:
    """The absolute paths of the files that `inputs` stand for. `others` are outputs beside `output`.

    Raises `NotFoundError` for a directory without files and a pattern without matches, `BadRequestError` for a
    file whose name is not UTF-8. Blocks while it reads directories.
    """
    if isinstance(inputs, Files):
        return inputs
    if isinstance(inputs, (str, bytes, os.PathLike)):
        raise BadRequestError(f"inputs is one path, not a list of them; pass [{os.fspath(inputs)!r}]")
    out = _Outputs(os.path.abspath(path) for path in (output, *others))
    files = Files()
    # Of a hundred thousand small files what is done for each is what takes time: abspath asks where it is each time.
    here = os.getcwd()
    paths = [os.path.normpath(os.path.join(here, given)) for given in inputs]
    is_directory = os.path.isdir if len(paths) < _MANY else _Directories(paths).__contains__
    for path in paths:
        if is_directory(path):
            files += _files(path, out)
        elif ("*" in path or "?" in path or "[" in path) and not os.path.lexists(path):
            import glob

            matched = sorted(glob.glob(path, recursive=True))
            matched = [found for found in matched if not (os.path.basename(found) in _MARKS or found in out)]
            if not matched:
                raise NotFoundError(f"{path}: nothing matches", "check the pattern; ** matches any depth")
            # `**` goes through links to directories, round and round where they lead back.
            is_deep, folders = "**" in path, dict[str, bool]()
            for found in matched:
                if os.path.isdir(found):
                    # With `**` their files are matched themselves, or are not meant.
                    files += [] if is_deep else _files(found, out)
                elif not (is_deep and _goes_round(os.path.dirname(found), folders)):
                    files.append(found)
            if not files:
                raise NotFoundError(f"{path}: no file matches")
        else:
            files.append(path)
    _check_utf8(files)
    return files


def _check_utf8(files: list[str]) -> None:
    """Refuses a name that is not UTF-8: the protocol and the manifest could not hold it."""
    try:
        "".join(files).encode()
    except UnicodeEncodeError:
        odd = next(path for path in files if any("\ud800" <= letter <= "\udfff" for letter in path))
        raise BadRequestError(f"{odd!r} is not valid UTF-8", "rename the file") from None


_MANY = 1000
"""So many paths are worth a look at the directories that they lie in."""


class _Directories:
    """Which of many paths are directories: a name that is listed takes a fifth of the time of one that is looked up."""

    def __init__(self, paths: list[str]) -> None:
        n_in = Counter(map(os.path.dirname, paths))
        self._listed = {folder: _directories_in(folder, 20 * n) for folder, n in n_in.items() if n > 10}

    def __contains__(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        found = self._listed.get(folder)
        return name in found if found is not None else os.path.isdir(path)


def _directories_in(folder: str, most: int) -> set[str] | None:
    """The names of a directory's directories; None for one that cannot be listed, or has more than `most` entries."""
    names = set()
    try:
        with os.scandir(folder) as entries:
            for n_entries, entry in enumerate(entries):
                if n_entries > most:
                    return None
                if _is_directory(entry):
                    names.add(entry.name)
    except OSError:
        return None
    return names


def _files(folder: str, outputs: _Outputs) -> list[str]:
    files = sorted(_walk(folder, outputs, set()))
    if not files:
        raise NotFoundError(f"{folder}: the directory holds no files", "names that begin with a dot do not count")
    return files


def _walk(folder: str, outputs: _Outputs, seen: set[tuple[int, int]]) -> Iterator[str]:
    try:
        found = os.stat(folder)
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise IoError(f"{folder}: cannot be listed: {error.strerror}") from None
    if (found.st_dev, found.st_ino) in seen:
        return
    seen.add((found.st_dev, found.st_ino))
    for entry in listed:
        if entry.name.startswith(".") or entry.name in _MARKS or entry.path in outputs:
            continue
        if _is_directory(entry):
            yield from _walk(entry.path, outputs, seen)
        else:
            yield entry.path


_MARKS = ("_SUCCESS", "_metadata", "_common_metadata")
"""What other tools put beside the files of a data set: no documents."""


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads nowhere in particular; what is wrong with it is told where it is opened.
        return False


def _goes_round(folder: str, known: dict[str, bool]) -> bool:
    """Whether a directory lies within itself, by a link."""
    if folder not in known:
        parent = os.path.dirname(folder)
        real = os.path.realpath(folder)
        inside = os.path.realpath(parent)
        is_loop = os.path.islink(folder) and (inside == real or inside.startswith(f"{real}/"))
        known[folder] = parent != folder and (is_loop or _goes_round(parent, known))
    return known[folder]


_FORMATS = r"\.(nanogpt|llmc|megatron|datatrove|olmo|litdata|mds)(_train|_val)?([._/].*)?"
"""Behind an output's name, what tokend calls trainers' formats that it makes beside it."""
_OF_PREFIX = r"(_train|_val)?\.(tokend\.json|bin|idx)"
"""The same for Megatron's files, which the output is the common prefix of."""


class _Outputs:
    """Outputs, and what is made beside them (`OUT.ends`, `OUT.llmc`; of `OUT.bin` also `OUT.llmc`)."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = tuple(paths)
        self._stems = tuple(path.removesuffix(".bin") for path in self._paths)

    def __contains__(self, path: str) -> bool:
        if not path.startswith(self._stems):
            return False
        return any(map(_is_of, [path] * len(self._paths), self._paths, self._stems))


def _is_of(path: str, output: str, stem: str) -> bool:
    import re

    if path.startswith(stem) and re.fullmatch(_FORMATS, path[len(stem) :]):
        return True
    if not path.startswith(output):
        return False
    rest = path[len(output) :]
    if rest == MANIFEST:
        return _is_manifest(path)
    return not rest or rest[0] == "/" or rest in ALL or re.fullmatch(f"{_OF_PREFIX}|{_FORMATS}", rest) is not None


def _is_manifest(path: str) -> bool:
    # What cannot be read now is an input, of which that is told where it is opened.
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return b'"tokend-' in file.read(64)
    except OSError:
        return False
