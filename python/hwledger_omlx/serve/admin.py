"""The first page of the fork's admin dashboard, with the figures of our cache and metrics. Knows its field names.

Its cache panel has a row for each loaded model and adds up the rates of all rows. What is known of the store as a whole
only (its files, its hot tier, evictions) stands in the first row.
"""

from collections.abc import Collection, Mapping
from typing import Any

from hwledger_omlx.cache.reports import StoreInfo
from hwledger_omlx.cache.stats import CacheStats
from hwledger_omlx.serve.metrics import Totals

BLOCK_TOKENS = 256


def speeds(totals: Collection[Totals]) -> dict[str, float]:
    """The page's average speeds. The fork takes prefill for decoding in every answer that is not streamed."""
    prefilled = sum(each.prompt_tokens - each.cached_tokens for each in totals)
    decoded = sum(each.completion_tokens for each in totals)
    return {
        "avg_prefill_tps": _per_second(prefilled, sum(each.prefill_s for each in totals)),
        "avg_generation_tps": _per_second(decoded, sum(each.decode_s for each in totals)),
    }


def cache_panel(
    panel: Mapping[str, Any],
    *,
    info: StoreInfo,
    stats: CacheStats,
    hot_limit_bytes: int,
    totals: Mapping[str, Totals],
) -> dict[str, Any]:
    """The page's `runtime_cache`.

    Args:
        panel: what the fork says in its place.
        info: what the store holds, by model.
        stats: what it did.
        hot_limit_bytes: most that its hot tier may take.
        totals: of the requests so far, by the id of each model to be shown.
    """
    rows = [_row(model_id, each, info) for model_id, each in totals.items()]
    if rows:
        rows[0] |= {
            "num_files": info.segments,
            "hot_cache_size_bytes": stats.memory.hot_bytes,
            "hot_cache_entries": stats.memory.hot_records,
        }
        rows[0]["cache_rates"]["cumulative"] |= {
            "evictions": stats.disk.evicted_records,
            "ssd_hot_hits": stats.restores.hot_blocks,
            "ssd_disk_loads": stats.restores.cold_blocks,
            "ssd_hot_rate": _share(stats.restores.hot_blocks, stats.restores.cold_blocks),
        }
    return {
        **panel,
        "ssd_cache_dir": str(info.folder),
        "models": rows,
        "effective_block_sizes": [BLOCK_TOKENS],
        "total_num_files": info.segments,
        "total_size_bytes": info.disk_bytes,
        "disk_max_bytes": info.quota_bytes,
        "hot_cache_size_bytes": stats.memory.hot_bytes,
        "hot_cache_max_bytes": hot_limit_bytes,
        "hot_cache_entries": stats.memory.hot_records,
    }


def _row(model_id: str, totals: Totals, info: StoreInfo) -> dict[str, Any]:
    # A tenant's prompts are labelled model/tenant.
    spaces = [space for space in info.namespaces if space.label.partition("/")[0] == model_id]
    blocks = sum(space.blocks for space in spaces)
    restored_tokens = round(totals.cached_tokens)
    computed_tokens = round(totals.prompt_tokens) - restored_tokens
    return {
        "id": model_id,
        "block_size": BLOCK_TOKENS,
        "indexed_blocks": blocks,
        "indexed_blocks_display": str(blocks),
        # Of the fork's cache only: ours keeps what fills no block.
        "has_sub_block_cache": False,
        "num_files": 0,
        "total_size_bytes": sum(space.disk_bytes for space in spaces),
        "max_size_bytes": info.quota_bytes,
        "cache_rates": {
            "cumulative": {
                "prefix_hits": restored_tokens,
                "prefix_misses": computed_tokens,
                "prefix_hit_rate": _share(restored_tokens, computed_tokens),
            }
        },
    }


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else 0.0


def _per_second(count: float, duration_s: float) -> float:
    return round(count / duration_s, 1) if duration_s else 0.0
