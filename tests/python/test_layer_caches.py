"""Quantized layer caches by themselves: what they hold is what the format makes of each token, however it came."""

import copy
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache

from hwledger_omlx.hooks.layer_caches import attention, formats, quantized, rotation, transients
from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.hooks.layer_caches.live import LiveBatchKVCache, LiveKVCache
from hwledger_omlx.hooks.layer_caches.quantized import QuantizedKVCache
from hwledger_omlx.hooks.layer_caches.rows import RowsKVCache

HEADS, WIDTH = 2, 64
BY_TOKEN = ("affine:8:64", "affine:6:32", "affine:5:32", "affine:4:64", "affine:3:32", "affine:2:64", "rotated:3.5")
ALL = ("16", *BY_TOKEN, "channel:4:64", "channel:3:32")


def vectors(tokens: int, seed: int = 0, dtype: Any = mx.bfloat16) -> Any:
    return mx.array(np.random.default_rng(seed).standard_normal((1, HEADS, tokens, WIDTH), np.float32)).astype(dtype)


def cache_of(keys: str, values: str, first: int = 0, recent: int = 0, reserve: int = 0) -> QuantizedKVCache:
    return QuantizedKVCache(*(HeldTokens(formats.parse(name), first, recent, reserve) for name in (keys, values)))


def fed(cache: Any, *steps: int, seed: int = 0) -> Any:
    whole, done = vectors(sum(steps), seed), 0
    for step in steps:
        part = whole[..., done : done + step, :]
        cache.update_and_fetch(part, -part)
        done += step
    return cache


def held(cache: QuantizedKVCache) -> np.ndarray[Any, Any]:
    return np.array(cache.held_keys.dense().astype(mx.float32))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ALL[1:]),
    st.lists(st.integers(1, 150), min_size=1, max_size=4),
    st.integers(0, 5),
    st.integers(0, 70),
    st.sampled_from([0, 512]),
)
def test_each_token_is_as_the_format_has_it_however_it_came(
    name: str, steps: list[int], first: int, recent: int, reserve: int
) -> None:
    total = sum(steps)
    whole = vectors(total)
    cache = fed(cache_of(name, "16", first, recent, reserve), *steps)
    form = formats.parse(name)
    plain_first = min(first, total)
    # Whole runs leave the plain end as soon as they may.
    encoded = max(0, total - plain_first - recent) // form.run_tokens * form.run_tokens
    behind = plain_first + encoded
    expected = [whole[..., :plain_first, :], whole[..., behind:, :]]
    if encoded:
        middle = whole[..., plain_first:behind, :]
        expected.insert(1, form.decode(form.encode(middle), formats.spec_of(middle)))
    assert cache.held_keys.encoded_tokens == encoded
    assert cache.offset == total
    np.testing.assert_array_equal(held(cache), np.array(mx.concatenate(expected, axis=2).astype(mx.float32)))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ALL[1:]), st.integers(1, 200), st.integers(0, 4), st.integers(0, 40), st.data())
def test_trimmed_tokens_are_gone_and_the_others_stay(
    name: str, total: int, first: int, recent: int, data: st.DataObject
) -> None:
    cache = fed(cache_of(name, name, first, recent), total)
    before, dropped = held(cache), data.draw(st.integers(0, total))
    assert cache.trim(dropped) == dropped
    assert cache.offset == total - dropped
    if dropped < total:
        np.testing.assert_array_equal(held(cache), before[..., : total - dropped, :])
    fed(cache, 3, seed=1)
    assert cache.offset == total - dropped + 3


