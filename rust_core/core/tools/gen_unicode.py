"""Generates the character class tables from the engines that are the reference for them.

Usage: gen_unicode.py OUTPUT_DIRECTORY (with `tiktoken` and `regex` installed).

Each code point is put through each engine, for every general category and for whitespace; nothing
is taken from a Unicode database. tiktoken is asked through an encoding whose pattern matches the
characters of one category and drops all others.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import regex
import tiktoken

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()  # noqa: SIM905
CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
TEXT = "".join(map(chr, CODE_POINTS))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tiktoken_matches(pattern: str) -> set[int]:
    """Code points that tiktoken's engine matches with `pattern`."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return set(map(ord, bytes(encoding.encode_ordinary(TEXT)).decode()))


def regex_matches(pattern: str) -> set[int]:
    """Code points that Python's `regex` matches with `pattern`."""
    return set(map(ord, regex.findall(pattern, TEXT)))


def ranges(members: set[int]) -> list[tuple[int, int]]:
    """Inclusive ranges of a set of code points."""
    found: list[tuple[int, int]] = []
    for code in sorted(members):
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


def table(engine: str, matches) -> str:
    category = {}
    for index, name in enumerate(CATEGORIES):
        for code in matches(rf"\p{{{name}}}"):
            assert code not in category, f"U+{code:04X} has two categories"
            category[code] = index
    runs: list[tuple[int, int, int]] = []
    for code, index in sorted(category.items()):
        if runs and runs[-1][1] == code - 1 and runs[-1][2] == index:
            runs[-1] = (runs[-1][0], code, index)
        else:
            runs.append((code, code, index))
    folds = []
    for letter in LETTERS:
        others = sorted(matches(f"(?i:{letter})") - {ord(letter), ord(letter.upper())})
        folds += [(letter, other) for other in others]
    lines = [
        f"//! Character classes of {engine}; made by tools/gen_unicode.py, not by hand.",
        "",
        "/// First and last code point and category (index into `CATEGORIES`).",
        "pub(super) static CATEGORIES: &[(u32, u32, u8)] = &[",
        *(f"    ({first:#x}, {last:#x}, {index})," for first, last, index in runs),
        "];",
        "",
        r"/// `\s`.",
        "pub(super) static SPACES: &[(u32, u32)] = &[",
        *(f"    ({first:#x}, {last:#x})," for first, last in ranges(matches(r"\s"))),
        "];",
        "",
        "/// What `(?i:letter)` matches beyond the two ASCII cases of the letter.",
        f"pub(super) static FOLDS: &[(char, u32)] = &[{', '.join(f'({a!r}, {b:#x})' for a, b in folds)}];",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    folder = Path(sys.argv[1])
    for name, package, matches in (
        ("tiktoken", "tiktoken", tiktoken_matches),
        ("python_regex", "regex", regex_matches),
    ):
        (folder / f"{name}.rs").write_text(table(f"{package} {version(package)}", matches))


if __name__ == "__main__":
    main()
