"""The places of the fork's scheduler where prompts are prefilled, answers end and requests are given up.

Upstream runs as without a cache of its own. Our restore, save and snapshots stand around its prefill, which is called
piece by piece: it works off `tokens[:-1]` and hands the last one back, so a piece that should end after token n is
given one token more.
"""

import dataclasses
import functools
import json
import sys
import weakref
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from hwledger_omlx._native import fingerprint_folder, namespace_digest
from hwledger_omlx.hooks.layer_caches.building import reserve_for
from hwledger_omlx.hooks.layer_caches.dial import dial_of_request
from hwledger_omlx.hooks.layer_memory import attached as layer_memory
from hwledger_omlx.hooks.paged_cache import binding, boundaries, leaves
from hwledger_omlx.hooks.paged_cache.binding import Binding
from hwledger_omlx.hooks.paged_cache.prefix_cache import Prefix, PrefixCache, in_background

Wrapped = Callable[..., Any]

FORMAT = "hwledger-kv-2"
"""What is stored, and how; a change of either makes another namespace."""

_PREFIX = "_hwledger_prefix"
_PIECE = "_hwledger_piece"
_ABORTED = "_PrefillAbortedError"
"""Upstream's exception where a prefill is given up between two steps."""


# -- shims ------------------------------------------------------------------------------------------------------


