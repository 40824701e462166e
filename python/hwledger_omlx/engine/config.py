"""What an engine is opened with. Knows nothing of the fork."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hwledger_omlx._native import KvPolicy
from hwledger_omlx.cache.settings import PagedCache
from hwledger_omlx.engine import kv_policy
from hwledger_omlx.engine.kv_policy import KvSetting
from hwledger_omlx.errors import EngineError

CacheKind = Literal["paged", "fork"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine."""

    model: str | Path | None
    """A local folder, or a Hugging Face id where online; None for an engine that begins without a model."""
    cache_dir: str | Path | None = None
    """Folder of the KV cache that outlives the process; None for the default one."""
    cache: CacheKind | PagedCache | Mapping[str, Any] | None = "paged"
    """`"paged"` or the settings of a `PagedCache`: ours; `"fork"`: the fork's own; None: none beyond a request."""
    fork: str | Path | None = None
    """Folder of an oMLX checkout; None for `HWLEDGER_OMLX_FORK` or the installed `omlx`."""
    kv: KvSetting = None
    """The policy at which keys and values are held, such as `"8"`, `"k8v4"` or `"auto:0.35"`; None for 16 bit."""
    model_kv: Mapping[str, KvSetting] = field(default_factory=dict)
    """The policies of single models by id, in place of `kv`."""
    ledger: bool | str | Path = True
    """Whether each request is recorded, in the default database or in the one of this path; False for not at all."""
    max_concurrent_requests: int = 8
    """Most requests in one batch; further ones wait their turn."""
    progress: bool | None = None
    """Bars while loading and on long prefill; None shows them where a person would see them."""

    def __post_init__(self) -> None:
        for name in ("cache_dir", "fork"):
            given = getattr(self, name)
            if given is not None:
                if not isinstance(given, str | Path):
                    raise EngineError(f"{name} must be a folder, not {given!r}")
                object.__setattr__(self, name, Path(given).expanduser())
        limit = self.max_concurrent_requests
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise EngineError(f"max_concurrent_requests must be at least 1, not {self.max_concurrent_requests!r}")
        if not isinstance(self.ledger, bool):
            if not isinstance(self.ledger, str | Path) or not str(self.ledger):
                raise EngineError(f"ledger must be True, False or the path of a database, not {self.ledger!r}")
            object.__setattr__(self, "ledger", Path(self.ledger).expanduser())
        object.__setattr__(self, "cache", _checked_cache(self.cache))
        object.__setattr__(self, "kv", kv_policy.parse(self.kv))
        if not isinstance(self.model_kv, Mapping):
            raise EngineError(f"model_kv must map ids of models to KV policies, not {self.model_kv!r}")
        object.__setattr__(self, "model_kv", {name: kv_policy.parse(each) for name, each in self.model_kv.items()})
        for policy in (self.kv_policy, *self.kv_policies.values()):
            if self.cache == "fork" and not kv_policy.is_plain(policy):
                raise EngineError(
                    f"kv={str(policy)!r} needs cache='paged' or None: the fork's own cache knows 16 bit only"
                )

    @property
    def kv_policy(self) -> KvPolicy:
        """`kv`, parsed."""
        return kv_policy.parse(self.kv)

    @property
    def kv_policies(self) -> dict[str, KvPolicy]:
        """`model_kv`, parsed."""
        return {name: kv_policy.parse(policy) for name, policy in self.model_kv.items()}

    @property
    def paged_cache(self) -> PagedCache | None:
        """The settings of our cache; None where another or none is wanted."""
        return self.cache if isinstance(self.cache, PagedCache) else None


def _checked_cache(cache: object) -> PagedCache | Literal["fork"] | None:
    if cache is None or cache == "fork" or isinstance(cache, PagedCache):
        return cache
    if cache == "paged":
        return PagedCache()
    if isinstance(cache, Mapping):
        try:
            return PagedCache(**cache)
        except TypeError as error:
            raise EngineError(f"these are no settings of a cache: {error}") from error
    raise EngineError(f"cache must be 'paged', a PagedCache, 'fork' or None, not {cache!r}")
