"""The configuration: `hwledger.toml` below environment variables below flags, and its change while a server runs.

What a setting is called, takes and means stands in the core's `config`; here is what becomes of it.
"""

from hwledger_omlx.config.configuration import Config, Entry
from hwledger_omlx.config.load import find, load

__all__ = ["Config", "Entry", "find", "load"]
