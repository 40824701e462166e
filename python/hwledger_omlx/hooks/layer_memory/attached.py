"""Which scheduler has a sampler, and which caches a request is prefilled on. Imports neither MLX nor the fork."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwledger_omlx.hooks.layer_memory.sampler import Sampler

_SAMPLER = "hwledger_layer_memory"
_CACHES = "_hwledger_prefill_caches"


def attach(scheduler: Any, sampler: "Sampler") -> None:
    """Gives a scheduler its sampler."""
    setattr(scheduler, _SAMPLER, sampler)


def attached(scheduler: Any) -> "Sampler | None":
    """The sampler of a scheduler; None where it has none, as when the hook that attaches it was refused."""
    return getattr(scheduler, _SAMPLER, None)


def want_prefill_caches(request: Any) -> None:
    """Asks whoever makes the caches of this request of the fork to say which they are."""
    setattr(request, _CACHES, None)


def tell_prefill_caches(request: Any, caches: Any) -> None:
    """Says on which caches a request is prefilled, if anybody asked: kept for nobody, they would keep their memory."""
    if hasattr(request, _CACHES):
        setattr(request, _CACHES, caches)


def forget_prefill_caches(request: Any) -> None:
    """Ends what `want_prefill_caches` began."""
    if hasattr(request, _CACHES):
        delattr(request, _CACHES)


def prefill_caches(request: Any) -> Any:
    """What was told; None for nothing."""
    return getattr(request, _CACHES, None)
