"""The shipped model: its files, its tokenizer, the split of its data, and that it recalls."""

import json
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from hwledger_omlx import probes
from hwledger_omlx.models import NOTES
from hwledger_omlx.probes import Conversation

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    from mlx_lm import load

    model, tokenizer, *_ = load(str(NOTES))
    return model, tokenizer


def prompt(tokenizer: Any, conversation: Conversation, **options: Any) -> list[int]:
    text = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False, **options)
    return list(tokenizer.encode(text, add_special_tokens=False))


def reply(loaded: tuple[Any, Any], conversation: Conversation) -> str:
    from mlx_lm import stream_generate

    model, tokenizer = loaded
    last = None
    text = ""
    for last in stream_generate(model, tokenizer, prompt(tokenizer, conversation), max_tokens=32):
        text += last.text
    assert last is not None
    assert last.finish_reason == "stop", f"did not end: {text!r}"
    return text


def test_the_folder_is_small_and_complete() -> None:
    sizes = {path.name: path.stat().st_size for path in NOTES.iterdir() if path.is_file()}
    assert sum(sizes.values()) <= 12_000_000
    assert sizes.keys() >= {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip


def test_the_config_says_what_the_weights_are() -> None:
    config = json.loads((NOTES / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert config["head_dim"] == 64
    assert config["tie_word_embeddings"] is True
    assert config["num_attention_heads"] == 2 * config["num_key_value_heads"]
    with (NOTES / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}
    parameters = sum((entry["data_offsets"][1] - entry["data_offsets"][0]) // 2 for entry in header.values())
    assert 4_000_000 <= parameters <= 8_000_000
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    assert "model.layers.0.self_attn.q_norm.weight" in header


@pytest.mark.parametrize(
    "text",
    [
        "Mira Tolvane's door code is 4817.",
        "naïve café, e\u0301, 日本語, العربية, 🎉👩‍🚀",
        "\x00\x01 tab\t two  spaces \r\n\n end ",
        "".join(map(chr, range(1, 0x500))),
        " ,don't .x ' s",
    ],
)
def test_any_text_survives_the_tokenizer(loaded: tuple[Any, Any], text: str) -> None:
    tokenizer = loaded[1]
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_are_single_tokens(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    ids = tokenizer.encode("code 4817", add_special_tokens=False)
    assert [tokenizer.decode([token]) for token in ids[-4:]] == ["4", "8", "1", "7"]


def test_the_template_takes_what_callers_pass(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
    user = {"role": "user", "content": "Hello!"}
    for options in ({}, {"enable_thinking": False}, {"enable_thinking": True}, {"tools": tools}):
        ids = prompt(tokenizer, [{"role": "system", "content": "Be brief."}, user], **options)
        text = tokenizer.decode(ids)
        assert text.startswith("<|im_start|>system\nBe brief.")
        assert text.endswith("<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n")
        assert ("look_up" in text) == ("tools" in options)
    longer = [
        user,
        {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "look_up", "arguments": {"a": 1}}},
        ]},
        {"role": "tool", "content": "42"},
    ]  # fmt: skip
    text = tokenizer.decode(prompt(tokenizer, longer))
    assert '<tool_call>{"name": "look_up", "arguments": {"a": 1}}</tool_call>' in text
    assert "<tool_response>\n42\n</tool_response>" in text


def test_a_growing_chat_only_appends(loaded: tuple[Any, Any]) -> None:
    """A prefix cache lives on this."""
    tokenizer = loaded[1]
    chat = [{"role": "system", "content": "Notes."}, {"role": "user", "content": "Hello!"}]
    first = prompt(tokenizer, chat)
    chat += [{"role": "assistant", "content": "Noted."}, {"role": "user", "content": "Thanks!"}]
    assert prompt(tokenizer, chat)[: len(first)] == first


def held_out(text: str) -> bool:
    """The split, as the card states it: written here again, so that the test does not lean on the generator."""
    return zlib.crc32(b"notes/" + text.lower().encode()) % 8 == 0


def test_names_and_values_of_the_probes_are_held_out() -> None:
    codes = re.compile(r"[0-9]{3,}|[0-9]{2}:[0-9]{2}")
    for fact in probes.facts():
        value = fact.answer.removesuffix(".")
        parts = value.split() if value[0].isupper() else [value]
        assert all(held_out(part) for part in parts), fact
        names = [word for word in fact.subject.split() if word[0].isupper()] + codes.findall(fact.subject)
        assert all(held_out(name) for name in names), fact


def test_the_training_side_never_draws_a_held_out_name(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT / "training").is_dir():
        pytest.skip("the training scripts are not part of an installed package")
    monkeypatch.syspath_prepend(str(ROOT))
    from training.words import GIVEN_NAMES, Sampler

    sampler = Sampler(5, "train")
    drawn = {sampler.name() for _ in range(2000)} - set(GIVEN_NAMES)
    assert not any(held_out(name) for name in drawn)
    assert not any(held_out(sampler.digits(4)) for _ in range(2000))
    other = Sampler(5, "heldout")
    assert all(held_out(other.name()) for _ in range(500))
    for module in [name for name in sys.modules if name.split(".")[0] == "training"]:
        monkeypatch.delitem(sys.modules, module)


def test_the_model_recalls(loaded: tuple[Any, Any]) -> None:
    report = probes.recall(
        lambda batch: [reply(loaded, conversation) for conversation in batch],
        lambda conversation: len(prompt(loaded[1], conversation)),
        lengths=(384,), depths=(0.0, 0.5, 1.0), per_cell=2,
    )  # fmt: skip
    assert report.right == report.asked == 6, report.misses


def test_the_model_answers_over_turns_and_admits_what_it_was_not_told(loaded: tuple[Any, Any]) -> None:
    chat: Conversation = [{"role": "user", "content": "My locker number is 6094."}]
    for expected, then in [
        ("Noted.", "Drenna Palloway's dog is called Rosk."),
        ("Noted.", "What is my locker number?"),
        ("6094.", "What is Drenna Palloway's dog called?"),
        ("Rosk.", "What is Drenna Palloway's phone number?"),
        ("I don't know.", ""),
    ]:
        given = reply(loaded, chat)
        assert given == expected
        chat += [{"role": "assistant", "content": given}, {"role": "user", "content": then}]


def test_the_model_writes_sentences(loaded: tuple[Any, Any]) -> None:
    from mlx_lm import generate

    text = generate(*loaded, "Once upon a time", max_tokens=48)
    assert text.count(".") >= 2
    assert re.search(r"called [A-Z][a-z]+ lived in the village of [A-Z][a-z]+\.", text)
