"""The cache panel of the fork's admin page, with the figures of our cache in it. Knows the page's field names.

The page has a row for each loaded model and adds up the rates of all rows. What is known of the store as a whole only
(its files, its hot tier, evictions) stands in the first row.
"""

from collections.abc import Mapping
from typing import Any

from hwledger_omlx.cache.reports import StoreInfo
from hwledger_omlx.cache.stats import CacheStats

BLOCK_TOKENS = 256


def cache_panel(
    panel: Mapping[str, Any],
    *,
    info: StoreInfo,
    stats: CacheStats,
    hot_limit_bytes: int,
    prompt_tokens: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    """The page's `runtime_cache`.

    Args:
        panel: what the fork says in its place.
        info: what the store holds, by model.
        stats: what it did.
        hot_limit_bytes: most that its hot tier may take.
        prompt_tokens: by the id of each model to be shown, prompt tokens so far and those of them that were restored.
    """
    rows = [_row(model_id, *counted, info) for model_id, counted in prompt_tokens.items()]
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


def _row(model_id: str, prompt_tokens: int, restored_tokens: int, info: StoreInfo) -> dict[str, Any]:
    # A tenant's prompts are labelled model/tenant.
    spaces = [space for space in info.namespaces if space.label.partition("/")[0] == model_id]
    blocks = sum(space.blocks for space in spaces)
    computed_tokens = prompt_tokens - restored_tokens
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
