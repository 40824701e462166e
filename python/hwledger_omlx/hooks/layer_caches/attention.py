"""Attention over caches of ours, in the form in which they hold their tokens.

On Apple's GPUs the newest tokens attend to the encoded keys and values by MLX's quantized products, which read a
fraction of the bytes. Elsewhere, and for many queries at once, as in prefill, a layer's keys and values are decoded for
the moment.
"""

from typing import Any

import mlx.core as mx

from hwledger_omlx.hooks.layer_caches.formats import Affine, Channel
from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.hooks.layer_caches.quantized import QuantizedKVCache
from hwledger_omlx.hooks.layer_caches.rows import RowsKVCache


def takes(cache: Any, keys: Any, values: Any) -> bool:
    """Whether `attend` can answer for attention over these arrays: it can if the cache has just returned them."""
    return isinstance(cache, QuantizedKVCache | RowsKVCache) and cache.fetched.match(keys, values)


def attend(cache: Any, queries: Any, keys: Any, values: Any, *, scale: float, mask: Any, sinks: Any = None) -> Any:
    """Scaled dot-product attention `[batch, query heads, tokens, head_dim]` over all tokens of a cache.

    Args:
        cache: for which `takes` is true.
        queries: `[batch, query heads, tokens, head_dim]`.
        keys: what the cache returned.
        values: likewise.
        scale: of the products.
        mask: as `mx.fast.scaled_dot_product_attention` takes it, over the columns of `keys`.
        sinks: a logit for each query head that takes its share and gives nothing; None for none.
    """
    if not isinstance(cache, RowsKVCache):
        return _attend_row(cache, queries, keys, values, scale, mask, sinks)
    if len(cache.rows) == 1:
        return _attend_row(cache.rows[0], queries, keys, values, scale, mask, sinks)
    answers = []
    for index, row in enumerate(cache.rows):
        here = slice(index, index + 1)
        row_keys, row_values = _dense(row)
        row_mask = _row_mask(mask, index, row_keys.shape[2])
        answers.append(_attend_row(row, queries[here], row_keys, row_values, scale, row_mask, sinks))
    return mx.concatenate(answers)


def _dense(row: Any) -> tuple[Any, Any]:
    if isinstance(row, QuantizedKVCache):
        return row.held_keys.dense(), row.held_values.dense()
    return row.keys[..., : row.offset, :], row.values[..., : row.offset, :]


def _row_mask(mask: Any, index: int, tokens: int) -> Any:
    """The row's part of a batch's mask. A row has no padding of its own, so its columns are the last ones."""
    if mask is None or isinstance(mask, str):
        return mask
    if mask.ndim == 4 and mask.shape[0] > 1:
        mask = mask[index : index + 1]
    return mask[..., mask.shape[-1] - tokens :]


def _attend_row(row: Any, queries: Any, keys: Any, values: Any, scale: float, mask: Any, sinks: Any) -> Any:
    if isinstance(row, QuantizedKVCache) and row.attends_encoded(queries.shape[2]):
        return _attend_encoded(row, queries, scale, mask, sinks)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks)


def _attend_encoded(row: QuantizedKVCache, queries: Any, scale: float, mask: Any, sinks: Any) -> Any:
    _, query_heads, count, width = queries.shape
    assert row.held_keys.like is not None  # noqa: S101  the cache was just updated
    heads = row.held_keys.like.shape[1]
    repeats = query_heads // heads
    # The heads that share keys are queries of one product.
    scores = _times_keys(row.held_keys, (queries * scale).reshape(1, heads, repeats * count, width))
    tokens = scores.shape[-1]
    scores = _masked(scores.reshape(1, heads, repeats, count, tokens), mask)
    if sinks is not None:
        share = mx.broadcast_to(sinks.reshape(1, heads, repeats, 1, 1), (1, heads, repeats, count, 1))
        scores = mx.concatenate([scores, share.astype(scores.dtype)], axis=-1)
    weights = mx.softmax(scores, axis=-1, precise=True)[..., :tokens]
    answer = _times_values(row.held_values, weights.reshape(1, heads, repeats * count, tokens))
    return answer.reshape(1, query_heads, count, answer.shape[-1])


def _masked(scores: Any, mask: Any) -> Any:
    if mask is None:
        return scores
    count, tokens = scores.shape[-2:]
    if isinstance(mask, str):
        if count == 1:
            return scores
        mask = mx.arange(tokens - count, tokens)[:, None] >= mx.arange(tokens)[None]
    elif mask.ndim == 4:
        # [batch, query heads or 1, ...] over [batch, heads, repeats, ...].
        _, heads, repeats, *_ = scores.shape
        mask = mask[:, :, None] if mask.shape[1] == 1 else mask.reshape(1, heads, repeats, *mask.shape[2:])
    return mx.where(mask, scores, mx.finfo(scores.dtype).min) if mask.dtype == mx.bool_ else scores + mask


def _times_keys(held: HeldTokens, queries: Any) -> Any:
    """`[1, heads, queries, tokens]`."""
    products = []
    if held.front is not None:
        products.append(queries @ held.front.swapaxes(-1, -2))
    if held.encoded_tokens:
        products.append(_product(held, queries, tokens_are_columns=True))
    if held.tail is not None:
        products.append(queries @ held.tail.swapaxes(-1, -2))
    return products[0] if len(products) == 1 else mx.concatenate(products, axis=-1)


def _times_values(held: HeldTokens, weights: Any) -> Any:
    """`[1, heads, queries, width]`."""
    front = 0 if held.front is None else held.front.shape[2]
    behind = front + held.encoded_tokens
    products = []
    if held.front is not None:
        products.append(weights[..., :front] @ held.front)
    if held.encoded_tokens:
        products.append(_product(held, weights[..., front:behind], tokens_are_columns=False))
    if held.tail is not None:
        products.append(weights[..., behind:] @ held.tail)
    return sum(products[1:], start=products[0])


def _product(held: HeldTokens, left: Any, *, tokens_are_columns: bool) -> Any:
    form = held.format
    if isinstance(form, Affine | Channel):
        # MLX's right factor has its groups along its rows: a token's numbers, or, of a Channel, a channel's tokens.
        transpose = tokens_are_columns == isinstance(form, Affine)
        codes, scales, biases = held.components()
        return mx.quantized_matmul(
            left, codes, scales, biases, transpose=transpose, group_size=form.group, bits=form.bits
        )
    assert held.like is not None  # noqa: S101  there are tokens
    dense = form.decode(held.components(), held.like)
    return left @ (dense.swapaxes(-1, -2) if tokens_are_columns else dense)
