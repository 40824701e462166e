"""The paged cache on every way in which models keep their state: no text changes, and all that can be restored is.

Each architecture is a tiny model of mlx-lm's code (`architectures/`). The reference is the greedy text without a cache.
"""

import concurrent.futures
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import hwledger_omlx as hw
from architectures import ARCHITECTURES, Architecture, write
from architectures.expected import History
from architectures.models import WINDOW_TOKENS, cache_classes
from architectures.prompts import (
    EDIT_TOKENS,
    PROMPT_TOKENS,
    SYSTEM_TOKENS,
    conversation,
    edited,
    next_turn,
    question,
    token_count,
)

ANSWER_TOKENS = 24
BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
ONE_OF_EACH_KIND = ("qwen3", "deepseek-v3", "gemma3", "qwen3-next", "mamba2", "falcon-h1")


class Subject:
    """A tiny model, and what it says without a cache."""

    def __init__(self, architecture: Architecture, folder: Path) -> None:
        self.architecture = architecture
        self.folder = write(folder, architecture)
        self._said: dict[str, tuple[int, ...]] = {}
        self._texts: dict[str, str] = {}
        self._uncached: hw.Engine | None = None

    def said(self, prompt: str) -> tuple[int, ...]:
        """The tokens of the answer, computed without a cache, once."""
        if prompt not in self._said:
            if self._uncached is None:
                self._uncached = hw.Engine(self.folder, cache=None, progress=False)
            result = ask(self._uncached, prompt)
            self._said[prompt], self._texts[prompt] = result.token_ids, result.text
        return self._said[prompt]

    def text(self, prompt: str) -> str:
        self.said(prompt)
        return self._texts[prompt]

    def engine(self, cache_dir: Path) -> hw.Engine:
        requests = 8 if self.architecture.batches else 1
        return hw.Engine(
            self.folder, cache="paged", cache_dir=cache_dir, max_concurrent_requests=requests, progress=False
        )

    def close(self) -> None:
        if self._uncached is not None:
            self._uncached.close()


def ask(engine: hw.Engine, prompt: str, *, max_tokens: int = ANSWER_TOKENS) -> hw.Generation:
    result = engine.generate(prompt, max_tokens=max_tokens, temperature=0.0)
    assert result.usage.prompt_tokens == token_count(prompt)
    return result


@pytest.fixture(scope="module", params=BY_NAME)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    made = Subject(BY_NAME[request.param], tmp_path_factory.mktemp("architecture") / request.param)
    yield made
    made.close()


def test_every_layer_has_the_cache_that_the_table_names(subject: Subject) -> None:
    assert cache_classes(subject.folder) == subject.architecture.caches


def test_restored_text_is_the_text_and_all_that_can_be_restored_is(subject: Subject, tmp_path: Path) -> None:
    history = History(subject.architecture)
    restored: dict[str, int] = {}

    def check(engine: hw.Engine, step: str, prompt: str) -> None:
        expected, said = history.restorable(prompt), subject.said(prompt)
        result = ask(engine, prompt)
        assert result.token_ids == said, f"{step}: other text, with {result.usage.cached_tokens} tokens restored"
        assert result.usage.cached_tokens == expected, f"{step}: restored {result.usage.cached_tokens}, not {expected}"
        history.serve(prompt, result.text)
        restored[step] = expected

    prompt = conversation()
    edit, other_edit = edited(prompt, "0123456789"), edited(prompt, "9876543210")
    turn = next_turn(prompt, subject.text(prompt))
    with subject.engine(tmp_path) as engine:
        check(engine, "first", prompt)
        check(engine, "resend", prompt)
        check(engine, "edit", edit)
        check(engine, "next turn", turn)
        why = engine.cache.stats().uncached_models.get(subject.folder.name)
        assert why == (None if subject.architecture.stored else "layer caches of class ChunkedKVCache cannot be stored")
    with subject.engine(tmp_path) as engine:
        check(engine, "resend after restart", prompt)
        together = (prompt, turn, other_edit, prompt)
        for text, result in zip(together, at_once(engine, subject, together), strict=True):
            assert result.usage.cached_tokens == history.restorable(text)
    restored["other edit at the same place"] = history.restorable(other_edit)
    if subject.architecture.stored:
        exact = subject.architecture.cut_anywhere
        assert restored == {
            "first": 0,
            "resend": PROMPT_TOKENS - 1,
            "edit": EDIT_TOKENS if exact else SYSTEM_TOKENS,
            "next turn": PROMPT_TOKENS + ANSWER_TOKENS,
            "resend after restart": PROMPT_TOKENS - 1,
            "other edit at the same place": EDIT_TOKENS,
        }
    # A cache that overlooked what follows the shared part would show in the text.
    assert len({subject.said(text) for text in (prompt, edit, turn)}) == 3


