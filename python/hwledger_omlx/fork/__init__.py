"""The fork of oMLX in use: finds it, judges each hook of the patch series against its source, and loads it patched.

Importing this package imports no fork, and nothing of MLX.
"""

from hwledger_omlx.fork.home import fork_home, home
from hwledger_omlx.fork.load import LoadedFork, load, loaded
from hwledger_omlx.fork.locate import Fork, locate
from hwledger_omlx.fork.series import Series
from hwledger_omlx.fork.verify import HookReport, Verdict, verify

__all__ = [
    "Fork",
    "HookReport",
    "LoadedFork",
    "Series",
    "Verdict",
    "fork_home",
    "home",
    "load",
    "loaded",
    "locate",
    "verify",
]
