"""`make bench-seed`: the job that tokend grew out of, done five ways.

A 2,048-token `simple-bpe` model over generated children's stories: a plain Python encoder, Hugging Face
tokenizers, tiktoken, and tokend as the drop-in call and from file to file. All ids are compared. The
model is the one given by TOKEND_SEED_MODEL, else the 2,048-token one beside the project, else one that
Hugging Face tokenizers trains here on a slice.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference.corpus import stories
from reference.naive_bpe import NaiveBpe
from tokend import GPT2_PATTERN, Tokenizer
from tokend.compat import BpeTokenizer

N_BYTES = 20_000_000
SHARED_MODEL = Path(__file__).parents[3] / "shared/data/simple_bpe/tinystoriesv2-gpt4-train-2048.model"


def train(path: Path, text: str) -> None:
    """Trains a model on a slice and writes it in the `simple-bpe v1` format."""
    trained = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(GPT2_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2048, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([text], trainer)
    import json

    merges = json.loads(trained.to_str())["model"]["merges"]
    to_byte = {character: token for token, character in alphabet_by_byte().items()}
    ids: dict[bytes, int] = {bytes([byte]): byte for byte in range(256)}
    lines = []
    for left, right in merges:
        parts = [bytes(to_byte[c] for c in part) for part in (left, right)]
        lines.append(f"{ids[parts[0]]} {ids[parts[1]]}")
        ids[parts[0] + parts[1]] = 256 + len(lines) - 1
    end = f"<|endoftext|> {256 + len(lines)}"
    path.write_text("\n".join(["simple-bpe v1", GPT2_PATTERN, "1", end, *lines]) + "\n")


def alphabet_by_byte() -> dict[int, str]:
    """GPT-2's printable character of each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(0x100, 0x200))
    return {byte: chr(byte if byte in printable else next(shifted)) for byte in range(256)}


def hugging_face(naive: NaiveBpe) -> tokenizers.Tokenizer:
    """The same merges in Hugging Face tokenizers."""
    names = alphabet_by_byte()
    name = {id: "".join(names[byte] for byte in token) for id, token in naive.tokens.items()}
    merges = [(name[left], name[right]) for left, right in naive.merges]
    built = tokenizers.Tokenizer(models.BPE(vocab={text: id for id, text in name.items()}, merges=merges))
    split = pre_tokenizers.Split(tokenizers.Regex(GPT2_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    built.decoder = decoders.ByteLevel()
    return built


def main() -> None:
    text = stories(N_BYTES)
    print(f"corpus: {len(text.encode()) / 1e6:.1f} MB of generated stories")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        model = Path(os.environ.get("TOKEND_SEED_MODEL", SHARED_MODEL))
        if not model.exists():
            model = Path(folder, "seed.model")
            train(model, text[:1_000_000])
        naive, drop_in = NaiveBpe(), BpeTokenizer()
        naive.load(model)
        drop_in.load(model)
        print(f"model: {model.name}, {256 + len(naive.merges) + len(naive.specials)} tokens\n")
        ranks = {token: id for id, token in naive.tokens.items()}
        peer = tiktoken.Encoding("seed", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
        other = hugging_face(naive)
        source, output = Path(folder, "in.txt"), Path(folder, "out.bin")
        source.write_text(text)

        def file_to_file() -> list[int]:
            Tokenizer.load(model).encode_files([source], output, eot="none", special="text", force=True)
            return []

        contestants: list[tuple[str, Callable[[], list[int]]]] = [
            ("plain Python", lambda: naive.encode(text)),
            ("tokenizers", lambda: other.encode(text, add_special_tokens=False).ids),
            ("tiktoken", lambda: peer.encode_ordinary(text)),
            ("tokend, drop-in", lambda: drop_in.encode(text)),
            ("tokend, file to file", file_to_file),
        ]
        expected: list[int] = []
        slowest = 0.0
        print(f"{'':22} {'seconds':>8} {'MB/s':>8} {'speed-up':>9}  ids")
        for name, run in contestants:
            start = time.perf_counter()
            ids = run()
            seconds = time.perf_counter() - start
            if not expected:
                expected, slowest = ids, seconds
            found = np.array(ids) if ids else np.fromfile(output, np.uint16)
            same = "equal" if np.array_equal(found, np.array(expected)) else "DIFFERENT"
            print(f"{name:22} {seconds:8.2f} {len(text) / 1e6 / seconds:8.2f} {slowest / seconds:8.1f}x  {same}")
    print("\nThe forerunner's own figures, on its machine: Python 1.16 MB/s, Rust 4.40 MB/s (3.79x).")


if __name__ == "__main__":
    main()
