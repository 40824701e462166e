"""The engine over our cache: what is restored and how much, in both ways to prefill, when requests are given up, run
together, share nothing, or when the folder fails under them. The text is always that of an engine without a cache.
"""

import errno
import gc
import json
import logging
import os
import random
import shutil
import string
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

import hwledger_omlx as hw
from hwledger_omlx.hooks.paged_cache import binding


def prose(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices(string.ascii_letters + " .,", k=length))


PROMPT = prose(1, 1591)
EDITED = PROMPT[:1113] + ("x" if PROMPT[1113] != "x" else "y") + PROMPT[1114:]


def ask(engine: hw.Engine, prompt: str, max_tokens: int = 12, **fields: object) -> tuple[tuple[int, ...], int]:
    result = engine.generate(prompt, max_tokens=max_tokens, temperature=0.0, **fields)  # type: ignore[arg-type]
    return result.token_ids, result.usage.cached_tokens


def test_a_prompt_is_restored_to_the_token(engine: hw.Engine, plain: hw.Engine) -> None:
    answer, cached = ask(engine, PROMPT)
    assert (answer, cached) == (ask(plain, PROMPT)[0], 0)
    assert ask(engine, PROMPT) == (answer, 1590)
    assert ask(engine, EDITED) == (ask(plain, EDITED)[0], 1113)
    longer = PROMPT + prose(2, 200)
    tokens, cached = ask(engine, longer)
    assert tokens == ask(plain, longer)[0]
    assert cached >= 1591
    assert ask(engine, PROMPT[:700]) == (ask(plain, PROMPT[:700])[0], 699)
    assert ask(engine, prose(3, 300))[1] == 0


def test_the_next_turn_begins_after_the_answer(engine: hw.Engine, plain: hw.Engine) -> None:
    first = engine.generate(PROMPT, max_tokens=40, temperature=0.0)
    following = PROMPT + first.text + prose(4, 50)
    tokens, cached = ask(engine, following)
    assert tokens == ask(plain, following)[0]
    # The answer's text, tokenized again, need not be the tokens that were generated; random weights emit broken UTF-8.
    assert cached >= 1591


def test_a_restart_loses_nothing(tiny_model: Path, tmp_path: Path, plain: hw.Engine) -> None:
    for expected in (0, 1590, 1590):
        with hw.Engine(tiny_model, cache_dir=tmp_path / "kv") as engine:
            assert ask(engine, PROMPT) == (ask(plain, PROMPT)[0], expected)


@pytest.mark.parametrize("hot_bytes", [0, 1 << 28])
def test_from_disk_alone_or_from_ram(tiny_model: Path, tmp_path: Path, plain: hw.Engine, hot_bytes: int) -> None:
    settings = hw.PagedCache(hot_bytes=hot_bytes)
    with hw.Engine(tiny_model, cache=settings, cache_dir=tmp_path / "kv") as engine:
        ask(engine, PROMPT)
        engine.cache.flush()
        assert ask(engine, EDITED) == (ask(plain, EDITED)[0], 1113)


def test_progress_covers_the_prompt_and_begins_with_what_was_restored(engine: hw.Engine) -> None:
    ask(engine, PROMPT)
    longer = PROMPT + prose(5, 1400)
    events = list(engine.stream(longer, max_tokens=1))
    done = [event.done_tokens for event in events if isinstance(event, hw.ProgressEvent)]
    totals = {event.total_tokens for event in events if isinstance(event, hw.ProgressEvent)}
    assert totals == {len(longer)}
    assert done == sorted(done)
    assert done[1] > 1590