def init(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Around `omlx.scheduler:Scheduler.__init__`."""
    wrapped(*args, **kwargs)
    bound = Binding.of(instance.config)
    if bound is not None:
        cache = _prefix_cache(instance, bound)
        if cache.unsupported:
            bound.uncached[cache.label] = cache.unsupported.reason
        binding.attach(instance, cache)


def external_prefill(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._do_external_prefill`; its result is `(layer caches, [last token])`."""
    return _external_prefill(wrapped, instance, *args, **kwargs)


def begin_prefill(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._begin_prefill`; its result is upstream's state of a prefill in steps."""
    return _begin_prefill(wrapped, instance, *args, **kwargs)


def step_prefill(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Around `omlx.scheduler:Scheduler._step_prefill_chunk`; tells whether the prefill is done."""
    return _step_prefill(wrapped, instance, *args, **kwargs)


def prompt_progress(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._on_prompt_progress`, which gets `[(uid, tokens done, of tokens)]`."""
    return _prompt_progress(wrapped, instance, *args, **kwargs)


def process_responses(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._process_batch_responses`."""
    cache = _cache_of(instance)
    return wrapped(*args, **kwargs) if cache is None else _process_responses(cache, wrapped, instance, *args, **kwargs)


def abort_request(wrapped: Wrapped, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Around `omlx.scheduler:Scheduler._do_abort_request`: what a request that is given up has computed is kept."""
    cache = _cache_of(instance)
    return wrapped(*args, **kwargs) if cache is None else _abort(cache, wrapped, instance, *args, **kwargs)


# -- prefill ----------------------------------------------------------------------------------------------------


def _external_prefill(
    wrapped: Wrapped, scheduler: Any, request: Any, tokens: list[int], existing_cache: Any, vlm_embeds: Any = None
) -> Any:
    cache = _cache_of(scheduler)
    if cache is None or not _is_whole(request, tokens, existing_cache):
        return wrapped(request, tokens, existing_cache, vlm_embeds=vlm_embeds)
    prefix = _open(cache, scheduler, request, tokens)
    done = prefix.restored_tokens
    if vlm_embeds is not None:
        # Upstream keeps positions of its own across a prompt with images, so it is not cut into pieces.
        embeds, extra, _ = vlm_embeds
        try:
            prefilled = wrapped(request, tokens[done:], prefix.caches, vlm_embeds=(embeds, extra, done))
        except BaseException:
            _forget(request)
            raise
        _save(cache, prefix, len(tokens) - 1)
        prefix.caches = []  # the batch's from here on
        return prefilled
    # A window forgets what a longer step pushes out of it; what is decoded to be stored is so for one step at a time.
    in_steps = cache.has_windows or not prefix.dial.is_stored_as_held
    step_tokens = scheduler.config.prefill_step_size if in_steps else len(tokens)
    for end in _stops(cache, scheduler, request, prefix, step_tokens):
        setattr(request, _PIECE, _Piece(done - prefix.restored_tokens, len(tokens) - prefix.restored_tokens))
        try:
            wrapped(request, tokens[done : end + 1], prefix.caches)
        except BaseException as error:
            # An aborted prompt is often sent again, edited: what is computed need not be computed again. After another
            # failure nobody knows how far each layer has come.
            if type(error).__name__ == _ABORTED:
                _save(cache, prefix, _held_tokens(prefix))
            _forget(request)
            raise
        _save(cache, prefix, end)
        done = end
    caches, prefix.caches = prefix.caches, []  # the batch's from here on
    return caches, tokens[-1:]


def _begin_prefill(wrapped: Wrapped, scheduler: Any, request: Any, tokens: list[int], existing_cache: Any) -> Any:
    cache = _cache_of(scheduler)
    if cache is None or not _is_whole(request, tokens, existing_cache):
        return wrapped(request, tokens, existing_cache)
    prefix = _open(cache, scheduler, request, tokens)
    prefix.in_steps = True
    return wrapped(request, tokens[prefix.restored_tokens :], prefix.caches)


def _step_prefill(wrapped: Wrapped, scheduler: Any, state: Any) -> bool:
    cache, prefix = _cache_of(scheduler), _prefix_of(state.request)
    left = state.tokens_remaining.shape[1]
    if cache is None or prefix is None or not left:
        return bool(wrapped(state))
    done = prefix.restored_tokens + state.tokens_processed
    step_tokens = scheduler.config.prefill_step_size
    ahead = [end for end in _stops(cache, scheduler, state.request, prefix, step_tokens) if end > done]
    piece = ahead[0] - done if ahead else left
    hidden = state.tokens_remaining[:, piece:]
    state.tokens_remaining = state.tokens_remaining[:, :piece]
    wrapped(state)
    state.tokens_remaining = mx.concatenate([state.tokens_remaining, hidden], axis=1)
    _save(cache, prefix, prefix.restored_tokens + state.tokens_processed)
    if state.tokens_remaining.shape[1]:
        return False
    prefix.caches = []  # the batch's from here on
    return True


def _is_whole(request: Any, tokens: Sequence[int], existing_cache: Any) -> bool:
    # A cache that is there already is none of ours; of a prompt that upstream left a part out of, no tokens are known.
    return existing_cache is None and len(tokens) == len(request.prompt_token_ids)


def _open(cache: PrefixCache, scheduler: Any, request: Any, tokens: Sequence[int]) -> Prefix:
    sampler = layer_memory.attached(scheduler)
    if sampler is not None:
        sampler.begins(scheduler, request)
    prefix = cache.open(
        boundaries.identity_tokens(tokens, _images(request)),
        tenant=binding.tenant_of(request.request_id),
        dial=dial_of_request(scheduler, request),
        reserve_tokens=reserve_for(len(tokens), int(request.sampling_params.max_tokens)),
    )
    setattr(request, _PREFIX, prefix)
    request.cached_tokens = prefix.restored_tokens
    return prefix


def _stops(cache: PrefixCache, scheduler: Any, request: Any, prefix: Prefix, step_tokens: int) -> list[int]:
    """Numbers of prompt tokens after which prefill stops to save, rising; the last is all but the last token."""
    last, done = len(prefix.tokens) - 1, prefix.restored_tokens
    stops = {*range(done + step_tokens, last, step_tokens), last}
    if cache.needs_snapshot:
        stops |= set(
            boundaries.snapshot_points(
                request.prompt_token_ids,
                after=done,
                before=last,
                ends_of_turn=scheduler._get_stop_tokens(),
                branch=prefix.shared_tokens,
            )
        )
    return sorted(stop for stop in stops if stop > done)


def _held_tokens(prefix: Prefix) -> int:
    """Tokens that the layers hold when prefill was interrupted; 0 where they do not know or do not agree."""
    try:
        return leaves.token_count(leaves.leaves(prefix.caches)) or 0
    except ValueError:
        return 0


def _save(cache: PrefixCache, prefix: Prefix, tokens: int) -> None:
    if tokens > prefix.saved_tokens:
        cache.save(prefix, prefix.tokens[:tokens], prefix.caches)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Upstream counts the tokens of a piece; people wait for the whole."""

    before_tokens: int
    of_tokens: int


def _prompt_progress(wrapped: Wrapped, scheduler: Any, updates: Sequence[tuple[int, int, int]]) -> Any:
    if _cache_of(scheduler) is None:
        return wrapped(updates)
    return wrapped([_of_whole(scheduler, *update) for update in updates])


def _of_whole(scheduler: Any, uid: int, processed: int, total: int) -> tuple[int, int, int]:
    request = scheduler.requests.get(scheduler.uid_to_request_id.get(uid))
    piece: _Piece | None = getattr(request, _PIECE, None)
    return (uid, processed, total) if piece is None else (uid, piece.before_tokens + processed, piece.of_tokens)


# -- the end of a request ---------------------------------------------------------------------------------------


def _process_responses(
    cache: PrefixCache, wrapped: Wrapped, scheduler: Any, responses: Sequence[Any]
) -> tuple[Any, set[str]]:
    unsaved: dict[str, tuple[Any, int]] = {}
    for response in responses:
        request_id = scheduler.uid_to_request_id.get(response.uid)
        request = scheduler.running.get(request_id)
        prefix = _prefix_of(request)
        if prefix is None:
            continue
        with cache.sparing_requests("an answer was not saved"):
            if response.finish_reason is None:
                unsaved[request_id] = (request, response.uid)
                if cache.has_windows and request.num_tokens - prefix.saved_tokens >= cache.window_tokens // 2:
                    _save_running(cache, scheduler, request, prefix, response.uid)
            elif response.prompt_cache:
                _save_row(cache, request, prefix, response.prompt_cache, response.all_tokens)
        # Kept any longer, it would keep the memory of a batch that has gone on.
        response.prompt_cache = None
        if response.finish_reason is not None:
            _forget(request)
    outputs, finished_ids = wrapped(responses)
    # Upstream ends an answer here too, at a text that stops it; its row is in the batch still.
    for request_id in finished_ids & unsaved.keys():
        request, uid = unsaved[request_id]
        prefix = _prefix_of(request)
        if prefix is not None:
            with cache.sparing_requests("an answer was not saved"):
                _save_running(cache, scheduler, request, prefix, uid)
            _forget(request)
    return outputs, finished_ids


def _abort(cache: PrefixCache, wrapped: Wrapped, scheduler: Any, request_id: str) -> Any:
    request = scheduler.requests.get(request_id)
    prefix = _prefix_of(request)
    uid = scheduler.request_id_to_uid.get(request_id)
    if prefix is not None and uid is not None and request_id in scheduler.running:
        with cache.sparing_requests("an aborted answer was not saved"):
            _save_running(cache, scheduler, request, prefix, uid)
    try:
        return wrapped(request_id)
    finally:
        _forget(request)


def _save_running(cache: PrefixCache, scheduler: Any, request: Any, prefix: Prefix, uid: int) -> None:
    batches = scheduler.batch_generator
    # A row that waits to be taken into the batch has nothing but the prompt, which is saved.
    if batches is None or uid not in batches._generation_batch.uids:
        return
    caches, tokens = batches.extract_cache([uid])[uid]
    _save_row(cache, request, prefix, caches, tokens)


def _save_row(cache: PrefixCache, request: Any, prefix: Prefix, caches: Sequence[Any], tokens: Sequence[int]) -> None:
    """Saves the caches of a batch's row, which hold the prompt and then some of the answer.

    `tokens` is what the batch knows of them: all, or those from the prompt's last one on.
    """
    prompt_tokens = len(request.prompt_token_ids)
    named = 1 if prefix.in_steps else prompt_tokens
    if len(prefix.tokens) == prompt_tokens and len(tokens) >= named:
        cache.save(prefix, prefix.tokens + array("I", tokens[named:]), caches)


# -- whose cache it is ------------------------------------------------------------------------------------------


def _cache_of(scheduler: Any) -> PrefixCache | None:
    cache = binding.attached(scheduler)
    return None if cache is None or cache.unsupported else cache


def _prefix_of(request: Any) -> Prefix | None:
    return getattr(request, _PREFIX, None)


def _forget(request: Any) -> None:
    prefix = _prefix_of(request)
    if prefix is not None:
        delattr(request, _PREFIX)
        prefix.release()


def _images(request: Any) -> boundaries.ImageKeys:
    ranges = getattr(request, "vlm_extra_key_ranges_for_cache", None)
    if ranges:
        return list(ranges)
    keys = getattr(request, "vlm_extra_keys_for_cache", None)
    start = getattr(request, "vlm_extra_key_token_start_for_cache", None)
    return [(start or 0, keys)] if keys else []


def _prefix_cache(scheduler: Any, bound: Binding) -> PrefixCache:
    folder = Path(scheduler.config.model_name)
    fingerprint = in_background(lambda: fingerprint_folder(folder, bound.memo_file))
    # The fork lets go of a model before it lets go of its scheduler, and then waits for the memory.
    model = weakref.ref(scheduler.model)
    architecture = _architecture(scheduler.model)
    layers = json.dumps(leaves.class_names(make_prompt_cache(scheduler.model)))
    # Another release may compute other numbers from the same weights.
    code = json.dumps([version("mlx"), version("mlx-lm"), sys.modules["omlx"].__version__])

    def namespace(tenant: str, policy: str) -> bytes:
        fields: dict[str, str | bytes] = {
            "model": fingerprint.result(),
            "architecture": architecture,
            "layers": layers,
            "code": code,
            "format": FORMAT,
            "policy": policy,
            "device": str(mx.default_device()),
            "tenant": tenant,
        }
        return namespace_digest(fields)

    def prefill(tokens: Sequence[int], caches: list[Any]) -> None:
        running = model()
        assert running is not None  # noqa: S101  its scheduler has it
        running(mx.array([list(tokens)]), cache=caches)
        mx.eval([each.state for each in caches])

    return PrefixCache(
        store=bound.store,
        label=folder.name,
        make_caches=lambda: make_prompt_cache(model()),
        namespace=functools.lru_cache(maxsize=256)(namespace),
        prefill=prefill,
    )


def _architecture(model: Any) -> str:
    """The settings that the model was made with, which may differ from its folder's."""
    settings = getattr(model, "args", None)
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return ""
    return json.dumps(dataclasses.asdict(settings), sort_keys=True, default=lambda value: type(value).__qualname__)
