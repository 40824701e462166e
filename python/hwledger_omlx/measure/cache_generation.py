"""`bench cache`, with engines: the time to first token of what an agent asks again after a restart.

Each contestant computes a long prompt once, cold, and stores it; what is measured then is always the first request of a
new process that reads the same cache folder. Knows the workers of `cache_engine_worker.py`; no engine runs here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.fork.locate import Fork
from hwledger_omlx.measure.bars import Bar, Comparison, Result
from hwledger_omlx.measure.cache_model import RandomModel, text_of
from hwledger_omlx.measure.engine_bench import BARE, OURS, Ask, OnTurn, _own_home
from hwledger_omlx.measure.harness import Contestant, Measure, Samples, Turn, measure_in_turns
from hwledger_omlx.measure.worker_process import WorkerProcess

IN_MEMORY = "mlx-lm, prefix in memory"
RESEND = "resend"
NEXT_TURN = "next turn"
_WORKER = Path(__file__).with_name("cache_engine_worker.py")
_ANSWER_TOKENS = 8
_MEASURED_TOKENS = 4  # a few, so that the first token is not also the last, which costs the clearing up as well
_CHUNK_TOKENS = 512
_TIMEOUT_S = 1800.0

Life = Callable[[], AbstractContextManager[Ask]]
"""Opens one process of a contestant; leaving it ends it with everything stored."""


@dataclass(slots=True)
class Answers:
    """What was generated, to be compared."""

    cold: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Each contestant's answer to the prompt that nobody had seen."""
    texts: dict[tuple[str, str, int], str] = field(default_factory=dict)
    """By contestant, case and round."""

    def same_as_cold(self, contestant: str) -> list[float]:
        """For each round, whether the resend was answered like the cold prompt."""
        cold = str(self.cold[contestant]["text"])
        found = [text for (name, case, _), text in self.texts.items() if (name, case) == (contestant, RESEND)]
        return [float(cold.startswith(text)) for text in found]

    def same_as(self, contestant: str, other: str) -> list[float]:
        """For each round, whether both answered the next turn alike."""
        rounds = [number for name, case, number in self.texts if (name, case) == (contestant, NEXT_TURN)]
        return [
            float(self.texts[contestant, NEXT_TURN, number] == self.texts[other, NEXT_TURN, number])
            for number in rounds
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What to measure."""

    model: RandomModel
    prompt_tokens: int
    new_tokens: int = 200
    """Of the next turn, after the prompt and its answer."""
    cases: tuple[str, ...] = (RESEND, NEXT_TURN)
    rounds: int
    resend_bar: Bar | None = None
    next_turn_bar: Bar | None = None
    text_bar: Bar | None = None
    """On the share of answers that are the same with the cache as without it."""

    def __post_init__(self) -> None:
        longest = self.prompt_tokens + _ANSWER_TOKENS + self.new_tokens + _MEASURED_TOKENS
        if self.prompt_tokens < 1 or longest > self.model.context_tokens:
            raise HarnessError(
                f"a prompt of {self.prompt_tokens} tokens cannot be measured: it must have at least 1, and with what "
                f"follows it {self.model.context_tokens} at most"
            )

    @property
    def disk_bytes(self) -> int:
        """Most that lies on the disk at a time: two caches with a fifth more than the prompt, and the model."""
        return self.model.bytes_on_disk + 2 * self.prompt_tokens * self.model.kv_bytes_per_token * 6 // 5

    def run(self, model: Path, fork: Fork, scratch: Path, on_turn: OnTurn | None = None) -> list[Result]:
        """Measures.

        Args:
            model: folder that `self.model` was written to.
            fork: for all contestants.
            scratch: an existing folder for the caches; what is made in it is not removed.
            on_turn: told before each turn.
        """
        lives: dict[str, Life] = {
            OURS: self._life(OURS, "open_engine", model, fork, scratch / "ours"),
            BARE: self._life(BARE, "open_bare_fork", model, fork, scratch / "fork"),
        }
        answers = Answers()
        contestants = [self._contestant(name, life, answers, on_turn) for name, life in lives.items()]
        if NEXT_TURN in self.cases:
            contestants.append(self._in_memory(model, scratch / "memory", answers, on_turn))
        samples = measure_in_turns(contestants, cases=self.cases, rounds=self.rounds, warm_up=0, on_turn=on_turn)
        return self.results(samples, answers)

    def results(self, samples: Samples, answers: Answers) -> list[Result]:
        """The lines of the report."""
        found = [samples.compare(comparison) for comparison in self._comparisons()]
        cold_s = {name: float(answers.cold[name]["ttft_s"]) for name in (OURS, BARE)}
        found.append(
            Result(
                name=f"TTFT, {self.prompt_tokens:,} tokens, cold",
                value=cold_s[OURS],
                unit="s",
                against=cold_s[BARE],
                ratio=cold_s[BARE] / cold_s[OURS],
                better="lower",
                ratio_is="against/value",
                contestant=OURS,
                against_contestant=BARE,
            )
        )
        if RESEND in self.cases:
            name = f"same greedy text, resend and cold, {self.prompt_tokens:,} tokens"
            found.append(_share(name, answers.same_as_cold(OURS), self.text_bar, OURS))
        if NEXT_TURN in self.cases:
            same = answers.same_as(OURS, IN_MEMORY)
            found.append(_share("same greedy text, next turn with and without cache", same, self.text_bar, OURS))
        return found

    def _comparisons(self) -> list[Comparison]:
        found = []
        size = f"{self.prompt_tokens:,} tokens"
        if RESEND in self.cases:
            found += [
                Comparison(
                    name=f"TTFT, identical resend of {size}",
                    measurement="resend_ttft_s",
                    unit="s",
                    better="lower",
                    contestant=OURS,
                    against=BARE,
                    bar=self.resend_bar,
                ),
                Comparison(
                    name=f"tokens restored, identical resend of {size}",
                    measurement="resend_restored_tokens",
                    unit="tokens",
                    better="higher",
                    contestant=OURS,
                    against=BARE,
                ),
                Comparison(
                    name=f"copies from disk to the batch's cache, {size}",
                    measurement="copies",
                    unit="",
                    better="lower",
                    contestant=OURS,
                ),
            ]
        if NEXT_TURN in self.cases:
            found += [
                Comparison(
                    name=f"TTFT, next turn: {self.new_tokens} new after {size}{what}",
                    measurement="next_ttft_s",
                    unit="s",
                    better="lower",
                    contestant=contestant,
                    against=IN_MEMORY,
                    quotient="value/against",
                    bar=bar,
                )
                for contestant, what, bar in ((OURS, "", self.next_turn_bar), (BARE, " (the fork)", None))
            ]
        return found

    @property
    def _prompt(self) -> str:
        return text_of(self.prompt_tokens, "prompt")

    def _next_prompt(self, answers: Answers, round_number: int) -> str:
        # Everyone continues the same conversation, whatever it would have answered itself.
        return self._history(answers) + text_of(self.new_tokens, "turn", round_number)

    def _history(self, answers: Answers) -> str:
        return self._prompt + str(answers.cold[OURS]["text"])

    def _life(self, name: str, function: str, model: Path, fork: Fork, folder: Path) -> Life:
        options = {
            "model": str(model),
            "fork": None if fork.source == "installed" else str(fork.path),
            "cache_dir": str(folder / "cache"),
        }
        folder.mkdir()
        env = _own_home(folder / "home")

        @contextmanager
        def life() -> Iterator[Ask]:
            with WorkerProcess(name, f"{_WORKER}:{function}", options, env=env, timeout_s=_TIMEOUT_S) as worker:
                yield worker.call
                worker.call({"close": True})

        return life

    def _contestant(self, name: str, life: Life, answers: Answers, on_turn: OnTurn | None) -> Contestant:
        @contextmanager
        def opened() -> Iterator[Measure]:
            _tell(on_turn, name, f"{self.prompt_tokens:,} tokens, cold")
            with life() as ask:
                answers.cold[name] = _checked(name, ask({"prompt": self._prompt, "max_tokens": _ANSWER_TOKENS}))
            yield self.measure(name, life, answers)

        return Contestant(name, opened)

    def measure(self, name: str, life: Life, answers: Answers) -> Measure:
        """What a contestant does in its turn: starts anew, and answers one request."""

        def one_turn(turn: Turn) -> Mapping[str, float]:
            prompt = self._prompt if turn.case == RESEND else self._next_prompt(answers, turn.round)
            with life() as ask:
                answer = _checked(name, ask({"prompt": prompt, "max_tokens": _MEASURED_TOKENS}))
            answers.texts[name, turn.case, turn.round] = str(answer["text"])
            if turn.case == NEXT_TURN:
                return {"next_ttft_s": answer["ttft_s"]}
            restored = int(answer["cached_tokens"])
            measured = {"resend_ttft_s": answer["ttft_s"], "resend_restored_tokens": float(restored)}
            if name == OURS:
                if not restored:
                    raise HarnessError("our engine restored nothing of a prompt that it had stored")
                # Reading from the disk into the final arrays is one; what live caches copied afterwards is counted.
                measured["copies"] = 1 + answer["copied_bytes"] / (restored * self.model.kv_bytes_per_token)
            return measured

        return one_turn

    def _in_memory(self, model: Path, folder: Path, answers: Answers, on_turn: OnTurn | None) -> Contestant:
        folder.mkdir()
        env = _own_home(folder / "home")

        @contextmanager
        def opened() -> Iterator[Measure]:
            _tell(on_turn, IN_MEMORY, f"{self.prompt_tokens:,} tokens, cold")
            options = {"model": str(model), "prefix": self._history(answers), "chunk_tokens": _CHUNK_TOKENS}
            target = f"{_WORKER}:open_in_memory"
            with WorkerProcess(IN_MEMORY, target, options, env=env, timeout_s=_TIMEOUT_S) as worker:

                def one_turn(turn: Turn) -> Mapping[str, float]:
                    if turn.case != NEXT_TURN:
                        return {}
                    prompt = self._next_prompt(answers, turn.round)
                    request = {"prompt": prompt, "max_tokens": _MEASURED_TOKENS}
                    answer = _checked(IN_MEMORY, worker.call(request))
                    answers.texts[IN_MEMORY, turn.case, turn.round] = str(answer["text"])
                    return {"next_ttft_s": answer["ttft_s"]}

                yield one_turn

        return Contestant(IN_MEMORY, opened)


def _tell(on_turn: OnTurn | None, contestant: str, what: str) -> None:
    if on_turn is not None:
        on_turn(contestant, Turn(0, what, warm_up=False), 0, 1)


def _checked(name: str, answer: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if answer is None or answer["ttft_s"] is None or not answer["tokens"]:
        raise HarnessError(f"contestant {name!r} generated nothing")
    return answer


def _share(name: str, same: list[float], bar: Bar | None, contestant: str) -> Result:
    return Result(
        name=name,
        value=sum(same) / len(same),
        unit="",
        bar=bar,
        spread=(min(same), max(same)),
        rounds=len(same),
        contestant=contestant,
    )
