"""`bench cache`: what its parts ask and make of the answers, what it refuses, and its contestants at tiny sizes."""

import json
import shutil
import stat
from collections import namedtuple
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from hwledger_omlx.cli.bench import bench_app
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.fork.locate import Fork
from hwledger_omlx.measure import Bar, Result, Turn, WorkerProcess, cache_store_worker
from hwledger_omlx.measure.cache_bench import PARTS, CacheBench, Report
from hwledger_omlx.measure.cache_disk import SequentialDisk, filesystem_of
from hwledger_omlx.measure.cache_generation import IN_MEMORY, NEXT_TURN, RESEND, Answers, Generation
from hwledger_omlx.measure.cache_index import LargeIndex
from hwledger_omlx.measure.cache_model import RandomModel, text_of
from hwledger_omlx.measure.cache_store_worker import PeakMemory, Shape, drop_from_page_cache, memcpy_seconds
from hwledger_omlx.measure.cache_transfer import BURST, COLD, DISK, Transfer
from hwledger_omlx.measure.engine_bench import BARE, OURS
from hwledger_omlx.measure.environment import environment
from hwledger_omlx.measure.harness import Samples

MEASURE = Path(cache_store_worker.__file__).parent
TINY = RandomModel(
    layers=2,
    hidden=32,
    intermediate=64,
    heads=2,
    kv_heads=1,
    head_dim=16,
    dtype="float32",
    context_tokens=4096,
)
SHAPE = Shape(blocks=3, block_tokens=256, layers=2, heads=2, head_dim=16)


def generation(**given: Any) -> Generation:
    fields: dict[str, Any] = {"model": TINY, "prompt_tokens": 100, "rounds": 2, "new_tokens": 10}
    return Generation(**(fields | given))


class Engine:
    """Answers as a worker would; counts its lives."""

    def __init__(self, **answer: Any) -> None:
        self.lives = 0
        self.asked: list[Mapping[str, Any]] = []
        self.answer = {"ttft_s": 0.5, "text": "abcd", "tokens": 4, "cached_tokens": 99, "copied_bytes": 0} | answer

    @contextmanager
    def life(self) -> Iterator[Any]:
        self.lives += 1

        def ask(request: Mapping[str, Any]) -> Mapping[str, Any]:
            self.asked.append(request)
            return self.answer

        yield ask


# -- the model made on the spot --------------------------------------------------------------------------------------


