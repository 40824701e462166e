"""The memory report as users have it: typed, as arrays, as JSON, drawn, streamed, and from another process."""

import asyncio
import dataclasses
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from typer.testing import CliRunner

import hwledger_omlx as hw
from hwledger_omlx._native import LayerMemory, memory_report
from hwledger_omlx.cli import app
from hwledger_omlx.cli.top import application, drawn
from hwledger_omlx.hooks.layer_memory import published
from hwledger_omlx.memory import processes, records
from hwledger_omlx.memory.events import MemoryEvents
from hwledger_omlx.memory.top_view import COLUMN_NAMES, TopView
from hwledger_omlx.memory.view_svg import bar_svg, heatmap_svg

_PLAIN = re.compile(r"\x1b\[[0-9;]*m")

SCHEMA = Path(__file__).parents[2] / "schema" / "hwledger.v1.json"
PROMPT = "The quick brown fox jumps over the lazy dog, and then does so again. " * 12


def figure(value: float | None, why: str = "a test") -> dict[str, Any]:
    return {"value": value, "source": "unavailable" if value is None else "measured", "how": why}


AROUND = json.dumps(
    {
        "mlx": {
            **{name: figure(5 << 20) for name in ("active_bytes", "cache_bytes", "peak_bytes")},
            "device_bytes": figure(1 << 30),
            "free_bytes": figure(None, "nobody says"),
        },
        "store": None,
        "why_no_store": "there is none",
        "unsampled": [],
    }
)


def ledger(layers: int = 3, samples: int = 20, **limits: int) -> LayerMemory:
    """A ledger of one request, whose layers grow."""
    made = LayerMemory("made <up>", decode_steps=16, **limits)
    made.set_weights_bytes(1 << 20)
    shapes = [
        made.shape(layer, 0, "sequence", "KVCache", k_format="bfloat16", v_format="bfloat16", k_bits=16.0, v_bits=16.0)
        for layer in range(layers)
    ]
    number = made.begin("request & more", 100, "16")
    made.advance(number, 2, 7)
    for sample in range(1, samples + 1):
        cells = [each for shape in shapes for each in (shape, 4096 * sample * (shape + 1), 4096 * sample, sample)]
        made.record(2 if sample < 5 else 4, number, sample if sample < 5 else 0, 9000, 1, 9999, [number, layers], cells)
    return made


@pytest.fixture
def made() -> hw.MemoryReport:
    return hw.MemoryReport.of(memory_report([ledger()], AROUND))


@pytest.fixture(scope="module")
def busy(tiny_model: Path) -> Iterator[tuple[hw.Engine, hw.MemoryReport]]:
    """An engine, and its report while it was generating."""
    with hw.Engine(tiny_model, cache=None, progress=False) as engine:
        stream = engine.stream(PROMPT, max_tokens=60, temperature=0.0)
        for _, event in zip(range(30), stream, strict=False):
            assert event
        report = engine.memory()
        for event in stream:
            assert event
        yield engine, report


# -- the report ------------------------------------------------------------------------------------------------


def test_reports_follow_the_schema(busy: tuple[hw.Engine, hw.MemoryReport], made: hw.MemoryReport) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    empty = hw.MemoryReport.of(memory_report([], AROUND))
    for report in (busy[0].memory(), busy[1], made, empty):
        said = json.loads(report.to_json())
        validator.validate(said)
        said["schema"] = "hwledger.v2"
        assert not validator.is_valid(said)
        del said["mlx"]
        assert not validator.is_valid(said)


def test_the_types_here_are_those_of_the_schema() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    definitions = {**schema["$defs"], "MemoryReport": schema}
    classes = [each for each in vars(records).values() if dataclasses.is_dataclass(each)]
    named = {each.__name__: each for each in [*classes, hw.MemoryReport] if isinstance(each, type)}
    for name, kind in named.items():
        if name in {"Figure", "MemoryEvent"}:
            continue
        fields = [each.name for each in dataclasses.fields(kind) if not each.name.startswith("_")]
        assert sorted(fields) == sorted(definitions[name]["properties"]), name
    for name in ("Phase", "Stage", "CacheKind", "Source"):
        wanted = definitions[name]
        words = wanted.get("enum") or [each["const"] for each in wanted["oneOf"]]
        assert set(getattr(records, name).__args__) == set(words)


