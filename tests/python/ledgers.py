"""What the tests of the ledger share: requests that ended, rows, and a planner that knows the answer."""

import time

from hwledger_omlx.hooks.layer_memory.requests import RequestRecord
from hwledger_omlx.memory.ledger_row import LedgerRow

MB = 1_000_000


def record(request_id, **fields):
    usual = {
        "model_id": "notes", "kv_policy": "16", "prompt_tokens": 512, "cached_tokens": 128, "completion_tokens": 64,
        "finish_reason": "stop", "arrived_unix_s": time.time(), "queue_s": 0.25, "prefill_s": 1.5, "ttft_s": 1.75,
        "decode_s": 2.0, "total_s": 3.75, "batch_peak": 1, "kv_bytes": 1 * MB, "peak_bytes": 12 * MB,
        "weights_bytes": 8 * MB, "chunk_tokens": 512,
    }  # fmt: skip
    return RequestRecord(request_id=request_id, **{**usual, **fields})


def row(request_id, **fields):
    usual = {
        "model": "notes", "device": "cpu", "kv_policy": "16", "finish_reason": "stop", "arrived_unix_s": time.time(),
        "prompt_tokens": 512, "cached_tokens": 128, "completion_tokens": 64, "queue_s": 0.25, "prefill_s": 1.5,
        "ttft_s": 1.75, "decode_s": 2.0, "total_s": 3.75, "batch_peak": 1, "chunk_tokens": 512,
        "weights_bytes": 8 * MB, "kv_bytes": 1 * MB, "peak_bytes": 12 * MB, "predicted_weights_bytes": 8 * MB,
        "predicted_kv_bytes": 1 * MB, "predicted_state_bytes": 0, "predicted_activations_bytes": 2 * MB,
        "predicted_runtime_bytes": 0, "predicted_peak_bytes": 11 * MB,
    }  # fmt: skip
    return LedgerRow(request_id=request_id, **{**usual, **fields})


def predict(model_folder, tokens, concurrency, kv_policy, chunk_tokens, *, answer_tokens, runtime):
    """A planner whose answers tell what it was asked."""
    sizes = {"weights": 8 * MB, "kv": tokens * 1000 * concurrency, "state": answer_tokens, "activations": chunk_tokens}
    sizes["runtime"] = 0 if runtime is None else runtime.bytes
    terms = {name: {"bytes": size, "source": "test"} for name, size in sizes.items()}
    return {**terms, "peak_bytes": sum(sizes.values()), "kv_bytes": sizes["kv"]}


def without_ids(rows):
    return [{**each.as_json(), "id": None} for each in rows]
