"""The contestants of `bench cache` that move KV and compute nothing: our store, and the fork's prefix cache on its own.

Loaded by path and importing nothing of hwledger_omlx at the top, so that the fork's process holds no patch of ours.
Both are driven as serving drives them: a whole prompt's KV is saved in one go, and restored into one `KVCache` a layer.

Options: `shape` (the fields of `Shape`), `folder` (to be read, or where folders to write are made), `fork` (folder or
null). In: `{"fill": true}`, `{"restore": "cold" | "warm"}`, `{"burst": true}`. Out: what was measured.
"""

import ctypes
import gc
import importlib
import os
import resource
import shutil
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_REQUEST = "bench"
_NAMESPACE = bytes(range(32))
_GIB = 2**30
_MOST_WRITING_S = 300.0
_READ_BYTES = 2**20
_MEMCPY_BYTES = _GIB
"""Most that is copied to measure memcpy: far more than any CPU cache holds."""


@dataclass(frozen=True)
class Shape:
    """KV of a prompt: two arrays a layer, `[1, heads, blocks * block_tokens, head_dim]`, 16 bits a number."""

    blocks: int
    block_tokens: int
    layers: int
    heads: int
    head_dim: int

    @property
    def tokens(self) -> int:
        """Tokens of the prompt."""
        return self.blocks * self.block_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the prompt's KV."""
        return 2 * self.layers * self.heads * self.tokens * self.head_dim * 2

    @property
    def dimensions(self) -> tuple[int, int, int, int]:
        """Of each array."""
        return (1, self.heads, self.tokens, self.head_dim)

    def prompt(self) -> list[int]:
        """Its token ids, all different, so that no two blocks are the same."""
        return list(range(self.tokens))

    def part(self, number: int) -> Any:
        """The random numbers of part `number` (K of layer 0, V of layer 0, K of layer 1, ...), as uint16 in numpy."""
        numpy = importlib.import_module("numpy")
        count = self.nbytes // (2 * self.layers)
        return numpy.frombuffer(numpy.random.default_rng(number).bytes(count), numpy.uint16).reshape(self.dimensions)

    def source(self) -> list[Any]:
        """All parts as evaluated MLX arrays in bfloat16."""
        mx = importlib.import_module("mlx.core")
        parts = [mx.array(self.part(number)).view(mx.bfloat16) for number in range(2 * self.layers)]
        mx.eval(parts)
        return parts

    def ready(self) -> list[Any]:
        """Arrays for all parts whose memory was written to before."""
        mx = importlib.import_module("mlx.core")
        parts = [mx.ones(self.dimensions, mx.bfloat16) for _ in range(2 * self.layers)]
        mx.eval(parts)
        return parts

    def check(self, parts: list[Any]) -> None:
        """Compares the first and the last part, bit for bit.

        Raises:
            RuntimeError: they are not what was saved.
        """
        numpy, mx = importlib.import_module("numpy"), importlib.import_module("mlx.core")
        for number in (0, 2 * self.layers - 1):
            if not numpy.array_equal(numpy.array(parts[number].view(mx.uint16)), self.part(number)):
                raise RuntimeError(f"what was restored of part {number} is not what was saved")


