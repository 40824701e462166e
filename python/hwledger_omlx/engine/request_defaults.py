"""What a request gets that does not say, by the configuration: what is said of its model, before what is said of all.

The fork's server sees to that itself; this is for requests of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OF_ALL = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty")
"""Settings of `[sampling]` that are fields of a request."""
OF_MODEL = (*OF_ALL, "min_p", "presence_penalty")
"""Settings of `[models.<id>]` that are."""
FORCE = "force_sampling"
"""Setting of both by which some of them count also where a request says otherwise."""
_FORCED = ("temperature", "top_p", "top_k")
"""Those; it is the same ones in the fork's server."""


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """As they are said; what they do not say is left to `GenerateRequest`."""

    of_all: Mapping[str, Any] = field(default_factory=dict)
    """`[sampling]`."""
    of_models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`[models.<id>]`, by id."""

    def complete(self, given: Mapping[str, Any], model_id: str) -> dict[str, Any]:
        """The fields of a request to a model, with what was left out."""
        own = self.of_models.get(model_id, {})
        said = {name: self.of_all[name] for name in OF_ALL if name in self.of_all}
        said |= {name: own[name] for name in OF_MODEL if own.get(name) is not None}
        completed = {**said, **given}
        if self.of_all.get(FORCE) or own.get(FORCE):
            completed |= {name: said[name] for name in _FORCED if name in said}
        return completed
