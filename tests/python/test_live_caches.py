"""Live caches against mlx-lm's own: the same keys and values whatever is done to a batch, and no needless copy."""

import copy
import mmap
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import BatchKVCache, KVCache

from hwledger_omlx.hooks.layer_caches.arrays import ArraySpec, hollow
from hwledger_omlx.hooks.layer_caches.live import LiveBatchKVCache, LiveKVCache, copied, roomy

HEADS, WIDTH = 2, 4


def tokens(count: int, seed: int, rows: int = 1) -> tuple[Any, Any]:
    draw = np.random.default_rng(seed)
    made = [mx.array(draw.standard_normal((rows, HEADS, count, WIDTH)).astype(np.float32)) for _ in range(2)]
    return made[0], made[1]


def filled(kind: type[Any], count: int, seed: int) -> Any:
    cache = kind()
    if count:
        cache.update_and_fetch(*tokens(count, seed))
    return cache


def assert_same(ours: Any, theirs: Any) -> None:
    # Padding holds whatever was there; attention masks it.
    left = theirs.left_padding.tolist()
    assert ours.left_padding.tolist() == left
    assert ours.offset.tolist() == theirs.offset.tolist()
    assert ours._idx == theirs._idx
    for mine, upstream in zip(ours.state[:2], theirs.state[:2], strict=True):
        for row, padding in enumerate(left):
            np.testing.assert_array_equal(np.array(mine[row, :, padding:]), np.array(upstream[row, :, padding:]))


step = st.one_of(
    st.tuples(st.just("decode"), st.integers(1, 300)),
    st.tuples(st.just("filter"), st.integers(0, 5)),
    st.tuples(st.just("extend"), st.lists(st.integers(1, 300), min_size=1, max_size=2)),
    st.tuples(st.just("extract"), st.integers(0, 5)),
    st.tuples(st.just("copy"), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 520), min_size=1, max_size=3), steps=st.lists(step, max_size=6))
def test_a_batch_of_live_caches_is_one_of_upstreams(lengths: list[int], steps: list[tuple[str, Any]]) -> None:
    ours = LiveKVCache.merge([filled(LiveKVCache, count, seed) for seed, count in enumerate(lengths)])
    theirs = KVCache.merge([filled(KVCache, count, seed) for seed, count in enumerate(lengths)])
    for number, (action, value) in enumerate(steps):
        rows = len(theirs.left_padding.tolist())
        if action == "decode":
            new = tokens(value, 100 + number, rows)
            for mine, upstream in zip(ours.update_and_fetch(*new), theirs.update_and_fetch(*new), strict=True):
                assert mine.shape == upstream.shape
        elif action == "filter":
            kept = [row for row in range(rows) if row != value] or [0]
            ours.filter(kept)
            theirs.filter(kept)
        elif action == "extend":
            mine = [filled(LiveKVCache, count, 200 + number + count) for count in value]
            upstream = [filled(KVCache, count, 200 + number + count) for count in value]
            ours.extend(LiveKVCache.merge(mine))
            theirs.extend(KVCache.merge(upstream))
        elif action == "extract":
            row = value % rows
            for mine, upstream in zip(ours.extract(row).state, theirs.extract(row).state, strict=True):
                np.testing.assert_array_equal(np.array(mine), np.array(upstream))
        else:
            ours, theirs = copy.deepcopy(ours), copy.deepcopy(theirs)
        assert_same(ours, theirs)


def test_a_request_that_is_alone_is_never_copied() -> None:
    cache = LiveKVCache(reserve_tokens=1024)
    cache.update_and_fetch(*tokens(700, 0))
    keys = cache.keys
    before = copied.nbytes
    batch = LiveKVCache.merge([cache])
    assert batch.keys is keys
    # As mlx-lm has it go from prefill to decode.
    batch = copy.deepcopy(batch)
    batch.filter([0])
    for number in range(300):
        batch.update_and_fetch(*tokens(1, number))
    assert batch.keys.shape[2] == 1024
    batch.extract(0)
    assert copied.nbytes == before
    batch.extend(LiveKVCache.merge([filled(LiveKVCache, 3, 1)]))
    assert copied.nbytes - before == batch.keys.nbytes + batch.values.nbytes


