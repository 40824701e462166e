"""`bench cache`, the index alone: a store of 100,000 blocks opened, and the longest stored prefix of a prompt found.

The fork's own figures, from a machine like the one in the README: 50,000 blocks open in 9.7 s warm and take 8.1 KB of
memory each; 6.7 ms to look up 100,000 tokens. Not measured again here: to make its files takes half an hour.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hwledger_omlx.measure.bars import Bar, Comparison, Result
from hwledger_omlx.measure.engine_bench import OURS, OnTurn, _own_home
from hwledger_omlx.measure.harness import Contestant, Measure, Turn, measure_in_turns
from hwledger_omlx.measure.worker_process import WorkerProcess

_WORKER = Path(__file__).with_name("cache_index_worker.py")
_TIMEOUT_S = 900.0
_BLOCK_TOKENS = 256
_RECORD_BYTES = 8192
"""Most that a block takes on the disk here: its header, and a page for a byte a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeIndex:
    """What to measure."""

    prompts: int
    prompt_tokens: int
    rounds: int

    @property
    def blocks(self) -> int:
        """Blocks in the store."""
        return self.prompts * -(-self.prompt_tokens // _BLOCK_TOKENS)

    @property
    def disk_bytes(self) -> int:
        """Most that lies on the disk."""
        return self.blocks * _RECORD_BYTES

    def run(self, scratch: Path, on_turn: OnTurn | None = None) -> list[Result]:
        """Measures, in the existing folder `scratch`."""
        options = {"folder": str(scratch / "cache"), "prompts": self.prompts, "prompt_tokens": self.prompt_tokens}

        @contextmanager
        def opened() -> Iterator[Measure]:
            target = f"{_WORKER}:open_index"
            with WorkerProcess(OURS, target, options, env=_own_home(scratch / "home"), timeout_s=_TIMEOUT_S) as worker:
                if on_turn is not None:
                    on_turn(OURS, Turn(0, "filling", warm_up=False), 0, 1)
                worker.call({"fill": True})

                def one_turn(_: Turn) -> Mapping[str, float]:
                    measured: Mapping[str, float] = worker.call({})
                    return measured

                yield one_turn

        samples = measure_in_turns([Contestant(OURS, opened)], rounds=self.rounds, on_turn=on_turn)
        return [samples.compare(comparison) for comparison in self._comparisons()]

    def _comparisons(self) -> list[Comparison]:
        def line(name: str, measurement: str, unit: str, limit: float) -> Comparison:
            return Comparison(
                name=name,
                measurement=measurement,
                unit=unit,
                better="lower",
                contestant=OURS,
                bar=Bar.value_at_most(limit),
            )

        among = f"{self.prompt_tokens:,} tokens among {self.blocks:,} blocks"
        return [
            line(f"open a store of {self.blocks:,} blocks, warm", "open_s", "s", 0.1),
            line("memory of a block's index entry, without its token ids", "index_bytes_per_block", "B", 400),
            line(f"longest prefix of {among}, from u32", "u32_s", "s", 0.5e-3),
            line(f"longest prefix of {among}, from a Python list", "list_s", "s", 3e-3),
            Comparison(
                name="the same for half as many tokens, from a Python list",
                measurement="half_list_s",
                unit="s",
                better="lower",
                contestant=OURS,
                against=OURS,
                against_measurement="list_s",
                quotient="value/against",
            ),
        ]