@pytest.mark.parametrize("name", BY_TOKEN)
def test_what_is_stored_of_the_end_is_what_the_whole_would_be(name: str) -> None:
    for first, recent in ((0, 0), (4, 0), (0, 20), (4, 20)):
        keys = fed(cache_of(name, name, first, recent), 100).held_keys
        form = formats.parse(name)
        everything = form.encode(vectors(100))
        for since in (0, 2, 50, 90):
            components, begins = keys.components_since(since)
            assert begins <= since
            for component, whole in zip(components, everything, strict=True):
                np.testing.assert_array_equal(
                    np.array(component.astype(mx.float32)), np.array(whole[..., begins:, :].astype(mx.float32))
                )
            dense, begins = keys.dense_since(since)
            assert begins <= since
            np.testing.assert_array_equal(
                np.array(dense.astype(mx.float32)), np.array(keys.dense()[..., begins:, :].astype(mx.float32))
            )


@pytest.mark.parametrize("keys", ALL)
@pytest.mark.parametrize("values", ["16", "affine:4:64", "channel:4:64", "rotated:4"])
@pytest.mark.parametrize("tokens", [1, 3])
def test_attention_to_encoded_tokens_is_attention_to_what_they_stand_for(
    keys: str, values: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a CPU it would decode; the products of encoded arrays are the same ones that a GPU computes.
    monkeypatch.setattr(quantized, "_multiplies_encoded", lambda: True)
    cache = fed(cache_of(keys, values, first=3, recent=9), 200, 1)
    whole = vectors(tokens, 5)
    fetched = cache.update_and_fetch(whole, -whole)
    queries = mx.concatenate([vectors(tokens, 6), vectors(tokens, 7)], axis=1)
    mask = "causal" if tokens > 1 else None
    arrays = [each.astype(mx.float32) for each in (queries, *fetched)]
    expected = mx.fast.scaled_dot_product_attention(*arrays, scale=0.125, mask=mask)
    assert attention.takes(cache, *fetched)
    answer = attention.attend(cache, queries, *fetched, scale=0.125, mask=mask)
    np.testing.assert_allclose(np.array(answer.astype(mx.float32)), np.array(expected), atol=0.03)


def test_attention_sinks_take_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "_multiplies_encoded", lambda: True)
    cache = fed(cache_of("affine:8:64", "affine:8:64"), 50)
    whole = vectors(1, 5)
    fetched, sinks = cache.update_and_fetch(whole, -whole), mx.array([5.0, -1.0]).astype(mx.bfloat16)
    expected = mx.fast.scaled_dot_product_attention(vectors(1, 6), *fetched, scale=0.125, mask=None, sinks=sinks)
    answer = attention.attend(cache, vectors(1, 6), *fetched, scale=0.125, mask=None, sinks=sinks)
    np.testing.assert_allclose(np.array(answer.astype(mx.float32)), np.array(expected.astype(mx.float32)), atol=0.05)
    without = attention.attend(cache, vectors(1, 6), *fetched, scale=0.125, mask=None)
    assert float(mx.abs(answer - without).max()) > 0.1


def test_arrays_that_a_model_has_made_itself_are_attended_to_as_they_are() -> None:
    cache = cache_of("affine:4:64", "affine:4:64")
    keys, values = cache.update_and_fetch(vectors(4), vectors(4))
    assert attention.takes(cache, keys, values)
    assert not attention.takes(cache, keys + 0, values)
    assert not attention.takes(KVCache(), keys, values)
    cache.update_and_fetch(vectors(1), vectors(1))
    assert not attention.takes(cache, keys, values)


# -- batches ----------------------------------------------------------------------------------------------------


def rows() -> list[Any]:
    return [
        fed(cache_of("affine:8:64", "affine:4:64"), 70, seed=1),
        fed(LiveKVCache(), 30, seed=2),
        fed(cache_of("channel:4:64", "affine:4:64", 2, 5), 130, seed=3),
    ]


def step(batch: Any, count: int, seed: int = 9) -> tuple[Any, Any, Any]:
    new = mx.concatenate([vectors(1, seed + row) for row in range(count)])
    mask = batch.make_mask(1, return_array=False, window_size=None)
    fetched = batch.update_and_fetch(new, -new)
    queries = mx.concatenate([vectors(1, 90 + row) for row in range(count)])
    return queries, fetched, mask


