"""The live ledger against the caches themselves: what each sample says is what they hold at that moment."""

import concurrent.futures
import contextlib
import json
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import hwledger_omlx as hw
from architectures import ARCHITECTURES, write
from architectures.prompts import conversation
from hwledger_omlx.engine import upstream
from hwledger_omlx.hooks.layer_memory import attached as attaching
from hwledger_omlx.hooks.layer_memory.peaks import PeakInterval
from hwledger_omlx.hooks.layer_memory.requests import RequestRecord, subscribe
from hwledger_omlx.hooks.layer_memory.sampler import Sampler

PROMPT = "The quick brown fox jumps over the lazy dog, and then does so again. " * 12


def scheduler_of(engine: hw.Engine) -> Any:
    return upstream.scheduler_of(next(iter(engine._session.loaded.values())).placed)


def sampler_of(engine: hw.Engine) -> Sampler:
    sampler = attaching.attached(scheduler_of(engine))
    assert sampler is not None
    return sampler


def samples_of(engine: hw.Engine) -> list[dict[str, Any]]:
    ledger = sampler_of(engine).ledger
    return [json.loads(said) for number in range(ledger.samples) if (said := ledger.event(number))]


def ask(engine: hw.Engine, prompt: str = PROMPT, **fields: Any) -> hw.Generation:
    return engine.generate(prompt, **{"max_tokens": 24, "temperature": 0.0, **fields})


