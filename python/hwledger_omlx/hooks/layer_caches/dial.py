"""At which format each layer's keys and values are held, running and at rest. Imports neither MLX nor the fork."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Path = tuple[int, ...]
"""Place of a cache: index of the layer, then of the cache in the layer's list."""

PLAIN = "16"
"""The format of keys and values as the model has them."""

_ATTRIBUTE = "hwledger_kv_dial"


@dataclass(frozen=True, slots=True)
class Side:
    """Formats of the keys, or of the values, of one cache."""

    live: str = PLAIN
    rest: str = PLAIN


@dataclass(frozen=True, slots=True)
class CacheDial:
    """Formats of one cache."""

    keys: Side = Side()
    values: Side = Side()


_AS_THE_MODEL = CacheDial()


@dataclass(frozen=True)
class Dial:
    """A policy as it was resolved for one model."""

    policy: str = PLAIN
    """Its canonical text: the same for the same formats."""
    first_tokens: int = 0
    recent_tokens: int = 0
    caches: Mapping[Path, CacheDial] = field(default_factory=dict)

    @classmethod
    def parse(cls, resolved: str, paths: Sequence[Sequence[Path]]) -> "Dial":
        """From the JSON of `KvPolicy.resolve`.

        Args:
            resolved: what it returned.
            paths: of the caches of each layer, in the order in which the geometry named them.
        """
        said = json.loads(resolved)
        caches: dict[Path, CacheDial] = {}
        for places, layer in zip(paths, said["layers"], strict=True):
            for path, each in zip(places, layer["caches"], strict=True):
                if each is not None:
                    live, rest = each["live"], each["rest"]
                    caches[path] = CacheDial(Side(live["k"], rest["k"]), Side(live["v"], rest["v"]))
        return cls(said["policy"], said["first_tokens"], said["recent_tokens"], caches)

    @property
    def is_stored_as_held(self) -> bool:
        """Whether the store takes what running caches hold, so that nothing is decoded to be stored."""
        sides = (side for cache in self.caches.values() for side in (cache.keys, cache.values))
        plain_tokens = self.first_tokens or self.recent_tokens
        return all(
            side.live == PLAIN or (side.live == side.rest and not side.live.startswith("channel") and not plain_tokens)
            for side in sides
        )

    def of(self, path: Path) -> CacheDial:
        """The formats of the cache at `path`."""
        return self.caches.get(path, _AS_THE_MODEL)


def set_dial(scheduler: Any, dial: Dial) -> None:
    """Has requests that begin from now on run at these formats. One assignment, so any thread may do it."""
    setattr(scheduler, _ATTRIBUTE, dial)


def dial_of(scheduler: Any) -> Dial:
    """What new requests of a scheduler run at."""
    dial: Dial = getattr(scheduler, _ATTRIBUTE, _PLAIN_DIAL)
    return dial


def promise(request_id: str, dial: Dial) -> None:
    """Has the fork's request of that id run at these formats, whatever is set before its turn comes."""
    _promised[request_id] = dial


def forget_promise(request_id: str) -> None:
    """Ends what `promise` began; nothing happens where there is none."""
    _promised.pop(request_id, None)


def settle(scheduler: Any, request: Any) -> None:
    """Fixes the formats of the fork's request, from its beginning to its end."""
    setattr(request, _ATTRIBUTE, _promised.get(request.request_id, dial_of(scheduler)))


def dial_of_request(scheduler: Any, request: Any) -> Dial:
    """What `settle` has fixed; else what new requests of the scheduler run at."""
    dial: Dial = getattr(request, _ATTRIBUTE, None) or dial_of(scheduler)
    return dial


_promised: dict[str, Dial] = {}


_PLAIN_DIAL = Dial()
