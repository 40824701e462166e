"""Finds the configuration file and puts the layers together."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwledger_omlx._native import find_config, load_config
from hwledger_omlx.config.configuration import Config, Entry

_log = logging.getLogger(__name__)


def find(path: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The configuration file: the one that is named, else the first that is there; None where there is none.

    Args:
        path: of `--config`.
        environment: may name one as `HWLEDGER_OMLX_CONFIG`.
    """
    return find_config(path, list(environment.items()))


def load(
    path: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Config:
    """The configuration that is in force.

    Args:
        path: the file; None to look for it.
        environment: variables; None for those of the process.
        flags: what was given on the command line, by flag, such as `{"--port": 9000}`.

    Raises:
        ConfigError: something cannot be, or be read; says where it was given and what would be right.
    """
    environment = os.environ if environment is None else environment
    file = find(path, environment)
    found = json.loads(load_config(file, list(environment.items()), json.dumps(list((flags or {}).items()))))
    for warning in found["warnings"]:
        _log.warning("%s", warning)
    return Config(file, tuple(Entry.parse(each) for each in found["entries"]))
