"""Puts the memory report of an engine together: its models' ledgers, MLX's account now, and the store's."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from hwledger_omlx._native import LayerMemory, memory_report
from hwledger_omlx.cache.cache import Cache
from hwledger_omlx.engine import kv_policy, upstream
from hwledger_omlx.engine.generation import LoadedModel
from hwledger_omlx.engine.kv_cache import KvCache
from hwledger_omlx.fork.verify import HookReport
from hwledger_omlx.hooks.layer_memory.attached import attached
from hwledger_omlx.memory.report import MemoryReport

_PATCH = "layer-memory"


def begin(model: LoadedModel, cache: KvCache, hooks: Sequence[HookReport]) -> None:
    """Has the ledger of a model that was just loaded know its name and its store."""
    sampler = attached(upstream.scheduler_of(model.placed))
    if sampler is None:
        return
    sampler.ledger.set_model_id(model.folder.model_id)
    sampler.ledger.set_incomplete(_why_off(hooks))
    if cache.store is not None:
        sampler.ledger.watch_store(cache.store)


def ledgers(models: Iterable[LoadedModel]) -> list[LayerMemory]:
    """Those of the models that are sampled."""
    samplers = (attached(upstream.scheduler_of(model.placed)) for model in models)
    return [sampler.ledger for sampler in samplers if sampler is not None]


def report(models: Sequence[LoadedModel], cache: Cache, hooks: Sequence[HookReport]) -> MemoryReport:
    """What is held now. On any thread; reads MLX's counters, the process and the store."""
    sampled: list[LayerMemory] = []
    unsampled: list[dict[str, Any]] = []
    for model in models:
        sampler = attached(upstream.scheduler_of(model.placed))
        policy = kv_policy.in_force(model.placed)
        if sampler is not None:
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
        "mlx": _mlx(),
        "store": None if store is None else json.loads(store),
        "why_no_store": f"the engine's KV cache is {cache.state}" if store is None else "",
        "unsampled": unsampled,
    }
    return MemoryReport.of(memory_report(sampled, json.dumps(around)))


def _why_off(hooks: Sequence[HookReport]) -> str | None:
    unused = [hook for hook in hooks if hook.patch.endswith(_PATCH) and hook.status not in {"applied", "drifted"}]
    return f"hook {unused[0].id} is {unused[0].status}: {unused[0].reason}" if unused else None


def _mlx() -> dict[str, Any]:
    mlx = upstream.mlx()
    figures = {
        name: _measured(int(getattr(mlx, f"get_{name}_memory")()), f"mx.get_{name}_memory")
        for name in ("active", "cache", "peak")
    }
    device, free = _device(mlx)
    return {
        "active_bytes": figures["active"],
        "cache_bytes": figures["cache"],
        "peak_bytes": figures["peak"],
        "device_bytes": device,
        "free_bytes": free,
    }


def _device(mlx: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its memory, and what of it is free."""
    info = mlx.device_info() if hasattr(mlx, "device_info") else {}
    if "total_memory" in info:
        total = _measured(int(info["total_memory"]), "mx.device_info")
        if "free_memory" in info:
            return total, _measured(int(info["free_memory"]), "mx.device_info")
        return total, {"value": None, "source": "unavailable", "how": "mx.device_info does not say what is free"}
    import psutil  # not for each import of the package

    # Apple Silicon's GPU and any CPU have the system's memory.
    memory = psutil.virtual_memory()
    return _measured(int(memory.total), "the system's memory"), _measured(int(memory.available), "the system's memory")


def _measured(value: int, how: str) -> dict[str, Any]:
    return {"value": value, "source": "measured", "how": how}