@contextmanager
def open_own(options: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], dict[str, float]]]:
    """Our store, with its default settings but for what a measurement is about: the hot tier."""
    native = importlib.import_module("hwledger_omlx._native")
    settings = importlib.import_module("hwledger_omlx.cache.settings")
    arrays = importlib.import_module("hwledger_omlx.hooks.layer_caches.arrays")
    shape, folder = Shape(**options["shape"]), Path(options["folder"])
    tokens = array("I", shape.prompt())
    layout = native.Layout([(shape.heads, shape.head_dim * 2)] * (2 * shape.layers))

    def opened(place: Path, hot_bytes: int) -> Any:
        quota_bytes = 4 * shape.nbytes + _GIB
        return settings.PagedCache(hot_bytes=hot_bytes, quota_bytes=quota_bytes, min_free_bytes=0).open(place)

    def restored(store: Any, parts: list[Any] | None) -> tuple[list[Any], Any]:
        with store.lookup(_NAMESPACE, tokens) as match:
            if match.restorable != shape.tokens:
                raise RuntimeError(f"{match.restorable} of {shape.tokens} tokens can be restored: {match.miss_reason}")
            if parts is None:
                parts = arrays.hollow([arrays.ArraySpec(shape.dimensions, "bfloat16")] * (2 * shape.layers))
            return _layer_caches(parts, shape.tokens), match.restore(parts)

    def restored_twice(
        store: Callable[[], AbstractContextManager[Any]], prepare: Callable[[], None]
    ) -> dict[str, float]:
        """Into arrays made for it, and into arrays whose memory the system has given already."""
        measured: dict[str, float] = {}
        for ready in (False, True):
            parts = shape.ready() if ready else None
            with store() as opened_store:
                prepare()
                peak = PeakMemory()
                start_s = time.perf_counter()
                caches, outcome = restored(opened_store, parts)
                seconds = time.perf_counter() - start_s
                if not ready:
                    measured["peak_bytes"] = float(peak.grown_bytes())
            measured["ready_bytes_per_s" if ready else "new_bytes_per_s"] = shape.nbytes / seconds
            measured["hot_bytes"] = outcome.bytes_hot
            shape.check(_parts(caches))
            del caches, parts
            _release()
        return measured

    def fill() -> dict[str, float]:
        with opened(folder, 0) as store:
            saved = store.save(_NAMESPACE, layout, tokens, shape.source())
            store.flush()
        if saved.new_tokens != shape.tokens:
            raise RuntimeError(f"the store took {saved.new_tokens} of {shape.tokens} tokens: {saved.refused}")
        return {}

    def restore(temperature: str) -> dict[str, float]:
        # Opened anew, as after a restart: a store takes into the page cache what was restored from it.
        measured = restored_twice(lambda: opened(folder, 0), lambda: _set_temperature(folder, temperature))
        rates = {f"{temperature}_{name}": measured[name] for name in ("ready_bytes_per_s", "new_bytes_per_s")}
        if temperature == "cold":
            rates |= {"peak_bytes": measured["peak_bytes"], "data_bytes": float(shape.nbytes)}
        return rates

    def burst() -> dict[str, float]:
        place = folder / "burst"
        source = shape.source()
        memcpy_s = memcpy_seconds(shape.nbytes)
        with opened(place, shape.nbytes + shape.nbytes // 4) as store:
            start_s = time.perf_counter()
            store.save(_NAMESPACE, layout, tokens, source)
            stalled_s = time.perf_counter() - start_s
            store.flush()
            durable_s = time.perf_counter() - start_s
            del source
            _release()
            hot = restored_twice(lambda: nullcontext(store), lambda: None)
            if hot["hot_bytes"] != shape.nbytes:
                raise RuntimeError(f"only {hot['hot_bytes']} of {shape.nbytes} bytes were in the hot tier")
        with opened(place, 0) as store, store.lookup(_NAMESPACE, tokens) as match:
            lost = shape.blocks - match.restorable // shape.block_tokens
        shutil.rmtree(place)
        return {
            "stalled_s_per_block": stalled_s / shape.blocks,
            "memcpy_s_per_block": memcpy_s / shape.blocks,
            "durable_bytes_per_s": shape.nbytes / durable_s,
            "lost_blocks": lost,
            "hot_ready_bytes_per_s": hot["ready_bytes_per_s"],
            "hot_new_bytes_per_s": hot["new_bytes_per_s"],
            "memcpy_bytes_per_s": shape.nbytes / memcpy_s,
        }

    yield lambda request: _dispatch(request, fill, restore, burst)


@contextmanager
def open_fork(options: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], dict[str, float]]]:
    """The fork's `BlockAwarePrefixCache` on its `PagedSSDCacheManager`, made and joined as its scheduler does it."""
    if options["fork"] is not None:
        sys.path.insert(0, options["fork"])
    ssd_class = importlib.import_module("omlx.cache.paged_ssd_cache").PagedSSDCacheManager
    paged_class = importlib.import_module("omlx.cache.paged_cache").PagedCacheManager
    prefix_class = importlib.import_module("omlx.cache.prefix_cache").BlockAwarePrefixCache
    mx = importlib.import_module("mlx.core")
    shape, folder = Shape(**options["shape"]), Path(options["folder"])
    tokens = shape.prompt()
    reader: list[Any] = []

    def opened(place: Path) -> tuple[Any, Any]:
        ssd = ssd_class(cache_dir=place, max_size_bytes=4 * shape.nbytes + 100 * _GIB)
        paged = paged_class(block_size=shape.block_tokens, max_blocks=100_000, model_name=_REQUEST)
        prefix = prefix_class(model=SimpleNamespace(layers=[None] * shape.layers), paged_cache_manager=paged)
        paged.set_paged_ssd_cache_manager(ssd)
        prefix.set_paged_ssd_cache_manager(ssd)
        return prefix, ssd

    def states(parts: list[Any]) -> list[dict[str, Any]]:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return [{"state": pair, "meta_state": (str(shape.tokens),), "cache_type": "KVCache"} for pair in pairs]

    def restored(prefix: Any) -> list[Any]:
        table, _ = prefix.fetch_cache(_REQUEST, tokens)
        caches = prefix.reconstruct_cache(table)
        if caches is None or table.num_tokens != shape.tokens:
            raise RuntimeError(
                f"the fork restored {0 if caches is None else table.num_tokens} of {shape.tokens} tokens"
            )
        mx.eval(_parts(caches))
        prefix.paged_cache.delete_block_table(_REQUEST)
        return list(caches)

    def fill() -> dict[str, float]:
        prefix, ssd = opened(folder)
        source = states(shape.source())
        # A few blocks at a time: what its queue has no room for, it drops.
        for end in range(1, shape.blocks + 1):
            prefix.store_cache(f"{_REQUEST}-{end}", tokens[: end * shape.block_tokens], source)
            if end % 8 == 0 or end == shape.blocks:
                _wait_until(lambda: not ssd._pending_write_hashes)
        ssd.close()
        return {}

    def restore(temperature: str) -> dict[str, float]:
        if not reader:
            reader.extend(opened(folder))
        _set_temperature(folder, temperature)
        peak = PeakMemory()
        start_s = time.perf_counter()
        caches = restored(reader[0])
        seconds = time.perf_counter() - start_s
        peak_bytes = peak.grown_bytes()
        shape.check(_parts(caches))
        measured = {f"{temperature}_bytes_per_s": shape.nbytes / seconds}
        if temperature == "cold":
            measured |= {"peak_bytes": float(peak_bytes), "data_bytes": float(shape.nbytes)}
        return measured

    def burst() -> dict[str, float]:
        place = folder / "burst"
        source = states(shape.source())
        prefix, ssd = opened(place)
        start_s = time.perf_counter()
        table = prefix.store_cache(_REQUEST, tokens, source)
        stalled_s = time.perf_counter() - start_s
        taken = len(table.block_ids)
        _wait_until(lambda: not ssd._pending_write_hashes)
        ssd.close()
        files = [file for file in place.rglob("*.safetensors") if file.is_file()]
        for file in files:
            sync(file)
        durable_s = time.perf_counter() - start_s
        written_bytes = sum(file.stat().st_size for file in files)
        del source
        _release()
        _, again = opened(place)
        kept = sum(again.has_block(block_hash) for block_hash in again._index.get_all_hashes())
        again.close()
        shutil.rmtree(place)
        return {
            "stalled_s_per_block": stalled_s / max(taken, 1),
            "durable_bytes_per_s": written_bytes / durable_s,
            "lost_blocks": shape.blocks - kept,
        }

    try:
        yield lambda request: _dispatch(request, fill, restore, burst)
    finally:
        if reader:
            reader[1].close()


