"""Requests are checked before the engine sees them, and every refusal says what to do."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwledger_omlx as hw
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.engine.stop_text import StopText

USER = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("prompt", "fields", "said"),
    [
        ("", {}, "prompt is empty"),
        ([], {}, "at least one user message"),
        (7, {}, "text or a list of messages, not int"),
        (b"bytes", {}, "not bytes"),
        (["text"], {}, "message 0 is not a mapping"),
        ([{"role": "wizard", "content": "x"}], {}, "role 'wizard'; roles are system"),
        ([{"role": "user"}], {}, r"message 0 \(user\) has no content"),
        ("x", {"temprature": 1.0}, "unknown request field 'temprature'; did you mean 'temperature'?"),
        ("x", {"zzz": 1}, "unknown request field 'zzz'; known are: .*max_tokens"),
        ("x", {"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ("x", {"max_tokens": -3}, "max_tokens must be at least 1, not -3"),
        ("x", {"max_tokens": 1.5}, "max_tokens must be a whole number, not 1.5"),
        ("x", {"max_tokens": True}, "max_tokens must be a whole number, not True"),
        ("x", {"temperature": -0.1}, "temperature must be at least 0.0"),
        ("x", {"temperature": math.nan}, "temperature must be at least 0.0, not nan"),
        ("x", {"temperature": math.inf}, "temperature must be at least 0.0, not inf"),
        ("x", {"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ("x", {"top_p": 1.1}, "top_p must be between 0.0 and 1.0"),
        ("x", {"seed": "lucky"}, "seed must be a whole number"),
        ("x", {"seed": -1}, "seed must be between 0 and"),
        ("x", {"seed": 2**64}, "seed must be between 0 and"),
        ("x", {"model": ["a"]}, "model must be the id of a loaded model"),
        ("x", {"tools": 3}, "tools must be a list"),
        (USER, {"tools": ["a"]}, "tools must be a list"),
        (USER, {"chat_template_kwargs": 5}, "chat_template_kwargs must be a mapping"),
        ("x", {"stop": ""}, "non-empty texts"),
        ("x", {"stop": [1]}, "non-empty texts"),
        ("x", {"tools": [{"type": "function"}]}, "tools need chat messages"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(prompt: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(hw.RequestError, match=said):
        GenerateRequest.parse(prompt, **fields)


def test_an_accepted_request_keeps_what_was_given() -> None:
    request = GenerateRequest.parse(
        USER, max_tokens=3, stop="\n", seed=None, request_id="r1", tools=[{"type": "function"}]
    )
    assert (request.prompt, request.stop, request.seed, request.request_id) == (tuple(USER), ("\n",), None, "r1")
    counted = GenerateRequest.parse("x", max_tokens=np.int64(4), temperature=np.float32(0.5))
    assert (type(counted.max_tokens), type(counted.temperature)) == (int, float)
    assert GenerateRequest.parse("x").request_id != GenerateRequest.parse("x").request_id


def cut(text: str, sequences: list[str]) -> str:
    return text[: min([len(text), *(at for at in map(text.find, sequences) if at >= 0)])]


@given(
    pieces=st.lists(st.text(alphabet="ab\n", max_size=4), max_size=12),
    sequences=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3),
)
def test_stop_text_cuts_at_the_first_sequence_however_the_text_is_split(
    pieces: list[str], sequences: list[str]
) -> None:
    stop = StopText(sequences)
    shown = ""
    for piece in pieces:
        shown += stop.push(piece)
        whole = cut("".join(pieces), sequences)
        assert whole.startswith(shown), "showed what had to be held back"
        if stop.stopped:
            break
    if not stop.stopped:
        shown += stop.finish()
    # A sequence may be completed by a piece in which another one, longer and begun earlier, is completed too.
    assert shown == cut("".join(pieces), sequences)
    assert stop.stopped == any(sequence in "".join(pieces) for sequence in sequences)