def test_a_report_comes_back_from_its_json(made: hw.MemoryReport) -> None:
    back = hw.MemoryReport.from_json(made.to_json())
    assert back == made
    assert (back.layers == made.layers).all()
    for text in ("", "[]", "{}", '{"schema": "hwledger.v1"}', made.to_json().replace("hwledger.v1", "hwledger.v9")):
        with pytest.raises(hw.MemoryReportError):
            hw.MemoryReport.from_json(text)


def test_layers_are_arrays_on_the_memory_of_the_report(made: hw.MemoryReport) -> None:
    layers = made.layers
    assert layers["allocated_bytes"].tolist() == [20 * 4096 * (layer + 1) for layer in range(3)]
    assert layers["tokens"].tolist() == [20] * 3
    assert layers["k_bits"].tolist() == [16.0] * 3
    assert {made.names[place] for place in layers["k_format"]} == {"bfloat16"}
    assert not layers.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        layers["tokens"][0] = 1
    history = made.history()
    assert history["layer_bytes"].shape == (20, 3)
    assert history["layer_bytes"][4].tolist() == [5 * 4096 * (layer + 1) for layer in range(3)]
    assert (np.diff(history["unix_s"]) >= 0).all()
    of_report = made.models[0].kv_allocated_bytes.value
    del made
    assert int(layers["allocated_bytes"].sum()) == of_report


def test_what_nobody_works_on_has_no_rows(busy: tuple[hw.Engine, hw.MemoryReport]) -> None:
    engine, at_work = busy
    idle = engine.memory()
    assert len(idle.layers) == 0
    assert len(at_work.layers) == 2
    assert idle.models[0].requests == ()
    assert (idle.models[0].kv_allocated_bytes.value, at_work.models[0].sampling.state) == (0, "on")
    assert at_work.models[0].requests[0].stage == "decode"
    assert at_work.process.pid == os.getpid()
    assert "'paged'" not in str(at_work.store.hot_bytes.how)
    assert at_work.store.hot_bytes.value is None


def test_every_figure_says_where_it_comes_from(busy: tuple[hw.Engine, hw.MemoryReport]) -> None:
    found: list[dict[str, Any]] = []

    def look(said: Any) -> None:
        if isinstance(said, dict):
            if "how" in said:
                found.append(said)
            for each in said.values():
                look(each)
        elif isinstance(said, list):
            for each in said:
                look(each)

    look(json.loads(busy[1].to_json()))
    assert len(found) > 25
    for each in found:
        assert each["how"]
        assert (each["value"] is None) == (each["source"] == "unavailable")


def test_a_closed_engine_has_no_memory_to_tell_of(tiny_model: Path) -> None:
    engine = hw.Engine(tiny_model, cache=None, progress=False)
    engine.close()
    with pytest.raises(hw.EngineClosedError):
        engine.memory()


