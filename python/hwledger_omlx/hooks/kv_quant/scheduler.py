"""The places of the fork's scheduler where a request gets its layer caches, unless the paged cache gives them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_lm.models.cache import make_prompt_cache

from hwledger_omlx.hooks.kv_quant.rebinding import attend_through_ours
from hwledger_omlx.hooks.layer_caches.building import build, reserve_for
from hwledger_omlx.hooks.layer_caches.dial import dial_of, dial_of_request, settle
from hwledger_omlx.hooks.layer_memory.attached import tell_prefill_caches

Wrapped = Callable[..., Any]


def init(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Around `omlx.scheduler:Scheduler.__init__`."""
    wrapped(*args, **kwargs)
    attend_through_ours(instance.model)


def add_request(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler.add_request`: a request ends at the policy at which it came."""
    return _add_request(wrapped, instance, *args, **kwargs)


def create_batch_generator(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._create_batch_generator`, which makes mlx-lm's `BatchGenerator`.

    That makes the caches of what upstream does not prefill: prompts of one token.
    """
    generator = wrapped(*args, **kwargs)
    make_new = generator._make_new_cache
    generator._make_new_cache = lambda: build(dial_of(instance), make_new())
    return generator


def external_prefill(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._do_external_prefill`; its result is `(layer caches, [last token])`."""
    return _external_prefill(wrapped, instance, *args, **kwargs)


def begin_prefill(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._begin_prefill`; its result is upstream's state of a prefill in steps."""
    return _begin_prefill(wrapped, instance, *args, **kwargs)


def _add_request(wrapped: Wrapped, scheduler: Any, request: Any) -> Any:
    settle(scheduler, request)
    return wrapped(request)


def _external_prefill(
    wrapped: Wrapped, scheduler: Any, request: Any, tokens: list[int], existing_cache: Any, vlm_embeds: Any = None
) -> Any:
    caches = _caches(scheduler, request, tokens, existing_cache)
    tell_prefill_caches(request, caches)
    return wrapped(request, tokens, caches, vlm_embeds=vlm_embeds)


def _begin_prefill(wrapped: Wrapped, scheduler: Any, request: Any, tokens: list[int], existing_cache: Any) -> Any:
    return wrapped(request, tokens, _caches(scheduler, request, tokens, existing_cache))


def _caches(scheduler: Any, request: Any, tokens: Sequence[int], existing: Any) -> Any:
    # The fork's own cache knows its own classes only.
    if existing is not None or scheduler.block_aware_cache is not None:
        return existing
    reserve_tokens = reserve_for(len(tokens), int(request.sampling_params.max_tokens))
    return build(dial_of_request(scheduler, request), make_prompt_cache(scheduler.model), reserve_tokens)
