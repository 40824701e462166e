"""What the tests of the store share: a store with usual settings, and KV to put into it."""

import array

import numpy as np

from hwledger_omlx._native import Layout, Store, namespace_digest

SPACE = namespace_digest({"model": "a"})
ROWS, WIDTH = 3, 8


def open_store(folder, **settings):
    usual = {"quota_bytes": 1 << 30, "hot_bytes": 64 << 20, "queue_bytes": 64 << 20, "min_free_bytes": 0}
    return Store.open(folder, **{**usual, **settings})


def kv(tokens, parts=4, rows=ROWS, width=WIDTH, seed=0):
    """One array a part, of float16 with random bits."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 1 << 16, (1, rows, tokens, width), np.uint16).view(np.float16) for _ in range(parts)]


def layout_of(arrays, **more):
    return Layout([(each.shape[1], each.shape[3] * each.itemsize) for each in arrays], **more)


def empty_like(arrays, capacity):
    return [np.zeros((1, each.shape[1], capacity, each.shape[3]), each.dtype) for each in arrays]


def same_bytes(left, right):
    return np.asarray(left).tobytes() == np.asarray(right).tobytes()


def save(store, tokens, arrays, **more):
    saved = store.save(SPACE, layout_of(arrays), tokens, arrays, **more)
    assert saved.refused is None
    return saved


def range_ids(count):
    return array.array("I", range(count))
