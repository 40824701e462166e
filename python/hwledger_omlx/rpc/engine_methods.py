"""What is asked of the engine besides text: its models, health, memory, cache, policies and configuration."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hwledger_omlx.errors import EngineError, ModelError
from hwledger_omlx.memory.records import Figure
from hwledger_omlx.rpc.fields import (
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_OBJECT,
    TRUTH,
    WHOLE,
    Field,
    InvalidParamsError,
    Value,
)
from hwledger_omlx.rpc.method import Method

if TYPE_CHECKING:
    from hwledger_omlx.rpc.service import Service

_MB = 2**20


def _load_model(service: "Service", params: dict[str, Any]) -> dict[str, Any]:
    if params["max_kv_size"] < 0:
        raise InvalidParamsError(f"max_kv_size must be at least 0, not {params['max_kv_size']}")
    session = service.session
    model_id = session.load(params["model"], context_tokens=params["max_kv_size"])
    model = session.loaded_of_any_kind.get(model_id)
    if model is None:
        raise ModelError(f"{model_id} was unloaded again meanwhile")
    return {"loaded": True, "model": model_id, "context_length": model.context_tokens or 0}


def _unload_model(service: "Service", params: dict[str, Any]) -> dict[str, Any]:
    model_id = service.model_id(params["model"]) or ""
    service.session.unload(model_id)
    return {"unloaded": True, "model": model_id}


def _memory_report(service: "Service", _: dict[str, Any]) -> dict[str, Any]:
    session = service.session
    report = session.memory()
    mlx = report.mlx
    return {
        "total_unified_mb": _mb(mlx.device_bytes),
        "used_by_mlx_mb": _mb(mlx.active_bytes, mlx.cache_bytes),
        "kv_cache_mb": _mb(
            *(each for model in report.models for each in (model.kv_allocated_bytes, model.state_bytes))
        ),
        "loaded_models": list(session.models),
        "models": [
            {
                "model": model.model_id,
                "weights_mb": _mb(model.weights_bytes),
                "kv_policy": model.kv_policy,
                "layers": [
                    {"layer": layer.layer, "kv_bytes": _sum(layer.kv_allocated_bytes, layer.state_bytes)}
                    for layer in model.layers
                ],
            }
            for model in report.models
        ],
    }


def _mb(*figures: Figure[int]) -> float | None:
    total = _sum(*figures)
    return None if total is None else total / _MB


def _sum(*figures: Figure[int]) -> int | None:
    """None where one of them is not known."""
    values = [figure.value for figure in figures if figure.value is not None]
    return sum(values) if len(values) == len(figures) else None


def _health(service: "Service", _: dict[str, Any]) -> dict[str, Any]:
    return {"status": service.status(), "uptime_s": service.uptime_s, "mlx_version": service.mlx_version}


def _kv_policy(service: "Service", params: dict[str, Any]) -> dict[str, Any]:
    session, model_id = service.session, service.model_id(params["model"])
    if params["policy"] is not None:
        session.set_kv_policy(params["policy"], model_id)
    asked = list(session.loaded) if model_id is None else [model_id]
    return {"policies": {each: session.kv_policy_of(each) for each in asked}}


def _cache_stats(service: "Service", _: dict[str, Any]) -> dict[str, Any]:
    cache = service.session.cache
    stats = asdict(cache.stats())
    folder = None if cache.folder is None else str(cache.folder)
    return {"kind": cache.kind, "folder": folder, "state": stats["state"], "stats": stats}


def _config_reload(service: "Service", _: dict[str, Any]) -> dict[str, Any]:
    reload = service.settings.reload
    if reload is None:
        raise EngineError("there is no configuration file to read again; start with one")
    return {"reloaded": True, "changes": dict(reload())}


def _subscribe(service: "Service", params: dict[str, Any]) -> dict[str, Any]:
    if params["min_interval_s"] < 0:
        raise InvalidParamsError(f"min_interval_s must be at least 0, not {params['min_interval_s']}")
    service.memory.start(float(params["min_interval_s"]))
    return {"subscribed": True}


def _unsubscribe(service: "Service", _: dict[str, Any]) -> dict[str, Any]:
    return {"subscribed": False, "was_subscribed": service.memory.stop()}


_LAYERS = {
    "layer": Value(WHOLE, "From 0."),
    "kv_bytes": Value(WHOLE, "Keys, values and state, as allocated.", nullable=True),
}
_MODELS = {
    "model": Value(TEXT, "Its id."),
    "weights_mb": Value(NUMBER, "Of its weights.", nullable=True),
    "kv_policy": Value(TEXT, "Of new requests."),
    "layers": Value(LIST, "Of all requests.", of=_LAYERS),
}

ENGINE_METHODS = (
    Method(
        name="load_model",
        doc="Loads a model. One that is there already stays, and its requests from now on have `max_kv_size` tokens.",
        params={
            "model": Field(TEXT, "A folder, or a Hugging Face id where online."),
            "max_kv_size": Field(
                WHOLE,
                "Most tokens of a prompt and its answer together, within what the model allows; 0 for all that. Of "
                "models that generate text.",
                0,
            ),
        },
        result={
            "loaded": Value(TRUTH, "True."),
            "model": Value(TEXT, "The id that requests name it by."),
            "context_length": Value(
                WHOLE, "Most tokens of a prompt and its answer together; 0 where the model does not say."
            ),
        },
        run=_load_model,
        work="long",
        example=(
            {"model": "/models/notes", "max_kv_size": 4096},
            {"loaded": True, "model": "notes", "context_length": 4096},
        ),
    ),
    Method(
        name="unload_model",
        doc="Cancels the model's requests and gives its memory back.",
        params={"model": Field(TEXT, "A loaded model: its id, or the folder or hub id it was loaded by.")},
        result={"unloaded": Value(TRUTH, "True."), "model": Value(TEXT, "Its id.")},
        run=_unload_model,
        work="long",
        example=({"model": "notes"}, {"unloaded": True, "model": "notes"}),
    ),
    Method(
        name="memory_report",
        doc="Where the memory goes, as measured now. A megabyte is 2^20 bytes. Null is what is not known.",
        result={
            "total_unified_mb": Value(
                NUMBER, "Memory of the device; on Apple Silicon and on a CPU the machine's.", nullable=True
            ),
            "used_by_mlx_mb": Value(
                NUMBER, "What MLX has of it: arrays, and what it keeps for new ones.", nullable=True
            ),
            "kv_cache_mb": Value(NUMBER, "Keys, values and states of all requests, as allocated.", nullable=True),
            "loaded_models": Value(LIST, "Ids.", of=TEXT),
            "models": Value(LIST, "Each that generates text.", of=_MODELS),
        },
        run=_memory_report,
        example=(
            {},
            {
                "total_unified_mb": 24043.1,
                "used_by_mlx_mb": 19.4,
                "kv_cache_mb": 1.5,
                "loaded_models": ["notes"],
                "models": [
                    {
                        "model": "notes",
                        "weights_mb": 8.1,
                        "kv_policy": "16",
                        "layers": [{"layer": 0, "kv_bytes": 262144}],
                    }
                ],
            },
        ),
    ),
    Method(
        name="health",
        doc="Whether the server gets on.",
        result={
            "status": Value(
                TEXT, "`ok`, `busy` while requests are under way, `stuck` once they wait too long for a step."
            ),
            "uptime_s": Value(NUMBER, "Seconds since the server began to read."),
            "mlx_version": Value(TEXT, "Version of MLX."),
        },
        run=_health,
        work="now",
        example=({}, {"status": "ok", "uptime_s": 12.5, "mlx_version": "0.32.3"}),
    ),
    Method(
        name="kv.policy",
        doc="Sets the policy at which keys and values of new requests are held, or tells it. Requests that run go "
        "on as they are.",
        params={
            "policy": Field(TEXT_OR_OBJECT, "Such as `8`, `k8v4` or `auto:0.35`; without, nothing is changed.", None),
            "model": Field(TEXT, "A loaded model; without, all that generate text, and those loaded later.", None),
        },
        result={"policies": Value(OBJECT, "The policy of each model asked for, by its id.", of=TEXT)},
        run=_kv_policy,
        work="long",
        example=({"policy": "k8v4"}, {"policies": {"notes": "k8v4"}}),
    ),
    Method(
        name="cache.stats",
        doc="What the KV cache did since it was opened, and what it holds.",
        result={
            "kind": Value(TEXT, "`paged` for ours, `fork` for the fork's own, null for none.", nullable=True),
            "folder": Value(TEXT, "Where it is; null where there is none.", nullable=True),
            "state": Value(TEXT, "`running`, `full`, `suspended` or `closed`; else `fork` or `off`."),
            "stats": Value(
                OBJECT, "Lookups, restores, saves, disk and memory, as `hwledger_omlx.CacheStats` has them."
            ),
        },
        run=_cache_stats,
        example=({}, {"kind": None, "folder": None, "state": "off", "stats": {"state": "off"}}),
    ),
    Method(
        name="config.reload",
        doc="Reads the configuration file again and applies what it says. Streams go on, and models that are listed no "
        "more leave when their answers are out.",
        result={
            "reloaded": Value(TRUTH, "True."),
            "changes": Value(
                OBJECT,
                "`applied`, `at_next_load`, `needs_restart` and `unused`, lists of `name`, `before`, `after` "
                "and `origin`; `loaded` and `leaving`, lists of models; and `file`.",
            ),
        },
        run=_config_reload,
        work="long",
        example=(
            {},
            {
                "reloaded": True,
                "changes": {
                    "file": "hwledger.toml",
                    "applied": [{"name": "sampling.top_k", "before": 0, "after": 20, "origin": "hwledger.toml:3"}],
                    "at_next_load": [],
                    "needs_restart": [],
                    "loaded": [],
                    "leaving": [],
                    "unused": [],
                },
            },
        ),
    ),
    Method(
        name="memory.subscribe",
        doc="Has every sample of the engine's memory sent as a `memory` notification, from now on.",
        params={
            "min_interval_s": Field(NUMBER, "Least seconds between two of a model; those between are counted.", 0),
        },
        result={"subscribed": Value(TRUTH, "True.")},
        run=_subscribe,
        example=({"min_interval_s": 0.5}, {"subscribed": True}),
    ),
    Method(
        name="memory.unsubscribe",
        doc="No more of them.",
        result={"subscribed": Value(TRUTH, "False."), "was_subscribed": Value(TRUTH, "Whether there were any.")},
        run=_unsubscribe,
        example=({}, {"subscribed": False, "was_subscribed": True}),
    ),
)