def at_once(engine: hw.Engine, subject: Subject, prompts: Sequence[str]) -> list[hw.Generation]:
    """The answers to the prompts, asked at the same time and checked."""
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        results = list(pool.map(lambda prompt: ask(engine, prompt), prompts))
    for prompt, result in zip(prompts, results, strict=True):
        assert result.token_ids == subject.said(prompt), f"{result.usage.cached_tokens} tokens restored"
    return results


@pytest.mark.parametrize("subject", ONE_OF_EACH_KIND, indirect=True)
def test_requests_at_once_find_nothing_and_store_each_prompt_once(subject: Subject, tmp_path: Path) -> None:
    prompt = conversation()
    other = edited(prompt, "0123456789")
    with subject.engine(tmp_path) as engine:
        at_once(engine, subject, [prompt, other, prompt])
        results = at_once(engine, subject, [other, prompt])
    assert [result.usage.cached_tokens for result in results] == [PROMPT_TOKENS - 1] * 2


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_turn_that_the_model_ended_is_restored_with_its_end(name: str, tmp_path: Path) -> None:
    architecture = BY_NAME[name]
    folder = write(tmp_path / name, architecture, end_of_turn_gain=3.0)
    with hw.Engine(folder, cache=None, progress=False) as engine:
        # Which of the questions has an answer that ends by itself, not at once, is chance, and the same each time.
        answers = ((asked, ask(engine, asked, max_tokens=48)) for asked in map(question, range(40)))
        prompt, alone = next(
            (asked, said) for asked, said in answers if said.finish_reason == "stop" and len(said.text) > 5
        )
        turn = next_turn(prompt, alone.text)
        expected = ask(engine, turn)
    restored = []
    for _ in range(2):
        with hw.Engine(folder, cache="paged", cache_dir=tmp_path / "kv", progress=False) as engine:
            assert ask(engine, prompt, max_tokens=48).token_ids == alone.token_ids
            result = ask(engine, turn)
        assert result.token_ids == expected.token_ids
        restored.append(result.usage.cached_tokens)
    assert restored == [token_count(prompt) + len(alone.token_ids) + 1, token_count(turn) - 1]


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_an_answer_longer_than_a_window_is_restored_whole_and_cut(name: str, tmp_path: Path) -> None:
    architecture = BY_NAME[name]
    folder = write(tmp_path / name, architecture)
    length = 2 * WINDOW_TOKENS - 5
    questions = [question(seed) for seed in range(3)]
    with hw.Engine(folder, cache=None, progress=False) as engine:
        answers = [ask(engine, asked, max_tokens=length) for asked in questions]
        # The next turn, and an answer that was edited within what a window has forgotten since.
        turn = next_turn(questions[0], answers[0].text)
        rewritten = next_turn(questions[1], answers[1].text[:70] + " rewritten")
        said = [ask(engine, prompt).token_ids for prompt in (turn, rewritten)]
    history = History(architecture)
    with hw.Engine(folder, cache="paged", cache_dir=tmp_path / "kv", progress=False) as engine:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda asked: ask(engine, asked, max_tokens=length), questions))
        assert [result.token_ids for result in together] == [result.token_ids for result in answers]
        for asked, result in zip(questions, together, strict=True):
            history.serve(asked, result.text)
        for prompt, expected in zip((turn, rewritten), said, strict=True):
            result = ask(engine, prompt)
            assert result.token_ids == expected
            assert result.usage.cached_tokens == history.restorable(prompt)
            history.serve(prompt, result.text)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_messages_are_restored_as_text_is(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / name, BY_NAME[name])
    messages = [{"role": "system", "content": "Be brief. " * 30}, {"role": "user", "content": "Tell me more. " * 30}]
    with hw.Engine(folder, cache="paged", cache_dir=tmp_path / "kv", progress=False) as engine:
        first = engine.generate(messages, max_tokens=ANSWER_TOKENS, temperature=0.0)
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And then?"}]
        second = engine.generate(messages, max_tokens=ANSWER_TOKENS, temperature=0.0)
    with hw.Engine(folder, cache=None, progress=False) as engine:
        alone = engine.generate(messages, max_tokens=ANSWER_TOKENS, temperature=0.0)
    assert second.token_ids == alone.token_ids
    assert second.usage.cached_tokens == first.usage.prompt_tokens + ANSWER_TOKENS
