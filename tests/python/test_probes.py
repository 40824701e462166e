"""The probes, with answerers that are perfect, broken and blind; and that their material is what it claims to be."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from hwledger_omlx import probes
from hwledger_omlx.probes import Conversation


def count_words(conversation: Conversation) -> int:
    return sum(len(re.findall(r"\w+|[^\w\s]", message["content"])) + 4 for message in conversation)


def encode(text: str) -> list[int]:
    return list(text.encode())


@pytest.fixture(scope="module")
def known() -> dict[str, probes.Fact]:
    return {fact.question: fact for fact in probes.facts()}


def perfect(known: dict[str, probes.Fact], conversation: Conversation) -> str:
    """Look the statement up in the conversation; answer only if it is there."""
    text = "\n".join(message["content"] for message in conversation)
    asked = conversation[-1]["content"].rsplit("\n", 1)[-1]
    if asked not in known:
        own = re.search(r"My locker number is (\d+)\.", text)
        return "Noted." if "What" not in asked or own is None else f"{own[1]}."
    fact = known[asked]
    return fact.answer if fact.statement in text else "I don't know."


@pytest.mark.parametrize("role", ["system", "user"])
def test_perfect_answerer_is_right_everywhere(known: dict[str, probes.Fact], role: str) -> None:
    report = probes.recall(
        lambda batch: [perfect(known, conversation).upper() for conversation in batch],
        count_words, lengths=(300, 1000), per_cell=2, role=role,
    )  # fmt: skip
    assert report.accuracy == report.worst == 1.0
    assert report.asked == 2 * 7 * 2
    assert not report.misses
    assert "| 1000 | 100.0 |" in report.table()
    assert json.loads(report.to_json())["accuracy"] == 1.0


def test_broken_answerer_is_wrong_everywhere() -> None:
    report = probes.recall(lambda batch: ["7." for _ in batch], count_words, lengths=(300,), per_cell=1)
    assert report.right == 0
    assert len(report.misses) == 7
    assert {miss.given for miss in report.misses} == {"7."}


def test_forgetting_the_first_half_shows_in_the_shallow_cells(known: dict[str, probes.Fact]) -> None:
    def half_blind(batch: list[Conversation]) -> list[str]:
        cut = []
        for system, *rest in batch:
            text = system["content"]
            cut.append([{"role": "system", "content": text[len(text) // 2 :]}, *rest])
        return [perfect(known, conversation) for conversation in cut]

    report = probes.recall(half_blind, count_words, lengths=(1500,), per_cell=3)
    accuracy = {cell.depth: cell.accuracy for cell in report.cells}
    assert accuracy[0.0] == accuracy[0.25] == 0.0
    assert accuracy[0.75] == accuracy[1.0] == 1.0


def test_cases_are_deterministic_and_as_long_and_deep_as_asked() -> None:
    cases = probes.recall_cases(count_words, lengths=(512, 2048), per_cell=2)
    assert cases == probes.recall_cases(count_words, lengths=(512, 2048), per_cell=2)
    assert cases != probes.recall_cases(count_words, lengths=(512, 2048), per_cell=2, seed=1)
    for case in cases:
        assert case.length - 48 < case.tokens <= case.length
        assert case.tokens == count_words(case.conversation)
        assert abs(case.position - case.depth) < (0.25 if case.length == 512 else 0.06)
        assert case.conversation[0]["content"].count(case.fact.statement) == 1


def test_share_of_facts_is_respected() -> None:
    case = probes.recall_cases(count_words, lengths=(2000,), per_cell=1, fact_share=0.1)[0]
    text = case.conversation[0]["content"]
    facts = sum(fact.statement in text for fact in probes.facts())
    fillers = sum(filler in text for filler in probes.fillers())
    assert 0.03 < facts / (facts + fillers) < 0.2


@pytest.mark.parametrize("length", [20, 1_000_000])
def test_impossible_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="tokens"):
        probes.recall_cases(count_words, lengths=(length,), per_cell=1)


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ("4817.", "4817", True),
        ("  mira   tolvane ", "Mira Tolvane.", True),
        ("14.75 euros.", "14.75 euros", True),
        ("1475 euros.", "14.75 euros.", False),
        ("4817. And more", "4817.", False),
        ("417-2958", "417 2958", False),
        ("", "4817.", False),
    ],
)
def test_matches(given: str, expected: str, same: bool) -> None:
    assert probes.matches(given, expected) is same


def test_questions_have_one_answer() -> None:
    facts = probes.facts()
    assert len({(fact.subject, fact.kind) for fact in facts}) == len(facts) == len({fact.question for fact in facts})
    for fact in facts:
        value = fact.answer.removesuffix(".")
        assert value in fact.statement
        assert fact.statement.lower().index(fact.subject.lower()) < fact.statement.index(value)
        assert value not in fact.question


def test_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    found = probes.perplexity(lambda ids: np.full(len(ids) - 1, -math.log(256)), encode, window=100, windows=3)
    assert found.tokens == 3 * 99
    assert found.perplexity == pytest.approx(256)
    with pytest.raises(ValueError, match="99 values"):
        probes.perplexity(lambda ids: np.zeros(len(ids)), encode, window=100, windows=1)


def test_windows_are_cut_from_the_held_out_text() -> None:
    windows = probes.heldout_windows(encode, window=64, windows=5, separator="\n")
    assert [len(window) for window in windows] == [64] * 5
    text = bytes(token for window in windows for token in window).decode()
    assert text.startswith("\n" + probes.heldout_pieces()[0])
    with pytest.raises(ValueError, match="only"):
        probes.heldout_windows(encode, window=10**7)


def test_divergence_of_a_model_from_itself_and_from_another() -> None:
    def logits(ids: list[int]) -> np.ndarray:
        return np.eye(256)[ids] * 3

    same = probes.divergence(logits, logits, encode, window=50, windows=2)
    assert (same.tokens, same.mean_kl, same.top1) == (100, 0.0, 1.0)
    other = probes.divergence(logits, lambda ids: -logits(ids), encode, window=50, windows=2)
    assert other.top1 == 0.0
    assert other.max_kl >= other.mean_kl > 0.1


def test_agent_session(known: dict[str, probes.Fact]) -> None:
    session = probes.agent_session()
    report = probes.run_session(session, lambda conversation: perfect(known, conversation))
    assert report.accuracy == 1.0
    assert len(session.turns) == 7
    seen: list[int] = []

    def forgetful(conversation: Conversation) -> str:
        seen.append(len(conversation))
        return "?"

    assert probes.run_session(session, forgetful).right == 0
    assert seen == [2, 4, 6, 8, 10, 12, 14]


def test_sessions_of_any_size(known: dict[str, probes.Fact]) -> None:
    session = probes.build_session(count_words, length=900, turns=9, seed=3)
    assert session == probes.build_session(count_words, length=900, turns=9, seed=3)
    assert probes.run_session(session, lambda conversation: perfect(known, conversation)).right == 9
    assert 850 < count_words([{"role": "system", "content": session.system}]) <= 900
    with pytest.raises(ValueError, match="fewer"):
        probes.build_session(count_words, length=100, turns=40)


def test_records_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        probes.facts()[0].answer = "x"  # type: ignore[misc]
