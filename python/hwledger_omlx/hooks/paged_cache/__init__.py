"""Patch 003: prompts begin where a stored one left off. In place of the fork's paged SSD cache, which stays off.

`scheduler` has the shims, `prefix_cache` one model's prefixes, `leaves` what is done with each class of layer cache,
`live` the full-attention caches that enter a batch without a copy, `boundaries` where snapshots are worth it, `arrays`
the memory that a restore fills.
"""
