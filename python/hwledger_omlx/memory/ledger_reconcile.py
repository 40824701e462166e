"""What reconciling tells, typed: the planner's errors by model and term, drift, and what the runtime takes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

from hwledger_omlx.memory.runtime import Runtime

TermName = Literal["weights", "kv", "peak", "peak_in_batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the errors of the last 20 requests differ from those of the up to 200 before them. Shares."""

    recent: float
    """The median error of the last ones."""
    earlier: float
    """The median error of those before."""
    chance: float
    """How likely as large a difference in rank is by chance (Mann and Whitney's test)."""
    drifts: bool
    """Whether the last ones' median is beyond 2 %, at least 1 % from the earlier ones', at a chance below 1 in 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermError:
    """How far the planner is off. An error is what was predicted less what was measured, as a share of the latter."""

    term: TermName
    """`kv` holds recurrent state too, for they are measured as one. `peak_in_batch` is of requests that did not run
    alone, predicted as if all had been as long."""
    count: int
    """Requests that were compared."""
    median: float
    """Of the errors' sizes, as `p95` and `worst`."""
    p95: float
    worst: float
    bias: float
    """The median error: above 0 where too much is predicted."""
    bias_bytes: int
    drift: Drift | None
    """None of fewer than 40 requests."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """From the core's JSON object."""
        drift = said["drift"]
        return cls(**{**said, "drift": None if drift is None else Drift(**drift)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFit:
    """What the runtime takes for one model on one device.

    The median, over the last requests that ran alone, of the measured peak less the predicted weights, KV, state and
    activations.
    """

    model: str
    device: str
    bytes: int
    samples: int
    """10 to 200: of fewer nothing is fitted."""
    spread_bytes: int
    """The middle half of them lies within so much."""
    fitted_unix_s: float

    @property
    def runtime(self) -> Runtime:
        """The term for the planner, which says where it has it from."""
        day = datetime.fromtimestamp(self.fitted_unix_s, UTC).date()
        return Runtime(
            bytes=self.bytes,
            source=f"fitted on {day} to requests of {self.model} on this machine's {self.device}",
            samples=self.samples,
        )

    @classmethod
    def runtime_of(cls, text: str) -> Runtime | None:
        """From the JSON of the core's `Ledger.fitted_runtime`."""
        said = json.loads(text)
        return None if said is None else cls(**said).runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelErrors:
    """What came of the requests of one model on one device."""

    model: str
    device: str
    requests: int
    """In the ledger."""
    unanswered: int
    """Cancelled or failed, and not compared: a prediction is of a whole request."""
    unpredicted: int
    """Of the others those that nothing was predicted of."""
    unpredicted_because: str | None
    """Why, of the last one of them."""
    terms: tuple[TermError, ...]
    runtime: RuntimeFit | None
    """None of fewer than 10 requests that ran alone."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """From the core's JSON object."""
        runtime = said["runtime"]
        return cls(
            **{
                **said,
                "terms": tuple(TermError.of(term) for term in said["terms"]),
                "runtime": None if runtime is None else RuntimeFit(**runtime),
            }
        )


def parse(text: str) -> list[ModelErrors]:
    """From the JSON of the core's `Ledger.reconcile`."""
    return [ModelErrors.of(said) for said in json.loads(text)]
