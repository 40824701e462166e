"""`bench engine` without an engine: what is asked of the workers, and what becomes of their answers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure import Bar, Turn, engine_worker
from hwledger_omlx.measure.engine_bench import BARE, OURS, EngineBench, Served, Texts, rates, same_text
from hwledger_omlx.measure.prompts import Prompts, endless_copy


class Worker:
    """Answers as a worker would, with times from a list."""

    def __init__(self, text: str = "same", tokens: int = 8) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.text, self.tokens = text, tokens

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        if request.get("memory"):
            return {"peak_rss_bytes": 300, "peak_mlx_bytes": 200}
        one = {"arrivals_s": [0.5 + number / 4 for number in range(self.tokens)], "text": self.text}
        return {"requests": [one for _ in request["prompts"]], "cpu_s": 3.0}


def test_a_turn_asks_for_new_prompts_and_measures() -> None:
    bench = EngineBench(model="m", max_tokens=8, prompt_tokens=100)
    worker, texts = Worker(), Texts()
    measure = bench.measure(OURS, worker, lambda *key: "/".join(map(str, key)), texts)
    assert measure(Turn(3, "ttft", warm_up=False)) == {"ttft_s": 0.5}
    assert measure(Turn(3, "concurrent 2", warm_up=False)) == {
        "decode_tokens_per_s 2": 8.0,
        "tokens_per_s 2": 16 / 2.25,
        "cpu_s 2": 3.0,
    }
    assert measure(Turn(4, "memory", warm_up=False)) == {"peak_rss_bytes": 300.0, "peak_mlx_bytes": 200.0}
    assert worker.asked[0]["prompts"] == ["100/3/ttft/0"]
    assert worker.asked[1] == {"prompts": ["32/3/concurrent 2/0", "32/3/concurrent 2/1"], "max_tokens": 8}
    assert texts.short == 0


def test_texts_are_compared_but_for_the_warm_up() -> None:
    bench, texts = EngineBench(model="m", max_tokens=8), Texts()
    for name, text in ((OURS, "one"), (BARE, "other")):
        for number in range(3):
            worker = Worker(text if number != 2 else "same")
            turn = Turn(number, "concurrent 4", warm_up=number == 0)
            bench.measure(name, worker, lambda *key: "p", texts)(turn)
    result = same_text(texts, "concurrent 4", "same", Bar.value_at_least(1.0))
    assert (result.value, result.spread, result.met) == (0.5, (0.0, 1.0), False)


def test_requests_that_end_early_are_counted_and_empty_ones_refused() -> None:
    bench, texts = EngineBench(model="m", max_tokens=16), Texts()
    bench.measure(OURS, Worker(), lambda *key: "p", texts)(Turn(0, "concurrent 4", warm_up=False))
    assert texts.short == 4
    with pytest.raises(HarnessError, match="generated nothing for 1 of 1"):
        bench.measure(OURS, Worker(tokens=0), lambda *key: "p", texts)(Turn(0, "ttft", warm_up=False))


def test_rates_of_staggered_requests() -> None:
    served = [Served([1.0, 2.0, 3.0, 4.0], ""), Served([2.0, 3.0, 4.0, 5.0, 6.0], "")]
    assert rates(served) == {"decode_tokens_per_s 2": 6 / 4, "tokens_per_s 2": 9 / 6}
    with pytest.raises(HarnessError, match="no token came after"):
        rates([Served([1.0], "")])


async def test_a_worker_times_each_request_as_its_consumer_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))

    async def stream(prompt: str, max_tokens: int) -> AsyncIterator[tuple[int, str]]:
        yield 0, ""
        for _ in range(max_tokens):
            await asyncio.sleep(0)
            yield 1, prompt

    (served,) = await engine_worker._all_at_once(stream, ["a"], 3)
    assert served == {"arrivals_s": [1.0, 2.0, 3.0], "text": "aaa"}
    both = await engine_worker._all_at_once(stream, ["a", "b"], 2)
    assert [each["text"] for each in both] == ["aa", "bb"]


def test_peaks_of_memory() -> None:
    assert engine_worker.peak_rss_bytes() > 1_000_000


@pytest.mark.parametrize("wanted", [1, 64, 512])
def test_prompts_have_the_wanted_length_and_never_repeat(tiny_model: Path, wanted: int) -> None:
    prompts = Prompts(tiny_model)
    made = [prompts.make(wanted, number, "ttft") for number in range(5)]
    assert made == [Prompts(tiny_model).make(wanted, number, "ttft") for number in range(5)]
    lengths = [len(prompts._tokenizer.encode(text).ids) for text in made]
    assert all(abs(length - wanted) <= 2 for length in lengths)
    if wanted > 8:
        assert len({text[:8] for text in made}) == 5


def test_prompts_need_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"no tokenizer\.json"):
        Prompts(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(HarnessError, match="cannot be read"):
        Prompts(tmp_path)


def test_an_endless_copy_has_no_end_token_and_the_same_weights(tiny_model: Path, tmp_path: Path) -> None:
    copy = endless_copy(tiny_model, tmp_path)
    assert json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))["eos_token_id"] == 3
    assert json.loads((copy / "config.json").read_text(encoding="utf-8"))["eos_token_id"] == []
    assert json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))["eos_token"] is None
    assert (copy / "model.safetensors").resolve() == (tiny_model / "model.safetensors").resolve()
    assert {file.name for file in copy.iterdir()} == {file.name for file in tiny_model.iterdir()}
    assert "qwen3" not in str(copy.name)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"concurrency": ()}, "concurrency"),
        ({"concurrency": (1, 1)}, "concurrency"),
        ({"concurrency": (0,)}, "concurrency"),
        ({"max_tokens": 1}, "2 tokens"),
        ({"rounds": 0}, "1 round"),
        ({"prompt_tokens": 5000}, "context of 4096"),
    ],
)
def test_what_cannot_be_measured(tiny_model: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        EngineBench(model=tiny_model, **given).run()
