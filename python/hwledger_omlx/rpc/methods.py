"""All methods and notifications, by name, and the version of the protocol that they make up."""

from typing import TYPE_CHECKING, Any

from hwledger_omlx import __version__
from hwledger_omlx.rpc.bench_run import BENCH_RUN
from hwledger_omlx.rpc.engine_methods import ENGINE_METHODS
from hwledger_omlx.rpc.generating import CANCEL, GENERATE
from hwledger_omlx.rpc.method import Method, Notification

if TYPE_CHECKING:
    from hwledger_omlx.rpc.service import Service

VERSION = "1.0"
"""Major and minor. A minor version adds methods, parameters with a default, fields and notifications, and no more."""


def _version(_: "Service", __: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "server": f"hwledger-omlx {__version__}",
        "methods": list(METHODS),
        "notifications": [each.name for each in NOTIFICATIONS],
    }


_PROTOCOL_VERSION = Method(
    name="protocol.version",
    doc="What the server speaks. A client passes over fields and notifications that it does not know.",
    result={
        "version": "Major and minor. Within a major version nothing that was there goes away or changes.",
        "server": "Name and version of the program.",
        "methods": "Names.",
        "notifications": "Names.",
    },
    run=_version,
    work="now",
    example=(
        {},
        {
            "version": VERSION,
            "server": "hwledger-omlx 0.1.0",
            "methods": ["protocol.version", "generate"],
            "notifications": ["token", "memory"],
        },
    ),
)

NOTIFICATIONS = (
    Notification(
        name="token",
        doc="One or more tokens of a `generate`, as soon as they are there. The texts of a request join to its answer. "
        "While the client reads slowly, what waits is joined into fewer, longer ones; nothing is lost.",
        params={"request_id": "Of the request.", "text": "Never empty."},
        example={"request_id": "r1", "text": " there"},
    ),
    Notification(
        name="memory",
        doc="A sample of the engine's memory: at every chunk of a prefill and every 16 tokens. Sent between "
        "`memory.subscribe` and `memory.unsubscribe`. Null is what was not known.",
        params={
            "number": "Of the model's samples, from 0.",
            "missed": "Samples before it that were not sent.",
            "unix_s": "Seconds since 1970.",
            "model_id": "The model.",
            "phase": "What the time up to it was spent on: `idle`, `restore`, `prefill`, `join` or `decode`.",
            "request_id": "For whom, where it was for one request that still runs.",
            "chunk": "Of its prompt, from 1, in prefill.",
            "requests": "That have caches.",
            "layers": "A list of `layer` and `kv_bytes`, of all requests.",
            "kv_allocated_bytes": "Keys and values of all requests.",
            "kv_used_bytes": "What of them holds tokens.",
            "state_bytes": "States of layers without keys and values.",
            "mlx_active_bytes": "All of MLX's arrays.",
            "mlx_cache_bytes": "What MLX keeps for new ones.",
            "mlx_peak_bytes": "The highest that the arrays went since the sample before.",
            "prefill_peak_bytes": "The highest that they went in any chunk of prefill since the subscription.",
            "footprint_bytes": "Of the process.",
            "hot_bytes": "RAM of the cache.",
            "restored_bytes": "That the cache gave back.",
            "page_faults": "Blocks that the cache read from disk.",
            "page_faults_per_s": "Since the notification before.",
        },
        example={"model_id": "notes", "phase": "prefill", "chunk": 1, "layers": [{"layer": 0, "kv_bytes": 393216}]},
    ),
)

METHODS = {method.name: method for method in (_PROTOCOL_VERSION, GENERATE, CANCEL, *ENGINE_METHODS, BENCH_RUN)}
