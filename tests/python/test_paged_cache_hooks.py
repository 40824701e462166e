"""The hooks where things go wrong or another way than usual: nothing wrong is stored, and no request suffers."""

import gc
import logging
import random
import shutil
import string
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import hwledger_omlx as hw
from hwledger_omlx.hooks.layer_caches.dial import Dial
from hwledger_omlx.hooks.layer_caches.live import LiveBatchKVCache, LiveKVCache
from hwledger_omlx.hooks.paged_cache import parts, scheduler
from hwledger_omlx.hooks.paged_cache.prefix_cache import Prefix, PrefixCache

PROMPT = "".join(random.Random(7).choices(string.ascii_letters + " .,", k=700))


def ask(engine: hw.Engine, prompt: str, max_tokens: int = 8, **fields: Any) -> hw.Generation:
    return engine.generate(prompt, max_tokens=max_tokens, temperature=0.0, **fields)


@pytest.mark.parametrize("error", [RuntimeError("no memory"), MemoryError(), ValueError("v2"), KeyError("k")])
@pytest.mark.parametrize("where", ["room", "stored"])
def test_what_fails_in_the_cache_fails_no_request(
    engine: hw.Engine,
    plain: hw.Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    error: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise error

    ask(engine, PROMPT)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, logger="hwledger_omlx"):
        patched.setattr(parts, where, fail)
        for prompt in (PROMPT, PROMPT + "more"):
            assert ask(engine, prompt).token_ids == ask(plain, prompt).token_ids
    assert len([each for each in caplog.records if "the KV cache failed" in each.message]) == 1
    assert ask(engine, PROMPT).usage.cached_tokens == 699


def test_an_answer_that_a_stop_text_ended_is_restored(engine: hw.Engine, plain: hw.Engine) -> None:
    # Random weights emit broken UTF-8 too, and some prompts nothing else.
    prompt, stop = next(
        (prompt, char)
        for prompt in (PROMPT[:length] for length in range(700, 600, -1))
        for text in [ask(plain, prompt, 40).text]
        for place, char in enumerate(text)
        if place > 3 and char != "\ufffd" and char not in text[:place]
    )
    stopped = ask(engine, prompt, 40, stop=[stop])
    assert stopped.finish_reason == "stop"
    engine.cache.flush()
    # The last token that was generated has no KV yet.
    assert engine.cache.stats().disk.tokens >= len(prompt) + stopped.usage.completion_tokens - 1
    following = prompt + stopped.text + "and so on"
    assert ask(engine, following).token_ids == ask(plain, following).token_ids


def test_a_finished_or_cancelled_request_holds_nothing(engine: hw.Engine) -> None:
    ask(engine, PROMPT)
    ask(engine, PROMPT)
    begun = threading.Event()

    def read() -> None:
        for event in engine.stream(PROMPT[::-1] * 4, max_tokens=4, request_id="given-up"):
            if isinstance(event, hw.ProgressEvent):
                begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(60)
    engine.cancel("given-up")
    reader.join()
    ask(engine, "another")
    alive = [each for each in gc.get_objects() if type(each) is Prefix]
    assert not [each for each in alive if each.caches or each.held]


class _Saved:
    """Takes down what is saved."""

    def __init__(self) -> None:
        self.tokens: list[list[int]] = []

    def save(self, prefix: Prefix, tokens: "array[int]", caches: object) -> None:
        self.tokens.append(tokens.tolist())


@pytest.mark.parametrize(
    ("in_steps", "fed", "saved"),
    [
        (False, [5, 6, 7, 8, 9], [5, 6, 7, 8, 9]),
        (False, [5, 6], None),
        (True, [7, 8, 9], [5, 6, 7, 8, 9]),
        (True, [], None),
        # A prompt of one token over and over, whose answer repeats it.
        (True, [5, 5, 5, 5], [5, 6, 7, 5, 5, 5]),
    ],
)
def test_a_row_is_saved_under_the_tokens_that_it_has_seen(
    in_steps: bool, fed: list[int], saved: list[int] | None
) -> None:
    cache: Any = _Saved()
    prefix = Prefix(b"ns", "", Dial(), array("I", [5, 6, 7]), [], 0, 0, None, in_steps=in_steps)
    scheduler._save_row(cache, SimpleNamespace(prompt_token_ids=[5, 6, 7]), prefix, [object()], fed)
    assert cache.tokens == ([] if saved is None else [saved])


