"""All methods and notifications, by name, and the version of the protocol that they make up."""

from typing import TYPE_CHECKING, Any

from hwledger_omlx import __version__
from hwledger_omlx.rpc.bench_run import BENCH_RUN
from hwledger_omlx.rpc.engine_methods import ENGINE_METHODS
from hwledger_omlx.rpc.fields import LAYERS, LIST, NUMBER, TEXT, WHOLE, Value
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
        "version": Value(TEXT, "Major and minor. Within a major version nothing that was there goes away or changes."),
        "server": Value(TEXT, "Name and version of the program."),
        "methods": Value(LIST, "Names.", of=TEXT),
        "notifications": Value(LIST, "Names.", of=TEXT),
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
        params={"request_id": Value(TEXT, "Of the request."), "text": Value(TEXT, "Never empty.")},
        example={"request_id": "r1", "text": " there"},
    ),
    Notification(
        name="memory",
        doc="A sample of the engine's memory: at every chunk of a prefill and every 16 tokens. Sent between "
        "`memory.subscribe` and `memory.unsubscribe`. Null is what was not known.",
        params={
            "number": Value(WHOLE, "Of the model's samples, from 0."),
            "missed": Value(WHOLE, "Samples before it that were not sent."),
            "unix_s": Value(NUMBER, "Seconds since 1970."),
            "model_id": Value(TEXT, "The model."),
            "phase": Value(
                TEXT, "What the time up to it was spent on: `idle`, `restore`, `prefill`, `join` or `decode`."
            ),
            "request_id": Value(TEXT, "For whom, where it was for one request that still runs.", nullable=True),
            "chunk": Value(WHOLE, "Of its prompt, from 1, in prefill.", nullable=True),
            "requests": Value(WHOLE, "That have caches."),
            "layers": Value(LIST, "Of all requests.", of=LAYERS),
            "kv_allocated_bytes": Value(WHOLE, "Keys and values of all requests.", nullable=True),
            "kv_used_bytes": Value(WHOLE, "What of them holds tokens.", nullable=True),
            "state_bytes": Value(WHOLE, "States of layers without keys and values.", nullable=True),
            "mlx_active_bytes": Value(WHOLE, "All of MLX's arrays.", nullable=True),
            "mlx_cache_bytes": Value(WHOLE, "What MLX keeps for new ones.", nullable=True),
            "mlx_peak_bytes": Value(WHOLE, "The highest that the arrays went since the sample before.", nullable=True),
            "prefill_peak_bytes": Value(
                WHOLE, "The highest that they went in any chunk of prefill since the subscription.", nullable=True
            ),
            "footprint_bytes": Value(WHOLE, "Of the process.", nullable=True),
            "hot_bytes": Value(WHOLE, "RAM of the cache.", nullable=True),
            "restored_bytes": Value(WHOLE, "That the cache gave back.", nullable=True),
            "page_faults": Value(WHOLE, "Blocks that the cache read from disk.", nullable=True),
            "page_faults_per_s": Value(NUMBER, "Since the notification before.", nullable=True),
        },
        example={"model_id": "notes", "phase": "prefill", "chunk": 1, "layers": [{"layer": 0, "kv_bytes": 393216}]},
    ),
)

METHODS = {method.name: method for method in (_PROTOCOL_VERSION, GENERATE, CANCEL, *ENGINE_METHODS, BENCH_RUN)}
