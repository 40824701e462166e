"""The places of the fork's scheduler where requests come, are computed and go: there the memory is sampled."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_lm.models.cache import make_prompt_cache

from hwledger_omlx.hooks.layer_memory.attached import attach, attached, forget_prefill_caches, want_prefill_caches
from hwledger_omlx.hooks.layer_memory.published import publisher
from hwledger_omlx.hooks.layer_memory.sampler import Sampler

Wrapped = Callable[..., Any]
_log = logging.getLogger("hwledger_omlx.fork")


def init(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Around `omlx.scheduler:Scheduler.__init__`."""
    wrapped(*args, **kwargs)
    try:
        sampler = Sampler.of(instance)
        publisher.add(sampler)
    except Exception:  # noqa: BLE001
        # Without a sampler the model serves as well; the report says that there is none.
        _log.warning("the memory of %s will not be sampled", instance.config.model_name, exc_info=True)
    else:
        attach(instance, sampler)


def add_request(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler.add_request`, which may refuse the request by raising."""
    return _add_request(wrapped, instance, *args, **kwargs)


def external_prefill(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._do_external_prefill`; its result is `(layer caches, [last token])`."""
    return _external_prefill(wrapped, instance, *args, **kwargs)


def begin_prefill(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._begin_prefill`; its result is upstream's state of a prefill in steps."""
    return _begin_prefill(wrapped, instance, *args, **kwargs)


def chunk_done(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._record_chunk_transient`, called after each chunk in both ways to prefill."""
    result = wrapped(*args, **kwargs)
    sampler = attached(instance)
    if sampler is not None:
        sampler.chunk(instance, str(kwargs.get("request_id")))
    return result


def step(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler.step`; its result has the outputs of the step."""
    output = wrapped(*args, **kwargs)
    sampler = attached(instance)
    if sampler is not None:
        sampler.stepped(instance, output.outputs)
    return output


def abort_request(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._do_abort_request`."""
    return _abort_request(wrapped, instance, *args, **kwargs)


def fail_all_requests(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler.fail_all_requests`; its result is the ids of those that failed."""
    failed_ids = wrapped(*args, **kwargs)
    sampler = attached(instance)
    if sampler is not None:
        sampler.end_lost(instance, failed_ids)
    return failed_ids


def _add_request(wrapped: Wrapped, scheduler: Any, request: Any) -> Any:
    result = wrapped(request)
    sampler = attached(scheduler)
    if sampler is not None:
        sampler.arrives(scheduler, request)
    return result


def _external_prefill(
    wrapped: Wrapped, scheduler: Any, request: Any, tokens: list[int], existing_cache: Any, vlm_embeds: Any = None
) -> Any:
    sampler = attached(scheduler)
    if sampler is None:
        return wrapped(request, tokens, existing_cache, vlm_embeds=vlm_embeds)
    caches = existing_cache
    if caches is None and scheduler.block_aware_cache is not None:
        # With the fork's own cache it is upstream that makes them, in the same way and out of sight.
        caches = make_prompt_cache(scheduler.model)
    want_prefill_caches(request)
    sampler.prefill_begins(scheduler, request, caches)
    done = None
    try:
        done = wrapped(request, tokens, caches, vlm_embeds=vlm_embeds)
        return done
    finally:
        forget_prefill_caches(request)
        sampler.prefill_ends(scheduler, request, None if done is None else done[0])


def _begin_prefill(wrapped: Wrapped, scheduler: Any, request: Any, tokens: list[int], existing_cache: Any) -> Any:
    sampler = attached(scheduler)
    if sampler is None:
        return wrapped(request, tokens, existing_cache)
    state = wrapped(request, tokens, existing_cache)
    sampler.prefill_steps(request, state)
    sampler.prefill_begins(scheduler, request, None)
    return state


def _abort_request(wrapped: Wrapped, scheduler: Any, request_id: str) -> Any:
    sampler = attached(scheduler)
    if sampler is None:
        return wrapped(request_id)
    sampler.look(scheduler)
    result = wrapped(request_id)
    sampler.look(scheduler)
    sampler.end(str(request_id), "cancelled")
    return result
