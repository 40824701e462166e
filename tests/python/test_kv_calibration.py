"""Calibration on a tiny model: what it measures, what it keeps, and what it refuses."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from safetensors.numpy import load_file, save_file

import hwledger_omlx as hw
from hwledger_omlx.errors import KvProfileError, KvProfileNotFoundError, KvTextError, ModelNotFoundError
from hwledger_omlx.hooks.kv_quant import geometry
from hwledger_omlx.hooks.layer_caches import formats
from hwledger_omlx.hooks.layer_caches.dial import CacheDial, Dial, Side
from hwledger_omlx.hooks.layer_caches.held import HeldTokens
from hwledger_omlx.kv import profile as profiles
from hwledger_omlx.kv.attention_error import TwinKVCache, twins_of, watched
from hwledger_omlx.kv.calibration import Calibration, calibrate, candidates, pooled
from hwledger_omlx.kv.prediction import LoadedModel, held_nbytes
from hwledger_omlx.kv.profile import LayerProfile, Measured, Profile

TEXT = "the quick brown fox jumps over the lazy dog, and then it does so again. " * 2
FORMATS = ("affine:8:32", "affine:4:32", "channel:2:64", "rotated:2")


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> LoadedModel:
    return LoadedModel.load(tiny_model)


@pytest.fixture(scope="module")
def deaf_first_layer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, the attention of whose first layer nobody listens to."""
    folder = tmp_path_factory.mktemp("models") / "deaf"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.o_proj.weight"] = np.zeros_like(weights["model.layers.0.self_attn.o_proj.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def test_the_sensitive_layer_ranks_first(deaf_first_layer: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    found = calibrate(deaf_first_layer, TEXT, tokens=130, only=FORMATS, on_step=lambda *step: seen.append(step))
    assert found.tokens == 130
    for name in ("affine:4:32", "rotated:2"):
        ranked = found.most_sensitive(name)
        assert [layer for layer, _, _ in ranked] == [1, 1, 0, 0]
        assert ranked[0][2].kl > 0
        assert ranked[-1][2].kl == 0
        # Nobody listens, but what was not listened to is as wrong as ever.
        assert all(measured.error > 0 for _, _, measured in ranked)
    for layer in found.layers:
        assert layer is not None
        assert layer.k["affine:8:32"].error < layer.k["affine:4:32"].error < layer.k["rotated:2"].error
        assert set(layer.k) == set(FORMATS)
        assert "channel:2:64" not in layer.v
    steps = 1 + 2 * (4 + 3)
    assert [done for _, done, _ in seen[:steps]] == list(range(steps))
    assert {of for _, _, of in seen[:steps]} == {steps}
    # Then policies as wholes: the uniform ones, and what the solver makes of budgets between them.
    assert [done for _, done, _ in seen[steps:]] == list(range(len(found.wholes)))
    texts = [whole.policy for whole in found.wholes]
    for whole in found.wholes:  # 9 tokens each, 4 at the end
        assert len(whole.kl_of_pieces) == 15
        assert whole.kl == pytest.approx(np.average(whole.kl_of_pieces, weights=[9] * 14 + [4]))
    assert len(set(texts)) == len(texts)
    for uniform in ("8,group=32", "4,group=32", "rotated-2"):
        assert str(hw.KvPolicy.parse(uniform)) in texts


def test_auto_is_never_worse_than_a_uniform_policy_that_fits(tiny_model: Path) -> None:
    found = calibrate(tiny_model, TEXT, tokens=130, only=FORMATS)
    measured = {whole.policy: whole.kl for whole in found.wholes}
    shape = geometry.measure(LoadedModel.load(tiny_model).model)
    profile = json.dumps(found.as_json())

    def chosen(share: float) -> dict[str, Any]:
        resolved: dict[str, Any] = json.loads(hw.KvPolicy.parse(f"auto:{share}").resolve(shape.text, profile))
        return resolved

    def share_of(policy: str) -> float:
        plan = json.loads(hw.KvPolicy.parse(policy).plan(shape.text, 4096))
        return float(plan["live_bytes"] / plan["plain_bytes"])

    for share in (0.2, 0.3, 0.45):
        policy = chosen(share)["policy"]
        assert share_of(policy) <= share
        names_layers = re.compile(r",\d+(-\d+)?:")
        uniform = [kl for text, kl in measured.items() if share_of(text) <= share and not names_layers.search(text)]
        assert measured[policy] <= min(uniform)


def test_several_contexts_are_measured_as_one_text(loaded: LoadedModel) -> None:
    ids = loaded.encode(TEXT)[:128]
    layers = Calibration(loaded, ids, window_tokens=64, only=("affine:2:32",)).run()
    halves = [Calibration(loaded, half, only=("affine:2:32",)).run() for half in (ids[:64], ids[64:])]
    for number, layer in enumerate(layers):
        assert layer is not None
        parts = [half[number] for half in halves]
        assert layer.k["affine:2:32"].kl == pytest.approx(
            np.mean([part.k["affine:2:32"].kl for part in parts if part is not None])
        )


def test_a_profile_is_read_as_it_was_written(tiny_model: Path) -> None:
    found = calibrate(tiny_model, TEXT, tokens=64, only=("affine:4:32",))
    path = found.write()
    model = profiles.fingerprint(tiny_model)
    assert path == profiles.path_of(model)
    assert Profile.parse(profiles.text_of(model, "tiny")) == found
    assert found.model == model
    assert len(found.text) == 64
    said = json.loads(path.read_text(encoding="utf-8"))
    assert set(said) == {"version", "model", "text", "tokens", "layers", "wholes"}
    assert set(said["layers"][0]["k"]["affine:4:32"]) == {"kl", "error"}


def test_layers_without_running_kv_stay_so() -> None:
    made = Profile("ab", "cd", 9, (None, LayerProfile({"affine:4:32": Measured(0.5, 0.25)}, {})))
    again = Profile.parse(json.dumps(made.as_json()))
    assert again == made
    assert again.most_sensitive("affine:4:32") == [(1, "k", Measured(0.5, 0.25))]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "layers": 3}'])
