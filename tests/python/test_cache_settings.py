"""Settings, sizes and statistics of the cache as the Python user writes and reads them."""

import dataclasses
import json
from datetime import UTC, datetime

import pytest

from hwledger_omlx._native import namespace_digest
from hwledger_omlx.cache import Cache, CacheStats, PagedCache, StoreInfo
from hwledger_omlx.cache.sizes import parse_size, size_text
from hwledger_omlx.cache.stats import Durations
from hwledger_omlx.errors import Error, StoreClosedError, StoreConfigError, StoreError
from stores import SPACE, kv, layout_of, open_store, range_ids

GIB = 1 << 30


@pytest.mark.parametrize(
    ("given", "count"),
    [(0, 0), (4096, 4096), ("4096", 4096), ("64GiB", 64 * GIB), ("64 gib", 64 * GIB), (" 1.5 TB ", 1_500_000_000_000),
     ("500MB", 500_000_000), ("1kB", 1000), ("1KiB", 1024), ("3 B", 3)],
)  # fmt: skip
def test_sizes_are_numbers_or_texts(given, count):
    assert parse_size("quota_bytes", given) == count


@pytest.mark.parametrize(
    "given", [-1, True, 1.5, None, "", "GiB", "1 GiB more", "-1GiB", "1e3", "5G", "9999999PiB", "٣"]
)
def test_what_is_no_size_is_said(given):
    with pytest.raises(StoreConfigError, match="quota_bytes must be a number of bytes or a text such as '64GiB'"):
        parse_size("quota_bytes", given)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1 << 20, "1.0 MiB"), ((1 << 20) - 1, "1.0 MiB"),
     (64 * GIB, "64.0 GiB"), (100 * GIB, "100 GiB"), (1 << 50, "1.0 PiB"), (1 << 62, "4096 PiB")],
)  # fmt: skip
def test_sizes_are_written_with_a_unit(count, text):
    assert size_text(count) == text


