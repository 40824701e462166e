"""What the engine tells the hooks: which store the models of a scheduler configuration use, and whose prompt is whose.

Light: imports neither MLX nor the fork.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwledger_omlx._native import Store

if TYPE_CHECKING:
    from hwledger_omlx.hooks.paged_cache.prefix_cache import PrefixCache

_CONFIG_ATTRIBUTE = "hwledger_paged_cache"
_SCHEDULER_ATTRIBUTE = "hwledger_prefix_cache"

_tenants: dict[str, str] = {}


@dataclass(frozen=True)
class Binding:
    """A store, for the models of one pool."""

    store: Store
    memo_file: Path
    """Where the digests of unchanged model files are kept."""
    uncached: dict[str, str]
    """Models that turned out not to be cached, each with the reason; the hooks add to it."""

    def bind(self, scheduler_config: Any) -> None:
        """Has every scheduler that is made with this configuration, or with a copy of it, use the store."""
        setattr(scheduler_config, _CONFIG_ATTRIBUTE, self)

    @staticmethod
    def of(scheduler_config: Any) -> "Binding | None":
        """What `bind` has set."""
        return getattr(scheduler_config, _CONFIG_ATTRIBUTE, None)


def attach(scheduler: Any, cache: "PrefixCache") -> None:
    """Gives a scheduler its cache."""
    setattr(scheduler, _SCHEDULER_ATTRIBUTE, cache)


def attached(scheduler: Any) -> "PrefixCache | None":
    """The cache of a scheduler; None where it has none, as when the hook that attaches it was refused."""
    return getattr(scheduler, _SCHEDULER_ATTRIBUTE, None)


def set_tenant(request_id: str, tenant: str) -> None:
    """Has the fork's request of that id share prefixes with those of the same tenant only."""
    _tenants[request_id] = tenant


def tenant_of(request_id: str) -> str:
    """What `set_tenant` has set; empty for nobody's in particular."""
    return _tenants.get(request_id, "")


def forget_tenant(request_id: str) -> None:
    """Ends what `set_tenant` began; nothing happens where there is none."""
    _tenants.pop(request_id, None)