def test_what_is_no_profile(text: str) -> None:
    with pytest.raises(KvProfileError, match="no KV profile"):
        Profile.parse(text)


def test_a_profile_of_another_version_is_to_be_measured_again() -> None:
    with pytest.raises(KvProfileError, match=r"version 7.*kv calibrate"):
        Profile.parse('{"version": 7}')


def test_what_calibration_refuses(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(KvTextError, match="3 tokens, and at least 64"):
        calibrate(tiny_model, "abc")
    with pytest.raises(ModelNotFoundError):
        calibrate(tmp_path / "none", TEXT)
    with pytest.raises(KvProfileNotFoundError, match="kv calibrate tiny --text"):
        profiles.text_of("00", "tiny")


def test_formats_are_those_that_a_width_can_take() -> None:
    assert candidates("k", 128)[0] == "affine:8:64"
    assert candidates("k", 96)[0] == "affine:8:32"
    assert not any(name.startswith("channel") for name in candidates("v", 128))
    assert all(name.startswith("channel") for name in candidates("k", 80))
    assert candidates("v", 80) == candidates("k", 0) == ()
    for name in candidates("k", 128):
        assert formats.parse(name).name == name


def test_twins_leave_the_model_as_it_was(loaded: LoadedModel) -> None:
    ids = loaded.encode(TEXT)[:80]
    plain = loaded.logits(ids, loaded.caches(Dial(), len(ids)))
    caches = loaded.caches(Dial(), len(ids))
    caches[1] = TwinKVCache(HeldTokens(formats.parse("affine:2:32")), HeldTokens(formats.PLAIN))
    assert twins_of(caches) == [caches[1]]
    with watched(loaded.model) as error:
        assert not error.is_watched
        changed = loaded.logits(ids, caches)
        assert error.is_watched
    assert error.value > 0.01
    assert not np.array_equal(plain, changed)
    np.testing.assert_array_equal(loaded.logits(ids, loaded.caches(Dial(), len(ids))), plain)
    assert not [cache for cache in caches if isinstance(cache, RotatingKVCache)]


def test_nothing_is_lost_where_nothing_is_quantized(loaded: LoadedModel) -> None:
    ids = loaded.encode(TEXT)[:70]
    caches = loaded.caches(Dial(), len(ids))
    caches[0] = TwinKVCache(HeldTokens(formats.PLAIN), HeldTokens(formats.PLAIN))
    with watched(loaded.model) as error:
        loaded.logits(ids, caches)
    assert error.value == 0.0


@pytest.mark.parametrize("chunk_tokens", [16, 64, 1000])
def test_predictions_are_mlx_lms_in_16_bit_however_they_are_cut(loaded: LoadedModel, chunk_tokens: int) -> None:
    ids = loaded.encode(TEXT)[:90]
    caches = make_prompt_cache(loaded.model)
    assert all(type(cache) is KVCache for cache in caches)
    theirs: Any = loaded.model(mx.array([ids]), cache=caches)[0]
    ours = loaded.logits(ids, loaded.caches(Dial(), len(ids)), chunk_tokens)
    np.testing.assert_allclose(ours, np.array(theirs), rtol=2e-4, atol=2e-4)


def test_fewer_bits_are_fewer_bytes(loaded: LoadedModel) -> None:
    ids = loaded.encode(TEXT)[:64]
    sizes = {}
    for name in ("16", "affine:8:32", "affine:4:32"):
        dial = Dial(caches={(layer,): CacheDial(Side(name), Side(name)) for layer in range(2)})
        caches = loaded.caches(dial, len(ids))
        loaded.logits(ids, caches)
        sizes[name] = held_nbytes(caches)
    # 32-bit numbers, and 32-bit scales and biases.
    assert sizes["affine:8:32"] / sizes["16"] == 10 / 32
    assert sizes["affine:4:32"] / sizes["16"] == 6 / 32


def test_a_format_is_not_taken_to_be_better_than_its_error() -> None:
    found = pooled({"a": Measured(0.0, 0.1), "b": Measured(0.05, 0.2), "c": Measured(0.1, 0.3)})
    factor = 0.15 / 0.14
    assert found["a"].kl == pytest.approx(factor * 0.01)
    assert found["b"].kl == 0.05
    assert found["c"].kl == 0.1
    assert [each.error for each in found.values()] == [0.1, 0.2, 0.3]
    assert pooled({"a": Measured(0.0, 0.0)}) == {"a": Measured(0.0, 0.0)}
    assert pooled({}) == {}
