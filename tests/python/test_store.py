"""The store as Python sees it: real buffers in and out, and what it says of wrong ones."""

import array
import json
import threading

import mlx.core as mx
import numpy as np
import pytest

from hwledger_omlx import errors
from hwledger_omlx._native import Layout, Snapshot, fingerprint_folder, namespace_digest
from hwledger_omlx.cache import CacheStats
from stores import ROWS, SPACE, WIDTH, empty_like, kv, layout_of, open_store, range_ids, same_bytes, save


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kv"


@pytest.fixture
def store(folder):
    with open_store(folder) as opened:
        yield opened


# -- bytes in, bytes out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 700])
def test_what_was_saved_comes_back_into_larger_arrays(store, tokens):
    arrays = kv(tokens)
    prompt = list(range(tokens))
    saved = save(store, prompt, arrays)
    assert (saved.new_tokens, saved.deferred) == (tokens, False)
    assert saved.nbytes == sum(each.nbytes for each in arrays)
    with store.lookup(SPACE, prompt) as match:
        assert (match.tokens, match.restorable, match.miss_reason) == (tokens, tokens, None)
        assert match.parts == [(ROWS, WIDTH * 2)] * 4
        assert match.nbytes == saved.nbytes
        targets = empty_like(arrays, tokens + 100)
        restored = match.restore(targets)
    assert restored.tokens == tokens
    assert restored.bytes_hot + restored.bytes_cold == saved.nbytes
    assert all(same_bytes(t[:, :, :tokens], a) for t, a in zip(targets, arrays, strict=True))


def test_a_prefix_ends_at_the_first_token_that_differs(store):
    arrays = kv(600)
    prompt = list(range(600))
    save(store, prompt, arrays)
    edited = [*prompt[:333], 9999, *prompt[334:]]
    for asked, limit, wanted in ((edited, None, 333), (prompt, 599, 599), (prompt[:17], None, 17), ([7], None, 0)):
        with store.lookup(SPACE, asked, limit) as match:
            assert match.tokens == match.restorable == wanted
            targets = empty_like(arrays, wanted + 1)
            match.restore(targets)
        assert all(same_bytes(t[:, :, :wanted], a[:, :, :wanted]) for t, a in zip(targets, arrays, strict=True))
    again = store.save(SPACE, layout_of(arrays), edited, arrays)
    assert again.new_tokens == 600 - 333
    assert store.save(SPACE, layout_of(arrays), prompt, arrays).new_tokens == 0


def test_it_outlives_the_process_that_closed_it(folder):
    arrays = kv(300)
    with open_store(folder, hot_bytes=0) as store:
        save(store, list(range(300)), arrays)
        store.flush()
    with open_store(folder) as store, store.lookup(SPACE, list(range(300))) as match:
        targets = empty_like(arrays, 300)
        restored = match.restore(targets)
        assert (restored.tokens, restored.bytes_hot) == (300, 0)
        assert restored.bytes_cold > 0
    assert all(same_bytes(*pair) for pair in zip(targets, arrays, strict=True))


def test_strided_numpy_views_are_taken_as_they_are(store):
    tokens, whole = 40, kv(100, parts=1, rows=8, width=16)[0]
    views = [
        whole[:, :4, 10:90:2],  # every other token
        whole[:, 1:8:2, :50],  # every other row
        np.ascontiguousarray(whole.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)[:, 4:],  # tokens before rows
        np.broadcast_to(whole[:, :1, :1], (1, 2, tokens, 16)),
    ]
    assert not any(view.flags.c_contiguous for view in views)
    save(store, list(range(tokens)), views)
    targets = empty_like(views, tokens)
    with store.lookup(SPACE, list(range(tokens))) as match:
        match.restore(targets)
    assert all(same_bytes(t, v[:, :, :tokens]) for t, v in zip(targets, views, strict=True))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32, mx.uint8])
def test_mlx_arrays_of_any_dtype_and_stride(store, dtype):
    tokens = 50
    whole = (mx.random.uniform(shape=(1, 6, 64, 32)) * 200).astype(dtype)
    sources = [whole[:, 1:4, 5:60], whole[:, ::3], mx.contiguous(whole.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)]
    mx.eval(sources)
    layout = Layout([(each.shape[1], 32 * dtype.size) for each in sources], description=str(dtype).encode())
    assert store.save(SPACE, layout, range_ids(tokens), [memoryview(sources[0]), *sources[1:]]).refused is None
    targets = [mx.zeros((1, each.shape[1], 64, 32), dtype) for each in sources]
    mx.eval(targets)
    with store.lookup(SPACE, range_ids(tokens)) as match:
        assert match.description == str(dtype).encode()
        assert match.restore(targets).tokens == tokens
    for target, source in zip(targets, sources, strict=True):
        assert mx.array_equal(target[:, :, :tokens], source[:, :, :tokens])


