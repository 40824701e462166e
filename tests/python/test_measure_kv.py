"""`bench kv`: what its parts ask and make of the answers, and its contestants at tiny sizes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hwledger_omlx._native import KvPolicy
from hwledger_omlx.cli.bench import bench_app
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.hooks.layer_caches import formats
from hwledger_omlx.hooks.layer_caches.dial import CacheDial, Dial, Side
from hwledger_omlx.kv.prediction import LoadedModel
from hwledger_omlx.measure import Bar, Result, environment, kv_decode
from hwledger_omlx.measure import kv_codec_data as data
from hwledger_omlx.measure.kv_answering import Answering
from hwledger_omlx.measure.kv_bench import KvBench
from hwledger_omlx.measure.kv_codec_kinds import LIVE, NATIVE, TURBOQUANT, made
from hwledger_omlx.measure.kv_codecs import IDENTICAL, SPEED, Codecs
from hwledger_omlx.measure.kv_codecs_worker import open_codecs
from hwledger_omlx.measure.kv_decode import HELD, Decode
from hwledger_omlx.measure.kv_decode_worker import open_model
from hwledger_omlx.measure.kv_points import FULL, Point, grid, point_of
from hwledger_omlx.measure.kv_quality import Measurement, Quality, QualityFound, head_width
from hwledger_omlx.measure.kv_quality_worker import QualityWorker
from hwledger_omlx.measure.kv_table import KvReport
from hwledger_omlx.models import NOTES

# -- points ----------------------------------------------------------------------------------------------------------


def test_the_grid_has_every_scheme_at_all_bits_and_keys_and_values_apart() -> None:
    points = grid(64)
    names = [each.name for each in points]
    assert len(set(names)) == len(names) == 6 * (3 + 3 + 2)
    assert {each.bits for each in points} == {8, 6, 5, 4, 3, 2}
    channel = point_of(points, "channel", 4)
    assert channel == Point("channel", 4, "channel:4:64", "affine:4:64")
    assert "channel 4, V" not in names
    assert point_of(points, "lossless", 4) is None
    for each in points:
        for name in (each.keys, each.values):
            assert formats.parse(name).name == name


def test_the_grid_takes_what_the_width_allows() -> None:
    assert {each.keys for each in grid(96, schemes=("affine",), bits=(4,))} == {"affine:4:32", "16"}
    assert grid(96, schemes=("rotated",)) == []
    assert grid(80) == []


# -- quality: what is made of the answers ----------------------------------------------------------------------------


class Model:
    """Answers as the worker would; fewer bits are worse."""

    def __init__(self, **more: float) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.more = more

    def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(request)
        if "calibrate" in request:
            return {"tokens": request["calibrate"]}
        if "recall" in request:
            wrong = request["recall"]["k"] == "affine:2:64"
            return {"asked": 14, "right": 13 if wrong else 14, "by_depth": [[0.0, 7, 7], [0.5, 6 if wrong else 7, 7]]}
        dial = request["predict"]
        if "policy" in dial:
            nbytes = float(dial["policy"].removeprefix("auto:")) * 1600
            return self._predicted(self.more.get("auto_kl", 0.0), nbytes, "solved")
        bits = [16 if name == "16" else int(name.split(":")[1]) for name in (dial["k"], dial["v"])]
        return self._predicted(sum(2.0**-each for each in bits if each < 16) / 100, 50.0 * sum(bits), "16")

    def _predicted(self, kl: float, nbytes: float, policy: str) -> Mapping[str, Any]:
        perplexity = 3 * math.exp(kl)
        return {
            "perplexity": perplexity,
            "mean_kl": kl,
            "max_kl": 2 * kl,
            "top1": 1 - kl,
            "nbytes": nbytes,
            "policy": policy,
        }


def quality(model: Model, **given: Any) -> QualityFound:
    points = [each for each in grid(64, bits=(8, 4, 2)) if each.side == "K+V" or each.bits == 4]
    return Quality(model="m", **given).measure(model, points)


def test_quality_results_and_their_bars() -> None:
    found = quality(Model())
    assert found.measurements[0].point == FULL
    assert found.measurements[0].share == 1.0
    four = next(each for each in found.measurements if each.point.name == "affine 4, K+V")
    assert (four.bits_per_number, four.share) == (4.0, 0.25)
    assert four.recalled == (14, 14)
    assert next(each for each in found.measurements if each.point.name == "affine 4, K").recalled is None
    results = {result.name: result for result in found.results}
    eight = results["KL, affine 8, K+V (8.00 bits a number)"]
    assert (str(eight.bar), eight.met) == ("<= 0.001", True)
    assert results["recall, rotated 8, K+V (8.00 bits a number)"].met is True
    barred = results["perplexity, channel 4, K+V (4.00 bits a number)"]
    assert (str(barred.bar), barred.met) == ("<= 1.01x", True)
    assert results["recall, channel 4, K+V (4.00 bits a number)"].met is True
    assert results["perplexity, affine 4, K+V (4.00 bits a number)"].met is None
    assert any("recommended at about 4.5 bits" in note and "channel" in note for note in found.notes)


def test_auto_is_compared_with_the_best_uniform_policy_of_its_bytes() -> None:
    model = Model(auto_kl=0.002)
    found = quality(model)
    autos = [result for result in found.results if result.name.startswith("KL, auto")]
    assert [result.against for result in autos] == pytest.approx([2 * 2.0**-4 / 100, 2 * 2.0**-2 / 100])
    assert [result.met for result in autos] == [False, True]
    assert [request for request in model.asked if "calibrate" in request] == [{"calibrate": 1024}]
    sizes = [result for result in found.results if result.name.startswith("bytes, auto")]
    assert [result.met for result in sizes] == [True, True]
    assert any("auto:0.25 is solved." in note for note in found.notes)


def test_recall_is_asked_of_chosen_points_only() -> None:
    model = Model()
    quality(model, recall_bits=(2,), recall_lengths=(300,), recall_per_cell=3)
    asked = [request for request in model.asked if "recall" in request]
    assert {request["recall"]["v"] for request in asked} == {"16", "affine:2:64", "rotated:2"}
    assert all((request["lengths"], request["per_cell"]) == ([300], 3) for request in asked)


def test_the_table_has_a_row_a_point() -> None:
    found = quality(Model())
    report = KvReport("bench kv", "kv", found.results, environment(), found.notes, found.measurements)
    said = json.loads(report.json_text())
    assert (said["report"], said["version"], len(said["points"])) == ("bench kv", 1, len(found.measurements))
    assert said["points"][1]["side"] == "K+V"
    assert said["points"][1]["recalled_by_depth"] == [[0.0, 7, 7], [0.5, 7, 7]]


def test_the_width_of_a_models_keys_is_in_its_config(tiny_model: Path) -> None:
    from hwledger_omlx.engine import model_folder

    assert head_width(model_folder.locate(NOTES)) == 64
    assert head_width(model_folder.locate(tiny_model)) == 32


# -- quality: the worker ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> LoadedModel:
    return LoadedModel.load(tiny_model)


def test_a_worker_predicts_at_any_dial(loaded: LoadedModel) -> None:
    worker = QualityWorker(loaded, windows=2, window_tokens=128)
    full = worker({"predict": {"k": "16", "v": "16"}})
    assert (full["mean_kl"], full["max_kl"], full["top1"]) == (0.0, 0.0, 1.0)
    assert full["nbytes"] == 2 * 2 * 2 * 2 * 128 * 32 * 4
    eight = worker({"predict": {"k": "affine:8:32", "v": "affine:8:32"}})
    two = worker({"predict": {"k": "affine:2:32", "v": "affine:2:32"}})
    assert 0 < eight["mean_kl"] < two["mean_kl"]
    assert eight["max_kl"] >= eight["mean_kl"]
    assert two["nbytes"] < eight["nbytes"] < full["nbytes"]


def test_a_worker_solves_a_policy_with_what_it_calibrated(loaded: LoadedModel) -> None:
    worker = QualityWorker(loaded, windows=1, window_tokens=64)
    assert worker({"calibrate": 64}) == {"tokens": 64}
    full, uniform = (worker({"predict": {"k": name, "v": name}}) for name in ("16", "affine:2:32"))
    solved = worker({"predict": {"policy": "auto:0.3"}})
    assert KvPolicy.parse(solved["policy"]) != KvPolicy.parse("auto:0.3")
    assert solved["nbytes"] <= 0.3 * full["nbytes"]
    assert solved["mean_kl"] < uniform["mean_kl"]


def test_recall_is_asked_of_a_model_and_counted(loaded: LoadedModel) -> None:
    worker = QualityWorker(loaded, windows=1, window_tokens=64)
    answer = worker({"recall": {"k": "affine:4:32", "v": "rotated:4"}, "lengths": [1200], "per_cell": 1})
    assert (answer["asked"], answer["right"]) == (7, 0)
    assert [cell[0] for cell in answer["by_depth"]] == [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]


@pytest.mark.parametrize("name", ["16", "channel:4:64", "rotated:4"])
def test_an_answer_does_not_depend_on_the_questions_beside_it(loaded: LoadedModel, name: str) -> None:
    conversations = [[{"role": "user", "content": "some notes, " * 20 + question}] for question in ("what?", "who is?")]
    side = Side(name)
    dial = Dial(caches={(layer,): CacheDial(side, Side("16")) for layer in range(2)})
    together = Answering(loaded, dial)(conversations)
    assert together == [Answering(loaded, dial)([each])[0] for each in conversations]
    assert all(together)


# -- codecs ----------------------------------------------------------------------------------------------------------


class CodecWorker:
    """Answers as the worker would."""

    def __call__(self, request: Mapping[str, Any]) -> Mapping[str, float]:
        if "distortion" in request:
            return {"distortion": {1: 0.361, 2: 0.117, 3: 0.0345, 4: 0.0099}[request["bits"]]}
        if "outliers" in request:
            return {"error": 0.1 if request["codec"].startswith("channel") else 0.5, "bits_per_number": 4.5}
        if "size" in request:
            return {"share": 0.3 if request["size"].startswith("rotated") else 0.28}
        if "identical" in request:
            return {"encoded": 1.0, "decoded": float(request["dtype"] != "float32")}
        if "memcpy" in request:
            return {"bytes_per_s": 10e9}
        fast = request["speed"] == "hwledger-omlx"
        return {"encode": 5e9 if fast else 0.5e9, "decode": 5e9 if fast else 0.1e9}


def test_codec_results_and_their_bars() -> None:
    results, notes = Codecs(rounds=2).measure(CodecWorker())
    found = {result.name: result for result in results}
    at_rest = [found[f"distortion, rotated {bits}, at rest (published: {said})"] for bits, said in
               ((1, "0.36"), (2, "0.117"), (3, "0.03"), (4, "0.009"))]  # fmt: skip
    assert [result.met for result in at_rest] == [True, True, True, False]
    assert at_rest[3].against == 0.009497
    assert found["error on the other channels, channel 4, at rest (4.50 bits a number)"].met is True
    assert found["error on the other channels, affine 4 (MLX's) (4.50 bits a number)"].met is None
    assert found["store size, rotated:4, as a share of 16 bit"].met is False
    same = [result for result in results if "bit for bit" in result.name]
    assert [(result.value, result.met) for result in same] == [(1.0, True), (pytest.approx(2 / 3), False)]
    assert found["encode affine:4:64 float16"].ratio == pytest.approx(10.0)
    assert found["encode affine:4:64 float16"].met is True
    assert found["decode affine:8:64 bfloat16"].met is True
    assert found["encode rotated:3.5 bfloat16"].met is False
    assert found["decode lossless bfloat16, share of memcpy"].ratio == pytest.approx(0.5)
    assert "decode lossless bfloat16" not in found
    assert len(IDENTICAL) == 54
    assert any("3 for keys" in note for note in notes)


def test_outliers_are_four_channels_and_errors_are_of_the_others() -> None:
    keys = data.with_outliers(2, 64)
    spread = keys.std(axis=(0, 1))
    assert sorted(np.argsort(spread)[-4:]) == sorted(data.OUTLIER_CHANNELS)
    wrong = keys.copy()
    wrong[..., data.OUTLIER_CHANNELS[0]] = 0
    assert data.error_on_other_channels(keys, wrong) == 0.0
    wrong[..., 0] += keys[..., 0]
    assert data.error_on_other_channels(keys, wrong) == pytest.approx(124**-0.5, rel=0.1)
    assert data.distortion(keys, keys * 0.5) == pytest.approx(0.25)


def test_codecs_keep_what_they_are_given_as_well_as_they_can() -> None:
    given = data.typed(data.normal(2, 64)[None], "float32")
    for kind, name, most in (
        (LIVE, "affine:8:64", 1e-3),
        (LIVE, "rotated:4", 0.0105),
        (TURBOQUANT, "rotated:4", 0.0105),
    ):
        codec = made(kind, name, given)
        kept = codec.encode(given)
        assert data.distortion(np.array(given), np.array(codec.decode(kept))) < most
        assert codec.nbytes(kept) < given.nbytes / 3
    with pytest.raises(ValueError, match="nothing like affine"):
        made(TURBOQUANT, "affine:4:64", given)


def test_turboquants_fraction_is_of_keys_and_values_together() -> None:
    given = data.typed(data.normal(2, 8)[None], "float32")
    keys, values = made(TURBOQUANT, "rotated:3.5", given)._codecs  # type: ignore[attr-defined]
    assert (keys.bits, values.bits) == (3, 4)


def test_the_codec_worker_measures() -> None:
    with open_codecs({}) as ask:
        assert ask({"distortion": LIVE, "bits": 2})["distortion"] == pytest.approx(0.1175, rel=0.03)
        for kind in (LIVE, NATIVE):
            outliers = ask({"outliers": kind, "codec": "channel:4:64"})
            assert outliers["error"] < 0.12
            assert outliers["bits_per_number"] == 4.5
            speed = ask({"speed": kind, "codec": "affine:4:64", "dtype": "float16", "runs": 2})
            assert min(speed.values()) > 0
        assert ask({"identical": "affine:4:64", "dtype": "bfloat16"}) == {"encoded": 1.0, "decoded": 1.0}
        assert 0.26 < ask({"size": "affine:4:64"})["share"] < 0.29
        assert ask({"memcpy": True, "runs": 4})["bytes_per_s"] > 0


# -- decode ----------------------------------------------------------------------------------------------------------


def test_decode_results_and_their_bars() -> None:
    def ask(request: Mapping[str, Any]) -> Mapping[str, float]:
        bits = 16 if request["k"] == "16" else int(request["k"].split(":")[1])
        off = 1.05 if request["k"].startswith("channel") else 1.01
        return {
            "prefill_tokens_per_s": 100.0,
            "decode_tokens_per_s": 160.0 / bits,
            "prefill_peak_bytes": 1000.0 + bits,
            "kv_bytes": bits * 10.0 * off,
            "cache_bytes": bits * 10.0,
            "predicted_bytes": bits * 10.0,
        }

    results = Decode(rounds=2).measure(ask, (100, 200), is_gpu=True)
    found = {result.name: result for result in results}
    assert len(found) == len(results) == 2 * len(HELD) * 5
    assert found["decode, affine 8, 100 tokens"].ratio == 2.0
    assert found["decode, 16 bit, 100 tokens"].ratio is None
    assert found["peak memory of prefill, affine 4, 200 tokens"].met is True
    assert found["memory of the KV, affine 4, 200 tokens"].ratio == 0.25
    assert found["memory of the KV, off its prediction, affine 4, 200 tokens"].met is True
    assert found["memory of the KV, off its prediction, channel 4, 200 tokens"].met is False


def test_the_decode_worker_holds_what_was_predicted(tiny_model: Path) -> None:
    with open_model({"model": str(tiny_model), "chunk_tokens": 128}) as ask:
        request = {"prompt_tokens": 186, "new_tokens": 2, "seed": 0}
        full = ask({"k": "16", "v": "16", **request})
        quarter = ask({"k": "affine:4:32", "v": "affine:4:32", **request})
    assert min(full["decode_tokens_per_s"], full["prefill_tokens_per_s"]) > 0
    assert full["predicted_bytes"] == 2 * 2 * 2 * 192 * 32 * 4
    assert quarter["predicted_bytes"] == full["predicted_bytes"] * 6 / 32
    for answer in (full, quarter):
        assert answer["cache_bytes"] == answer["predicted_bytes"]
        assert answer["prefill_peak_bytes"] > 0


def test_contexts_longer_than_the_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_decode, "has_gpu", lambda: False)
    with pytest.raises(HarnessError, match="context of 8192"):
        Decode(prompt_tokens=(8192,)).run()


# -- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"parts": ("quality", "speed")}, "no part speed; there are: quality, codecs, decode"),
        ({"parts": ()}, "no part named"),
        ({"rounds": 0}, "1 round"),
        ({"windows": 0}, "1 window"),
    ],
)
def test_what_cannot_be_measured(given: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        KvBench(**given).run()


def test_a_run_joins_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Result(name="a line", value=1.0, unit="", bar=Bar.value_at_most(0.5))
    point = Measurement(FULL, 3.0, 0.0, 0.0, 1.0, 100.0, 1.0)
    monkeypatch.setattr(Quality, "run", lambda self, on_turn: QualityFound([point], [line], ["of quality"]))
    monkeypatch.setattr(Codecs, "run", lambda self, on_turn: ([line], ["of codecs"]))
    monkeypatch.setattr(Decode, "run", lambda self, on_turn: ([line], ["of decode"]))
    report = KvBench().run()
    assert (len(report.results), len(report.missed), len(report.points)) == (3, 3, 1)
    assert report.notes == ["of quality", "of codecs", "of decode"]
    assert KvBench(parts=("codecs",)).run().notes == ["of codecs"]


def test_quick_is_less_of_everything() -> None:
    full, quick = KvBench(), KvBench(quick=True)
    assert quick.quality.points is not None
    assert {each.name for each in quick.quality.points} < {each.name for each in grid(64)}
    assert (quick.codecs.rounds, full.codecs.rounds) == (2, 5)
    assert full.quality.points is None
    assert {scheme for name, _ in SPEED for scheme in [name.partition(":")[0]]} == {
        "affine",
        "rotated",
        "channel",
        "lossless",
    }


def test_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    benches: list[KvBench] = []
    slow = Result(name="encode", value=9.0, unit="B/s", against=10.0, ratio=0.9, bar=Bar.ratio_at_least(8.0))
    point = Measurement(FULL, 3.0, 0.0, 0.0, 1.0, 100.0, 1.0, (14, 14))

    def run(self: KvBench, on_turn: object) -> KvReport:
        benches.append(self)
        return KvReport("bench", "a bench", [slow], environment(), (), [point])

    monkeypatch.setattr(KvBench, "run", run)
    done = CliRunner().invoke(bench_app, ["kv", "--only", "quality, codecs", "--model", "m", "--rounds", "3"])
    assert done.exit_code == 0, done.output
    assert "MISSED" in done.stdout
    assert "14/14" in done.stdout
    assert (benches[0].parts, benches[0].model, benches[0].rounds) == (["quality", "codecs"], "m", 3)
    printed = CliRunner().invoke(bench_app, ["kv", "--json"])
    assert json.loads(printed.stdout)["points"][0]["scheme"] == "16 bit"
    assert CliRunner().invoke(bench_app, ["kv", "--check", "--quick"]).exit_code == 1
    assert benches[-1].quick
