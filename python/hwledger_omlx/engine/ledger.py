"""Opens the ledger that an engine was configured with, and has it listen. Knows nothing of how requests run.

Trouble of the ledger's is a warning and a ledger that is off: answers matter more than their account.
"""

import logging
from pathlib import Path

from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.engine.model_folder import ModelFolder
from hwledger_omlx.errors import LedgerError
from hwledger_omlx.memory.ledger import Ledger
from hwledger_omlx.memory.ledger_listener import Predict

_log = logging.getLogger(__name__)


class ModelFolders:
    """The folders of the models that an engine has had, by the names that requests of theirs go by.

    A model's stays when it is unloaded: its last requests end then.
    """

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}

    def add(self, folder: ModelFolder) -> None:
        """A model is loaded from it."""
        # The fork knows a model by its folder's name, which is a commit's for a snapshot of the hub.
        self._folders.update({folder.model_id: folder.path, folder.path.name: folder.path})

    def __call__(self, model_id: str) -> Path | None:
        """The folder of a model; None of one that the engine never had."""
        return self._folders.get(model_id)


def open_ledger(config: EngineConfig, folders: ModelFolders, predict: Predict | None = None) -> Ledger:
    """The ledger of an engine, listening; one that is off where none is wanted or none can be had.

    Args:
        config: the engine's.
        folders: whose requests are recorded.
        predict: the planner.
    """
    if config.ledger is False:
        return Ledger.off()
    try:
        ledger = Ledger.open(None if config.ledger is True else config.ledger)
    except LedgerError as error:
        _log.warning("requests are not recorded: %s", error)
        return Ledger.off(str(error))
    ledger.listen(folders, predict=predict)
    return ledger


def close(ledger: Ledger) -> None:
    """Writes what is on its way, as far as it goes."""
    try:
        ledger.close()
    except LedgerError as error:
        _log.warning("the ledger did not close well: %s", error)
