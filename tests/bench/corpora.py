"""The benchmark's texts, made of Debian packages: prose, code, multilingual, Chinese.

    python tests/bench/corpora.py [DIR]        (default: build/corpora)

Packages are fetched with `apt-get download` (nothing is installed), unpacked, reduced to text and joined
to one file per corpus. Which packages there are differs from release to release: of `a|b` the first that is there
is taken (two editions share most of their text), a missing one is named and left out. So figures are comparable
within a run, not between machines. Texts are taken once and in the order of their hashes, so that the two halves
of a corpus are of one kind and share no text.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

LIMIT_BYTES = 100_000_000
"""Each corpus ends here."""

HELP = [f"libreoffice-help-{language}" for language in ("de", "es", "fr", "hi", "ja", "ko", "pt", "ru", "zh-cn")]
PACKAGES = {
    "prose": [
        "perl-doc", "python3.11-doc|python3.13-doc", "libreoffice-help-en-us", "gnucash-docs",
        "postgresql-doc-15|postgresql-doc-17", "dict-gcide", "wordnet-base", "bible-kjv-text", "dict-foldoc",
        "developers-reference", "vim-doc", "manpages", "manpages-dev", "linux-source-6.1|linux-source-6.12",
    ],
    "code": ["linux-source-6.1|linux-source-6.12"],
    "multilingual": [*HELP, "debian-handbook", "gnome-user-docs"],
    "chinese": [
        "libreoffice-help-zh-cn", "libreoffice-help-zh-tw", "gimp-help-zh-cn", "manpages-zh", "debian-reference-zh-cn",
        "debian-reference-zh-tw", "debian-handbook", "gnome-user-docs", "maint-guide-zh-cn", "maint-guide-zh-tw",
        "kicad-doc-zh", "lilypond-doc-html-zh", "debian-faq-zh-cn", "debian-edu-doc-zh-cn",
        "debian-edu-doc-legacy-zh-cn", "fortunes-zh", "linux-source-6.1|linux-source-6.12",
    ],
}  # fmt: skip

_SKIPPED = re.compile(rb"<(script|style)\b.*?</\1>", re.S | re.I)
_TAG = re.compile(rb"<[^>]*>", re.S)
_BLANKS = re.compile("[ \t\xa0]+")
_EMPTY_LINES = re.compile("\n(?: ?\n)+ ?")
_ROFF = re.compile(rb"^[.'].*\n|\\f[A-Z]|\\&", re.M)
_ZH = re.compile(r"/zh\b|/zh_|[.]zh[-.]|zh[-_](cn|tw)", re.I)
_HAN = re.compile("[\u4e00-\u9fff]")


def corpora(directory: Path) -> dict[str, Path]:
    """The corpora by name, made where they are not there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    made = {}
    for name in PACKAGES:
        made[name] = directory / f"{name}.txt"
        if not made[name].exists():
            _make(name, made[name], directory / "packages")
    return made


def _make(name: str, target: Path, cache: Path) -> None:
    print(f"making {target} ...", file=sys.stderr)
    texts: dict[bytes, bytes] = {}
    for packages in PACKAGES[name]:
        root = next(filter(None, (_unpacked(package, cache) for package in packages.split("|"))), None)
        if root is None:
            print(f"  no package {packages}", file=sys.stderr)
            continue
        # No corpus but code is one package: no package is more than a fifth of one.
        left = 10 * LIMIT_BYTES if name == "code" else LIMIT_BYTES // 5
        for text in _texts(name, root):
            digest = hashlib.blake2b(text, digest_size=16).digest()
            if digest not in texts:
                texts[digest] = text
                left -= len(text)
            if left <= 0:
                break
    partial = target.with_suffix(".partial")
    n_bytes = 0
    with partial.open("wb") as out:
        # In the order of their hashes: every part of the file is of the same kind.
        for _, text in sorted(texts.items()):
            out.write(text + b"\n")
            n_bytes += len(text) + 1
            if n_bytes >= LIMIT_BYTES:
                break
    partial.rename(target)


def _unpacked(package: str, cache: Path) -> Path | None:
    root = cache / package
    if root.exists():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["apt-get", "download", "-qq", package], cwd=cache, capture_output=True).returncode:
        return None
    (archive,) = cache.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, cache / "new"], check=True)
    archive.unlink()
    for source in (cache / "new").glob("usr/src/*.tar.xz"):
        with tarfile.open(source) as tar:
            tar.extractall(cache / "new" / "usr" / "src", filter="data")
        source.unlink()
    (cache / "new").rename(root)
    return root


def _texts(name: str, root: Path) -> Iterator[bytes]:
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        text = _text(name, path)
        if text is None:
            continue
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            continue
        if name == "chinese":
            # Markup and untranslated paragraphs are left out: lines that are not mostly Chinese.
            lines = [line for line in decoded.splitlines() if 3 * len(_HAN.findall(line)) > len(line)]
            text = "\n".join(lines).encode()
        if len(text) > 200:
            yield text


def _text(name: str, path: Path) -> bytes | None:
    suffix = path.suffix
    where = str(path)
    if name == "code":
        return (
            path.read_bytes() if suffix in (".c", ".h", ".py") and "/drivers/gpu/drm/amd/include" not in where else None
        )
    if suffix == ".gz" and "/man/" in where:
        return _ROFF.sub(b"", gzip.decompress(path.read_bytes()))
    if suffix == ".dz":
        return gzip.decompress(path.read_bytes())
    if suffix in (".html", ".xhtml", ".page"):
        if name == "chinese" and _ZH.search(where) is None:
            return None
        stripped = _TAG.sub(b" ", _SKIPPED.sub(b" ", path.read_bytes()))
        blank = _BLANKS.sub(" ", html.unescape(stripped.decode(errors="replace")))
        return _EMPTY_LINES.sub("\n\n", blank.replace("\n ", "\n")).encode()
    if path.name.startswith("data.") and "wordnet" in where:
        # Of a line of numbers the explanation.
        return b"\n".join(line.partition(b"| ")[2] for line in path.read_bytes().splitlines())
    if name == "chinese" and (suffix == ".rst" or "/fortunes/" in where):
        return path.read_bytes() if suffix != ".dat" else None
    if suffix in (".txt", ".pod", ".rst"):
        return path.read_bytes() if name == "prose" else None
    return None


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "build/corpora")
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        sys.exit("this needs Debian's apt-get and dpkg-deb; give your own files to the benchmark instead")
    for made in corpora(where).values():
        print(f"{made.stat().st_size / 1e6:8.1f} MB  {made}")
