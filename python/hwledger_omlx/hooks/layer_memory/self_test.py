"""Proves patch 002 on a fork whose scheduler has changed: the same greedy text, and samples that tell what there is."""

import asyncio
import importlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwledger_omlx.hooks.layer_memory.attached import attached
from hwledger_omlx.hooks.layer_memory.requests import RequestRecord, subscribe

if TYPE_CHECKING:
    from hwledger_omlx.fork.load import LoadedFork

_PROMPT = "the quick brown fox jumps over the lazy dog, and then it does so again, and again. " * 4
_CHUNK_TOKENS = 100
_ANSWER_TOKENS = 40


def self_test(loaded: "LoadedFork") -> str | None:
    """The text is that without the hook, in both ways to prefill; every chunk, the batch and the end are seen."""
    from hwledger_omlx.fork import probe_model

    with tempfile.TemporaryDirectory(prefix="hwledger-omlx-self-test-") as folder:
        model = probe_model.write(Path(folder) / "model")
        return asyncio.run(_compare(loaded, model))


async def _compare(loaded: "LoadedFork", model: Path) -> str | None:
    importlib.import_module("omlx.scheduler")
    with loaded.lifted("layer-memory.init"):
        plain, *_ = await _answer(model, chunked=False)
    for chunked in (False, True):
        way = "in steps" if chunked else "at once"
        text, samples, held, records = await _answer(model, chunked=chunked)
        if text != plain:
            return f"greedy text differs with the hook: {plain!r}, then {text!r}"
        chunks = [each["chunk"] for each in samples if each["phase"] == "prefill"]
        wanted = list(range(1, -(-(len(_PROMPT) - 1) // _CHUNK_TOKENS) + 1))
        if chunks != wanted:
            return f"of a prompt that was prefilled {way}, chunks {chunks} were sampled and not {wanted}"
        seen = {each["kv_allocated_bytes"] for each in samples if each["phase"] in {"join", "decode"}}
        if held not in seen:
            return f"the batch held {held} bytes, and the samples say {sorted(map(str, seen))}"
        if samples[-1]["kv_allocated_bytes"] != 0 or samples[-1]["requests"] != 0:
            return f"the last sample is {samples[-1]}, and nothing was at work"
        ends = [(each.finish_reason, each.prompt_tokens, each.completion_tokens, each.kv_bytes) for each in records]
        if ends != [("length", len(_PROMPT), _ANSWER_TOKENS, held)]:
            return f"of one request, which held {held} bytes, it was told {ends}"
    return None


async def _answer(model: Path, *, chunked: bool) -> tuple[str, list[dict[str, Any]], int, list[RequestRecord]]:
    """The greedy answer, the samples taken meanwhile, the most bytes of the batch, and what was told of its end."""
    from hwledger_omlx.fork import probe_model

    def prepare(config: Any) -> None:
        config.chunked_prefill = chunked
        config.prefill_step_size = _CHUNK_TOKENS

    records: list[RequestRecord] = []
    unsubscribe = subscribe(records.append)
    try:
        async with probe_model.engine(model, prepare) as engine:
            text, most = await probe_model.answer(engine, _PROMPT, _ANSWER_TOKENS)
            sampler = attached(engine._engine.engine.scheduler)
            samples = [] if sampler is None else _samples(sampler)
    finally:
        unsubscribe()
    return text, samples, most, records


def _samples(sampler: Any) -> list[dict[str, Any]]:
    ledger = sampler.ledger
    return [json.loads(ledger.event(number)) for number in range(ledger.samples)]
