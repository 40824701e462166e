"""What a model will take before it is loaded: from its config.json, the headers of its weights and a KV policy.

The formulas are the core's (`memory/ingest`, `memory/plan`); here they get the machine, the policy and their types.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwledger_omlx._native import KvPolicy, ModelShape
from hwledger_omlx.cache.sizes import Size, parse_size
from hwledger_omlx.engine import model_folder
from hwledger_omlx.errors import LedgerError, RequestError
from hwledger_omlx.memory import plan_machine
from hwledger_omlx.memory.ledger import fitted_runtime
from hwledger_omlx.memory.plan_machine import Amount
from hwledger_omlx.memory.runtime import Runtime

if TYPE_CHECKING:
    from hwledger_omlx.engine.kv_policy import KvSetting

_log = logging.getLogger(__name__)

Verdict = Literal["fit", "tight", "fail"]
TERMS = ("weights", "kv", "state", "activations", "runtime")
"""What a plan is made of, by the names that all of hwledger-omlx uses."""
_CONTEXT_TOKENS = 8192
_LARGEST = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """One layer's share, of all requests."""

    layer: int | None
    """Its number; None for what is beside the layers."""
    cache: int | None
    """Its place in the engine's list of caches, by which policies name it."""
    attention: str
    """`mha`, `gqa`, `mqa`, `mla`, `sliding_window`, `chunked`, `linear`, `gated_delta`, `ssm`, `convolution`, `hybrid`,
    `shared_kv`, `none` or `unknown`."""
    experts: bool
    sinks: bool
    k: str | None
    """Format of the running keys."""
    v: str | None
    kv_bytes: int
    """Allocated."""
    kv_used_bytes: int
    token_bytes: int
    """What a further token of one request takes."""
    state_bytes: int
    unknown_bytes: int
    """Of `kv_bytes`, what is only bounded: this at most, and nothing at least."""
    source: str


@dataclass(frozen=True, slots=True)
class Moments:
    """Activations at the moments when they are most."""

    prefill_bytes: int
    decode_bytes: int
    join_bytes: int
    leave_bytes: int
    growth_bytes: int


@dataclass(frozen=True, slots=True)
class LongestContext:
    """The longest context that fits."""

    tokens: int
    is_models_limit: bool
    """Whether it is the model that ends there, and not the memory."""


@dataclass(frozen=True, slots=True)
class PolicyFit:
    """A policy of the dial, and what it comes to."""

    policy: str
    kv_bytes: int | None
    peak_bytes: int | None
    verdict: Verdict | None
    refused: str | None
    """Why the model cannot take it."""


@dataclass(frozen=True, slots=True)
class Found:
    """What fits the memory."""

    longest_context: LongestContext | None
    """At the plan's policy and concurrency; None where nothing fits."""
    most_requests: int
    """At the plan's policy and context."""
    policies: tuple[PolicyFit, ...]
    """Of the dial, at the plan's context and concurrency."""
    policy: str | None
    """The most precise that fits."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a model will take."""

    model: str
    model_type: str
    is_known: bool
    """Whether all its layers are known; else keys and values are at most what is said."""
    policy: str
    context_tokens: int
    answer_tokens: int
    """Of these, the most that is generated."""
    concurrency: int
    chunk_tokens: int
    weights: Amount
    kv: Amount
    """Of all requests, with the room that caches keep."""
    kv_at_least_bytes: int
    kv_used_bytes: int
    kv_token_bytes: int
    """What a further token of one request takes."""
    state: Amount
    activations: Amount
    moments: Moments
    runtime: Amount
    peak_bytes: int
    """All five."""
    layers: tuple[PlannedLayer, ...]
    memory: Amount
    verdict: Verdict
    found: Found | None

    @property
    def free_bytes(self) -> int:
        """What is left of the memory; below 0 what is missing."""
        return self.memory.bytes - self.peak_bytes

    def as_json(self) -> dict[str, Any]:
        """All of it, as plain dictionaries and lists."""
        return asdict(self)

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.as_json(), indent=2)

    def __str__(self) -> str:
        """The tables that `hwledger-omlx plan` prints."""
        from hwledger_omlx.memory.plan_view import as_text

        return as_text(self)


