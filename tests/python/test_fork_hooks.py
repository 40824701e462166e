"""The shims alone, without a fork; that they fit the real ones is `test_fork_releases.py`'s business."""

import logging
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from hwledger_omlx.errors import ForkError
from hwledger_omlx.fork.home import fork_home, home, is_upstream_folder, write_json
from hwledger_omlx.hooks import home as home_hook
from hwledger_omlx.hooks import prefill_progress, seeded_sampling


@pytest.fixture
def homes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HWLEDGER_OMLX_HOME", str(tmp_path / "ours"))
    return tmp_path


def test_home_is_the_variable_or_the_data_folder_and_is_made_late(homes, monkeypatch):
    assert (home(), fork_home()) == (homes / "ours", homes / "ours" / "fork")
    monkeypatch.delenv("HWLEDGER_OMLX_HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert home().is_relative_to(homes)
    assert home().name == "hwledger-omlx"
    assert not any(homes.iterdir())


@pytest.mark.parametrize("folder", [".omlx", ".fmlx/deep"])
def test_home_is_never_upstreams_folder_whatever_the_variable_says(homes, monkeypatch, folder):
    monkeypatch.setenv("HWLEDGER_OMLX_HOME", f"~/{folder}")
    with pytest.raises(ForkError, match="belongs to your own oMLX"):
        home()


def test_upstreams_folder_is_known_through_a_link(homes):
    (homes / "disk").mkdir()
    (homes / ".omlx").symlink_to(homes / "disk")
    assert is_upstream_folder(homes / "disk" / "stats.json")
    assert not is_upstream_folder(homes / ".omlx-of-mine")


def test_a_file_is_written_whole_or_not_at_all(homes):
    path = homes / "a" / "b.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert path.read_text() == '{\n "x": 1\n}\n'
    assert [each.name for each in path.parent.iterdir()] == ["b.json"]


def test_paths_in_upstreams_folder_are_moved_and_others_are_not(homes):
    def keep(self, base_path, extra=0):
        return base_path, extra

    def moved(path, *args, **kwargs):
        return home_hook.model_settings(keep.__get__(object()), None, (path, *args), kwargs)

    assert moved(homes / ".omlx") == (fork_home(), 0)
    assert moved(homes / ".fmlx" / "x.json", 2) == (fork_home() / "x.json", 2)
    assert moved("~/.omlx", extra=3) == (fork_home(), 3)
    assert moved(homes / "elsewhere") == (homes / "elsewhere", 0)
    assert home_hook.server_metrics(lambda stats_path=None: stats_path, None, (), {}) is None
    assert home_hook.base_path(Path("anything")) == fork_home()


@pytest.fixture
def told():
    heard = []
    prefill_progress.subscribe("a", lambda done, total: heard.append((done, total)))
    yield heard
    prefill_progress.unsubscribe("a")


def update(*args, **kwargs):
    return prefill_progress.update(lambda *a, **k: "upstream", None, args, kwargs)


def test_subscribers_hear_of_their_request_only(told):
    assert update("a", 1, 10, "model") == "upstream"
    assert update("b", 2, 10, "model", phase="prefill") == "upstream"
    update(request_id="a", processed=10, total=10, model_id="model", phase="prefill")
    prefill_progress.unsubscribe("a")
    update("a", 3, 10, "model")
    assert told == [(1, 10), (10, 10)]


def test_a_subscriber_that_raises_hurts_nobody_and_is_logged_once(caplog):
    def bad(done, total):
        raise RuntimeError("no")

    prefill_progress._failed.clear()
    prefill_progress.subscribe("bad", bad)
    try:
        with caplog.at_level(logging.ERROR, "hwledger_omlx.fork"):
            assert [update("bad", step, 3, "model") for step in range(3)] == ["upstream"] * 3
    finally:
        prefill_progress.unsubscribe("bad")
    assert len(caplog.records) == 1


def test_mix_is_splitmix64():
    # First outputs of SplitMix64 seeded with 0, as published with the reference implementation.
    assert seeded_sampling._finalize(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    assert seeded_sampling._finalize(2 * 0x9E3779B97F4A7C15 % 2**64) == 0x6E789E6AA1B965F4
    drawn = {seeded_sampling.mix(seed, step) for seed in (-1, 0, 1, 7, 2**63, 0x9E3779B97F4A7C15) for step in range(50)}
    assert len(drawn) == 300
    assert all(0 <= each < 2**64 for each in drawn)


LOGPROBS = mx.zeros((1, 4096))


def sampler(seed, temperature=1.0, made=(), bare=None):
    def upstream(params, request=None):
        def draw(logprobs):
            return mx.random.categorical(logprobs)

        draw.temp = params.temperature
        return bare or draw, ["processor"]

    params = SimpleNamespace(seed=seed, temperature=temperature)
    request = SimpleNamespace(output_token_ids=list(made))
    built, processors = seeded_sampling.build_sampler(upstream, None, (params,), {"request": request})
    assert processors == ["processor"]
    return built


def draws(one, count=6):
    return [one(LOGPROBS).item() for _ in range(count)]


def test_a_seed_gives_the_same_draws_whatever_happens_between_them():
    alone = draws(sampler(7))
    one, other, unseeded = sampler(7), sampler(8), sampler(None)
    mixed = []
    for _ in range(6):
        # Lazy on purpose: the key is taken when the graph is built, not when it is evaluated.
        waiting = [other(LOGPROBS), one(LOGPROBS), unseeded(LOGPROBS)]
        mx.random.seed(99)
        mx.eval(waiting)
        mixed.append(waiting[1].item())
    assert mixed == alone
    assert len(set(alone)) > 1
    assert draws(sampler(8)) != alone


def test_requests_without_a_seed_never_repeat_whatever_has_been_seeded():
    drawn = []
    for _ in range(4):
        mx.random.seed(5)
        draws(sampler(5), 1)
        drawn.append(tuple(draws(sampler(None), 3)))
    assert len(set(drawn)) == 4


def test_a_request_that_is_taken_up_again_goes_on_where_it_was():
    whole = draws(sampler(7))
    assert draws(sampler(7, made=whole[:2]), 4) == whole[2:]


def test_greedy_requests_are_left_alone_and_attributes_stay():
    def greedy(logprobs):
        return mx.argmax(logprobs, axis=-1)

    assert sampler(7, 0.0, bare=greedy) is greedy
    assert sampler(7).temp == 1.0
