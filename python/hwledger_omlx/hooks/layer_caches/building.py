"""Empty layer caches for a request, at the formats of a dial."""

from collections.abc import Sequence
from typing import Any

from mlx_lm.models.cache import CacheList, KVCache

from hwledger_omlx.hooks.layer_caches import formats
from hwledger_omlx.hooks.layer_caches.dial import Dial, Path, Side
from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.hooks.layer_caches.live import LiveKVCache
from hwledger_omlx.hooks.layer_caches.quantized import QuantizedKVCache

_RESERVE_STEP_TOKENS = 256
_ANSWER_TOKENS_AT_LEAST, _ANSWER_SHARE_OF_PROMPT = 1024, 4


def reserve_for(prompt_tokens: int, max_tokens: int) -> int:
    """Tokens to allocate for a prompt and as much of its answer as is likely."""
    answer_tokens = min(max_tokens, max(_ANSWER_TOKENS_AT_LEAST, prompt_tokens // _ANSWER_SHARE_OF_PROMPT))
    return -(-(prompt_tokens + answer_tokens) // _RESERVE_STEP_TOKENS) * _RESERVE_STEP_TOKENS


def build(dial: Dial, empty: Sequence[Any], reserve_tokens: int = 0) -> list[Any]:
    """The same layers, with a cache of ours in the place of each empty `KVCache`.

    Args:
        dial: the formats.
        empty: a model's layer caches.
        reserve_tokens: tokens to allocate as long as they do.
    """
    return [_built(dial, cache, (index,), reserve_tokens) for index, cache in enumerate(empty)]


def _built(dial: Dial, cache: Any, path: Path, reserve_tokens: int) -> Any:
    if isinstance(cache, CacheList):
        below = (_built(dial, each, (*path, place), reserve_tokens) for place, each in enumerate(cache.caches))
        return CacheList(*below)
    if type(cache) is not KVCache:
        return cache
    wanted = dial.of(path)
    keys, values = (_held(dial, side, reserve_tokens) for side in (wanted.keys, wanted.values))
    if formats.is_plain(keys.format) and formats.is_plain(values.format):
        return LiveKVCache(reserve_tokens)
    return QuantizedKVCache(keys, values)


def _held(dial: Dial, side: Side, reserve_tokens: int) -> HeldTokens:
    form = formats.parse(side.live)
    if formats.is_plain(form):
        return HeldTokens(form, reserve_tokens=reserve_tokens)
    return HeldTokens(form, dial.first_tokens, dial.recent_tokens, reserve_tokens)