def test_a_random_model_has_the_size_it_says(tmp_path: Path) -> None:
    folder = TINY.write(tmp_path / "model")
    size = (folder / "model.safetensors").stat().st_size
    assert TINY.bytes_on_disk <= size < TINY.bytes_on_disk * 1.1
    assert TINY.kv_bytes_per_token == 2 * 2 * 1 * 16 * 4
    again = TINY.write(tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_prompt_has_exactly_as_many_tokens_as_asked_for(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(TINY.write(tmp_path / "model") / "tokenizer.json"))
    for tokens in (1, 257, 3000):
        text = text_of(tokens, "prompt")
        ids = tokenizer.encode(text).ids
        assert len(ids) == tokens
        assert tokenizer.decode(ids) == text
    assert text_of(64, "turn", 1) == text_of(64, "turn", 1) != text_of(64, "turn", 2)


# -- what is made of the answers -------------------------------------------------------------------------------------


def test_every_measured_request_is_the_first_of_a_new_process() -> None:
    engine, answers = Engine(copied_bytes=99 * TINY.kv_bytes_per_token), Answers(cold={OURS: {"text": "abcdefgh"}})
    measure = generation().measure(OURS, engine.life, answers)
    assert measure(Turn(0, RESEND, warm_up=False)) == {
        "resend_ttft_s": 0.5,
        "resend_restored_tokens": 99.0,
        "copies": 2.0,
    }
    assert measure(Turn(0, NEXT_TURN, warm_up=False)) == {"next_ttft_s": 0.5}
    assert engine.lives == 2
    resent, continued = (str(request["prompt"]) for request in engine.asked)
    assert len(resent) == 100
    assert continued.startswith(resent + "abcdefgh")
    assert len(continued) == 100 + 8 + 10


def test_the_next_turn_is_new_in_every_round() -> None:
    engine, answers = Engine(), Answers(cold={OURS: {"text": "abcdefgh"}})
    measure = generation().measure(BARE, engine.life, answers)
    for number in range(3):
        measure(Turn(number, NEXT_TURN, warm_up=False))
    assert len({request["prompt"] for request in engine.asked}) == 3


def test_an_engine_that_restores_or_generates_nothing_is_no_measurement() -> None:
    turn = Turn(0, RESEND, warm_up=False)
    with pytest.raises(HarnessError, match="restored nothing"):
        generation().measure(OURS, Engine(cached_tokens=0).life, Answers())(turn)
    with pytest.raises(HarnessError, match="generated nothing"):
        generation().measure(BARE, Engine(ttft_s=None, tokens=0).life, Answers())(turn)
    assert generation().measure(BARE, Engine(cached_tokens=0).life, Answers())(turn)["resend_restored_tokens"] == 0


def test_generation_results_and_their_bars() -> None:
    samples, answers = Samples(), Answers(cold={OURS: {"text": "ab", "ttft_s": 9.0}, BARE: {"text": "ab", "ttft_s": 8}})
    for number in range(2):
        samples.add(OURS, {"resend_ttft_s": 0.1, "resend_restored_tokens": 99, "copies": 1, "next_ttft_s": 1.2})
        samples.add(BARE, {"resend_ttft_s": 1.3, "resend_restored_tokens": 0, "next_ttft_s": 2.0})
        samples.add(IN_MEMORY, {"next_ttft_s": 1.0})
        answers.texts |= {(OURS, RESEND, number): "a", (BARE, RESEND, number): "a"}
        answers.texts |= {(OURS, NEXT_TURN, number): "x", (IN_MEMORY, NEXT_TURN, number): "x" if number else "y"}
    bars = {
        "resend_bar": Bar.ratio_at_least(12.0),
        "next_turn_bar": Bar.ratio_at_most(1.1),
        "text_bar": Bar.value_at_least(1.0),
    }
    results = generation(**bars).results(samples, answers)
    found = {result.name: result for result in results}
    resend = found["TTFT, identical resend of 100 tokens"]
    assert (round(resend.ratio or 0, 6), resend.met) == (13.0, True)
    turn = found["TTFT, next turn: 10 new after 100 tokens"]
    assert (round(turn.ratio or 0, 6), turn.met) == (1.2, False)
    assert found["TTFT, next turn: 10 new after 100 tokens (the fork)"].ratio == 2.0
    assert found["copies from disk to the batch's cache, 100 tokens"].value == 1
    assert found["same greedy text, resend and cold, 100 tokens"].met is True
    without = found["same greedy text, next turn with and without cache"]
    assert (without.value, without.met) == (0.5, False)


def test_a_resend_alone_needs_no_prefix_in_memory() -> None:
    samples, answers = Samples(), Answers(cold={OURS: {"text": "ab", "ttft_s": 9.0}, BARE: {"text": "ab", "ttft_s": 8}})
    samples.add(OURS, {"resend_ttft_s": 0.1, "resend_restored_tokens": 99, "copies": 1})
    samples.add(BARE, {"resend_ttft_s": 1.3, "resend_restored_tokens": 64})
    answers.texts[OURS, RESEND, 0] = "zz"
    results = generation(cases=(RESEND,)).results(samples, answers)
    assert [result.value for result in results if result.name.startswith("same")] == [0.0]


def test_transfer_results_and_their_bars() -> None:
    asked: list[Mapping[str, Any]] = []

    def ask(request: Mapping[str, Any]) -> dict[str, float]:
        asked.append(request)
        return {}

    transfer = Transfer(shape=SHAPE, rounds=1)
    for case in (COLD, BURST):
        transfer.measure(ask)(Turn(0, case, warm_up=False))
    assert asked == [{"restore": "cold"}, {"burst": True}]

    samples = Samples()
    ready = {"cold_ready_bytes_per_s": 8, "warm_ready_bytes_per_s": 60}
    new = {"cold_new_bytes_per_s": 7, "warm_new_bytes_per_s": 30}
    samples.add(OURS, ready | new | {"peak_bytes": 12, "data_bytes": 10})
    samples.add(BARE, {"cold_bytes_per_s": 3, "warm_bytes_per_s": 10, "peak_bytes": 20, "data_bytes": 10})
    samples.add(DISK, {"cold_bytes_per_s": 10, "durable_bytes_per_s": 10})
    met = {r.name.partition(", ")[2]: r.met for r in map(samples.compare, transfer._restore_comparisons())}
    assert met["cold disk"] is True
    assert met["warm page cache"] is True
    assert met["peak memory over the data"] is False
    own = {"stalled_s_per_block": 2, "memcpy_s_per_block": 1, "lost_blocks": 1, "durable_bytes_per_s": 7}
    samples.add(OURS, own | {"hot_ready_bytes_per_s": 6, "hot_new_bytes_per_s": 5, "memcpy_bytes_per_s": 10})
    samples.add(BARE, {"stalled_s_per_block": 4, "lost_blocks": 31, "durable_bytes_per_s": 3})
    saved = [samples.compare(comparison) for comparison in transfer._save_comparisons()]
    assert [result.met for result in saved] == [False, None, True, None, False, False, None, None]
    assert saved[1].ratio == 2.0


# -- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"parts": ("resend", "faster")}, "no part faster; there are: resend"),
        ({"parts": ()}, "no part named"),
        ({"rounds": 0}, "1 round"),
        ({"parts": ("gpu-restore",), "gpu_prompt_tokens": ()}, "lengths of prompts"),
        ({"parts": ("gpu-restore",), "gpu_prompt_tokens": (5, 5)}, "lengths of prompts"),
        ({"parts": ("gpu-restore",), "gpu_prompt_tokens": (200_000,)}, "131072 at most"),
        ({"scratch": Path("no-such-folder")}, "no folder no-such-folder"),
    ],
)
def test_what_cannot_be_measured(given: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        CacheBench(**given).run()


def test_too_little_disk_or_memory_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Usage = namedtuple("Usage", "total used free")
    Memory = namedtuple("Memory", "total available")
    bench = CacheBench(parts=("restore",), scratch=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**9))
        with pytest.raises(HarnessError, match=r"needs 9\.05 GB in .* and 1 GB are free; .*--scratch"):
            bench.run()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**12))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(10**10, 2 * 10**9))
    with pytest.raises(HarnessError, match=r"need 9\.66 GB of memory, and 2 GB are available; .*--quick"):
        bench.run()
    assert not list(tmp_path.iterdir())