def test_a_hook_that_is_off_is_told(tiny_model: Path, tmp_path: Path) -> None:
    code = f"""
import json
from hwledger_omlx.fork.load import load
load(features_off=["layer-memory"])
import hwledger_omlx as hw
with hw.Engine({str(tiny_model)!r}, cache=None, progress=False) as engine:
    assert engine.generate("a b c", max_tokens=3).finish_reason == "length"
    print(engine.memory().to_json())
    print(engine.memory())
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, *shown = done.stdout.splitlines()
    (model,) = json.loads(first)["models"]
    assert model["sampling"]["state"] == "off"
    assert "layer-memory.init is off: feature layer-memory is turned off" in model["sampling"]["why"]
    assert model["kv_allocated_bytes"]["value"] is None
    assert model["weights_bytes"]["value"] > 0
    assert any("not sampled" in line for line in shown)


# -- looking at it ----------------------------------------------------------------------------------------------


def test_pictures_are_well_formed_and_say_what_is_there(
    busy: tuple[hw.Engine, hw.MemoryReport], made: hw.MemoryReport
) -> None:
    for report in (busy[0].memory(), busy[1], made, hw.MemoryReport.of(memory_report([], AROUND))):
        html = report._repr_html_()
        ET.fromstring(f"<all>{html}</all>")  # noqa: S314  our own
    heatmap = heatmap_svg(made.models[0])
    assert "layer 2, now: 240 KiB" in heatmap
    assert "made &lt;up&gt;" in heatmap
    assert "in chunk 1 of prefill of request &amp; more" in heatmap
    assert heatmap.count("<rect") < 400
    assert "free" not in bar_svg(made), "nobody knows what is free"
    assert "weights: 1.0 MiB (measured: nbytes of the model" in bar_svg(made)


def test_a_heatmap_of_a_long_past_stays_small() -> None:
    large = hw.MemoryReport.of(memory_report([ledger(layers=64, samples=1000)], AROUND))
    assert large.models[0].history.samples_a_point == 5
    assert len(large._repr_html_()) < 400_000


@pytest.mark.parametrize("width", [80, 120])
def test_text_fits_a_terminal(busy: tuple[hw.Engine, hw.MemoryReport], width: int) -> None:
    file = io.StringIO()
    Console(width=width, file=file).print(busy[1])
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any("LiveBatchKVCache"[:10] in line and "f32" in line for line in lines)
    assert "tiny at 16" in str(busy[1])


# -- samples as they come ---------------------------------------------------------------------------------------


def test_events_come_while_a_request_runs(tiny_model: Path) -> None:
    with hw.Engine(tiny_model, cache=None, progress=False) as engine:
        events = engine.memory_events()
        engine.generate(PROMPT, max_tokens=20, temperature=0.0)
        seen = list(itertools.islice(events, 5))
        assert [each.number for each in seen] == [0, 1, 2, 3, 4]
        assert [each.phase for each in seen[:4]] == ["idle", "prefill", "prefill", "join"]
        assert seen[3].kv_allocated_bytes == sum(seen[3].layer_bytes) > 0
        assert all(each.footprint_bytes for each in seen)
        engine.close()
        assert list(events) == []
    assert events.dropped == 0


async def test_events_come_to_a_task(tiny_model: Path) -> None:
    async with hw.AsyncEngine(tiny_model, cache=None, progress=False) as engine:
        events = engine.memory_events()
        answer = asyncio.create_task(engine.generate(PROMPT, max_tokens=20, temperature=0.0))
        phases = []
        async for event in events:
            phases.append(event.phase)
            if event.phase == "decode":
                break
        assert (await answer).usage.completion_tokens == 20
        assert (await engine.memory()).models[0].sampling.samples >= len(phases)
        assert phases[-2:] == ["join", "decode"]
    assert events.dropped == 0


def test_a_slow_reader_loses_the_oldest_samples_and_is_told() -> None:
    made = ledger(samples=3)
    events = MemoryEvents(lambda: [made], lambda: True, buffered=4)
    for _ in range(10):
        made.record(4, 0, 0, None, None, None, [], [])
    seen = list(events)
    assert [each.number for each in seen] == [9, 10, 11, 12]
    assert [each.missed for each in seen] == [6, 0, 0, 0]
    assert events.dropped == 6
    with pytest.raises(ValueError, match="buffered"):
        MemoryEvents(list, lambda: True, buffered=0)


def test_a_ring_that_has_gone_round_drops_for_a_slow_reader() -> None:
    made = LayerMemory("small", decode_steps=16, samples=4, cells=16)
    events = MemoryEvents(lambda: [made], lambda: True)
    for _ in range(10):
        made.record(4, 0, 0, None, None, None, [], [])
    assert [each.number for each in events] == [6, 7, 8, 9]
    assert events.dropped == 6


@pytest.mark.parametrize(
    ("rows", "cells"), [([1], []), ([1, 2], [0, 1, 1, 1]), ([], [0, 1, 1]), ([-1, 0], []), ([1, 1], [-5, 1, 1, 1])]
)
def test_samples_that_cannot_be_are_refused(rows: list[int], cells: list[int]) -> None:
    made = LayerMemory("odd", decode_steps=16)
    with pytest.raises(ValueError, match=r"number|rows|groups|below"):
        made.record(4, 0, 0, None, None, None, rows, cells)
    with pytest.raises(ValueError, match="no phase"):
        made.record(9, 0, 0, None, None, None, [], [])
    assert made.samples == 0


# -- from another process ---------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWLEDGER_OMLX_HOME", str(tmp_path))
    return tmp_path


def publish(made: LayerMemory) -> None:
    published.write_text(published.report_file(os.getpid()), memory_report([made], AROUND).json)


def test_reports_of_the_dead_are_cleared_away(home: Path) -> None:
    publish(ledger())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, foreign, odd = (published.report_file(ended.pid), home / "run" / "notes.json", published.report_file(1))
    for path in (dead, foreign, odd):
        path.write_text("{}", encoding="utf-8")
    assert [each.pid for each in processes.published()] == [os.getpid()]
    assert not dead.exists()
    assert foreign.exists()


def test_a_process_publishes_while_somebody_looks(home: Path) -> None:
    assert not published.is_watched()
    processes.ask()
    assert published.is_watched()
    long_ago = time.time() - 60
    os.utime(published.watched_file(), (long_ago, long_ago))
    assert not published.is_watched()


def test_top_shows_a_running_engine(tiny_model: Path, home: Path) -> None:
    with hw.Engine(tiny_model, cache=None, progress=False) as engine:
        engine.generate(PROMPT, max_tokens=3)
        asked = CliRunner().invoke(app, ["top", "--once", "--pid", str(os.getpid())])
        assert asked.exit_code == 0, asked.output
        assert f"pid {os.getpid()}" in asked.output
        assert "tiny at 16" in asked.output
        said = json.loads(CliRunner().invoke(app, ["top", "--json"]).output)
        assert said["models"][0]["sampling"]["samples"] > 3
        other = CliRunner().invoke(app, ["top", "--once", "--pid", "1"])
        assert isinstance(other.exception, hw.MemoryReportError)


def test_where_nothing_runs_top_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This process has engines of other tests.
    monkeypatch.setattr(published.publisher, "_publish", lambda *_, **__: None)
    nothing = CliRunner().invoke(app, ["top", "--once"])
    assert nothing.exit_code == 1
    assert "no engine" in nothing.output


def test_a_process_that_ends_takes_its_report_away(home: Path) -> None:
    code = """