def _dispatch(
    request: dict[str, Any],
    fill: Callable[[], dict[str, float]],
    restore: Callable[[str], dict[str, float]],
    burst: Callable[[], dict[str, float]],
) -> dict[str, float]:
    _release()
    try:
        if request.get("fill"):
            return fill()
        return burst() if request.get("burst") else restore(request["restore"])
    finally:
        _release()


def _set_temperature(folder: Path, temperature: str) -> None:
    """Takes all files of a folder out of the page cache ("cold"), or into it ("warm")."""
    for file in folder.rglob("*"):
        if file.is_file() and temperature == "cold":
            drop_from_page_cache(file)
        elif file.is_file():
            with file.open("rb", buffering=0) as data:
                while data.read(_READ_BYTES):
                    pass


def _layer_caches(parts: list[Any], tokens: int) -> list[Any]:
    kv_cache = importlib.import_module("mlx_lm.models.cache").KVCache
    caches = []
    for keys, values in zip(parts[::2], parts[1::2], strict=True):
        cache = kv_cache()
        cache.keys, cache.values, cache.offset = keys, values, tokens
        caches.append(cache)
    return caches


def _parts(caches: list[Any]) -> list[Any]:
    return [part for cache in caches for part in (cache.keys, cache.values)]


def _release() -> None:
    """Gives freed memory back, so that the next measurement allocates like a first one."""
    gc.collect()
    importlib.import_module("mlx.core").clear_cache()


def _wait_until(done: Callable[[], bool]) -> None:
    until_s = time.monotonic() + _MOST_WRITING_S
    while not done():
        if time.monotonic() > until_s:
            raise RuntimeError(f"the fork's writer was not done after {_MOST_WRITING_S:g} s")
        time.sleep(0.005)


class PeakMemory:
    """How much the process grows from now on, at its peak; resident bytes."""

    def __init__(self) -> None:
        with suppress(OSError):
            # 5 resets VmHWM to what is resident now; see proc(5).
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = resident_bytes("VmRSS")

    def grown_bytes(self) -> int:
        """Bytes over what was resident at the start."""
        return max(0, resident_bytes("VmHWM") - self._before)


def resident_bytes(field: str) -> int:
    """`VmRSS` or `VmHWM` (the peak) of this process. Where there is no /proc, the peak since the start for both."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memcpy_seconds(nbytes: int) -> float:
    """Seconds that one thread takes to copy `nbytes` by the C library's memcpy, in memory that was touched before.

    Copies up to 1 GiB and takes the rest in proportion.
    """
    numpy = importlib.import_module("numpy")
    size = min(nbytes, _MEMCPY_BYTES)
    source, target = numpy.ones(size, numpy.uint8), numpy.zeros(size, numpy.uint8)
    target.fill(1)
    start_s = time.perf_counter()
    ctypes.memmove(target.ctypes.data, source.ctypes.data, size)
    return (time.perf_counter() - start_s) * (nbytes / size)


def can_drop_page_cache() -> bool:
    """Whether this system can be told to forget a file's pages. Linux can, macOS cannot."""
    return hasattr(os, "posix_fadvise")


def drop_from_page_cache(file: Path) -> None:
    """Has the kernel forget the file's pages, so that the next read comes from the disk. Nothing where it cannot."""
    if not can_drop_page_cache():
        return
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # A page that is not written yet is not dropped.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def sync(file: Path) -> None:
    """fsync of the file."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
