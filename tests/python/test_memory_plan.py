"""The planner: what models' files say against what their caches hold, and what a plan answers."""

import json
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

import hwledger_omlx as hw
from hwledger_omlx._native import ModelShape
from hwledger_omlx.hooks.kv_quant import geometry
from hwledger_omlx.hooks.layer_caches.building import build
from hwledger_omlx.hooks.layer_caches.dial import Dial
from hwledger_omlx.measure.plan_architectures import architectures, experts_in_float32
from hwledger_omlx.measure.plan_caches import check
from hwledger_omlx.memory import plan_machine
from hwledger_omlx.memory.plan import predict
from hwledger_omlx.memory.runtime import Runtime
from hwledger_omlx.models import NOTES

# Full, windows, latent with an indexer, decompressed latent, hybrids, shared, chunked, two caches a layer.
HANDFUL = (
    "llama",
    "gpt_oss",
    "deepseek_v32",
    "deepseek_v2",
    "qwen3_next",
    "falcon_h1",
    "gemma3n",
    "llama4",
    "openelm",
    "nemotron-nas",
    "iquestloopcoder",
    "baichuan_m1",
)
BY_NAME = {architecture.name: architecture for architecture in architectures()}


@pytest.mark.parametrize("name", HANDFUL)
def test_caches_hold_what_was_predicted(name: str) -> None:
    checked = check(BY_NAME[name], tokens=(1, 257, 1000))
    assert not checked.failure
    assert checked.wrong == []
    assert checked.caches


@pytest.mark.parametrize("name", ["llama", "gemma3", "deepseek_v32", "falcon_h1", "kimi_linear", "jamba"])
def test_the_geometry_is_the_one_that_the_engine_measures(name: str) -> None:
    architecture = BY_NAME[name]
    with experts_in_float32():
        measured = json.loads(geometry.measure(architecture.build()).text)
    said = json.loads(ModelShape.of_config(json.dumps(architecture.config)).geometry_json())
    assert len(said["layers"]) == len(measured["layers"])
    for ours, theirs in zip(said["layers"], measured["layers"], strict=True):
        for cache, other in zip(ours["caches"], theirs["caches"], strict=True):
            assert cache["kind"] == other["kind"]
            assert cache.get("k") == other.get("k")
            assert cache.get("v") == other.get("v")
            assert cache.get("window_tokens") == other.get("window_tokens")


@pytest.mark.parametrize("policy", ["8", "k8v4", "channel-4", "rotated-3.5", "4,0:16,first=4,recent=40"])
def test_encoded_caches_hold_what_was_predicted(policy: str) -> None:
    config = {**BY_NAME["qwen3"].config, "head_dim": 64, "num_hidden_layers": 2}
    model = type(BY_NAME["qwen3"])("qwen3", config).build()
    measured = geometry.measure(model)
    dial = Dial.parse(hw.KvPolicy.parse(policy).resolve(measured.text), measured.paths)
    shape = ModelShape.of_config(json.dumps(config))
    for prefilled, decoded, reserve in ((300, 0, 512), (100, 40, 0), (63, 2, 128)):
        caches = build(dial, make_prompt_cache(model), reserve)
        for count in [prefilled, *([1] * decoded)]:
            model(mx.random.randint(0, 100, (1, count)), cache=caches)
        said = json.loads(
            shape.cache_bytes(
                policy, "alone", prefilled, chunk_tokens=4096, decoded_tokens=decoded, reserve_tokens=reserve
            )
        )
        assert [layer["kv_bytes"] for layer in said] == [cache.nbytes for cache in caches]


