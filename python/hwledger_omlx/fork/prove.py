"""Has hooks prove themselves on a source they do not know, each in a process of its own, and remembers who passed.

The process is `selftest.py`; it keeps this one free of a fork that fails. What is checked is the hook's business.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hwledger_omlx import _native
from hwledger_omlx.fork.home import VARIABLE as HOME_VARIABLE
from hwledger_omlx.fork.home import home, write_json
from hwledger_omlx.fork.locate import VARIABLE as FORK_VARIABLE
from hwledger_omlx.fork.locate import Fork
from hwledger_omlx.fork.series import Series

MEMORY_FILE = "self-tests.json"
TIMEOUT_S = 180.0
_SAID_AT_MOST = 600
_log = logging.getLogger("hwledger_omlx.fork")


def prove(
    fork: Fork, series: Series, digests: Mapping[str, str], *, afresh: bool = False, timeout_s: float = TIMEOUT_S
) -> dict[str, str | None]:
    """Runs the self-tests of the hooks named, except for those that are known to have passed on this very source.

    A failure is not remembered: it may come from what is installed around the fork, and that may be mended.

    Args:
        fork: what to run them against.
        series: where the hooks are.
        digests: hook id → digest of its target in the fork.
        afresh: run them all.
        timeout_s: for each self-test, in seconds.

    Returns:
        hook id → why the self-test failed, or None where it passed.
    """
    memory = _remembered()
    outcomes: dict[str, str | None] = {}
    groups: dict[str, list[str]] = {}
    for hook in series.hooks:
        if hook.id not in digests:
            continue
        if _key(fork, hook.id, digests[hook.id]) in memory and not afresh:
            outcomes[hook.id] = None
        else:
            # Hooks that share a self-test are proven by one run of it.
            groups.setdefault(hook.self_test, []).append(hook.id)
    passed: set[str] = set()
    for ids in groups.values():
        _log.info("proving %s on %s", ", ".join(ids), fork)
        failure = _run(fork, series, ids, timeout_s)
        outcomes |= dict.fromkeys(ids, failure)
        if failure is None:
            passed |= {_key(fork, each, digests[each]) for each in ids}
    if passed - memory:
        try:
            write_json(home() / MEMORY_FILE, sorted(passed | memory))
        except OSError as error:
            _log.warning("passed self-tests cannot be remembered, so they will run again: %s", error)
    return outcomes


def _key(fork: Fork, hook: str, digest: str) -> str:
    return f"{hook} {digest} fork {fork.version} ours {_native.__version__}"


def _remembered() -> frozenset[str]:
    path = home() / MEMORY_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise ValueError("not a list")
        return frozenset(str(each) for each in content)
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as error:
        _log.warning("%s is damaged (%s); the self-tests run again", path, error)
        return frozenset()


def _run(fork: Fork, series: Series, ids: list[str], timeout_s: float) -> str | None:
    """Why the self-test failed, or None."""
    with tempfile.TemporaryDirectory(prefix="hwledger-omlx-self-test-") as scratch:
        result = Path(scratch, "result.json")
        # -P: a folder `omlx` in the working directory must not stand in for the fork.
        command = [sys.executable, "-P", "-m", "hwledger_omlx.fork.selftest", "--fork", str(fork.package)]
        command += ["--result", str(result), *(part for each in ids for part in ("--hook", each))]
        if series.folder is not None:
            command += ["--series", str(series.folder)]
        # A home of its own: whatever an unproven hook lets the fork write ends in the scratch folder.
        environment = {**os.environ, "HOME": scratch, "USERPROFILE": scratch, HOME_VARIABLE: str(Path(scratch, "ours"))}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment.pop(FORK_VARIABLE, None)
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no result within {timeout_s:g} s"
        if not result.is_file():
            return f"the process ended with {done.returncode}: {one_line(done.stderr)}"
        failure: str | None = json.loads(result.read_text(encoding="utf-8"))["failure"]
        if failure is None and done.returncode != 0:
            # What a hook breaks at the end of the process, it breaks for the user too.
            return f"passed, but the process ended with {done.returncode}: {one_line(done.stderr)}"
        return failure


def one_line(text: str) -> str:
    """What a process said, on one line and not too long; the end of it, where the reason stands."""
    line = " / ".join(part.strip() for part in text.strip().splitlines() if part.strip())
    return line if len(line) <= _SAID_AT_MOST else f"... {line[-_SAID_AT_MOST:]}"