# -- the whole run, with parts that measure nothing ------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    parts: list[str] = []
    line = Result(name="a line", value=1.0, unit="s", bar=Bar.value_at_most(0.5))

    def generate(self: Generation, model: Path, fork: Fork, scratch: Path, on_turn: object) -> list[Result]:
        assert (model / "config.json").is_file()
        parts.append(f"{self.prompt_tokens} {' '.join(self.cases)}")
        return [line]

    def transfer(name: str) -> Any:
        def run(self: Transfer, fork: Fork, scratch: Path, on_turn: object) -> list[Result]:
            (scratch / "left behind").write_bytes(b"kv")
            parts.append(f"{name} {self.shape.blocks}")
            return [line]

        return run

    monkeypatch.setattr(Generation, "run", generate)
    monkeypatch.setattr(Transfer, "restore", transfer("restore"))
    monkeypatch.setattr(Transfer, "save", transfer("save"))

    def index(self: LargeIndex, scratch: Path, on_turn: object) -> list[Result]:
        (scratch / "left behind").write_bytes(b"index")
        parts.append(f"index {self.blocks}")
        return [line]

    monkeypatch.setattr(LargeIndex, "run", index)
    return parts


def test_a_run_joins_its_parts_and_leaves_nothing(told: list[str], tmp_path: Path) -> None:
    bench = CacheBench(
        parts=PARTS, scratch=tmp_path, cpu_model=TINY, gpu_model=TINY, gpu_prompt_tokens=(300, 400), shape=SHAPE
    )
    with pytest.raises(HarnessError, match="4096 at most"):
        bench.run()
    small = RandomModel(**{**asdict(TINY), "context_tokens": 16_384})
    turns: list[str] = []
    bench = CacheBench(
        parts=PARTS, scratch=tmp_path, cpu_model=small, gpu_model=TINY, gpu_prompt_tokens=(300, 400), shape=SHAPE
    )
    report = bench.run(lambda name, turn, done, total: turns.append(name))
    assert told == ["9141 resend next turn", "restore 3", "save 3", "index 100000", "300 resend", "400 resend"]
    assert len(report.missed) == 6
    assert turns == ["making the model"] * 3
    assert not list(tmp_path.iterdir())
    made = json.loads(report.json_text())
    assert (made["report"], made["version"], len(made["results"])) == ("bench cache", 1, 6)
    assert made["environment"]["cores"] > 0
    assert str(tmp_path) not in report.json_text()