def test_parts_can_be_restored_one_by_one_and_by_several_threads(store):
    arrays = kv(500, parts=8)
    save(store, range_ids(500), arrays)
    targets = empty_like(arrays, 512)
    with store.lookup(SPACE, range_ids(500)) as match:
        first = match.restore(targets[:1])
        threads = [
            threading.Thread(target=match.restore, args=(targets[part : part + 1], part)) for part in range(1, 8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert first.bytes_hot + first.bytes_cold == arrays[0].nbytes
    assert all(same_bytes(t[:, :, :500], a) for t, a in zip(targets, arrays, strict=True))


def test_a_window_is_saved_and_restored_from_where_it_begins(store):
    arrays = kv(600, parts=2)
    prompt = range_ids(600)
    layout = layout_of(arrays)
    window = arrays[1][:, :, 400:]
    # The first half, whole, then the rest, of which the second part has only the last 200 tokens.
    save(store, prompt[:450], [each[:, :, :450] for each in arrays])
    assert store.save(SPACE, layout, prompt, [arrays[0], window], first_tokens=[0, 400]).refused is None
    with store.lookup(SPACE, prompt) as match:
        targets = [np.zeros_like(arrays[0]), np.zeros_like(window)]
        assert match.restore(targets, first_tokens=[0, 400]).tokens == 600
    assert same_bytes(targets[0], arrays[0])
    assert same_bytes(targets[1], window)
    refused = store.save(SPACE, layout, [5, *prompt], [kv(601)[0], window], first_tokens=[0, 401])
    assert (refused.refused, refused.new_tokens) == ("source_incomplete", 0)


def test_snapshots_are_given_back_at_their_position_only(store):
    layout = Layout([], needs_snapshot=True, description=b"recurrent")
    state = [mx.arange(24).reshape(2, 3, 4).astype(mx.bfloat16), mx.array([7], mx.uint8)]
    mx.eval(state)
    snapshot = Snapshot(b"meta", state)
    assert snapshot.nbytes == [48, 1]
    saved = store.save(SPACE, layout, range_ids(100), [], snapshot)
    assert (saved.refused, saved.new_tokens) == (None, 100)
    with store.lookup(SPACE, range_ids(100), 99) as match:
        assert (match.tokens, match.restorable, match.miss_reason) == (99, 0, "no_snapshot")
    with store.lookup(SPACE, range_ids(140)) as match:
        assert (match.tokens, match.restorable, match.snapshot_position) == (100, 100, 100)
        assert (match.snapshot_meta, match.snapshot_nbytes) == (b"meta", [48, 1])
        targets = [np.zeros(24, np.uint16), bytearray(1)]
        assert match.restore_snapshot(targets)
    assert same_bytes(targets[0], np.array(state[0].view(mx.uint16)))
    assert targets[1] == b"\x07"


# -- what it is told --------------------------------------------------------------------------------------------


def test_token_ids_of_every_kind_are_the_same_prompt(store):
    arrays = kv(20)
    ids = [0, 1, 2**32 - 1, *range(17)]
    save(store, ids, arrays)
    kinds = [
        ids,
        tuple(ids),
        array.array("I", ids),
        np.array(ids, np.uint32),
        np.repeat(np.array(ids, np.uint32), 2)[::2],
    ]
    assert [store.lookup(SPACE, kind).tokens for kind in kinds] == [20] * len(kinds)


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([-1], TypeError),
        ([2**32], TypeError),
        (["a"], TypeError),
        ([1.0], TypeError),
        (np.array([1]), TypeError),
        (array.array("i", [1]), TypeError),
        ({1}, TypeError),
        ("text", TypeError),
        (np.zeros((1, 1), np.uint32), ValueError),
    ],
)
def test_what_are_no_token_ids_is_said(store, ids, error):
    with pytest.raises(error, match="token ids"):
        store.lookup(SPACE, ids)


