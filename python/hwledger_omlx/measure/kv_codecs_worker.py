"""The process of `bench kv` that puts arrays through codecs, on two threads where it is about speed.

In: `{"speed": KIND, "codec", "dtype", "runs"}`, `{"memcpy": true, "runs"}`, `{"distortion": KIND, "bits"}`,
`{"identical": CODEC, "dtype"}`, `{"outliers": KIND, "codec"}` or `{"size": CODEC}`. Out: what was measured, by name.
"""

import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from hwledger_omlx._native import Layout
from hwledger_omlx.cache.reports import StoreInfo
from hwledger_omlx.cache.settings import PagedCache
from hwledger_omlx.measure import kv_codec_data as data
from hwledger_omlx.measure.kv_codec_kinds import LIVE, NATIVE, as_numpy, made

THREADS = 2
ROWS, RUN_TOKENS = 8, 256
RUN_BYTES = ROWS * RUN_TOKENS * data.WIDTH * 2
_ARRAYS = 4
"""That a thread goes through in turns."""
_AT_LEAST_S = 0.25
_DISTORTION_RUNS = 16
Request = dict[str, Any]


@contextmanager
def open_codecs(_: dict[str, Any]) -> Iterator[Callable[[Request], dict[str, float]]]:
    """No options. MLX computes on the CPU here too: ours runs there, beside whatever a GPU does."""
    mx.set_default_device(mx.cpu)
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            yield lambda request: _answer(threads, request)
        finally:
            # MLX aborts a process in which a thread ends that owns a stream.
            together = threading.Barrier(THREADS)
            list(threads.map(lambda _: _release(together), range(THREADS)))


def _release(together: threading.Barrier) -> None:
    together.wait()  # So that each thread takes one of the calls.
    mx.synchronize()
    mx.clear_streams()


def _answer(threads: ThreadPoolExecutor, request: Request) -> dict[str, float]:
    if "speed" in request:
        return _speed(threads, request["speed"], request["codec"], request["dtype"], int(request["runs"]))
    if "memcpy" in request:
        return {"bytes_per_s": _memcpy(threads, int(request["runs"]))}
    if "distortion" in request:
        return {"distortion": _distortion(request["distortion"], request["bits"])}
    if "identical" in request:
        return _identical(request["identical"], request["dtype"])
    if "outliers" in request:
        return _outliers(request["outliers"], request["codec"])
    return {"share": _size(request["size"])}


def _speed(threads: ThreadPoolExecutor, kind: str, name: str, dtype: str, runs: int) -> dict[str, float]:
    """Bytes of 16-bit numbers a second: of what goes in when encoding, of what comes out when decoding."""
    arrays = [data.typed(data.normal(ROWS, RUN_TOKENS, seed)[None], dtype) for seed in range(min(runs, _ARRAYS))]

    together = threading.Barrier(THREADS)

    def thread(_: int) -> tuple[float, float]:
        # Each has memory of its own to encode into, and to decode from and into.
        codecs = [made(kind, name, each) for each in arrays]
        kept = [codec.encode(each) for codec, each in zip(codecs, arrays, strict=True)]
        for codec, each in zip(codecs, kept, strict=True):
            codec.decode(each)
        mine = [run % len(arrays) for run in range(runs // THREADS)]
        together.wait()
        encode = _rate(lambda: [codecs[run].encode(arrays[run]) for run in mine], len(mine))
        together.wait()
        return encode, _rate(lambda: [codecs[run].decode(kept[run]) for run in mine], len(mine))

    rates = list(threads.map(thread, range(THREADS)))
    return {"encode": sum(rate for rate, _ in rates), "decode": sum(rate for _, rate in rates)}


def _memcpy(threads: ThreadPoolExecutor, runs: int) -> float:
    together = threading.Barrier(THREADS)

    def thread(seed: int) -> float:
        sources = [data.normal(ROWS, RUN_TOKENS, seed + run).astype(np.float16) for run in range(4)]
        target = np.zeros_like(sources[0])
        mine = range(runs // THREADS)

        def copy() -> None:
            for run in mine:
                np.copyto(target, sources[run % len(sources)])

        together.wait()
        return _rate(copy, len(mine))

    return sum(threads.map(thread, range(THREADS)))


def _rate(work: Callable[[], object], runs: int) -> float:
    """Bytes a second of a work that is done until a quarter of a second is over."""
    passes, start_s = 0, time.perf_counter()
    while True:
        work()
        passes += 1
        taken_s = time.perf_counter() - start_s
        if taken_s >= _AT_LEAST_S:
            return passes * runs * RUN_BYTES / taken_s


def _distortion(kind: str, bits: int) -> float:
    found = []
    for seed in range(_DISTORTION_RUNS):
        given = data.normal(ROWS, RUN_TOKENS, seed)
        array = data.typed(given[None], "float32")
        codec = made(kind, f"rotated:{bits}", array)
        found.append(data.distortion(given, as_numpy(codec.decode(codec.encode(array)))[0]))
    return sum(found) / len(found)


def _identical(name: str, dtype: str) -> dict[str, float]:
    """Whether the Rust codec writes what `mx.quantize` gives, and reads it as `mx.dequantize` does: 1 or 0 each."""
    array_given = data.typed(data.with_outliers(ROWS, RUN_TOKENS)[None], dtype)
    ours, theirs = made(NATIVE, name, array_given), made(LIVE, name, array_given)
    kept, reference = ours.encode(array_given), theirs.encode(array_given)
    same = bytes(kept) == b"".join(np.array(each.view(mx.uint8)).tobytes() for each in reference)
    back = mx.array_equal(ours.decode(kept), theirs.decode(reference))
    return {"encoded": float(same), "decoded": float(bool(back.item()))}


def _outliers(kind: str, name: str) -> dict[str, float]:
    given = data.typed(data.with_outliers(ROWS, 4 * RUN_TOKENS)[None], "bfloat16")
    if kind == NATIVE:
        # The codec takes no more than a block at a time.
        blocks = [given[:, :, start : start + RUN_TOKENS] for start in range(0, given.shape[2], RUN_TOKENS)]
        mx.eval(blocks)
        codec = made(kind, name, blocks[0])
        kept = [bytes(codec.encode(block)) for block in blocks]
        back = np.concatenate([as_numpy(codec.decode(each)) for each in kept], axis=2)
        nbytes = sum(codec.nbytes(each) for each in kept)
    else:
        codec = made(kind, name, given)
        kept_whole = codec.encode(given)
        back, nbytes = as_numpy(codec.decode(kept_whole)), codec.nbytes(kept_whole)
    return {
        "error": data.error_on_other_channels(as_numpy(given), back),
        "bits_per_number": 8 * nbytes / given.size,
    }


def _size(name: str) -> float:
    """Bytes that the store's records of keys and values take, as a share of the same in 16 bit."""
    parts = [data.typed(data.normal(ROWS, 4 * RUN_TOKENS, seed)[None], "bfloat16") for seed in range(2)]
    tokens = array("I", range(4 * RUN_TOKENS))
    row_bytes = data.WIDTH * 2
    live = []
    for codec in (None, (name, "bfloat16", data.WIDTH)):
        layout = Layout([(ROWS, row_bytes, codec)] * 2)
        with tempfile.TemporaryDirectory(prefix="hwledger-bench-") as folder:
            settings = PagedCache(hot_bytes=0, min_free_bytes=0, quota_bytes=1 << 30)
            with settings.open(Path(folder) / "store") as store:
                store.save(bytes(32), layout, tokens, parts)
                store.flush()
                live.append(StoreInfo.parse(store.info()).live_bytes)
    return live[1] / live[0]
