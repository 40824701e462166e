"""Which tokens a prompt is known by, and at which of them a snapshot is worth its bytes. Knows no caches, no store."""

import hashlib
from array import array
from collections.abc import Collection, Iterable, Sequence

_KEYED_TOKENS = 4
"""Tokens after an image's start that carry its key: 31 bits of a digest each."""
KEYED_BIT = 1 << 31
"""Set in a number that stands for a part of an image."""

ImageKeys = Sequence[tuple[int, object]]
"""`(position, keys)`, by rising position: from there on, the KV depends on what the keys stand for."""


def identity_tokens(tokens: Sequence[int], images: ImageKeys = ()) -> "array[int]":
    """The tokens by which a prompt is found, as unsigned 32-bit numbers.

    They are the prompt's own, but for the first ones of each image: placeholders are the same for every picture, so
    numbers that no token has stand there, drawn from the image's key, the place and the token.
    """
    found = array("I", tokens)
    for index, (start, keys) in enumerate(images):
        end = images[index + 1][0] if index + 1 < len(images) else len(found)
        for position in range(start, min(start + _KEYED_TOKENS, end, len(found))):
            text = f"{keys!r}/{position - start}/{tokens[position]}"
            digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
            found[position] = int.from_bytes(digest, "little") | KEYED_BIT
    return found


def snapshot_points(
    tokens: Sequence[int], *, after: int, before: int, ends_of_turn: Collection[int], branch: int | None
) -> list[int]:
    """Where prefill should stop for a snapshot: numbers of tokens, rising, between `after` and `before`.

    Points that an agent's loop returns to: the end of the system prompt, the end of the last message (what a template
    adds behind it to open the answer may be gone in the next turn), and where this prompt leaves a stored one.

    Args:
        tokens: the prompt's.
        after: tokens that are there already.
        before: tokens after which prefill stops in any case.
        ends_of_turn: tokens that end a message.
        branch: tokens that the prompt shares with a stored one, where no snapshot is; None for nothing shared.
    """
    ends = [position + 1 for position in _positions(tokens, ends_of_turn)]
    wanted = {ends[0], ends[-1]} if ends else set()
    if branch:
        wanted.add(branch)
    return sorted(point for point in wanted if after < point < before)


def _positions(tokens: Sequence[int], wanted: Collection[int]) -> Iterable[int]:
    return (position for position, token in enumerate(tokens) if token in wanted)
