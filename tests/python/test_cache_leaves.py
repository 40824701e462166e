"""Layer caches taken apart and made again, without a store: what comes back is what mlx-lm's cache would hold."""

from array import array
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, CacheList, ChunkedKVCache, KVCache, QuantizedKVCache, RotatingKVCache

from hwledger_omlx.hooks.layer_caches.building import build
from hwledger_omlx.hooks.layer_caches.dial import Dial
from hwledger_omlx.hooks.layer_caches.live import LiveKVCache
from hwledger_omlx.hooks.paged_cache import boundaries, leaves, parts

HEADS, WIDTH, WINDOW = 2, 4, 16


def keys_and_values(first: int, count: int) -> tuple[Any, Any]:
    """Each token's are of its position alone, so that it can be seen where a slice comes from."""
    positions = np.arange(first, first + count, dtype=np.float32)[None, None, :, None]
    heads = np.arange(HEADS, dtype=np.float32)[None, :, None, None] / 8
    keys = np.broadcast_to(positions + heads, (1, HEADS, count, WIDTH))
    return mx.array(keys), mx.array(-keys)


def layers() -> list[Any]:
    return [KVCache(), RotatingKVCache(WINDOW), CacheList(ArraysCache(2), KVCache())]


def feed(caches: list[Any], first: int, count: int) -> None:
    for leaf in leaves.leaves(caches):
        if leaf.kind == "state":
            leaf.cache[1] = mx.full((1, 3), float(first + count))
        else:
            leaf.cache.update_and_fetch(*keys_and_values(first, count))


def restored(caches: list[Any], tokens: int) -> list[Any]:
    """New layers with the first `tokens` tokens of `caches`, by the way of the arrays that a store would be given."""
    stored = parts.stored(leaves.leaves(caches), Dial())
    described = parts.described_by(parts.describe(stored.parts, "16"))
    fresh = build(Dial(), layers(), reserve_tokens=256)
    room = parts.room(described, fresh, tokens, 256)
    for target, target_first, source, source_first in zip(
        room.arrays, room.first_tokens, stored.arrays, stored.first_tokens, strict=True
    ):
        assert target_first >= source_first
        count = tokens - target_first
        into, out_of = np.array(memoryview(target), copy=False), np.array(source)
        into[..., :count, :] = out_of[..., target_first - source_first : tokens - source_first, :]
    parts.fill(fresh, described, room.arrays, tokens)
    return fresh


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 12), st.data())
def test_a_restored_prefix_goes_on_as_the_original(steps: list[int], more: int, data: st.DataObject) -> None:
    original = layers()
    done = 0
    for count in steps:
        feed(original, done, count)
        done += count
    held = min(parts.stored(leaves.leaves(original), Dial()).arrays[2].shape[2], done)
    # A window that has forgotten tokens gives those prefixes whose last tokens it still has.
    least = 1 if held == done else done - held + WINDOW
    tokens = data.draw(st.integers(min(least, done), done))
    copy = restored(original, tokens)
    reference = layers()
    feed(reference, 0, tokens)
    for caches in (copy, reference):
        feed(caches, tokens, more)
    for mine, theirs in zip(leaves.leaves(copy), leaves.leaves(reference), strict=True):
        if mine.kind == "state":
            continue
        assert mine.cache.offset == theirs.cache.offset
        ours, upstream = parts.stored([mine], Dial()), parts.stored([theirs], Dial())
        for one, other in zip(ours.arrays, upstream.arrays, strict=True):
            last = min(one.shape[2], other.shape[2], WINDOW if mine.kind == "window" else tokens + more)
            np.testing.assert_array_equal(np.array(one[..., -last:, :]), np.array(other[..., -last:, :]))


def test_a_snapshot_brings_back_what_recurrent_layers_remember() -> None:
    original = layers()
    feed(original, 0, 5)
    meta, arrays = leaves.snapshot(leaves.leaves(original))
    feed(original, 5, 3)
    fresh = layers()
    room = leaves.snapshot_room(meta)
    for into, out_of in zip(room, arrays, strict=True):
        np.array(memoryview(into), copy=False)[...] = np.array(out_of)
    leaves.remember(fresh, meta, room)
    state = fresh[2].caches[0].state
    assert state[0] is None
    assert state[1].tolist() == [[5.0] * 3]


def test_layers_are_told_apart() -> None:
    kinds = [leaf.kind for leaf in leaves.leaves([LiveKVCache(), *layers()])]
    assert kinds == ["sequence", "sequence", "window", "state", "sequence"]


@pytest.mark.parametrize("cache", [ChunkedKVCache(16), QuantizedKVCache(), RotatingKVCache(16, keep=4), object()])
def test_what_cannot_be_stored_is_named(cache: Any) -> None:
    with pytest.raises(leaves.UnsupportedCacheError, match=type(cache).__name__):
        leaves.leaves([KVCache(), CacheList(cache)])


def test_layers_that_disagree_have_no_token_count() -> None:
    caches = layers()
    feed(caches, 0, 4)
    assert leaves.token_count(leaves.leaves(caches)) == 4
    caches[0].update_and_fetch(*keys_and_values(4, 1))
    with pytest.raises(ValueError, match="4, 5 tokens"):
        leaves.token_count(leaves.leaves(caches))
    assert leaves.token_count(leaves.leaves([ArraysCache(2)])) is None


def test_another_version_of_a_description_is_refused() -> None:
    with pytest.raises(ValueError, match="version 1, not 2"):
        parts.described_by(b'[1,"16",[]]')
    with pytest.raises(ValueError, match="version 2"):
        leaves.snapshot_room(b"[2,[]]")


def test_a_prompt_without_images_is_known_by_its_tokens() -> None:
    assert boundaries.identity_tokens([3, 1, 2]) == array("I", [3, 1, 2])


def test_the_same_placeholders_of_other_images_are_other_tokens() -> None:
    prompt = [9, 9, *[7] * 20, 5, *[7] * 20, 6]

    def known(*images: tuple[int, object]) -> list[int]:
        return list(boundaries.identity_tokens(prompt, images))

    both = known((2, ("cat",)), (23, ("dog",)))
    assert both == known((2, ("cat",)), (23, ("dog",)))
    assert both[:2] == [9, 9]
    assert both[6:23] == prompt[6:23]
    assert all(token >= 1 << 31 for token in both[2:6] + both[23:27])
    one = known((2, ("cat",)))
    assert one[:23] == both[:23]
    assert one[23:27] != both[23:27]
    assert known((2, ("dog",)))[2:6] != both[2:6]
    # An image with less room than its key takes still has the next one's key begin where that one begins.
    assert known((2, ("cat",)), (3, ("dog",)))[2] == both[2]
    assert known((44, ("cat",)))[:44] == prompt[:44]


def test_snapshots_are_taken_where_an_agent_comes_back_to() -> None:
    end = 99
    prompt = [1, 2, end, 4, 5, end, 7, 8, end, 10, 11]

    def points(after: int = 0, before: int = 10, branch: int | None = None) -> list[int]:
        return boundaries.snapshot_points(prompt, after=after, before=before, ends_of_turn={end}, branch=branch)

    assert points() == [3, 9]
    assert points(branch=5) == [3, 5, 9]
    assert points(after=3) == [9]
    assert points(after=3, branch=3) == [9]
    assert points(after=9, branch=10) == []
    assert boundaries.snapshot_points([1, 2], after=0, before=1, ends_of_turn={end}, branch=0) == []
