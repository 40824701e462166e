"""The paged KV cache as its user sees it: settings, statistics, and what can be done with it."""

from hwledger_omlx.cache.cache import Cache
from hwledger_omlx.cache.reports import BadRecord, Compacted, NamespaceUse, Purged, StoreInfo, VerifyReport
from hwledger_omlx.cache.settings import PagedCache
from hwledger_omlx.cache.stats import CacheStats

__all__ = [
    "BadRecord",
    "Cache",
    "CacheStats",
    "Compacted",
    "NamespaceUse",
    "PagedCache",
    "Purged",
    "StoreInfo",
    "VerifyReport",
]
