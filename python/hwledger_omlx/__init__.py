"""oMLX's engine in-process, with a KV cache that outlives the process."""

from hwledger_omlx._native import __version__

__all__ = ["__version__"]
