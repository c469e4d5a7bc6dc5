"""Generates the character class tables from the engines that are the reference for them.

Usage: gen_unicode.py OUTPUT_DIRECTORY (with `tiktoken`, `regex` and `tokenizers` installed).

Each code point is put through each engine, for every general category, for the script Han and for
whitespace; nothing is taken from a Unicode database. tiktoken is asked through an encoding whose
pattern matches the characters of one category and drops all others, Hugging Face's tokenizers
through a `Split` that removes all others. Its `Digits` step and the borders of its added tokens ask
other engines than its patterns do, and so have tables of their own.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import regex
import tiktoken
import tokenizers
from tokenizers import pre_tokenizers

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


def huggingface_matches(pattern: str) -> set[int]:
    """Code points that the engine inside Hugging Face's tokenizers matches with `pattern`."""
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "removed", invert=True)
    return {ord(c) for piece, _ in split.pre_tokenize_str(TEXT) for c in piece}


def huggingface_digits() -> set[int]:
    """Code points that the step `Digits` of Hugging Face's tokenizers splits off."""
    pieces = pre_tokenizers.Digits(individual_digits=False).pre_tokenize_str("a" + TEXT)
    return {ord(c) for piece, _ in pieces[1::2] for c in piece}


def huggingface_words() -> set[int]:
    """Code points that count as part of a word: the step `Whitespace` keeps them with a letter."""
    text = "".join(f"\n{chr(code)}a" for code in CODE_POINTS)
    pieces = pre_tokenizers.Whitespace().pre_tokenize_str(text)
    return {ord(piece[0]) for piece, _ in pieces if len(piece) == 2 and piece[1] == "a"}


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
        f"//! Character classes of {engine}; made by `tools/gen_unicode.py`, not by hand.",
        "",
        "/// First and last code point and category (index into `CATEGORIES`).",
        "pub(super) static CATEGORIES: &[(u32, u32, u8)] = &[",
        *(f"    ({first:#x}, {last:#x}, {index})," for first, last, index in runs),
        "];",
        "",
        *range_list("SPACES", r"`\s`", matches(r"\s")),
        "/// What `(?i:letter)` matches beyond the two ASCII cases of the letter.",
        f"pub(super) static FOLDS: &[(char, u32)] = &[{', '.join(f'({a!r}, {b:#x})' for a, b in folds)}];",
        "",
        *range_list("HAN", r"`\p{Han}`", matches(r"\p{Han}")),
    ]
    return "\n".join(lines)


def share(text: str, other: str) -> str:
    """Names tiktoken's table instead of repeating it, where two engines agree on all of it."""
    blocks = text.split("\n\n")
    names = []
    for at, block in enumerate(blocks):
        if block.strip() in (theirs.strip() for theirs in other.split("\n\n")):
            names.append(block.split("static ")[1].split(":")[0])
            blocks[at] = ""
    if names:
        blocks[0] += "\n\n/// This engine's are the same.\n"
        blocks[0] += f"pub(super) use super::tiktoken::{{{', '.join(sorted(names))}}};"
    return "\n\n".join(block.strip("\n") for block in blocks if block.strip()) + "\n"


def range_list(name: str, what: str, members: set[int]) -> list[str]:
    return [
        f"/// {what}.",
        f"pub(super) static {name}: &[(u32, u32)] = &[",
        *(f"    ({first:#x}, {last:#x})," for first, last in ranges(members)),
        "];",
        "",
    ]


def main() -> None:
    folder = Path(sys.argv[1])
    for name, package, matches in (
        ("tiktoken", "tiktoken", tiktoken_matches),
        ("python_regex", "regex", regex_matches),
        ("huggingface", "tokenizers", huggingface_matches),
    ):
        text = table(f"{package} {version(package)}", matches)
        text = share(text, (folder / "tiktoken.rs").read_text()) if name != "tiktoken" else text
        if name == "huggingface":
            digits = range_list("DIGITS", "What the step `Digits` takes for a number", huggingface_digits())
            words = range_list("WORDS", "`\\w` of the engine that looks around added tokens", huggingface_words())
            text += "\n".join(["", *digits, *words])
        (folder / f"{name}.rs").write_text(text)


if __name__ == "__main__":
    main()
