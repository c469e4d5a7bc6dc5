"""Text that anybody can make again: children's stories from a seeded grammar."""

from __future__ import annotations

import random

_NAMES = [
    "Lily",
    "Tom",
    "Mia",
    "Ben",
    "Sara",
    "Max",
    "Anna",
    "Sam",
    "Lucy",
    "Jack",
    "Emma",
    "Leo",
    "Zoe",
    "Ruby",
    "Otto",
]
_ANIMALS = ["cat", "dog", "bird", "bunny", "bear", "frog", "mouse", "duck", "horse", "turtle", "fox", "owl", "squirrel"]
_THINGS = ["ball", "box", "cake", "boat", "kite", "hat", "flower", "stone", "book", "drum", "star", "cookie", "puzzle"]
_PLACES = ["park", "garden", "forest", "house", "river", "beach", "hill", "school", "barn", "market", "kitchen"]
_MOODS = ["happy", "sad", "brave", "tired", "proud", "scared", "excited", "curious", "gentle", "grumpy"]
_VERBS = ["found", "lost", "hugged", "painted", "carried", "dropped", "shared", "fixed", "hid", "washed"]
_OPENINGS = (
    "Once upon a time, there was a {mood} {animal} named {name}.",
    "One day, {name} and {friend} went to the {place}.",
    "{name} lived in a little house near the {place}.",
)
_MIDDLES = (
    "{name} {verb} a big {thing} at the {place}.",
    '"Look at my {thing}!" said {name}. "It\'s so pretty."',
    "The {animal} didn't want to play, because it was {mood}.",
    '{friend} asked, "Can I help you with the {thing}?"',
    "They ran, and ran, and ran, until the {animal} was very {mood}.",
    "{name}'s mom said they'd have to be home at {hour} o'clock.",
    "But the {thing} was {number} times bigger than the {animal}!",
)
_ENDINGS = (
    "From that day on, {name} and {friend} were best friends.",
    "And so {name} learned to be {mood} and kind. The end.",
    "They all went home and ate {thing} together.",
)


def stories(n_bytes: int, seed: int = 1) -> str:
    """At least `n_bytes` bytes of stories, an empty line between them; ASCII only."""
    rng = random.Random(seed)
    parts: list[str] = []
    made = 0
    while made < n_bytes:
        name, friend = rng.sample(_NAMES, 2)
        sentences = [rng.choice(_OPENINGS), *rng.choices(_MIDDLES, k=rng.randint(4, 12)), rng.choice(_ENDINGS)]
        story = " ".join(
            sentence.format(
                name=name,
                friend=friend,
                mood=rng.choice(_MOODS),
                animal=rng.choice(_ANIMALS),
                thing=rng.choice(_THINGS),
                place=rng.choice(_PLACES),
                verb=rng.choice(_VERBS),
                hour=rng.randint(1, 12),
                number=rng.randint(2, 99),
            )
            for sentence in sentences
        )
        parts.append(story)
        made += len(story) + 2
    return "\n\n".join(parts) + "\n"
