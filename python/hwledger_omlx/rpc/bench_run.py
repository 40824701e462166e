"""`bench.run`: one request with a fixed seed, timed, with the KV of each layer at its highest."""

import hashlib
import queue
import uuid
from typing import TYPE_CHECKING, Any

from hwledger_omlx.engine.events import DoneEvent, Event, Generation
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.errors import ModelError, RequestError
from hwledger_omlx.memory.events import MemoryEvents
from hwledger_omlx.memory.records import MemoryEvent
from hwledger_omlx.rpc.fields import LAYERS, LIST, NUMBER, TEXT, WHOLE, Field, InvalidParamsError, Value
from hwledger_omlx.rpc.method import Method

if TYPE_CHECKING:
    from hwledger_omlx.rpc.service import Service

_POLL_S = 0.05


def _run(service: "Service", params: dict[str, Any]) -> dict[str, Any]:
    session = service.session
    model_id = service.model_id(params["model"]) or next(iter(session.loaded), "")
    if model_id not in session.models:
        named = repr(model_id) if model_id else "that generates text"
        raise ModelError(f"no model {named} is loaded; load it first with load_model")
    request_id = f"bench-{uuid.uuid4().hex}"
    try:
        request = GenerateRequest.parse(
            params["prompt"] or _prompt(service, model_id, params),
            model=model_id,
            request_id=request_id,
            max_tokens=params["max_tokens"],
            temperature=params["temperature"],
            seed=params["seed"],
            # Nobody else's, so that nothing of the prompt is restored, the last run's included.
            tenant=request_id,
        )
    except RequestError as error:
        raise InvalidParamsError(str(error)) from error
    samples = MemoryEvents(session.memory_ledgers, lambda: session.closed, buffered=4096)
    events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
    session.submit(request, events.put)
    seen = _Seen(model_id)
    while (made := _ended(events)) is None:
        seen.take(samples)
    seen.take(samples)
    return {
        "model": model_id,
        "seed": params["seed"],
        "kv_policy": session.kv_policy_of(model_id),
        "prompt_tokens": made.usage.prompt_tokens,
        "completion_tokens": made.usage.completion_tokens,
        "stopped_reason": made.finish_reason,
        "ttft_s": made.timings.ttft_s,
        "total_s": made.timings.total_s,
        "decode_tokens_per_s": made.timings.decode_tokens_per_s,
        "token_digest": hashlib.sha256(",".join(map(str, made.token_ids)).encode()).hexdigest(),
        **seen.report(),
    }


def _prompt(service: "Service", model_id: str, params: dict[str, Any]) -> str:
    from hwledger_omlx.measure.prompts import Prompts  # a tokenizer of its own, which no other method needs

    if params["prompt_tokens"] < 1:
        raise InvalidParamsError(f"prompt_tokens must be at least 1, not {params['prompt_tokens']}")
    model = service.session.loaded_of_any_kind[model_id]
    if model.context_tokens is not None and params["prompt_tokens"] >= model.context_tokens:
        raise InvalidParamsError(f"prompt_tokens must be below the model's context of {model.context_tokens} tokens")
    return Prompts(model.folder.path).make(params["prompt_tokens"], params["seed"])


def _ended(events: "queue.SimpleQueue[Event | Exception]") -> Generation | None:
    """The result, as soon as it is there; None after a while without one."""
    while True:
        try:
            event = events.get(timeout=_POLL_S)
        except queue.Empty:
            return None
        if isinstance(event, Exception):
            raise event
        if isinstance(event, DoneEvent):
            return event.result


class _Seen:
    """The samples of one model from the next prefill on. Requests that run at the same time are in them."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._began = False
        self._highest: MemoryEvent | None = None
        self._prefill_peak: int | None = None
        self._faults: list[int] = []
        self._count = 0

    def take(self, samples: MemoryEvents) -> None:
        """Those that there are."""
        while (sample := samples.poll()) is not None:
            if sample.model_id == self._model_id:
                # Before, there may be what an earlier request has left.
                self._began = self._began or sample.phase == "prefill"
                if not self._began:
                    continue
                self._count += 1
                if self._highest is None or sum(sample.layer_bytes) >= sum(self._highest.layer_bytes):
                    self._highest = sample
                if sample.phase == "prefill" and sample.mlx_peak_bytes is not None:
                    self._prefill_peak = max(self._prefill_peak or 0, sample.mlx_peak_bytes)
                if sample.page_faults is not None:
                    self._faults.append(sample.page_faults)

    def report(self) -> dict[str, Any]:
        layers = () if self._highest is None else self._highest.layer_bytes
        return {
            "samples": self._count,
            "kv_bytes": sum(layers) if self._count else None,
            "layers": [{"layer": layer, "kv_bytes": count} for layer, count in enumerate(layers)],
            "prefill_peak_bytes": self._prefill_peak,
            "page_faults": self._faults[-1] - self._faults[0] if self._faults else None,
        }


BENCH_RUN = Method(
    name="bench.run",
    doc="One request with a fixed seed on a prompt that the seed makes: its times, and the KV of each layer at its "
    "highest. The same seed gives the same tokens. Nothing of the prompt is taken from the cache.",
    params={
        "model": Field(TEXT, "A loaded model; without, the first one.", None),
        "seed": Field(WHOLE, "Of the prompt and of the sampling.", 0),
        "prompt_tokens": Field(WHOLE, "Length of the prompt, about.", 512),
        "max_tokens": Field(WHOLE, "Most tokens to generate.", 64),
        "temperature": Field(NUMBER, "0 takes the likeliest token each time.", 0),
        "prompt": Field(TEXT, "In place of the one that the seed makes.", None),
    },
    result={
        "model": Value(TEXT, "Its id."),
        "seed": Value(WHOLE, "As given."),
        "kv_policy": Value(TEXT, "At which keys and values were held."),
        "prompt_tokens": Value(WHOLE, "Tokens of the prompt."),
        "completion_tokens": Value(WHOLE, "Tokens generated."),
        "stopped_reason": Value(TEXT, "As of `generate`."),
        "ttft_s": Value(NUMBER, "Seconds to the first token."),
        "total_s": Value(NUMBER, "Seconds to the end."),
        "decode_tokens_per_s": Value(NUMBER, "Tokens after the first, by the seconds after it."),
        "token_digest": Value(TEXT, "SHA-256 of the tokens' ids: equal where the tokens are."),
        "samples": Value(WHOLE, "Samples of memory taken meanwhile."),
        "kv_bytes": Value(WHOLE, "Sum of `layers`; null where nothing was sampled.", nullable=True),
        "layers": Value(LIST, "At the sample where their sum was highest.", of=LAYERS),
        "prefill_peak_bytes": Value(
            WHOLE, "The highest that MLX's memory went in prefill; null where it was not sampled.", nullable=True
        ),
        "page_faults": Value(
            WHOLE,
            "Blocks that the cache read from disk meanwhile; null where there is no cache of ours.",
            nullable=True,
        ),
    },
    run=_run,
    work="long",
    example=(
        {"seed": 7, "prompt_tokens": 512, "max_tokens": 64},
        {
            "model": "notes",
            "seed": 7,
            "kv_policy": "16",
            "prompt_tokens": 512,
            "completion_tokens": 64,
            "stopped_reason": "length",
            "ttft_s": 2.41,
            "total_s": 3.87,
            "decode_tokens_per_s": 43.2,
            "token_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "samples": 6,
            "kv_bytes": 2359296,
            "layers": [{"layer": 0, "kv_bytes": 393216}],
            "prefill_peak_bytes": 31457280,
            "page_faults": 0,
        },
    ),
)
