"""Finds the configuration file and puts the layers together."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from hwledger_omlx._native import load_config
from hwledger_omlx.config.configuration import Config, Entry

FILE = "hwledger.toml"
VARIABLE = "HWLEDGER_OMLX_CONFIG"

_log = logging.getLogger(__name__)


def find(path: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The configuration file: the one that is named, else the first that is there; None where there is none.

    Args:
        path: of `--config`.
        environment: may name one as `HWLEDGER_OMLX_CONFIG`.
    """
    named = environment.get(VARIABLE, "").strip()
    if path is not None or named:
        return (path or Path(named)).expanduser()
    places = (Path(FILE), Path(platformdirs.user_config_dir("hwledger-omlx")) / FILE)
    # Whatever it is, it is meant: a folder of that name is said to be none.
    return next((each for each in places if each.exists()), None)


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
