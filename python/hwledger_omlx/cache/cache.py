"""`engine.cache`: the KV cache of an engine, whatever kind it has."""

import dataclasses
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from hwledger_omlx._native import Store
from hwledger_omlx.cache.reports import Purged, StoreInfo
from hwledger_omlx.cache.settings import PagedCache
from hwledger_omlx.cache.stats import CacheStats
from hwledger_omlx.errors import RequestError, StoreClosedError, StoreError

Kind = Literal["paged", "fork"]
Prompt = str | Sequence[Mapping[str, Any]] | Sequence[int]
"""Text to continue, chat messages, or token ids."""
Address = Callable[[Prompt, str | None, str], tuple[bytes, Iterable[int]]]
"""From a prompt, a model's id (None: the engine's own) and a tenant to the prompt's namespace and token ids."""


class Cache:
    """The KV of earlier prompts. Usable from any thread, also after the engine was closed.

    Args:
        kind: `"paged"` for ours, `"fork"` for the fork's own, None for none.
        folder: where it is; None where there is none.
        store: ours.
        address: where to find a prompt in it.
        off_because: why there is none although one was wanted.
    """

    def __init__(
        self,
        kind: Kind | None = None,
        folder: Path | None = None,
        store: Store | None = None,
        address: Address | None = None,
        off_because: str | None = None,
    ) -> None:
        self.kind = kind
        self.folder = folder
        self._store = store
        self._address = address
        self._off_because = off_because
        self.uncached: dict[str, str] = {}
        """Models whose prompts are not cached, each with the reason."""

    @property
    def state(self) -> str:
        """What `stats().state` says: `running`, `full`, `suspended` or `closed`; of other kinds `fork` or `off`."""
        return self.stats().state

    def stats(self) -> CacheStats:
        """What the cache did since it was opened, and what it holds. All zero unless it is ours."""
        if self._store is None:
            off = "off" if self._off_because is None else f"off: {self._off_because}"
            return CacheStats.of_no_store(off if self.kind is None else self.kind)
        return dataclasses.replace(CacheStats.parse(self._store.stats()), uncached_models=dict(self.uncached))

    def stats_json(self) -> str | None:
        """The core's own account as JSON, for the Rust host; None unless the cache is ours."""
        return None if self._store is None else self._store.stats()

    def info(self) -> StoreInfo:
        """The folder, its usage and whose prompts it holds.

        Raises:
            StoreError: the cache is not ours, or closed.
        """
        return StoreInfo.parse(self._ours("info").info())

    def set_limits(self, settings: PagedCache) -> None:
        """Puts other limits in force: quota, hot tier, free space, write budget, TTL. The rest counts when it opens.

        Raises:
            StoreError: the cache is not ours, or closed.
            StoreConfigError: the quota is smaller than the segments that it was opened with.
        """
        settings.limit(self._ours("set_limits"))

    def flush(self) -> None:
        """Returns when everything that was accepted is on disk. Nothing to do unless the cache is ours.

        Raises:
            StoreError: something could not be written.
        """
        if self._store is not None and not self._store.closed:
            self._store.flush()

    def pin(self, prompt: Prompt, *, model: str | None = None, tenant: str = "") -> int:
        """Keeps what is stored of `prompt` from eviction, across restarts, until `unpin`. Returns how many tokens.

        Args:
            prompt: text, chat messages or token ids, as they were sent.
            model: id of a loaded model; None for the one that the engine was opened with.
            tenant: as in the request.

        Raises:
            RequestError: the prompt is none.
            StoreError: the cache is not ours, or closed.
        """
        store = self._ours("pin")
        return store.pin(*self._find(prompt, model, tenant))

    def unpin(self, prompt: Prompt, *, model: str | None = None, tenant: str = "") -> int:
        """Takes back a `pin` of the same prompt. Returns how many tokens were pinned."""
        store = self._ours("unpin")
        return store.unpin(*self._find(prompt, model, tenant))

    def purge(self, model: str | None = None) -> Purged:
        """Forgets every prompt, or those of one model by the label that `info` shows. Running requests are not harmed.

        Raises:
            StoreError: the cache is not ours, or closed.
        """
        store = self._ours("purge")
        if model is not None and not isinstance(model, str):
            raise RequestError(f"model must be the label of a model, not {model!r}")
        if model is None:
            return Purged.parse(store.purge())
        spaces = [space.key for space in self.info().namespaces if space.label == model]
        return sum((Purged.parse(store.purge(key)) for key in spaces), start=Purged())

    def _ours(self, what: str) -> Store:
        if self._store is None:
            having = "has no cache" if self.kind is None else "runs the fork's own cache"
            raise StoreError(f"{what}: this engine {having}; open it with cache='paged'")
        if self._store.closed:
            raise StoreClosedError(f"{what}: the cache was closed with its engine")
        return self._store

    def _find(self, prompt: Prompt, model: str | None, tenant: str) -> "tuple[bytes, array[int]]":
        if self._address is None:
            raise StoreError("this cache belongs to no engine that could say where a prompt is")
        if not isinstance(tenant, str):
            raise RequestError(f"tenant must be a text, not {tenant!r}")
        namespace, tokens = self._address(_checked(prompt), model, tenant)
        return namespace, array("I", tokens)

    def __repr__(self) -> str:
        return f"<Cache {self.state} {self.folder or ''}".rstrip() + ">"

    def __str__(self) -> str:
        return str(self.stats())

    def _repr_html_(self) -> str:
        return self.stats()._repr_html_()


def _checked(prompt: object) -> Prompt:
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, Iterable) and not isinstance(prompt, str | bytes | bytearray | Mapping):
        items = list(prompt)
        if items and all(isinstance(item, Mapping) for item in items):
            return items
        if items and all(isinstance(item, Integral) and 0 <= int(item) < 2**32 for item in items):
            return [int(item) for item in items]
    raise RequestError(f"a prompt is a text, chat messages or token ids, and not empty; this is {prompt!r:.80}")