def test_a_row_answers_in_a_batch_as_it_does_alone() -> None:
    alone = []
    for index, row in enumerate(rows()):
        queries, fetched, mask = step(RowsKVCache([row]), 1, 9 + index)
        assert mask is None
        queries = vectors(1, 90 + index)
        alone.append(mx.fast.scaled_dot_product_attention(queries, *fetched, scale=0.125, mask=None))
    batch: Any = rows()[0].merge(rows())
    queries, fetched, mask = step(batch, 3)
    expected = np.array(mx.concatenate(alone).astype(mx.float32))
    for answer in (
        attention.attend(batch, queries, *fetched, scale=0.125, mask=mask),
        # What a model sees whose attention is not ours: a left-padded batch.
        mx.fast.scaled_dot_product_attention(queries, *fetched, scale=0.125, mask=mask),
    ):
        np.testing.assert_allclose(np.array(answer.astype(mx.float32)), expected, atol=0.02)
    assert batch.offset.tolist() == [71, 31, 131]
    assert batch.left_padding.tolist() == [60, 100, 0]


def test_rows_of_other_formats_join_a_batch_in_16_bit_and_outlive_it() -> None:
    plain = LiveKVCache.merge([fed(LiveKVCache(), 20, seed=4), fed(LiveKVCache(), 33, seed=5)])
    assert isinstance(plain, LiveBatchKVCache)
    before = [np.array(plain.extract(row).keys.astype(mx.float32)) for row in (0, 1)]
    other: Any = RowsKVCache([fed(cache_of("affine:8:64", "16"), 40)])
    kept = copy.copy(other.rows[0])
    plain.extend(other)
    batch: Any = plain
    assert isinstance(batch, RowsKVCache)
    assert batch.offset.tolist() == [20, 33, 40]
    for row, array in enumerate(before):
        np.testing.assert_array_equal(np.array(batch.extract(row).keys.astype(mx.float32)), array)
    step(batch, 3)
    batch.filter([2, 0])
    assert batch.offset.tolist() == [41, 21]
    more = LiveKVCache.merge([fed(LiveKVCache(), 7, seed=6)])
    batch.extend(more)
    assert batch.offset.tolist() == [41, 21, 7]
    assert kept.offset == 41
    assert batch.nbytes == sum(row.nbytes for row in batch.rows)


def test_a_batch_is_padded_on_the_right_as_mlx_lm_does_it() -> None:
    batch = RowsKVCache([cache_of("affine:8:64", "16"), cache_of("16", "affine:8:64")])
    batch.prepare(lengths=[5, 3], right_padding=[0, 2])
    batch.update_and_fetch(mx.concatenate([vectors(5, 1), vectors(5, 2)]), mx.concatenate([vectors(5, 1)] * 2))
    batch.finalize()
    assert batch.offset.tolist() == [5, 3]
    np.testing.assert_array_equal(
        np.array(batch.rows[1].held_keys.dense().astype(mx.float32)),
        np.array(vectors(5, 2)[..., :3, :].astype(mx.float32)),
    )


def test_masks_are_those_of_the_caches_in_whose_place_they_are() -> None:
    cache, reference = fed(cache_of("affine:8:64", "16"), 9), fed(KVCache(), 9)
    hidden = mx.zeros((1, 4, 8))
    assert create_attention_mask(hidden, cache) == create_attention_mask(hidden, reference) == "causal"
    np.testing.assert_array_equal(
        np.array(cache.make_mask(4, return_array=True, window_size=None)),
        np.array(reference.make_mask(4, return_array=True, window_size=None)),
    )


