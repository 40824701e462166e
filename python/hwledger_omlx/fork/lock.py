"""Records the digests of the fork in use, once the self-tests have passed against it."""

from dataclasses import dataclass
from pathlib import Path

from hwledger_omlx.errors import ForkError
from hwledger_omlx.fork.locate import Fork
from hwledger_omlx.fork.prove import prove
from hwledger_omlx.fork.series import Series, record_in_folder, record_locally
from hwledger_omlx.fork.verify import Verdict, verify


@dataclass(frozen=True)
class Locked:
    """What `lock` did."""

    verdicts: tuple[Verdict, ...]
    files: tuple[Path, ...]
    """The files that changed."""


def lock(fork: Fork, folder: Path | None = None) -> Locked:
    """Runs the self-test of every hook that has a target in the fork, known or not, and records the digests.

    Args:
        fork: what to record.
        folder: a source checkout's `patches/`, whose manifests are edited; None for the lock file of this machine.

    Raises:
        ForkError: a hook is refused, a self-test failed, or the fork's version is unknown. Nothing is written then.
    """
    if fork.release is None:
        raise ForkError(f"{fork}: its version cannot be read, and digests are recorded under a version")
    series = Series.of_folder(folder) if folder else Series.shipped()
    verdicts = verify(fork, series, self_tests=False)
    digests = {each.hook.id: each.digest for each in verdicts if each.status in {"applied", "drifted"} and each.digest}
    outcomes = prove(fork, series, digests, afresh=True)
    failures = [f"{each.hook.id} ({each.reason})" for each in verdicts if each.status == "refused"]
    failures += [f"{hook} (self-test failed: {failure})" for hook, failure in outcomes.items() if failure]
    if failures:
        raise ForkError(f"nothing locked for {fork}: {'; '.join(failures)}")
    if folder:
        files = record_in_folder(folder, fork.version, digests)
        return Locked(verify(fork, Series.of_folder(folder)), tuple(files))
    path = record_locally(fork.version, digests)
    return Locked(verify(fork, series), (path,))