def test_a_row_that_the_batch_has_not_taken_yet_is_not_saved() -> None:
    cache: Any = _Saved()
    prefix = Prefix(b"ns", "", Dial(), array("I", [5, 6, 7]), [], 0, 0, None)
    waiting = SimpleNamespace(_generation_batch=SimpleNamespace(uids=[1]), extract_cache=lambda _: pytest.fail("asked"))
    request = SimpleNamespace(prompt_token_ids=[5, 6, 7])
    scheduler._save_running(cache, SimpleNamespace(batch_generator=waiting), request, prefix, 2)
    assert cache.tokens == []


def test_a_batch_of_one_grows_in_the_memory_that_was_restored() -> None:
    def address(keys: Any) -> int:
        return int(np.asarray(memoryview(keys)).__array_interface__["data"][0])

    cache = LiveKVCache(512)
    token = mx.ones((1, 2, 1, 4))
    cache.update_and_fetch(mx.ones((1, 2, 300, 4)), mx.ones((1, 2, 300, 4)))
    mx.eval(cache.keys, cache.values)
    before = address(cache.keys)
    batch = LiveBatchKVCache.adopt(cache)
    for _ in range(3):
        mx.eval(batch.update_and_fetch(token, token))
        assert address(batch.keys) == before


def test_a_record_that_stays_bad_ends_the_search(tmp_path: Path) -> None:
    asked = 0

    class Bad:
        restorable, tokens, description, snapshot_meta = 5, 5, b"", None

        def release(self) -> None:
            pass

    class Store:
        def lookup(self, *_: object, **__: object) -> Any:
            nonlocal asked
            asked += 1
            return Bad()

        def layouts(self, label: str) -> list[tuple[bytes, bytes]]:
            return []

    class Nothing(PrefixCache):
        def _read(self, *_: object) -> int:
            return 0

    make: Callable[[], list[Any]] = list
    found: Any = parts
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(found, "described_by", lambda _: ())
        cache = Nothing(store=Store(), label="m", make_caches=make, namespace=lambda *_: b"ns", prefill=make)  # type: ignore[arg-type]
        opened = cache.open(array("I", range(10)), tenant="", dial=Dial(), reserve_tokens=0)
    assert (asked, opened.restored_tokens, opened.held) == (2, 0, None)


def test_unloading_tells_no_one_of_a_cache_that_cannot_be_written(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hw.Engine(tiny_model, cache_dir=tmp_path / "kv") as engine:
        engine.cache.flush()
        shutil.rmtree(tmp_path / "kv")
        ask(engine, PROMPT)
        with caplog.at_level(logging.WARNING, logger="hwledger_omlx"):
            engine.unload(next(iter(engine.models)))
        assert engine.models == {}


@pytest.mark.parametrize("prompt", [5, None, [], "", [-1], [2**32], b"abc", [1.5], [{"role": "user"}, 3]])
def test_only_a_prompt_can_be_pinned(engine: hw.Engine, prompt: Any) -> None:
    with pytest.raises(hw.RequestError, match="a prompt is a text"):
        engine.cache.pin(prompt)


def test_wrong_calls_of_a_cache_are_said(engine: hw.Engine) -> None:
    ask(engine, PROMPT)
    assert engine.cache.pin(PROMPT) == engine.cache.unpin(PROMPT) > 0
    with pytest.raises(hw.RequestError, match="tenant must be a text"):
        engine.cache.pin(PROMPT, tenant=5)  # type: ignore[arg-type]
    with pytest.raises(hw.RequestError, match="model must be the label"):
        engine.cache.purge(5)  # type: ignore[arg-type]
    engine.close()
    with pytest.raises(hw.StoreClosedError, match="closed with its engine"):
        engine.cache.pin(PROMPT)
