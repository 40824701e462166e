"""When a model counts as stuck: with a clock of the test's own, and a core that does what the test says."""

from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.hooks import prefill_progress
from hwledger_omlx.serve.heartbeat import Heartbeat
from hwledger_omlx.serve.settings import ServerSettings

LIMIT_S = 60.0


class Thread:
    """An inference thread: it answers when the test lets it."""

    def __init__(self) -> None:
        self.free = True
        self.asked: list[Future[int]] = []

    def submit(self, _: Any) -> "Future[int]":
        answer: Future[int] = Future()
        self.asked.append(answer)
        if self.free:
            answer.set_result(1)
        return answer

    def answer(self) -> None:
        self.free = True
        for each in self.asked:
            if not each.done():
                each.set_result(1)


class Watched:
    """A heartbeat over one model."""

    def __init__(self, stuck_after_s: float = LIMIT_S) -> None:
        self.now_s = 1000.0
        self.thread = Thread()
        config = SimpleNamespace(model_name="/models/heartbeat-test")
        self.scheduler = SimpleNamespace(
            requests={}, waiting=[], config=config, has_requests=lambda: bool(self.scheduler.requests)
        )
        self.core = SimpleNamespace(
            scheduler=self.scheduler, _output_collectors={}, _steps_executed=0, _mlx_executor=self.thread
        )
        self.model: Any = SimpleNamespace(
            placed=SimpleNamespace(engine=SimpleNamespace(_engine=SimpleNamespace(engine=self.core)))
        )
        self.heartbeat = Heartbeat(lambda: {"m": self.model}, stuck_after_s, clock=lambda: self.now_s)
        self.heartbeat.look()

    def begin(self, *, taken_in: bool = True) -> None:
        self.core._output_collectors["r"] = object()
        if taken_in:
            self.scheduler.requests["r"] = object()

    def after(self, seconds: float) -> list[str]:
        self.now_s += seconds
        self.heartbeat.look()
        return [each.why for each in self.heartbeat.stuck()]


@pytest.fixture
def watched() -> Iterator[Watched]:
    return Watched()


def test_idle_is_never_stuck(watched: Watched) -> None:
    assert not watched.after(10 * LIMIT_S)
    watched.begin()
    assert not watched.after(LIMIT_S - 1)


def test_a_thread_that_hangs_is_stuck_until_it_goes_on(watched: Watched) -> None:
    watched.begin()
    watched.thread.free = False
    assert not watched.after(1)
    assert not watched.after(LIMIT_S - 2)
    (why,) = watched.after(2)
    assert why.startswith("the inference thread has been busy with one thing for 60 s")
    watched.thread.answer()
    watched.core._steps_executed += 1
    assert not watched.after(1)


@given(last_sign=st.floats(0, 0.999), begins_with=st.booleans())
def test_as_it_is_set_a_hang_is_told_within_ten_seconds(last_sign: float, begins_with: bool) -> None:
    watched = Watched(ServerSettings(engine=EngineConfig(model=None)).stuck_after_s)
    pause_s = watched.heartbeat.pause_s
    if not begins_with:
        watched.begin()
        watched.after(pause_s)
    watched.now_s += last_sign * pause_s
    hangs_s = watched.now_s
    watched.begin()
    watched.core._steps_executed += not begins_with
    watched.thread.free = False
    watched.now_s += (1 - last_sign) * pause_s
    while not watched.after(pause_s):
        assert watched.now_s < hangs_s + 60
    assert watched.now_s - hangs_s < 10


def test_steps_and_chunks_of_prefill_are_signs_of_life(watched: Watched) -> None:
    watched.begin()
    watched.thread.free = False
    for _ in range(3):
        watched.core._steps_executed += 1
        assert not watched.after(LIMIT_S - 1)
    for done in range(3):
        prefill_progress.update(lambda *_: None, None, ("r", done, 9, "heartbeat-test"), {})
        assert not watched.after(LIMIT_S - 1)
    assert watched.after(LIMIT_S)


def test_a_free_thread_that_makes_no_step_is_stuck_too(watched: Watched) -> None:
    watched.begin()
    assert not watched.after(1)
    assert watched.after(LIMIT_S) == ["the inference thread is free and makes no step"]


def test_one_that_was_only_slow_may_be_as_slow_again(watched: Watched) -> None:
    watched.begin()
    watched.thread.free = False
    assert watched.after(LIMIT_S + 5)
    watched.core._steps_executed += 1
    assert not watched.after(1)
    assert not watched.after(2 * LIMIT_S)
    assert watched.after(LIMIT_S + 20)


def test_a_loop_that_does_not_answer_is_stuck(watched: Watched) -> None:
    answers: list[Future[None]] = []

    def ask() -> "Future[None]":
        answers.append(Future())
        return answers[-1]

    loop = Heartbeat(dict, LIMIT_S, clock=lambda: watched.now_s, ask_loop=ask)
    loop.look()
    watched.now_s += LIMIT_S - 1
    assert not loop.stuck()
    watched.now_s += 1
    (stuck,) = loop.stuck()
    assert (stuck.model_id, stuck.for_s) == ("", LIMIT_S)
    answers[-1].set_result(None)
    loop.look()
    assert not loop.stuck()
    assert len(answers) == 2


def test_a_request_that_the_thread_has_no_time_to_take_in_counts(watched: Watched) -> None:
    watched.thread.free = False
    watched.after(1)
    watched.begin(taken_in=False)
    assert watched.after(LIMIT_S)
    watched.thread.answer()
    # What the scheduler does not know and the thread has no work for is nothing to wait for.
    assert not watched.after(1)


def test_a_model_that_was_unloaded_is_forgotten(watched: Watched) -> None:
    watched.begin()
    assert watched.after(LIMIT_S + 1)
    watched.core.scheduler = None
    assert not watched.after(1)
    watched.model = Watched().model
    assert not watched.after(1)