def test_the_index_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    results = LargeIndex(prompts=3, prompt_tokens=600, rounds=2).run(tmp_path)
    assert [result.rounds for result in results] == [2] * 5
    assert all(result.value > 0 for result in results)
    assert "600 tokens among 9 blocks" in results[2].name


def test_a_failure_leaves_nothing_either(told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Result]:
        raise HarnessError("contestant 'bare fork' died")

    monkeypatch.setattr(Transfer, "restore", fail)
    with pytest.raises(HarnessError, match="died"):
        CacheBench(parts=("restore", "save"), scratch=tmp_path, shape=SHAPE).run()
    assert told == []
    assert not list(tmp_path.iterdir())


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[CacheBench]:
    benches: list[CacheBench] = []
    slow = Result(name="save", value=9.0, unit="B/s", against=10.0, ratio=0.6, bar=Bar.ratio_at_least(0.7), rounds=2)

    def run(self: CacheBench, on_turn: object) -> Report:
        benches.append(self)
        return Report("bench", "a bench", [slow], environment())

    monkeypatch.setattr(CacheBench, "run", run)
    return benches


def test_command_line(asked: list[CacheBench], tmp_path: Path) -> None:
    arguments = ["cache", "--only", "save, gpu-restore", "--gpu-tokens", "500", "--scratch", str(tmp_path)]
    done = CliRunner().invoke(bench_app, arguments)
    assert done.exit_code == 0, done.output
    assert "MISSED" in done.stdout
    assert "0.6x" in done.stdout
    assert (asked[0].parts, tuple(asked[0].gpu_prompt_tokens)) == (["save", "gpu-restore"], (500,))
    assert (asked[0].rounds, asked[0].quick, asked[0].scratch) == (5, False, tmp_path)


def test_quick_takes_fewer_rounds_unless_told(asked: list[CacheBench]) -> None:
    for arguments in (["--quick"], ["--quick", "--rounds", "3"]):
        assert CliRunner().invoke(bench_app, ["cache", "--json", *arguments]).exit_code == 0
    assert [bench.rounds for bench in asked] == [2, 3]