@pytest.mark.parametrize("namespace", [b"", b"x" * 31, b"x" * 33, "x" * 32, bytearray(32), None])
def test_a_namespace_is_32_bytes(store, namespace):
    with pytest.raises((TypeError, ValueError), match="a namespace is 32 bytes"):
        store.lookup(namespace, [1])


def reversed_view(axis):
    return np.flip(np.zeros((1, ROWS, 10, WIDTH), np.float16), axis)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "0 arrays for a layout of 1 parts"),
        ([np.zeros((ROWS, 10, WIDTH), np.float16)], "3 dimensions"),
        ([np.zeros((2, ROWS, 10, WIDTH), np.float16)], r"the layout wants \[1, 3, tokens, width\] with 16 bytes"),
        ([np.zeros((1, ROWS + 1, 10, WIDTH), np.float16)], "the layout wants"),
        ([np.zeros((1, ROWS, 10, WIDTH), np.float32)], "the layout wants"),
        ([np.zeros((1, ROWS, 9, WIDTH), np.float16)], "has 9 tokens from 0 on, and 10 are to be saved"),
        ([np.zeros((1, ROWS, 10, 2 * WIDTH), np.float16)[..., ::2]], "contiguous last axis"),
        ([reversed_view(1)], "negative stride"),
        ([reversed_view(2)], "negative stride"),
        ([reversed_view(3)], "contiguous last axis"),
    ],
)
def test_arrays_that_do_not_fit_are_the_callers_mistake(store, given, said):
    with pytest.raises(ValueError, match=said):
        store.save(SPACE, Layout([(ROWS, WIDTH * 2)]), range_ids(10), given)
    assert store.lookup(SPACE, range_ids(10)).tokens == 0


def test_what_has_no_buffer_is_no_array(store):
    with pytest.raises(TypeError):
        store.save(SPACE, Layout([(1, 8)]), [1], [[[[1.0]]]])
    with pytest.raises(ValueError, match="2 first_tokens for 1 arrays"):
        store.save(SPACE, Layout([(1, 8)]), [1], [np.zeros((1, 1, 1, 1))], first_tokens=[0, 0])
    with pytest.raises(ValueError, match="C-contiguous"):
        Snapshot(b"", [np.zeros((4, 4))[:, ::2]])
    for parts in ([(0, 8)], [(1, 0)]):
        with pytest.raises(ValueError, match="at least one row"):
            Layout(parts)


def frozen(target):
    target.flags.writeable = False
    return target


def test_targets_that_do_not_fit_are_refused_and_left_as_they_are(store):
    arrays = kv(10, parts=2)
    save(store, range_ids(10), arrays)
    fused = np.zeros((1, ROWS, 20, WIDTH), np.float16)
    wrong = [
        ([frozen(fused.copy())], 0, BufferError, "read-only"),
        ([fused[:, :, :9]], 0, ValueError, "has room for 9 tokens from 0 on, and 10 are restored"),
        ([fused[:, :, ::2]], 0, ValueError, "contiguous tokens"),
        ([fused], 2, ValueError, "parts 2 to 3 of 2"),
        ([fused], 2**63, ValueError, "parts"),
        ([fused, fused], 0, ValueError, "arrays 0 and 1 share memory"),
        ([fused[:, :, :10], fused[:, :, 9:19]], 0, ValueError, "share memory"),
        ([np.broadcast_to(fused[:, :1], fused.shape)], 0, (ValueError, BufferError), "array 0"),
    ]
    with store.lookup(SPACE, range_ids(10)) as match:
        for targets, first_part, error, said in wrong:
            with pytest.raises(error, match=said):
                match.restore(targets, first_part)
        assert not fused.any()
        # Beside each other in the same rows is not the same memory.
        assert match.restore([fused[:, :, :10], fused[:, :, 10:]]).tokens == 10
    assert same_bytes(fused, np.concatenate(arrays, axis=2))
    with pytest.raises(ValueError, match="released"):
        match.restore([fused])
    assert match.tokens == 10


def test_another_layout_is_refused(store):
    save(store, range_ids(10), kv(10))
    other = kv(10, width=16)
    saved = store.save(SPACE, layout_of(other), range_ids(10), other)
    assert (saved.refused, saved.new_tokens) == ("layout_changed", 0)


