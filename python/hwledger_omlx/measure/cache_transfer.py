"""`bench cache`, without engines: KV from the disk into layer caches, and from layer caches to the disk.

Our store and the fork's prefix cache each in a process of its own, the disk measured beside them in the same rounds.
Knows the workers of `cache_store_worker.py`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from hwledger_omlx.fork.locate import Fork
from hwledger_omlx.measure.bars import Bar, Comparison, Result
from hwledger_omlx.measure.cache_disk import SequentialDisk, installed_fio
from hwledger_omlx.measure.cache_store_worker import Shape
from hwledger_omlx.measure.engine_bench import BARE, OURS, Ask, OnTurn, _own_home
from hwledger_omlx.measure.harness import Contestant, Measure, Turn, measure_in_turns
from hwledger_omlx.measure.worker_process import WorkerProcess

DISK = "disk"
COLD = "cold"
WARM = "warm"
BURST = "burst"
_WORKER = Path(__file__).with_name("cache_store_worker.py")
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What to measure."""

    shape: Shape
    rounds: int
    warm_up: int = 1

    @property
    def disk_bytes(self) -> int:
        """Most that lies on the disk at a time: ours, the fork's, and the file for the disk itself; and a margin."""
        return 3 * self.shape.nbytes * 11 // 10

    @property
    def memory_bytes(self) -> int:
        """Most RAM of a process: KV to save, the hot tier or queue, and KV restored, with a quarter for the rest."""
        return 4 * self.shape.nbytes

    @property
    def _size(self) -> str:
        return f"{self.shape.blocks} blocks of {self.shape.nbytes / self.shape.blocks / 2**20:.3g} MiB"

    def restore(self, fork: Fork, scratch: Path, on_turn: OnTurn | None = None) -> list[Result]:
        """Disk to layer caches: with the page cache emptied, and with it warm.

        Args:
            fork: for the fork's contestant.
            scratch: an existing folder on the disk to be measured; what is made in it is not removed.
            on_turn: told before each turn.
        """
        contestants = [*self._stores(fork, scratch, on_turn, fill=True), self._disk(scratch)]
        samples = measure_in_turns(
            contestants, cases=(COLD, WARM), rounds=self.rounds, warm_up=self.warm_up, on_turn=on_turn
        )
        return [samples.compare(comparison) for comparison in self._restore_comparisons()]

    def save(self, fork: Fork, scratch: Path, on_turn: OnTurn | None = None) -> list[Result]:
        """Layer caches to the disk, in one burst; and back from the hot tier while it is still there."""
        contestants = [*self._stores(fork, scratch, on_turn, fill=False), self._disk(scratch)]
        samples = measure_in_turns(
            contestants, cases=(BURST,), rounds=self.rounds, warm_up=self.warm_up, on_turn=on_turn
        )
        return [samples.compare(comparison) for comparison in self._save_comparisons()]

    def _restore_comparisons(self) -> list[Comparison]:
        def line(name: str, measurement: str, **more: object) -> Comparison:
            given = {"unit": "B/s", "better": "higher", "contestant": OURS, "against": BARE, **more}
            return Comparison(name=f"restore {self._size}, {name}", measurement=measurement, **given)  # type: ignore[arg-type]

        sequential = {"against": DISK, "against_measurement": "cold_bytes_per_s"}
        warm = {"against_measurement": "warm_bytes_per_s"}
        return [
            line("cold disk", "cold_ready_bytes_per_s", bar=Bar.ratio_at_least(0.8), **sequential),
            line("cold disk, into new arrays", "cold_new_bytes_per_s", **sequential),
            line("cold disk (the fork)", "cold_bytes_per_s", contestant=BARE, against=DISK),
            line("warm page cache", "warm_ready_bytes_per_s", bar=Bar.ratio_at_least(6.0), **warm),
            line("warm page cache, into new arrays", "warm_new_bytes_per_s", **warm),
            line(
                "peak memory over the data",
                "peak_bytes",
                unit="B",
                better="lower",
                against=OURS,
                against_measurement="data_bytes",
                quotient="value/against",
                bar=Bar.ratio_at_most(1.1),
            ),
            line(
                "peak memory over the data (the fork)",
                "peak_bytes",
                unit="B",
                better="lower",
                contestant=BARE,
                against=BARE,
                against_measurement="data_bytes",
                quotient="value/against",
            ),
            Comparison(
                name="sequential read of the disk",
                measurement="cold_bytes_per_s",
                unit="B/s",
                better="higher",
                contestant=DISK,
            ),
        ]

    def _save_comparisons(self) -> list[Comparison]:
        def line(name: str, measurement: str, unit: str, **more: object) -> Comparison:
            given = {"unit": unit, "better": "higher", "contestant": OURS, **more}
            return Comparison(name=name, measurement=measurement, **given)  # type: ignore[arg-type]

        memcpy = {"against": OURS, "against_measurement": "memcpy_bytes_per_s"}
        per_block = {"better": "lower", "quotient": "value/against"}
        return [
            line(
                "inference thread stalled by a save, a block, over one memcpy of it",
                "stalled_s_per_block",
                "s",
                against=OURS,
                against_measurement="memcpy_s_per_block",
                bar=Bar.ratio_at_most(1.5),
                **per_block,
            ),
            line(
                "the thread that saves, a block, against the fork's",
                "stalled_s_per_block",
                "s",
                better="lower",
                against=BARE,
            ),
            line(
                f"save {self._size}, durable",
                "durable_bytes_per_s",
                "B/s",
                against=DISK,
                bar=Bar.ratio_at_least(0.7),
            ),
            line(f"save {self._size}, durable (the fork)", "durable_bytes_per_s", "B/s", contestant=BARE, against=DISK),
            line(
                "blocks lost in the burst",
                "lost_blocks",
                "blocks",
                better="lower",
                against=BARE,
                quotient="value/against",
                bar=Bar.value_at_most(0.0),
            ),
            line(
                f"restore {self._size}, hot tier",
                "hot_ready_bytes_per_s",
                "B/s",
                bar=Bar.ratio_at_least(0.7),
                **memcpy,
            ),
            line(f"restore {self._size}, hot tier, into new arrays", "hot_new_bytes_per_s", "B/s", **memcpy),
            line("sequential write of the disk, fsync counted", "durable_bytes_per_s", "B/s", contestant=DISK),
        ]

    def _stores(self, fork: Fork, scratch: Path, on_turn: OnTurn | None, *, fill: bool) -> list[Contestant]:
        found = []
        for name, function in ((OURS, "open_own"), (BARE, "open_fork")):
            place = scratch / function
            place.mkdir()
            folder = place / "cache"
            if not fill:
                folder.mkdir()
            options = {
                "shape": asdict(self.shape),
                "folder": str(folder),
                "fork": None if fork.source == "installed" else str(fork.path),
            }
            found.append(self._store(name, function, options, _own_home(place / "home"), on_turn, fill=fill))
        return found

    def _store(
        self,
        name: str,
        function: str,
        options: Mapping[str, object],
        env: Mapping[str, str],
        on_turn: OnTurn | None,
        *,
        fill: bool,
    ) -> Contestant:
        def process() -> WorkerProcess:
            return WorkerProcess(name, f"{_WORKER}:{function}", options, env=env, timeout_s=_TIMEOUT_S)

        @contextmanager
        def opened() -> Iterator[Measure]:
            if fill:
                if on_turn is not None:
                    on_turn(name, Turn(0, "filling", warm_up=False), 0, 1)
                # In a process of its own: memory that it had must not serve the restore.
                with process() as worker:
                    worker.call({"fill": True})
            with process() as worker:
                yield self.measure(worker.call)

        return Contestant(name, opened)

    def measure(self, ask: Ask) -> Measure:
        """What a store does in its turn."""

        def one_turn(turn: Turn) -> Mapping[str, float]:
            return ask({"burst": True} if turn.case == BURST else {"restore": turn.case})

        return one_turn

    def _disk(self, scratch: Path) -> Contestant:
        disk = SequentialDisk(scratch, self.shape.nbytes, fio=installed_fio())

        def one_turn(turn: Turn) -> Mapping[str, float]:
            if turn.case == COLD:
                return {"cold_bytes_per_s": disk.read_bytes_per_s()}
            return {"durable_bytes_per_s": disk.write_bytes_per_s()} if turn.case == BURST else {}

        return Contestant.of(DISK, one_turn)
