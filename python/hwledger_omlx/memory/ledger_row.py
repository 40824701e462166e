"""A row of the ledger, typed. Knows nothing of where it comes from."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One request: what it was, how long it took, what its memory was predicted to be, and what it was."""

    request_id: str
    model: str
    device: str
    """Such as `cpu` or `gpu (Apple M3 Max)`."""
    kv_policy: str
    finish_reason: str
    """`stop`, `length`, `tool_calls`, `cancelled`, or what failed."""
    arrived_unix_s: float
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt whose KV was restored."""
    completion_tokens: int
    queue_s: float | None
    """From arrival to the begin of its prefill."""
    prefill_s: float | None
    ttft_s: float | None
    """From arrival to the first token."""
    decode_s: float | None
    total_s: float | None
    batch_peak: int
    """Most requests that ran beside it, itself included."""
    chunk_tokens: int
    """Most tokens of one chunk of prefill."""
    weights_bytes: int | None
    kv_bytes: int | None
    """Allocated for its keys, values and recurrent states at its end."""
    peak_bytes: int | None
    """Peak of MLX's memory while it ran."""
    predicted_weights_bytes: int | None
    predicted_kv_bytes: int | None
    """For all requests that ran beside it, taken to be as long as this one; so are state and activations."""
    predicted_state_bytes: int | None
    predicted_activations_bytes: int | None
    predicted_runtime_bytes: int | None
    predicted_peak_bytes: int | None
    prediction_error: str | None = None
    """Why nothing was predicted."""
    id: int | None = None
    """Its place in the ledger, which rises from row to row; None of a row that is yet to be recorded."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """From the core's JSON object."""
        return cls(**said)

    def as_json(self) -> dict[str, Any]:
        """The fields by name, the place first."""
        return {name: getattr(self, name) for name in COLUMNS}

    def to_native(self) -> str:
        """The JSON that the core records.

        Raises:
            ValueError: a time is not finite.
        """
        fields = self.as_json()
        del fields["id"]
        return json.dumps(fields, allow_nan=False)


COLUMNS = ("id", *(field.name for field in dataclasses.fields(LedgerRow) if field.name != "id"))
"""The fields, in the order in which tables have them."""
