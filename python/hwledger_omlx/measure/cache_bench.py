"""`bench cache`: our paged cache against the unpatched fork's, part by part, in one run and one report.

Chooses sizes and bars, sees to it that disk and memory suffice, and joins what `cache_generation.py`,
`cache_transfer.py` and `cache_index.py` measure. Measures nothing itself.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.fork.locate import Fork, locate
from hwledger_omlx.measure.bars import Bar, Result
from hwledger_omlx.measure.cache_disk import SequentialDisk, filesystem_of, installed_fio
from hwledger_omlx.measure.cache_generation import NEXT_TURN, RESEND, Generation
from hwledger_omlx.measure.cache_index import LargeIndex
from hwledger_omlx.measure.cache_model import RandomModel
from hwledger_omlx.measure.cache_store_worker import Shape, can_drop_page_cache
from hwledger_omlx.measure.cache_transfer import Transfer
from hwledger_omlx.measure.engine_bench import OnTurn
from hwledger_omlx.measure.environment import environment
from hwledger_omlx.measure.harness import Turn
from hwledger_omlx.measure.report import Report, quantity

PARTS = ("resend", "next-turn", "restore", "save", "index", "gpu-restore")
DEFAULT_PARTS = PARTS[:5]
_DISK_MARGIN_BYTES = 2**30

# The fork computes a resend's tokens past the last full block again: 181 of these 9,141, and 181 of 2,229 too.
_PROMPT_TOKENS, _QUICK_PROMPT_TOKENS = 9_141, 2_229
_CPU_MODEL = RandomModel(
    layers=2,
    hidden=256,
    intermediate=768,
    heads=4,
    kv_heads=2,
    head_dim=64,
    dtype="float32",
    context_tokens=32_768,
)
# 1.4 G parameters, and 3.4 GB of KV for 31,339 tokens.
_GPU_MODEL = RandomModel(
    layers=27,
    hidden=2048,
    intermediate=6144,
    heads=16,
    kv_heads=8,
    head_dim=128,
    dtype="bfloat16",
    context_tokens=131_072,
)
_GPU_PROMPT_TOKENS = (31_339, 100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBench:
    """What to measure."""

    parts: Sequence[str] = DEFAULT_PARTS
    """Of `PARTS`."""
    rounds: int = 5
    quick: bool = False
    """A quarter of the data and of the CPU's prompt, to see that everything works. The bars are the same."""
    fork: Path | None = None
    """Folder of an oMLX checkout, for both contestants; None for `HWLEDGER_OMLX_FORK` or the installed `omlx`."""
    scratch: Path | None = None
    """Folder on the disk to be measured; a folder is made in it, and removed. None for the system's temporary one."""
    gpu_prompt_tokens: Sequence[int] = _GPU_PROMPT_TOKENS
    """Lengths of the prompts of part `gpu-restore`."""
    cpu_model: RandomModel = _CPU_MODEL
    gpu_model: RandomModel = _GPU_MODEL
    shape: Shape | None = None
    """KV of the parts `restore` and `save`; None for 64 blocks of 36 MiB, or 16 with `quick`."""

    index_prompts: tuple[int, int] | None = None
    """Prompts of part `index`, and tokens of each; None for 200 of 128,000, or 50 with `quick`."""

    def run(self, on_turn: OnTurn | None = None) -> Report:
        """Measures, and returns the report.

        Raises:
            ForkError: no usable fork.
            HarnessError: impossible options, not enough disk or memory, or a contestant failed.
        """
        self._check()
        fork = locate(self.fork)
        parent = self._scratch_parent()
        self._check_room(parent)
        around = environment(fork=f"{fork.distribution or 'checkout'} {fork.version}")
        results: list[Result] = []
        with tempfile.TemporaryDirectory(prefix="hwledger-bench-", dir=parent) as made:
            scratch = Path(made)
            if cases := tuple(
                case for part, case in (("resend", RESEND), ("next-turn", NEXT_TURN)) if part in self.parts
            ):
                results += self._generated(self._generation(cases), fork, scratch, "cpu", on_turn)
            for part in ("restore", "save"):
                if part in self.parts:
                    place = scratch / part
                    place.mkdir()
                    measure = self._transfer.restore if part == "restore" else self._transfer.save
                    results += measure(fork, place, on_turn)
                    shutil.rmtree(place)
            if "index" in self.parts:
                place = scratch / "index"
                place.mkdir()
                results += self._index.run(place, on_turn)
                shutil.rmtree(place)
            if "gpu-restore" in self.parts:
                for tokens in self.gpu_prompt_tokens:
                    results += self._generated(self._gpu_generation(tokens), fork, scratch, f"gpu-{tokens}", on_turn)
        return Report("bench cache", "our paged cache against the fork's own", results, around, self._notes(parent))

    def _generated(
        self, generation: Generation, fork: Fork, scratch: Path, name: str, on_turn: OnTurn | None
    ) -> list[Result]:
        place = scratch / name
        place.mkdir()
        if on_turn is not None:
            on_turn("making the model", Turn(0, "", warm_up=False), 0, 1)
        # No `qwen3` in the path: it has the fork give the model an end-of-text token of its own.
        model = generation.model.write(place / "models" / "random")
        results = generation.run(model, fork, place, on_turn)
        shutil.rmtree(place)
        return results

    @property
    def _prompt_tokens(self) -> int:
        return _QUICK_PROMPT_TOKENS if self.quick else _PROMPT_TOKENS

    def _generation(self, cases: tuple[str, ...]) -> Generation:
        return Generation(
            model=self.cpu_model,
            prompt_tokens=self._prompt_tokens,
            cases=cases,
            rounds=self.rounds,
            resend_bar=Bar.ratio_at_least(12.0),
            next_turn_bar=Bar.ratio_at_most(1.10),
            text_bar=Bar.value_at_least(1.0),
        )

    def _gpu_generation(self, tokens: int) -> Generation:
        # Numbers of 16 bits computed in other chunks: a near-tie may fall either way, so the text has no bar there.
        return Generation(
            model=self.gpu_model,
            prompt_tokens=tokens,
            cases=(RESEND,),
            rounds=self.rounds,
            resend_bar=Bar.ratio_at_least(2.5),
        )

    @property
    def _transfer(self) -> Transfer:
        blocks = 16 if self.quick else 64
        shape = self.shape or Shape(blocks=blocks, block_tokens=256, layers=36, heads=8, head_dim=128)
        return Transfer(shape=shape, rounds=self.rounds)

    @property
    def _index(self) -> LargeIndex:
        prompts, tokens = self.index_prompts or ((50 if self.quick else 200), 128_000)
        return LargeIndex(prompts=prompts, prompt_tokens=tokens, rounds=self.rounds)

    def _check(self) -> None:
        if not self.parts or (unknown := [part for part in self.parts if part not in PARTS]):
            what = f"no part {', '.join(unknown)}" if self.parts else "no part named"
            raise HarnessError(f"{what}; there are: {', '.join(PARTS)}")
        if self.rounds < 1:
            raise HarnessError("give at least 1 round")
        if "gpu-restore" in self.parts:
            if not self.gpu_prompt_tokens or len(set(self.gpu_prompt_tokens)) != len(self.gpu_prompt_tokens):
                raise HarnessError("give different lengths of prompts for gpu-restore, such as 31339,100000")
            for tokens in self.gpu_prompt_tokens:
                self._gpu_generation(tokens)  # Refuses lengths that cannot be.

    def _scratch_parent(self) -> Path:
        parent = Path(tempfile.gettempdir()) if self.scratch is None else self.scratch.expanduser()
        if not parent.is_dir():
            raise HarnessError(f"there is no folder {parent} to measure in; make it, or give another --scratch")
        return parent

    def _check_room(self, parent: Path) -> None:
        """Before anything is written: the parts run one after the other, and each removes what it made."""
        disk, memory = [0], [0]
        if {"resend", "next-turn"} & set(self.parts):
            disk.append(self._generation((RESEND,)).disk_bytes)
        if {"restore", "save"} & set(self.parts):
            disk.append(self._transfer.disk_bytes)
            memory.append(self._transfer.memory_bytes)
        if "index" in self.parts:
            disk.append(self._index.disk_bytes)
        if "gpu-restore" in self.parts:
            disk += [self._gpu_generation(tokens).disk_bytes for tokens in self.gpu_prompt_tokens]
        needed, free = max(disk) + _DISK_MARGIN_BYTES, shutil.disk_usage(parent).free
        if free < needed:
            raise HarnessError(
                f"this bench needs {quantity(needed, 'B')} in {parent}, and {quantity(free, 'B')} are free; give a "
                "folder on another disk (--scratch), fewer parts (--only), or --quick"
            )
        available = int(psutil.virtual_memory().available)
        if available < max(memory):
            raise HarnessError(
                f"the parts restore and save need {quantity(max(memory), 'B')} of memory, and "
                f"{quantity(available, 'B')} are available; leave them out (--only), or give --quick"
            )

    def _notes(self, parent: Path) -> list[str]:
        notes = [
            f"{self.rounds} rounds, in turns; each contestant in processes of its own, the fork's without any of our "
            f"code. Files on {filesystem_of(parent)}."
        ]
        if {"resend", "next-turn"} & set(self.parts):
            notes.append(
                f"Model made from random numbers: {self.cpu_model}. Every measured request is the first of a new "
                "process (after a short one to warm it), which finds the cache that another one "
                "wrote; page cache as it is."
            )
        if "gpu-restore" in self.parts:
            notes.append(f"gpu-restore: {self.gpu_model}; on an accelerator, see the device below.")
        if "index" in self.parts:
            notes.append("index: one byte of KV a token; the same process opens the store again each round.")
        if {"restore", "save"} & set(self.parts):
            disk = SequentialDisk(parent, self._transfer.shape.nbytes, fio=installed_fio())
            notes.append(
                f"Disk measured by {disk.measured_by}. Peak memory: what the process grows by. memcpy: one thread, in "
                "memory touched before. Restored KV is compared with what was saved, outside of the times. The store "
                "has its default settings, but for a hot tier that holds the burst, and none where the disk is "
                "measured."
            )
            notes.append(
                "Ours is restored into layer caches that are ready, their memory given by the system before; into new "
                "arrays, the time counts that too, as the fork's does, which makes new arrays each time."
            )
            if not can_drop_page_cache():
                notes.append("This system cannot be told to forget a file's pages: what is called cold is warm here.")
        return notes