# -- formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "published"), [(1, 0.36), (2, 0.117), (3, 0.03), (4, 0.009)])
def test_rotation_distorts_no_more_than_was_published(bits: int, published: float) -> None:
    # TurboQuant's figures are rounded; Lloyd and Max's own for the normal distribution are the next ones.
    lloyd_max = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}[bits]
    assert lloyd_max == pytest.approx(published, rel=0.16)
    x = vectors(4000, dtype=mx.float32)
    codes, norms = rotation.encode(x, bits)
    error = mx.sum((rotation.decode(codes, norms, WIDTH, bits) - x) ** 2) / mx.sum(x**2)
    assert float(error) <= lloyd_max * 1.02


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.sampled_from([32, 64, 128]), st.integers(0, 2**32))
def test_packed_codes_come_back(bits: int, width: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (3, width), np.uint32)
    packed = rotation._pack(mx.array(codes), bits)
    assert packed.shape == (3, rotation.code_words(width, bits))
    np.testing.assert_array_equal(np.array(rotation._unpack(packed, width, bits)), codes)
    string = int.from_bytes(np.array(packed[0]).tobytes(), "little")
    assert [string >> (index * bits) & ((1 << bits) - 1) for index in range(width)] == codes[0].tolist()


@pytest.mark.parametrize("name", ALL)
def test_bytes_are_those_of_the_components(name: str) -> None:
    form, x = formats.parse(name), vectors(128)
    components = form.encode(x)
    assert [(tuple(each.shape), str(each.dtype)) for each in components] == [
        (spec.shape, f"mlx.core.{spec.dtype}") for spec in form.specs(formats.spec_of(x), 128)
    ]
    assert form.name == name


@pytest.mark.parametrize("name", ["7", "affine", "affine:4", "turbo:3", ""])
def test_a_format_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no format of running KV"):
        formats.parse(name)


def test_decoded_arrays_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(transients, "_MOST_BYTES", 1000)
    monkeypatch.setattr(transients, "_under_way", transients._UnderWay())
    monkeypatch.setattr(transients.mx, "eval", lambda depends_on: waited.append(depends_on))
    for layer, nbytes in enumerate((600, 300, 200, 5000, 10)):
        transients.expect(nbytes, (layer,))
    # One that is more than the limit by itself waits too, and is waited for by the next.
    assert waited == [(2,), (3,), (4,)]


@pytest.mark.parametrize(("tokens", "layers_a_stretch"), [(2048, 2), (1793, 2), (1000, 4), (3000, 1), (5000, 1)])
def test_a_device_is_at_most_two_stretches_of_layers_behind(
    monkeypatch: pytest.MonkeyPatch, tokens: int, layers_a_stretch: int
) -> None:
    handed_over: list[Any] = []
    waited: list[Any] = []
    monkeypatch.setattr(transients, "_under_way", transients._UnderWay())
    monkeypatch.setattr(transients, "runs_far_ahead", lambda: True)
    monkeypatch.setattr(transients.mx, "async_eval", handed_over.append)
    monkeypatch.setattr(transients.mx, "eval", waited.append)
    chunk = mx.zeros((1, 1, tokens, 4))
    for layer in range(1, 9):
        transients.layer_begins(chunk)
        assert len(handed_over) == layer // layers_a_stretch
        assert [id(each) for each in waited] == [id(each) for each in handed_over[:-1]]


def test_what_attention_copies_ends_a_stretch_and_single_tokens_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over: list[Any] = []
    monkeypatch.setattr(transients, "_under_way", transients._UnderWay())
    monkeypatch.setattr(transients, "runs_far_ahead", lambda: True)
    monkeypatch.setattr(transients.mx, "async_eval", handed_over.append)
    token = mx.zeros((2, 1, 1, 4))
    for _ in range(3):
        transients.layer_begins(token)
    assert not handed_over
    for _ in range(4):
        transients.layer_begins(token, 128 << 20)
    assert len(handed_over) == 2


def test_only_what_is_decoded_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[int] = []
    monkeypatch.setattr(transients, "expect", lambda nbytes, _: expected.append(nbytes))
    fed(cache_of("affine:4:64", "16"), 100, 20)
    assert expected == [0, 100 * HEADS * WIDTH * 2]
    monkeypatch.setattr(quantized, "_multiplies_encoded", lambda: True)
    fed(cache_of("affine:4:64", "16"), 1)
    assert expected[2:] == []
