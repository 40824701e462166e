"""The KV policy as Python sees it: text and JSON in, JSON out, one exception for what cannot be."""

import json

import pytest

from hwledger_omlx import errors
from hwledger_omlx._native import KvPolicy

VECTORS = {"heads": 8, "width": 128}
SEQUENCE = {"kind": "sequence", "k": VECTORS, "v": VECTORS, "element": "bfloat16", "window_tokens": None}
STATE = {"kind": "state"}


def geometry(*caches, model=None):
    return json.dumps({"model": model, "layers": [{"caches": [cache]} for cache in caches]})


def profile(layers, harms):
    measured = {form: {"kl": kl, "error": 0.1} for form, kl in harms.items()}
    each = [{"k": measured, "v": measured}] * layers
    return json.dumps({"version": 1, "model": "ab", "text": "cd", "tokens": 512, "layers": each})


@pytest.mark.parametrize(
    "text", ["8", "k8v4", "4,0-1:16,34-35:8,first=4,recent=128", "rotated-3.5/8", "auto:12GiB@128k"]
)
def test_a_policy_reads_back_from_its_text_and_its_json(text):
    policy = KvPolicy.parse(text)
    assert str(policy) == text
    assert repr(policy) == f"KvPolicy({text})"
    for again in (KvPolicy.from_json(policy.to_json()), KvPolicy.from_json(json.dumps(text))):
        assert again == policy
        assert hash(again) == hash(policy)
    assert policy != KvPolicy.parse("2")
    assert policy != text


def test_fields_say_what_the_text_says():
    fields = {"live": {"k": 8, "v": 4, "layers": [{"layers": "0-1", "bits": 16}]}, "rest": "lossless"}
    assert str(KvPolicy.from_json(json.dumps(fields))) == "k8v4,0-1:16/lossless"


def test_each_cache_of_a_model_gets_its_formats():
    said = json.loads(KvPolicy.parse("k8v4,2:16,recent=64/rotated-4").resolve(geometry(SEQUENCE, STATE, SEQUENCE)))
    rest = {"k": "rotated:4", "v": "rotated:4"}
    assert said == {
        "policy": "k8v4,2:16,recent=64/rotated-4",
        "first_tokens": 0,
        "recent_tokens": 64,
        "layers": [
            {"caches": [{"live": {"k": "affine:8:64", "v": "affine:4:64"}, "rest": rest}]},
            {"caches": [None]},
            {"caches": [{"live": {"k": "16", "v": "16"}, "rest": rest}]},
        ],
    }


def test_a_plan_says_bytes_by_layer_and_in_all():
    plan = json.loads(KvPolicy.parse("4/lossless").plan(geometry(SEQUENCE, STATE), 1000))
    assert (plan["live_bytes"], plan["plain_bytes"]) == (16 * 1000 * 72, 16 * 1000 * 256)
    assert (plan["rest_bytes"], plan["rest_is_upper_bound"]) == (16 * 1000 * 256, True)
    assert [layer["live_bytes"] for layer in plan["layers"]] == [16 * 1000 * 72, 0]
    assert plan["predicted_kl"] is None


def test_auto_is_solved_from_what_was_measured():
    measured = profile(2, {"affine:8:64": 0.001, "affine:4:64": 0.01, "affine:2:64": 0.5})
    policy = KvPolicy.parse("auto:0.29")
    said = json.loads(policy.resolve(geometry(SEQUENCE, SEQUENCE), measured))
    assert said["policy"] == "4,group=64"
    again = json.loads(KvPolicy.parse(said["policy"]).resolve(geometry(SEQUENCE, SEQUENCE)))
    assert again == said
    plan = json.loads(policy.plan(geometry(SEQUENCE, SEQUENCE), 1000, measured))
    assert plan["live_bytes"] <= 0.29 * plan["plain_bytes"]
    assert plan["predicted_kl"] == pytest.approx(0.04)


def test_what_cannot_be_is_one_exception_that_says_what_would_be_right():
    assert issubclass(errors.KvPolicyError, errors.Error)
    assert issubclass(errors.KvPolicyError, ValueError)
    assert (errors.KvPolicyError.__module__, errors.KvPolicyError.__name__) == ("hwledger_omlx", "KvPolicyError")
    model = geometry(SEQUENCE, STATE)
    mistakes = [
        (lambda: KvPolicy.parse("rotate-4"), r"at `rotate` \(column 1\): there is no scheme .*did you mean `rotated`"),
        (lambda: KvPolicy.from_json('{"live": 7}'), "affine has 8, 6, 5, 4, 3 or 2 bits.*line 1 column"),
        (lambda: KvPolicy.parse("8,1:4").resolve(model), "layer 1 of `1` has no KV"),
        (lambda: KvPolicy.parse("8,1-7:4").plan(model, 10), "layer 7 of `1-7` does not exist"),
        (lambda: KvPolicy.parse("8").resolve("{}"), "KV geometry: missing field `layers`"),
        (lambda: KvPolicy.parse("auto:0.35").resolve(model), "hwledger-omlx kv calibrate MODEL --text FILE"),
        (lambda: KvPolicy.parse("auto:0.35").resolve(model, profile(3, {"affine:4:64": 0.1})), "another model"),
        (lambda: KvPolicy.parse("auto:0.01").resolve(model, profile(2, {"affine:4:64": 0})), "`auto:0.2813`"),
    ]
    for mistake, said in mistakes:
        with pytest.raises(errors.KvPolicyError, match=said):
            mistake()