def test_misses_have_reasons(store):
    save(store, range_ids(10), kv(10), label="model")
    assert store.lookup(SPACE, [99]).miss_reason == "no_prefix"
    changed = store.lookup(namespace_digest({"model": "b"}), range_ids(10), label="model")
    assert (changed.tokens, changed.miss_reason) == (0, "identity_changed")
    store.close()
    assert store.lookup(SPACE, range_ids(10)).miss_reason == "disabled"
    assert json.loads(store.stats())["misses"]["no_prefix"] == 1


def test_digests_and_fingerprints(tmp_path):
    assert namespace_digest({"a": "x", "b": b"y"}) == namespace_digest({"b": "y", "a": b"x"})
    assert len({SPACE, namespace_digest({"mode": "la"}), namespace_digest({"model": "a", "x": ""})}) == 3
    with pytest.raises(TypeError):
        namespace_digest({"a": 1})
    with pytest.raises(errors.ModelError):
        fingerprint_folder(tmp_path / "none")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    before = fingerprint_folder(model, tmp_path / "memo")
    assert len(before) == 32
    assert fingerprint_folder(model) == before == fingerprint_folder(model, tmp_path / "memo")
    (model / "model.safetensors").write_bytes(b"others!")
    assert fingerprint_folder(model, tmp_path / "memo") != before


ENCODED = [
    ("affine:4:64", mx.bfloat16, "bfloat16"),
    ("affine:8:32", mx.float16, "float16"),
    ("affine:3:64", mx.float32, "float32"),
]


@pytest.mark.parametrize(("scheme", "dtype", "element"), ENCODED)
def test_encoded_parts_come_back_as_mlx_quantizes_them(store, scheme, dtype, element):
    tokens, width = 300, 128
    given = [mx.random.normal((1, ROWS, 512, width)).astype(dtype)[:, :, 3:400] for _ in range(2)]
    mx.eval(given)
    row_bytes = width * dtype.size
    layout = Layout([(ROWS, row_bytes, (scheme, element, width)), (ROWS, row_bytes)])
    assert layout.codecs == [(scheme, element, width), None]
    assert layout.parts == [(ROWS, row_bytes)] * 2
    saved = store.save(SPACE, layout, range_ids(tokens), given)
    assert (saved.refused, saved.nbytes) == (None, 2 * ROWS * row_bytes * tokens)
    targets = [mx.zeros((1, ROWS, 301, width), dtype) for _ in given]
    mx.eval(targets)
    with store.lookup(SPACE, range_ids(tokens), 299) as match:
        assert match.codecs == layout.codecs
        assert match.restore(targets).tokens == 299
    _, bits, group = scheme.split(":")
    how = {"group_size": int(group), "bits": int(bits)}
    packed, scales, biases = mx.quantize(given[0], **how)
    right = mx.dequantize(packed, scales, biases, **how)
    assert mx.array_equal(targets[0][:, :, :299], right[:, :, :299])
    assert mx.array_equal(targets[1][:, :, :299], given[1][:, :, :299])
    counts = CacheStats.parse(store.stats()).saves
    assert counts.bytes_before_encoding == ROWS * row_bytes * tokens
    assert counts.bytes_after_encoding == ROWS * tokens * (packed.nbytes + 2 * scales.nbytes) // (ROWS * 397)
    assert counts.encode_durations.count == 2


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ((1, 256, ("affine:7:64", "bfloat16", 128)), "part 1: .*bits"),
        ((1, 256, ("affine:4:48", "bfloat16", 128)), "part 1: .*group"),
        ((1, 160, ("affine:4:64", "bfloat16", 80)), "part 1: .*80.*multiple of 64"),
        ((1, 256, ("zip", "bfloat16", 128)), "part 1: .*zip.*names no codec"),
        ((1, 256, ("lossless", "int4", 128)), "part 1: .*int4.*no type of numbers"),
        ((1, 512, ("affine:4:64", "bfloat16", 128)), "part 1: .*256 bytes, its rows have 512"),
        ((0, 256, ("affine:4:64", "bfloat16", 128)), "at least one row"),
    ],
)
def test_a_codec_that_does_not_fit_its_part_is_the_callers_mistake(part, said):
    assert Layout([(1, 256, None)]) == Layout([(1, 256)])
    with pytest.raises(ValueError, match=said):
        Layout([(1, 8), part])
    with pytest.raises(TypeError):
        Layout([(1, 8, "affine:4:64")])