def test_json_is_all_of_standard_output_and_check_an_exit_code(asked: list[CacheBench]) -> None:
    done = CliRunner().invoke(bench_app, ["cache", "--json", "--check"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["results"][0]["met"] is False
    for wrong in (["--gpu-tokens", "many"], ["--rounds", "0"]):
        assert CliRunner().invoke(bench_app, ["cache", *wrong]).exit_code == 2


# -- the disk, and what the workers measure with ---------------------------------------------------------------------


def test_the_disk_without_fio(tmp_path: Path) -> None:
    disk = SequentialDisk(tmp_path, 2 * 2**20 + 5)
    assert disk.read_bytes_per_s() > 0
    assert disk.write_bytes_per_s() > 0
    assert [file.stat().st_size for file in tmp_path.iterdir()] == [2 * 2**20]
    assert "fio is not installed" in disk.measured_by
    assert filesystem_of(tmp_path)


def program(folder: Path, prints: str, code: int = 0) -> str:
    file = folder / "fio"
    file.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\nexit {code}\n", encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def test_the_disk_by_fio(tmp_path: Path) -> None:
    (tmp_path / "sequential").write_bytes(b"")
    answer = json.dumps({"jobs": [{"job_runtime": 500, "read": {"runtime": 250}, "write": {"runtime": 400}}]})
    disk = SequentialDisk(tmp_path, 2**20, fio=program(tmp_path, f"a warning\n{answer}"))
    assert disk.read_bytes_per_s() == 4 * 2**20
    assert disk.write_bytes_per_s() == 2 * 2**20
    assert "fio" in disk.measured_by


@pytest.mark.parametrize(("prints", "code", "said"), [("no json", 0, "no answer"), ("full disk", 1, "full disk")])
def test_a_fio_that_fails(tmp_path: Path, prints: str, code: int, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        SequentialDisk(tmp_path, 2**20, fio=program(tmp_path, prints, code)).write_bytes_per_s()


def test_page_cache_peak_and_memcpy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept" * 1000)
    drop_from_page_cache(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"kept" * 1000
    peak = PeakMemory()
    block = bytearray(b"x" * (64 << 20))
    assert peak.grown_bytes() > 32 << 20
    del block
    assert memcpy_seconds(1 << 20) > 0


def test_restored_kv_is_compared_bit_for_bit() -> None:
    parts = SHAPE.source()
    SHAPE.check(parts)
    with pytest.raises(RuntimeError, match="part 0 is not what was saved"):
        SHAPE.check(parts[::-1])


# -- the contestants themselves, tiny --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["open_own", "open_fork"])
def test_a_store_is_filled_read_and_written_in_a_burst(tmp_path: Path, function: str) -> None:
    options = {"shape": asdict(SHAPE), "folder": str(tmp_path / "cache"), "fork": None}
    target = f"{MEASURE / 'cache_store_worker.py'}:{function}"
    with WorkerProcess(function, target, options) as worker:
        assert worker.call({"fill": True}) == {}
    with WorkerProcess(function, target, options) as worker:
        cold, warm = worker.call({"restore": "cold"}), worker.call({"restore": "warm"})
        burst = worker.call({"burst": True})
    assert cold["data_bytes"] == SHAPE.nbytes
    kinds = ("_ready", "_new") if function == "open_own" else ("",)
    assert all(cold[f"cold{kind}_bytes_per_s"] > 0 for kind in kinds)
    assert all(warm[f"warm{kind}_bytes_per_s"] > 0 for kind in kinds)
    assert burst["lost_blocks"] == 0
    assert burst["durable_bytes_per_s"] > 0
    assert ("hot_ready_bytes_per_s" in burst) == (function == "open_own")
    assert not (tmp_path / "cache" / "burst").exists()


def test_engines_restore_what_another_process_stored(tmp_path: Path) -> None:
    model = TINY.write(tmp_path / "models" / "random")
    worker_file = MEASURE / "cache_engine_worker.py"
    prompt = text_of(600, "prompt")

    def life(function: str, request: Mapping[str, Any], **options: Any) -> Mapping[str, Any]:
        given = {"model": str(model), "fork": None, "cache_dir": str(tmp_path / function), **options}
        env = {"HOME": str(tmp_path), "FMLX_BASE_PATH": str(tmp_path / "f"), "OMLX_BASE_PATH": str(tmp_path / "f")}
        with WorkerProcess(function, f"{worker_file}:{function}", given, env=env) as worker:
            answer: Mapping[str, Any] = worker.call(request)
            assert worker.call({"close": True}) is None
        return answer

    request = {"prompt": prompt, "max_tokens": 4}
    cold = life("open_bare_fork", request)
    assert (cold["cached_tokens"], cold["tokens"]) == (0, 4)
    again = life("open_bare_fork", request)
    assert (again["cached_tokens"], again["text"]) == (512, cold["text"])
    alone = life("open_in_memory", request, prefix=prompt[:590], chunk_tokens=512)
    assert (alone["text"], alone["cached_tokens"]) == (cold["text"], 590)
    own_cold, own_again = life("open_engine", request), life("open_engine", request)
    assert (own_cold["cached_tokens"], own_again["cached_tokens"]) == (0, 599)
    assert own_cold["text"] == own_again["text"] == cold["text"]
