"""Which settings count for which program: JSON-RPC has no use for what is of HTTP, or of the fork's own server."""

import logging

from hwledger_omlx.config.configuration import Config, Entry
from hwledger_omlx.engine.request_defaults import FORCE, OF_ALL, OF_MODEL

_log = logging.getLogger(__name__)

_OF_SERVER = {"models", "shutdown_seconds", "stuck_after_seconds"}
"""What of the settings of servers JSON-RPC has too."""


def counts_for_rpc(entry: Entry) -> bool:
    """Whether `hwledger-omlx rpc` uses a setting."""
    section, name = entry.path[0], entry.path[-1]
    if section == "server":
        return name in _OF_SERVER
    if section == "sampling":
        return name in {*OF_ALL, FORCE}
    return section != "models" or name in {*OF_MODEL, FORCE, "kv"}


def tell_unused_by_rpc(config: Config) -> None:
    """Names in the log what was said and does not count."""
    said = (each for each in config.entries if each.origin != "default" and not counts_for_rpc(each))
    if unused := ", ".join(f"{each.name} ({each.origin})" for each in said):
        _log.warning("what counts for HTTP alone is not used: %s", unused)