import time
from hwledger_omlx.hooks.layer_memory import published, sampler
made = sampler.Sampler("m")
published.publisher.add(made)
while not published.report_file(published.publisher._pid).exists():
    time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert list((home / "run").iterdir()) == []


class Screen(DummyOutput):
    """A terminal that can change its size."""

    size = Size(rows=30, columns=100)

    def get_size(self) -> Size:
        return self.size


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        for _ in iter(condition, True):
            await asyncio.sleep(0.01)


async def test_keys_sort_reverse_and_quit(home: Path) -> None:
    publish(ledger(layers=40))
    view = TopView()
    with create_pipe_input() as keys:
        screen = Screen()
        running = application(view, terminal=keys, screen=screen)
        task = asyncio.create_task(running.run_async())
        keys.send_text("sr")
        await until(lambda: view.sort != "KV" and not view.reverse)
        assert view.sort == "used"
        keys.send_text("\x1b[D\x1b[D")
        await until(lambda: view.sort == "tokens" and bool(view.processes))
        keys.send_text("\x1b[B\x1b[B\x1b[B\x1b[A")
        await until(lambda: view.scrolled == 2)
        screen.size = Size(rows=12, columns=60)
        running._on_resize()
        keys.send_text("q")
        await asyncio.wait_for(task, 30)


@pytest.mark.parametrize("columns", [60, 66, 80, 100, 110, 120])
def test_columns_are_shown_whole_or_not_and_the_sorted_one_always(home: Path, columns: int) -> None:
    publish(ledger())
    view = TopView(processes=processes.published())
    for sort in COLUMN_NAMES:
        view.sort = sort
        lines = [_PLAIN.sub("", line) for line in drawn(view.draw(columns, 40), columns).splitlines()]
        headings = next(line.split() for line in lines if line.startswith("request"))
        assert {heading.rstrip("▼▲") for heading in headings} <= set(COLUMN_NAMES)
        assert [heading[:-1] for heading in headings if heading[-1] in "▼▲"] == [sort]


@pytest.mark.parametrize(("columns", "rows"), [(120, 40), (80, 24), (40, 12), (200, 60)])
def test_a_screen_of_any_size_is_drawn(home: Path, columns: int, rows: int) -> None:
    publish(ledger(layers=40))
    view = TopView(processes=processes.published())
    for sort in COLUMN_NAMES:
        view.sort = sort
        lines = drawn(view.draw(columns, rows), columns).splitlines()
        assert lines
    view.scroll(1000)
    assert view.scrolled == 39
    view.next_process()
    assert (view.pid, view.scrolled) == (os.getpid(), 0)
    assert "no engine" in drawn(TopView().draw(80, 24), 80)


def test_columns_sort_the_requests(home: Path) -> None:
    made = ledger()
    made.begin("a later one", 5000, "8")
    publish(made)
    view = TopView(processes=processes.published(), sort="prompt")

    def order() -> list[str]:
        shown = drawn(view.draw(120, 40), 120).splitlines()
        return [name for line in shown for name in ("a later one", "request & more") if f"{name} " in line]

    assert order() == ["a later one", "request & more"]
    view.reverse = False
    assert order() == ["request & more", "a later one"]
