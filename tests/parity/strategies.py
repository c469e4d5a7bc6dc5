"""Text that finds the corners of tokenizers."""

from __future__ import annotations

from hypothesis import strategies as st

NASTY = [
    "'", "s", "S", "t", "ll", "LL", "ve", "re", "d", "m", "'s", "'ll", "’s", "ſ", "\u212a",
    " ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u1680", "\u2003",
    "\u2028", "\u3000", "\u200b", "\ufeff", "\u180e",
    "a", "the", "Hello", "word", "é", "ß", "Ж", "слово", "中", "国际", "。", "日本語", "한국", "हिन्दी", "ไทย",
    "עִבְרִית", "مرحبا", "\u0301", "\u20dd",
    "1", "12", "1234", "²", "½", "Ⅷ", "٣", "!", "...", "--", "_", "<", ">", "|", "{", "😀", "👩\u200d👧", "🇫🇷",
    "\0", "\x7f", "\ue000", "\U0001f9ff", "\U00030000", "\u0378",
    "<|endoftext|>", "<|endoftext", "endoftext|>", "<|", "|>", "<|end",
]  # fmt: skip

texts = st.one_of(
    st.lists(st.sampled_from(NASTY), max_size=40).map("".join),
    st.text(max_size=60),
    st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=5)), max_size=20).map("".join),
)
