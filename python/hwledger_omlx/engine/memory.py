"""Puts the memory report of an engine together: its models' ledgers, MLX's account now, and the store's."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from hwledger_omlx._native import LayerMemory, memory_report
from hwledger_omlx.cache.cache import Cache
from hwledger_omlx.engine import kv_policy, upstream
from hwledger_omlx.engine.generation import LoadedModel
from hwledger_omlx.fork.verify import HookReport
from hwledger_omlx.hooks.layer_memory.attached import attached
from hwledger_omlx.memory.report import MemoryReport

_PATCH = "layer-memory"


def begin(model: LoadedModel, hooks: Sequence[HookReport]) -> None:
    """Has the ledger of a model that was just loaded know its name, and what is not sampled."""
    sampler = attached(upstream.scheduler_of(model.placed))
    if sampler is None:
        return
    sampler.ledger.set_model_id(model.folder.model_id)
    sampler.ledger.set_incomplete(_why_off(hooks))


def ledgers(models: Iterable[LoadedModel]) -> list[LayerMemory]:
    """Those of the models that are sampled."""
    samplers = (attached(upstream.scheduler_of(model.placed)) for model in models)
    return [sampler.ledger for sampler in samplers if sampler is not None]


def report(models: Sequence[LoadedModel], cache: Cache, hooks: Sequence[HookReport]) -> MemoryReport:
    """What is held now. On any thread; reads MLX's counters, the process and the store."""
    from hwledger_omlx.hooks.layer_memory.machine import mlx_memory  # MLX, which not every import of the package needs

    sampled: list[LayerMemory] = []
    unsampled: list[dict[str, Any]] = []
    for model in models:
        sampler = attached(upstream.scheduler_of(model.placed))
        policy = kv_policy.in_force(model.placed)
        if sampler is not None:
            # Until the next request comes, the sampler does not hear of a change.
            sampler.ledger.set_kv_policy(policy)
            sampled.append(sampler.ledger)
            continue
        why = _why_off(hooks) or "no sampler was attached to the model's scheduler"
        of_files = {"value": model.folder.weights_bytes, "source": "computed", "how": "size of the model's files"}
        unsampled.append(
            {"model_id": model.folder.model_id, "kv_policy": policy, "weights_bytes": of_files, "why": why}
        )
    store = cache.stats_json()
    around = {
        "mlx": mlx_memory(),
        "store": None if store is None else json.loads(store),
        "why_no_store": f"the engine's KV cache is {cache.state}" if store is None else "",
        "unsampled": unsampled,
    }
    return MemoryReport.of(memory_report(sampled, json.dumps(around)))


def _why_off(hooks: Sequence[HookReport]) -> str | None:
    unused = [hook for hook in hooks if hook.patch.endswith(_PATCH) and hook.status not in {"applied", "drifted"}]
    return f"hook {unused[0].id} is {unused[0].status}: {unused[0].reason}" if unused else None