def test_a_plan_of_the_shipped_model() -> None:
    plan = hw.plan(NOTES, context=4096, concurrency=3, kv="8", memory="1GiB")
    assert plan.model == "notes"
    assert plan.weights.bytes == json.loads(ModelShape.read(NOTES).to_json())["weights"]["bytes"]
    assert "safetensors" in plan.weights.source
    # 4 layers, keys and values of 2 heads of 64 numbers at 8.5 bits.
    assert plan.kv_used_bytes == 3 * 4096 * 4 * 2 * 2 * 68
    terms = (plan.weights, plan.kv, plan.state, plan.activations, plan.runtime)
    assert sum(term.bytes for term in terms) == plan.peak_bytes
    assert all(term.source for term in terms)
    assert plan.verdict == "fit"
    assert plan.free_bytes == (1 << 30) - plan.peak_bytes
    assert plan.found is not None
    assert plan.found.longest_context is not None
    assert plan.found.longest_context.is_models_limit
    assert {layer.attention for layer in plan.layers} == {"gqa"}
    assert json.loads(plan.to_json())["peak_bytes"] == plan.peak_bytes
    text = str(plan)
    assert "affine:8:64" in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_does_not_fit_fails_and_says_what_would() -> None:
    plan = hw.plan(NOTES, context=8192, concurrency=64, memory="300MiB")
    assert plan.verdict == "fail"
    assert plan.free_bytes < 0
    assert plan.found is not None
    assert 0 < plan.found.most_requests < 64
    smaller = hw.plan(NOTES, context=8192, concurrency=plan.found.most_requests, memory="300MiB")
    assert smaller.verdict != "fail"


def test_more_tokens_than_the_model_allows_are_told() -> None:
    assert "config.json allows no" not in str(hw.plan(NOTES, context=8192))
    assert "But config.json allows no 8,193 tokens." in " ".join(str(hw.plan(NOTES, context=8193)).split())


def test_a_prediction_has_the_five_terms_and_takes_the_fitted_runtime() -> None:
    said = predict(NOTES, 2000, 2, "k8v4")
    assert set(said) == {"weights", "kv", "state", "activations", "runtime", "kv_bytes", "peak_bytes"}
    fitted = predict(NOTES, 2000, 2, "k8v4", runtime=Runtime(5000, "fitted by the ledger", 12))
    assert fitted["peak_bytes"] == said["peak_bytes"] + 5000
    assert fitted["runtime"]["source"] == "fitted by the ledger (12 requests)"
    assert predict(NOTES, 2001, 2, "k8v4")["peak_bytes"] >= said["peak_bytes"]


def test_without_a_memory_the_machines_is_taken_and_named() -> None:
    plan = hw.plan(NOTES)
    assert plan.memory.bytes == plan_machine.memory().bytes
    assert plan.memory.source


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"context": 0}, hw.RequestError, "context"),
        ({"concurrency": True}, hw.RequestError, "concurrency"),
        ({"answer": -1}, hw.RequestError, "answer"),
        ({"kv": "9"}, hw.KvPolicyError, "9"),
        ({"kv": "8,70:4"}, hw.KvPolicyError, "70"),
        ({"memory": "much"}, hw.StoreConfigError, "memory"),
    ],
)
def test_numbers_that_cannot_be_are_refused(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        hw.plan(NOTES, **arguments)


def test_a_folder_that_is_no_model_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(hw.ModelError, match=r"config\.json"):
        hw.plan(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": "many"}')
    with pytest.raises(hw.ModelError, match="num_hidden_layers"):
        ModelShape.of_config((tmp_path / "config.json").read_text())
    with pytest.raises(hw.ModelError, match="safetensors"):
        ModelShape.read(tmp_path)
    with pytest.raises(hw.ModelNotFoundError):
        hw.plan("nobody/has-this-model-here")


def test_configurations_shuffled_at_random_never_do_worse_than_an_error() -> None:
    draw = random.Random(3)
    values = [None, True, -1, 0, 7, 1 << 62, 0.5, "x", [], ["full_attention"], [1, 2], {}, {"k": 1}]
    for architecture in architectures():
        for _ in range(10):
            config = dict(architecture.config)
            for key in draw.sample(sorted(set(config) - {"model_type"}), 3):
                config[key] = draw.choice(values)
            try:
                ModelShape.of_config(json.dumps(config))
            except hw.ModelError as error:
                assert str(error)  # noqa: PT017  an error is fine, but only this one


def test_the_command_prints_tables_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from hwledger_omlx.cli import app

    shown = CliRunner().invoke(app, ["plan", str(NOTES), "--context", "2048", "--memory", "2GiB"])
    assert shown.exit_code == 0
    assert "weights" in shown.output
    assert "fit" in shown.output
    said = CliRunner().invoke(app, ["plan", str(NOTES), "--kv", "8", "--concurrency", "2", "--json"])
    assert json.loads(said.output)["concurrency"] == 2