def test_requests_at_once_share_what_the_first_has_computed(engine: hw.Engine, plain: hw.Engine) -> None:
    prompts = [PROMPT + tail for tail in ("", " one", " two", " three")]
    found: dict[str, tuple[tuple[int, ...], int]] = {}
    threads = [
        threading.Thread(target=lambda text=prompt: found.update({text: ask(engine, text)})) for prompt in prompts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {prompt: tokens for prompt, (tokens, _) in found.items()} == {
        prompt: ask(plain, prompt)[0] for prompt in prompts
    }
    assert sorted(cached for _, cached in found.values())[0] == 0
    assert sum(cached >= 1590 for _, cached in found.values()) == 3


def test_what_a_cancelled_request_has_computed_is_kept(engine: hw.Engine, plain: hw.Engine) -> None:
    stream = engine.stream(PROMPT, max_tokens=200, temperature=0.0, request_id="given-up")
    said: list[int] = []
    for event in stream:
        if isinstance(event, hw.TokenEvent):
            said += event.token_ids
            if len(said) >= 5:
                engine.cancel("given-up")
    assert ask(engine, PROMPT) == (ask(plain, PROMPT)[0], 1590)


def test_an_interrupted_prefill_goes_on_where_it_was(engine: hw.Engine, plain: hw.Engine) -> None:
    prompt = prose(6, 3500)
    stream = engine.stream(prompt, max_tokens=4, temperature=0.0, request_id="long")
    for event in stream:
        if isinstance(event, hw.ProgressEvent) and event.done_tokens > 0:
            engine.cancel("long")
    tokens, cached = ask(engine, prompt)
    assert cached >= 512
    assert tokens == ask(plain, prompt)[0]


def test_tenants_share_nothing(engine: hw.Engine) -> None:
    ask(engine, PROMPT, tenant="a")
    assert ask(engine, PROMPT, tenant="b")[1] == 0
    assert ask(engine, PROMPT)[1] == 0
    assert ask(engine, PROMPT, tenant="a")[1] == 1590
    with pytest.raises(hw.RequestError, match="tenant"):
        engine.generate(PROMPT, tenant=7)  # type: ignore[arg-type]
    assert not binding._tenants


def test_other_weights_at_the_same_path_share_nothing(tmp_path: Path) -> None:
    from hwledger_omlx.fork import probe_model

    def answer() -> tuple[tuple[int, ...], int]:
        with hw.Engine(tmp_path / "model", cache_dir=tmp_path / "kv") as engine:
            return ask(engine, PROMPT)

    probe_model.write(tmp_path / "model", seed=1)
    first = answer()
    assert answer() == (first[0], 1590)
    probe_model.write(tmp_path / "model", seed=2)
    other, cached = answer()
    assert cached == 0
    assert other != first[0]


def test_a_model_in_another_folder_is_the_same_model(tiny_model: Path, tmp_path: Path) -> None:
    for folder, expected in ((tiny_model, 0), (tmp_path / "copy", 1590)):
        if folder != tiny_model:
            shutil.copytree(tiny_model, folder)
        with hw.Engine(folder, cache_dir=tmp_path / "kv") as engine:
            assert ask(engine, PROMPT)[1] == expected


def test_a_quota_is_kept_and_what_is_left_is_right(tiny_model: Path, tmp_path: Path, plain: hw.Engine) -> None:
    quota = 2 << 20
    with hw.Engine(
        tiny_model, cache=hw.PagedCache(quota_bytes=quota, hot_bytes=0), cache_dir=tmp_path / "kv"
    ) as engine:
        for seed in range(12):
            prompt = prose(seed, 1200)
            assert ask(engine, prompt, 4)[0] == ask(plain, prompt, 4)[0]
            assert used_bytes(tmp_path / "kv") <= quota
        for seed in range(12):
            prompt = prose(seed, 1200)
            assert ask(engine, prompt, 4)[0] == ask(plain, prompt, 4)[0]
    assert used_bytes(tmp_path / "kv") <= quota


def used_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # evicted meanwhile
            continue
    return total


def test_generation_goes_on_when_the_folder_is_gone(
    engine: hw.Engine, plain: hw.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask(engine, PROMPT)
    engine.cache.flush()
    shutil.rmtree(tmp_path / "kv")
    with caplog.at_level(logging.WARNING, logger="hwledger_omlx"):
        for seed in (7, 8, 9):
            prompt = prose(seed, 600)
            assert ask(engine, prompt)[0] == ask(plain, prompt)[0]
    assert ask(engine, EDITED)[0] == ask(plain, EDITED)[0]


@pytest.mark.skipif(os.name != "posix", reason="another process holds a lock")
def test_a_second_process_on_the_folder_runs_without_and_says_so(
    tiny_model: Path, engine: hw.Engine, tmp_path: Path
) -> None:
    ask(engine, PROMPT)
    code = (
        "import sys, json, hwledger_omlx as hw\n"
        "with hw.Engine(sys.argv[1], cache_dir=sys.argv[2]) as engine:\n"
        "    done = [engine.generate(sys.argv[3], max_tokens=2).usage.cached_tokens for _ in range(2)]\n"
        "    print(json.dumps([done, engine.cache.state]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model), str(tmp_path / "kv"), PROMPT],
        capture_output=True,
        text=True,
        check=True,
    )
    cached, state = json.loads(run.stdout.splitlines()[-1])
    assert cached == [0, 0]
    assert str(os.getpid()) in state
    assert run.stderr.count("in use") == 1
    assert ask(engine, PROMPT)[1] == 1590


def test_two_engines_of_one_process_share_the_folder(tiny_model: Path, tmp_path: Path) -> None:
    with (
        hw.Engine(tiny_model, cache_dir=tmp_path / "kv") as one,
        hw.Engine(tiny_model, cache_dir=tmp_path / "kv") as other,
    ):
        ask(one, PROMPT)
        assert ask(other, PROMPT)[1] == 1590
        one.close()
        assert ask(other, PROMPT)[1] == 1590


@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_leaves_the_engine_without_a_cache(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(reason, os.strerror(reason), "kv")

    monkeypatch.setattr(hw.PagedCache, "open", refused)
    with caplog.at_level("WARNING"), hw.Engine(tiny_model, cache_dir=tmp_path / "kv") as engine:
        assert ask(engine, "hello", 2)[1] == 0
        assert engine.cache.state.startswith("off: ")
        assert os.strerror(reason) in engine.cache.state
    assert len([each for each in caplog.records if "no KV cache" in each.message]) == 1


def test_a_store_of_another_version_is_left_alone_and_the_engine_runs(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hw.Engine(tiny_model, cache_dir=tmp_path) as engine:
        ask(engine, PROMPT, 2)
    description = next(file for file in tmp_path.iterdir() if file.suffix == ".json")
    description.write_text(
        description.read_text().replace('"version": 2', '"version": 1').replace('"version":2', '"version":1')
    )
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with caplog.at_level("WARNING"), hw.Engine(tiny_model, cache_dir=tmp_path) as engine:
        assert ask(engine, PROMPT, 2)[1] == 0
        assert engine.cache.state.startswith("off: ")
    assert "remove the folder" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_of_the_forks_own_cache_is_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    with hw.Engine(tiny_model, cache="fork", cache_dir=tmp_path / "kv") as engine:
        ask(engine, PROMPT)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kv").rglob("*")}
    with pytest.raises(hw.ForeignFolderError, match="kv"):
        hw.Engine(tiny_model, cache_dir=tmp_path / "kv")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kv").rglob("*")} == before


def test_an_unloaded_model_is_held_by_nobody(tiny_model: Path, tmp_path: Path) -> None:
    # The fork waits at the unloading for the memory of the weights, for seconds where it does not come.
    with hw.Engine(tiny_model, cache_dir=tmp_path / "kv") as engine:
        ask(engine, PROMPT)
        scheduler_class = sys.modules["omlx.scheduler"].Scheduler
        # Those of other tests may not be collected yet; they have no model any more.
        schedulers = [each for each in gc.get_objects() if type(each) is scheduler_class and each.model is not None]
        caches = [cache for each in schedulers if (cache := binding.attached(each)) is not None]
        models = [
            weakref.ref(each.model)
            for each in schedulers
            if binding.attached(each) is not None and each.model is not None
        ]
        del schedulers
    gc.collect()
    assert caches
    assert all(model() is None for model in models)


def test_settings_that_cannot_be_are_refused(tiny_model: Path) -> None:
    for wrong in ("ours", 7, {"quota": 1}):
        with pytest.raises(hw.EngineError, match="cache"):
            hw.Engine(tiny_model, cache=wrong)  # type: ignore[arg-type]


def test_pinned_prefixes_stay(tiny_model: Path, tmp_path: Path) -> None:
    settings = hw.PagedCache(quota_bytes=3 << 20, hot_bytes=0)
    with hw.Engine(tiny_model, cache=settings, cache_dir=tmp_path / "kv") as engine:
        ask(engine, PROMPT)
        assert engine.cache.pin(PROMPT) >= 1590
        for seed in range(20, 40):
            ask(engine, prose(seed, 900), 2)
        assert ask(engine, PROMPT)[1] == 1590
        engine.cache.unpin(PROMPT)
        engine.cache.purge()
        assert ask(engine, PROMPT)[1] == 0