def test_settings_are_checked_and_kept_in_bytes():
    settings = PagedCache(quota_bytes="64GiB", hot_bytes=0, daily_write_bytes="1TB", ttl_seconds=60, reader_threads=3)
    assert (settings.quota_bytes, settings.hot_bytes, settings.daily_write_bytes) == (64 * GIB, 0, 10**12)
    assert settings == dataclasses.replace(settings)
    assert dataclasses.replace(settings, ttl_seconds=None).ttl_seconds is None
    usual = PagedCache()
    assert 0 < usual.hot_bytes <= 4 * GIB
    assert 0 < usual.queue_bytes <= 2 * GIB
    assert (usual.quota_bytes, usual.daily_write_bytes, usual.ttl_seconds) == (None, None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        usual.hot_bytes = 1
    with pytest.raises(TypeError):
        PagedCache(quota=1)


@pytest.mark.parametrize(
    "wrong",
    [{"quota_bytes": 0}, {"quota_bytes": "much"}, {"queue_bytes": 0}, {"ttl_seconds": 0}, {"ttl_seconds": "1h"},
     {"ttl_seconds": float("nan")}, {"ttl_seconds": float("inf")}, {"reader_threads": 0}, {"reader_threads": 1.5},
     {"segment_bytes": 0}, {"min_free_bytes": -1}],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named(wrong):
    with pytest.raises(StoreConfigError, match=next(iter(wrong))) as raised:
        PagedCache(**wrong)
    assert isinstance(raised.value, ValueError | Error)


def test_the_default_quota_leaves_half_of_the_disk_and_does_not_shrink(tmp_path, monkeypatch):
    free = 30 * GIB
    usage = type("Usage", (), {"free": free, "total": 60 * GIB})
    monkeypatch.setattr("hwledger_omlx.cache.settings.shutil.disk_usage", lambda _: usage)
    with PagedCache(hot_bytes=0).open(tmp_path / "new" / "kv") as store:
        assert CacheStats.parse(store.stats()).disk.quota_bytes == free // 2
    usage.free = 10_000 * GIB
    with PagedCache(hot_bytes=0).open(tmp_path / "new" / "kv") as store:
        assert CacheStats.parse(store.stats()).disk.quota_bytes == 100 * GIB


def test_every_statistic_of_the_core_is_typed(tmp_path):
    with open_store(tmp_path) as store:
        arrays = kv(300)
        store.save(SPACE, layout_of(arrays), range_ids(300), arrays, label="model")
        store.lookup(SPACE, range_ids(300)).release()
        store.lookup(SPACE, [5]).release()
        store.flush()
        text = store.stats()

        class Read(dict):
            """Notes which of its entries were read."""

            def __init__(self, entries):
                super().__init__(entries)
                self.unread = set(entries)

            def __getitem__(self, name):
                self.unread.discard(name)
                return super().__getitem__(name)

        read = json.loads(text, object_hook=Read)
        stats = CacheStats.of(read)
        assert (read.unread, read["counts"].unread) == (set(), set())
        assert stats == CacheStats.parse(text)
        assert (stats.state, stats.lookups.count, stats.lookups.hits) == ("running", 2, 1)
        assert stats.lookups.misses["no_prefix"] == 1
        assert (stats.saves.tokens, stats.disk.tokens, stats.saves.queue_bytes) == (300, 300, 0)
        assert stats.disk.write_amplification >= 1
        assert stats.lookups.durations.count == 2
        shown = str(stats)
        assert "1 no prefix" in shown
        assert "300 tokens" in shown
        assert stats._repr_html_().count("<tr>") == len(stats.summary())
        info = StoreInfo.parse(store.info())
        assert set(json.loads(store.info())) == {field.name for field in dataclasses.fields(info)}
        (space,) = info.namespaces
        assert (space.key, space.label, space.tokens) == (SPACE, "model", 300)
        assert abs((datetime.now(UTC) - space.last_used).total_seconds()) < 3600


def test_durations_tell_their_quantiles():
    said = {"count": 10, "sum": 1000, "max": 700, "buckets": [0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1]}
    durations = Durations.of(said)
    assert durations.mean_seconds == pytest.approx(100e-6)
    assert durations.quantile_seconds(0.5) == pytest.approx(64e-6)
    assert durations.quantile_seconds(0.99) == pytest.approx(700e-6)
    assert (durations.quantile_seconds(0), durations.quantile_seconds(1)) == pytest.approx((64e-6, 700e-6))
    assert (Durations().mean_seconds, Durations().quantile_seconds(0.5), str(Durations())) == (0, 0, "-")
    assert str(durations) == "64 µs median, 700 µs p99, 700 µs max of 10"
    with pytest.raises(ValueError, match="share"):
        durations.quantile_seconds(1.1)


def test_the_cache_of_an_engine_finds_its_prompts(tmp_path):
    other = namespace_digest({"model": "b"})

    def address(prompt, model, tenant):
        return (SPACE if (model, tenant) == (None, "") else other), [ord(letter) for letter in prompt]

    with open_store(tmp_path) as store:
        arrays = kv(3)
        tokens = [ord(letter) for letter in "abc"]
        store.save(SPACE, layout_of(arrays), tokens, arrays, label="mine")
        cache = Cache("paged", tmp_path, store, address)
        assert (cache.state, cache.stats().disk.tokens) == ("running", 3)
        assert (cache.pin("abcd"), cache.pin("abcd", tenant="x"), cache.pin("x")) == (3, 0, 0)
        assert cache.info().pinned == 1
        assert cache.unpin("abcd") == 3
        assert cache.info().pinned == 0
        assert cache.purge("other").blocks == 0
        assert cache.purge("mine").blocks == 1
        cache.flush()
    assert cache.state == "closed"
    cache.flush()
    with pytest.raises(StoreClosedError):
        cache.pin("abc")


@pytest.mark.parametrize(("kind", "state"), [(None, "off"), ("fork", "fork")])
def test_a_cache_that_is_not_ours_has_a_state_and_no_more(kind, state):
    cache = Cache(kind)
    assert (cache.state, cache.stats_json()) == (state, None)
    assert str(cache.stats()).split() == ["state", state]
    cache.flush()
    for call in (cache.info, cache.purge, lambda: cache.pin("x")):
        with pytest.raises(StoreError, match="cache='paged'"):
            call()