def test_what_is_taken_out_of_a_batch_stays_as_it_was() -> None:
    batch = LiveKVCache.merge([filled(LiveKVCache, 300, 0)])
    taken = batch.extract(0)
    mx.eval(taken.state)
    before = [np.array(array) for array in taken.state]
    batch.update_and_fetch(*tokens(5, 1))
    batch.trim(100)
    batch.update_and_fetch(*tokens(50, 2))
    mx.eval(batch.state)
    for array, old in zip(taken.state, before, strict=True):
        np.testing.assert_array_equal(np.array(array), old)
    assert taken.offset == 300


def test_an_empty_batch_can_be_joined() -> None:
    batch = LiveKVCache.merge([LiveKVCache()])
    assert isinstance(batch, BatchKVCache)
    batch.update_and_fetch(*tokens(4, 0))
    assert batch.offset.tolist() == [4]


@pytest.mark.parametrize("count", [1, 255, 256, 257, 100_000])
def test_room_is_whole_blocks_and_an_eighth_more(count: int) -> None:
    assert roomy(count) % 256 == 0
    assert count + max(256, count // 8) <= roomy(count) < count + max(256, count // 8) + 256


def test_hollow_arrays_have_their_shape_and_can_be_written() -> None:
    specs = [
        ArraySpec((1, 2, 3, 4), "bfloat16"),
        ArraySpec((1, 2, 5, 0), "float32"),
        ArraySpec((7,), "uint32"),
        ArraySpec((2, 2), "bool"),
        ArraySpec((2,), "complex64"),
    ]
    made = hollow(specs)
    assert [ArraySpec.of(array) for array in made] == specs
    memoryview(made[2])[:] = memoryview(np.arange(7, dtype=np.uint32))
    assert made[2].tolist() == list(range(7))
    made[0][...] = 1.5
    assert mx.all(made[0] == 1.5).item()
    assert hollow([]) == []


def test_memory_is_made_while_another_thread_clears_mlx_cache() -> None:
    done = threading.Event()

    def clear() -> None:
        while not done.is_set():
            mx.eval(mx.ones(1000) + 1)
            mx.clear_cache()
        mx.synchronize()
        mx.clear_streams()

    clearing = threading.Thread(target=clear)
    clearing.start()
    try:
        for _ in range(500):
            hollow([ArraySpec((64,), "float32")])
    finally:
        done.set()
        clearing.join()


def test_hollow_memory_is_not_touched() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("this system does not tell how many pages are resident")
    before = int(statm.read_text().split()[1])
    made = hollow([ArraySpec((1, 8, 16384, 128), "float16")])
    pages = int(statm.read_text().split()[1]) - before
    assert made[0].nbytes == 1 << 25
    assert pages * mmap.PAGESIZE < made[0].nbytes // 2


def test_live_batches_are_what_live_caches_merge_into() -> None:
    assert type(LiveKVCache.merge([filled(LiveKVCache, 2, 0), filled(LiveKVCache, 3, 1)])) is LiveBatchKVCache


def test_joining_takes_the_memory_of_one_layer_more() -> None:
    def layers(count: int, seed: int) -> list[Any]:
        made = [LiveKVCache.merge([filled(LiveKVCache, count, seed + layer)]) for layer in range(16)]
        mx.eval([layer.state for layer in made])
        return made

    ours, others = layers(5000, 0), layers(4000, 50)
    nbytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in (*ours, *others))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for mine, other in zip(ours, others, strict=True):
        mine.extend(other)
    assert mx.get_peak_memory() - before < nbytes / 4
    assert all(other.keys is None for other in others)