def plan(
    model: str | Path,
    *,
    context: int | None = None,
    concurrency: int = 1,
    kv: "KvSetting" = None,
    memory: Size | None = None,
    answer: int | None = None,
    chunk: int | None = None,
    runtime: Runtime | None = None,
) -> Plan:
    """What a model will take, and what of it fits. Nothing is loaded.

    Args:
        model: folder or Hugging Face id.
        context: tokens of each request, prompt and answer. By default 8,192, or as many as the model can.
        concurrency: requests at the same time.
        kv: bits of keys and values, as of `Engine`.
        memory: what there is, as bytes or "48GiB". By default what the machine has.
        answer: of the context, the most tokens that are generated (`max_tokens`). By default 1,024 or half of it.
        chunk: tokens of a prompt that are computed at once. By default the engine's.
        runtime: what this machine takes beyond the other terms. By default what the ledger has fitted, where it has.

    Raises:
        ModelError: no such model, or its files are malformed.
        KvPolicyError: it is no policy, or the model cannot take it.
        KvProfileNotFoundError: the policy is `auto`, and the model has not been calibrated.
        RequestError: a number that cannot be.
        StoreConfigError: `memory` is no size.
    """
    folder = model_folder.locate(model)
    available = plan_machine.memory() if memory is None else Amount(parse_size("memory", memory), "given")
    tokens = min(_CONTEXT_TOKENS, folder.context_tokens or _CONTEXT_TOKENS) if context is None else context
    said = _planned(
        ModelShape.read(folder.path),
        folder.path,
        kv,
        _request(tokens, concurrency, answer, chunk, runtime or _seen_here(folder.model_id))
        | {"memory": asdict(available), "search": True},
    )
    return _of_json(folder.model_id, said)


def _seen_here(model_id: str) -> Runtime | None:
    try:
        return fitted_runtime(model_id)
    except LedgerError as error:
        _log.warning("this plan does without what was seen on this machine: %s", error)
        return None


def predict(
    model: str | Path,
    tokens: int,
    concurrency: int = 1,
    kv_policy: "KvSetting" = None,
    chunk_tokens: int | None = None,
    *,
    answer_tokens: int | None = None,
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """The five terms of a request of so many tokens, and what they come to, for whoever has measured them.

    Args:
        model: a model's folder.
        tokens: of each request, prompt and answer.
        concurrency: requests beside each other, it included.
        kv_policy: its policy.
        chunk_tokens: tokens of a prompt that are computed at once. By default the engine's.
        answer_tokens: of the tokens, those that were or may be generated.
        runtime: what the machine takes beyond the other terms.

    Returns:
        `weights`, `kv`, `state`, `activations` and `runtime`, each `{"bytes", "source"}`, and `kv_bytes`, `peak_bytes`.

    Raises:
        ModelError: the folder's files are malformed.
        KvPolicyError: the model cannot take the policy.
        RequestError: a number that cannot be.
    """
    path = Path(model)
    request = _request(tokens, concurrency, answer_tokens, chunk_tokens, runtime) | {"memory": None, "search": False}
    said = _planned(ModelShape.read(path), path, kv_policy, request)
    terms = {name: said[name] for name in TERMS}
    return terms | {"kv_bytes": said["kv"]["bytes"], "peak_bytes": said["peak_bytes"]}


def _request(
    tokens: int, concurrency: int, answer: int | None, chunk: int | None, runtime: Runtime | None
) -> dict[str, Any]:
    device = plan_machine.device()
    chunk = device.chunk_tokens if chunk is None else chunk
    counted = {"context": (tokens, 1), "concurrency": (concurrency, 1), "answer": (answer, 0), "chunk": (chunk, 1)}
    for name, (count, least) in counted.items():
        if count is None:
            continue
        if not isinstance(count, int) or isinstance(count, bool) or not least <= count <= _LARGEST:
            raise RequestError(f"{name} must be a whole number from {least} on, not {count!r}")
    return {
        "context_tokens": tokens,
        "answer_tokens": answer,
        "concurrency": concurrency,
        "chunk_tokens": chunk,
        "device": asdict(device),
        "runtime": None if runtime is None else {"bytes": runtime.bytes, "source": _fitted(runtime)},
    }


def _fitted(runtime: Runtime) -> str:
    return f"{runtime.source} ({runtime.samples} requests)"


def _planned(shape: ModelShape, folder: Path, kv: "KvSetting", request: Mapping[str, Any]) -> dict[str, Any]:
    from hwledger_omlx.engine import kv_policy
    from hwledger_omlx.kv import profile

    policy: KvPolicy = kv_policy.parse(kv)
    measured = profile.text_of(profile.fingerprint(folder), str(folder)) if policy.needs_profile else None
    said: dict[str, Any] = json.loads(shape.plan(str(policy), json.dumps(request), measured))
    return said


def _of_json(name: str, said: dict[str, Any]) -> Plan:
    found = said.pop("found")
    parts: dict[str, Any] = {each: Amount(**said.pop(each)) for each in (*TERMS, "memory")}
    parts |= {
        "moments": Moments(**said.pop("moments")),
        "layers": tuple(PlannedLayer(**layer) for layer in said.pop("layers")),
        "found": None if found is None else _found(found),
    }
    return Plan(model=name, **parts, **said)


def _found(said: dict[str, Any]) -> Found:
    longest = said["longest_context"]
    return Found(
        longest_context=None if longest is None else LongestContext(**longest),
        most_requests=said["most_requests"],
        policies=tuple(PolicyFit(**each) for each in said["policies"]),
        policy=said["policy"],
    )