@contextlib.contextmanager
def records() -> Iterator[list[RequestRecord]]:
    heard: list[RequestRecord] = []
    unsubscribe = subscribe(heard.append)
    try:
        yield heard
    finally:
        unsubscribe()


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What mlx-lm says that all caches hold, and what the sample says, for every sample that is taken."""
    seen: list[tuple[int, int]] = []
    taken = Sampler._sample

    def sample(self: Sampler, scheduler: Any, phase: int, track: Any) -> None:
        taken(self, scheduler, phase, track)
        said = json.loads(self.ledger.event(self.ledger.samples - 1) or "")
        batches = scheduler.batch_generator
        batched = 0 if batches is None else batches.prompt_cache_nbytes
        prefilled = [each for at_work in self._joining.values() for each in at_work.live_caches() or ()]
        held = batched + sum(_nbytes(cache) for cache in prefilled)
        seen.append((held, said["kv_allocated_bytes"] + said["state_bytes"]))
        if batches is not None:
            _check_tokens(self, scheduler, batches._generation_batch)

    monkeypatch.setattr(Sampler, "_sample", sample)
    return seen


def _nbytes(cache: Any) -> int:
    if hasattr(cache, "caches"):
        return sum(_nbytes(each) for each in cache.caches)
    if hasattr(cache, "keys") and cache.keys is None:
        return 0
    return int(cache.nbytes)


def _check_tokens(sampler: Sampler, scheduler: Any, batch: Any) -> None:
    """The tokens of each row, for which the sample evaluates nothing, by the arrays that it does not evaluate."""
    for place, uid in enumerate(batch.uids):
        track = sampler._tracks.get(scheduler.uid_to_request_id.get(uid, ""))
        if track is None:
            continue
        cells = list(zip(*[iter(track.cells)] * 4, strict=True))
        for cache, (_, allocated, used, tokens) in zip(batch.prompt_cache, cells, strict=False):
            if hasattr(cache, "left_padding") and hasattr(cache, "_idx") and not hasattr(cache, "max_size"):
                assert tokens == cache._idx - int(cache.left_padding[place].item())
                assert 0 < used <= allocated


ARCHITECTURES_TESTED = ("gemma3", "qwen3-next", "deepseek-v32", "falcon-h1", "llama4")


@pytest.mark.parametrize("name", ARCHITECTURES_TESTED)
def test_sums_are_the_bytes_of_the_caches_at_every_sample(
    tmp_path: Path, checked: list[tuple[int, int]], name: str
) -> None:
    architecture = next(each for each in ARCHITECTURES if each.name == name)
    folder = write(tmp_path / name, architecture)
    prompts = [conversation()[: 300 * number] for number in ((1, 2, 3) if architecture.batches else (1,))]
    with hw.Engine(folder, cache=None, progress=False) as engine:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda asked: ask(engine, asked[1], max_tokens=20 + 9 * asked[0]), enumerate(prompts)))
        report = engine.memory()
        samples = samples_of(engine)
    assert len(checked) == len(samples) > 4
    assert [said for _, said in checked] == [held for held, _ in checked]
    assert any(held for held, _ in checked)
    assert max(each["requests"] for each in samples) == len(prompts)
    assert {"prefill", "join", "decode"} <= {each["phase"] for each in samples}
    has_state = "ArraysCache" in architecture.caches
    assert any(each["state_bytes"] for each in samples) == has_state
    assert report.models[0].sampling.failures == 0
    assert checked[-1] == (0, 0)


@pytest.mark.parametrize("kv", ["8", "channel-4,0:16", "3,first=4,recent=24"])
def test_sums_hold_at_a_policy_and_for_requests_at_different_ones(
    tiny_model: Path, checked: list[tuple[int, int]], kv: str
) -> None:
    with hw.Engine(tiny_model, cache=None, progress=False) as engine:
        plain = engine.stream(PROMPT, max_tokens=200, temperature=0.0)
        next(each for each in plain if isinstance(each, hw.TokenEvent))
        engine.set_kv_policy(kv)
        encoded = engine.stream(PROMPT[:300], max_tokens=100, temperature=0.0)
        for _, event in zip(range(40), encoded, strict=False):
            assert event
        report = engine.memory()
    assert [said for _, said in checked] == [held for held, _ in checked]
    assert report.models[0].kv_policy != "16"
    one, other = report.models[0].requests
    assert {one.kv_policy, other.kv_policy} == {"16", report.models[0].kv_policy}
    held = next(each for each in (one, other) if each.kv_policy != "16").caches[1]
    assert held.cache_class == "QuantizedKVCache"
    assert held.k_bits in (8.0, 4.0, 3.0)
    assert held.k_format.partition(":")[0] in {"affine", "channel"}
    assert held.used_bytes.value is not None
    assert held.allocated_bytes.value is not None
    assert 0 < held.used_bytes.value <= held.allocated_bytes.value


def test_what_the_paged_cache_restores_is_seen(
    tiny_model: Path, tmp_path: Path, checked: list[tuple[int, int]]
) -> None:
    with hw.Engine(tiny_model, cache_dir=tmp_path, progress=False) as engine:
        ask(engine)
        ask(engine)
        engine.cache.flush()
        samples, report = samples_of(engine), engine.memory()
    assert [said for _, said in checked] == [held for held, _ in checked]
    restored = next(each for each in samples if each["phase"] == "restore")
    assert restored["kv_used_bytes"] > 0
    assert restored["restored_bytes"] > 0
    assert report.store.restored_bytes.value == restored["restored_bytes"]
    assert report.store.hot_bytes.value is not None
    assert report.store.page_faults.source == "measured"


def test_prefill_in_steps_is_seen_chunk_by_chunk(tiny_model: Path, checked: list[tuple[int, int]]) -> None:
    with hw.Engine(tiny_model, cache=None, progress=False) as engine:
        scheduler = scheduler_of(engine)
        scheduler.config.chunked_prefill, scheduler.config.prefill_step_size = True, 100
        first = ask(engine)
        samples, peak = samples_of(engine), engine.memory().models[0].peak
    assert first.usage.prompt_tokens == len(PROMPT)
    chunks = [each["chunk"] for each in samples if each["phase"] == "prefill"]
    assert chunks == list(range(1, -(-(len(PROMPT) - 1) // 100) + 1))
    assert [said for _, said in checked] == [held for held, _ in checked]
    assert peak is not None
    highest = max((each for each in samples), key=lambda each: each["mlx_peak_bytes"])
    assert (peak.bytes.value, peak.phase, peak.chunk) == (
        highest["mlx_peak_bytes"],
        highest["phase"],
        highest["chunk"],
    )


def test_mlx_counts_what_the_samples_say(plain: hw.Engine) -> None:
    stream = plain.stream(PROMPT, max_tokens=100, temperature=0.0)
    for _, event in zip(range(40), stream, strict=False):
        assert event
    model, mlx = plain.memory().models[0], plain.memory().mlx
    for event in stream:
        assert event
    assert model.weights_bytes.value is not None
    assert model.kv_allocated_bytes.value is not None
    held = model.weights_bytes.value + model.kv_allocated_bytes.value
    assert mlx.active_bytes.value is not None
    assert mlx.peak_bytes.value is not None
    # Beside weights and KV there are a few activations, and whatever else the process has.
    assert held <= mlx.active_bytes.value <= mlx.peak_bytes.value
    assert all(each["mlx_peak_bytes"] >= each["mlx_active_bytes"] for each in samples_of_closed(model))


def samples_of_closed(model: Any) -> list[dict[str, int]]:
    history = model.history
    pairs = zip(history.mlx_active_bytes, history.mlx_peak_bytes, strict=True)
    return [{"mlx_active_bytes": active, "mlx_peak_bytes": peak} for active, peak in pairs]


def test_a_peak_is_seen_by_everybody_who_asks() -> None:
    mx.reset_peak_memory()
    one, other = PeakInterval(), PeakInterval()
    one.take()
    other.take()
    large = mx.zeros((1 << 20,), mx.float32)
    mx.eval(large)
    del large
    assert one.take() >= 4 << 20
    assert one.take() < 4 << 20
    assert other.take() >= 4 << 20
    assert mx.get_peak_memory() >= 4 << 20
    mx.reset_peak_memory()
    assert mx.get_peak_memory() < 4 << 20


# -- requests ---------------------------------------------------------------------------------------------------


def test_a_request_that_ends_leaves_a_record(plain: hw.Engine) -> None:
    before = len(samples_of(plain))
    with records() as heard:
        done = ask(plain, request_id="mine", max_tokens=24)
    held = [each["kv_allocated_bytes"] for each in samples_of(plain)[before:] if each["phase"] == "decode"]
    weights = plain.memory().models[0].weights_bytes.value
    (record,) = heard
    assert (record.request_id, record.model_id, record.kv_policy) == ("mine", "tiny", "16")
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (len(PROMPT), 0, 24)
    assert (record.finish_reason, record.batch_peak, record.weights_bytes) == ("length", 1, weights)
    assert record.kv_bytes == max(held) > 0
    assert record.peak_bytes >= record.kv_bytes + record.weights_bytes
    assert 0 <= record.queue_s <= record.queue_s + record.prefill_s <= record.ttft_s <= record.total_s
    assert 0 < record.decode_s < record.total_s <= done.timings.total_s
    assert record.chunk_tokens == 512


def test_a_request_arrives_when_it_is_made_and_not_when_the_inference_thread_has_time(plain: hw.Engine) -> None:
    request = types.SimpleNamespace(
        request_id="late",
        num_prompt_tokens=4,
        cached_tokens=0,
        output_token_ids=[],
        arrival_time=time.monotonic() - 100,
    )
    began_unix_s = time.time() - 100
    with records() as heard:
        sampler_of(plain).arrives(scheduler_of(plain), request)
        sampler_of(plain).end("late", "cancelled")
    (record,) = heard
    assert min(record.queue_s, record.total_s) >= 100
    assert record.arrived_unix_s == pytest.approx(began_unix_s, abs=50)


def test_ends_of_all_kinds_are_told_apart(tiny_model: Path, tmp_path: Path) -> None:
    with records() as heard, hw.Engine(tiny_model, cache_dir=tmp_path, progress=False) as engine:
        text = ask(engine, max_tokens=30).text
        ask(engine, max_tokens=30, stop=[text[10:12]])
        stream = engine.stream(PROMPT, max_tokens=4000, temperature=0.0, request_id="given-up")
        next(each for each in stream if isinstance(each, hw.TokenEvent))
        stream.close()
        while len(heard) < 3:
            ask(engine, "x", max_tokens=1)
    assert [each.finish_reason for each in heard[:3]] == ["length", "stop", "cancelled"]
    assert heard[1].cached_tokens == len(PROMPT) - 1
    assert heard[2].request_id == "given-up"
    assert heard[2].kv_bytes > 0


def test_requests_that_fail_are_told(plain: hw.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with records() as heard:
        scheduler = scheduler_of(plain)

        def fails(*_: Any, **__: Any) -> int:
            raise RuntimeError("no memory for this chunk")

        with monkeypatch.context() as patch:
            patch.setattr(type(scheduler), "_adaptive_chunk_size", fails)
            with pytest.raises(hw.EngineError, match="no memory for this chunk"):
                ask(plain)
        assert ask(plain).finish_reason == "length"
        assert plain.memory().models[0].requests == ()
    assert [each.finish_reason for each in heard] == ["error", "length"]


def test_requests_beside_each_other_are_counted(plain: hw.Engine) -> None:
    with records() as heard:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda _: ask(plain, max_tokens=60), range(3)))
        ask(plain)
    assert [each.batch_peak for each in heard][-1] == 1
    assert max(each.batch_peak for each in heard) >= 2


def test_a_listener_that_fails_harms_nobody(plain: hw.Engine, caplog: pytest.LogCaptureFixture) -> None:
    def fails(record: RequestRecord) -> None:
        raise RuntimeError("a listener's own trouble")

    unsubscribe = subscribe(fails)
    try:
        with records() as heard:
            assert ask(plain).finish_reason == "length"
            assert ask(plain).finish_reason == "length"
    finally:
        unsubscribe()
        unsubscribe()
    assert len(heard) == 2
    assert sum("listener of finished requests" in each.message for each in caplog.records) <= 1


# -- what goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["record", "walk", "arrive", "counter"])
def test_a_sampler_that_fails_never_harms_the_request(
    plain: hw.Engine, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a sampler's own trouble")

    expected = ask(plain).token_ids
    sampler = sampler_of(plain)
    before = plain.memory().models[0].sampling.failures
    match place:
        case "record":
            monkeypatch.setattr(Sampler, "_sample", fails)
        case "walk":
            monkeypatch.setattr(sampler._walk, "add_batch", fails)
        case "arrive":
            monkeypatch.setattr("hwledger_omlx.hooks.layer_memory.sampler.dial_of", fails)
        case "counter":
            monkeypatch.setattr(sampler._interval, "take", fails)
    assert ask(plain).token_ids == expected
    sampling = plain.memory().models[0].sampling
    monkeypatch.undo()
    assert ask(plain).token_ids == expected
    assert plain.memory().models[0].requests == ()
    assert sampling.failures > before
    assert sampling.last_failure == "RuntimeError: a sampler's own trouble"


def test_a_cache_of_an_unknown_class_is_told_as_such(plain: hw.Engine) -> None:
    class Odd:
        offset = 3

    class Sized(Odd):
        nbytes = 77

    sampler = sampler_of(plain)
    walk = sampler._walk
    walk.clear()
    number = sampler.ledger.begin("odd", 3, "16")
    sampler.ledger.advance(number, 2, 0)
    walk.add_own(number, [Odd(), Sized()])
    sampler.ledger.record(4, number, 0, None, None, None, walk.rows, walk.cells)
    model = plain.memory().models[0]
    sampler.ledger.end(number)
    odd, sized = model.requests[0].caches
    assert odd.allocated_bytes.value is None
    assert "Odd is not known" in odd.allocated_bytes.how
    assert (sized.allocated_bytes.value, sized.allocated_bytes.source) == (77, "measured")
    assert sized.used_bytes.value is None
    assert model.kv_allocated_bytes.value is None
    assert model.kv_allocated_bytes.source == "unavailable"
