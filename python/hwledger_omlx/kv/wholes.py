"""Measures policies as wholes: what all layers together change, which is not the sum of what each of them does.

They are the uniform ones and, for budgets between these, what the solver makes of the layers' own figures. `auto` then
chooses the best of those that fit, so it is no worse than a uniform policy of the same bytes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from hwledger_omlx import probes
from hwledger_omlx._native import KvPolicy
from hwledger_omlx.errors import KvPolicyError
from hwledger_omlx.hooks.kv_quant.geometry import Geometry
from hwledger_omlx.hooks.layer_caches.dial import Dial
from hwledger_omlx.kv.prediction import LoadedModel
from hwledger_omlx.kv.profile import Profile, Whole

_SHARES = tuple(percent / 100 for percent in (14, 16, 18, 20, 22, 24, 26, 28.2, 30, 32, 35, 38, 42, 47, 54, 65))

PIECES = 16
"""In which the text is compared, at least: enough to tell what holds nearly everywhere from what happens once."""

OnStep = Callable[[str, int, int], None]


def policies(profile: Profile, geometry: Geometry) -> list[str]:
    """The texts of the policies to measure, each once, those of fewest bytes last."""
    found = (_resolved(text, profile, geometry) for text in (*_uniform(profile), *_solved()))
    return list(dict.fromkeys(text for text in found if text is not None))


def measured(
    loaded: LoadedModel,
    windows: Sequence[Sequence[int]],
    profile: Profile,
    geometry: Geometry,
    chunk_tokens: int,
    on_step: OnStep | None = None,
) -> Profile:
    """The profile with what its policies do on the same text.

    Args:
        loaded: the model, computing as it did for the profile.
        windows: token ids of the text, in contexts.
        profile: of the layers.
        geometry: the model's.
        chunk_tokens: of a prefill.
        on_step: told of the progress.
    """
    texts = policies(profile, geometry)
    dials = [Dial.parse(KvPolicy.parse(text).resolve(geometry.text), geometry.paths) for text in texts]
    seen: list[list[probes.Divergence]] = [[] for _ in dials]
    piece_tokens = -(-sum(map(len, windows)) // PIECES)
    steps = len(windows) * len(dials)
    for number, ids in enumerate(windows):
        reference = loaded.logits(ids, loaded.caches(Dial(), len(ids)), chunk_tokens)
        for place, dial in enumerate(dials):
            if on_step is not None:
                on_step(texts[place], number * len(dials) + place, steps)
            logits = loaded.logits(ids, loaded.caches(dial, len(ids)), chunk_tokens)
            seen[place] += probes.compared_in_pieces(reference, logits, piece_tokens)
    wholes = (
        Whole(text, probes.combined(each).mean_kl, tuple(piece.mean_kl for piece in each))
        for text, each in zip(texts, seen, strict=True)
    )
    return replace(profile, wholes=tuple(wholes))


def _uniform(profile: Profile) -> Iterator[str]:
    layers = [layer for layer in profile.layers if layer is not None]
    if not layers:
        return
    for keys in layers[0].k:
        if keys.startswith("channel"):
            bits = keys.split(":")[1]
            yield from (f"{keys}+{values}" for values in layers[0].v if values.startswith(f"affine:{bits}:"))
        elif keys in layers[0].v:
            yield keys


def _solved() -> Iterator[str]:
    yield from (f"auto:{share}" for share in _SHARES)


def _resolved(text: str, profile: Profile, geometry: Geometry) -> str | None:
    """The policy with its formats written out; None where the budget is below the smallest, or a layer has no such."""
    try:
        resolved = KvPolicy.parse(text).resolve(geometry.text, json.dumps(profile.as_json()))
    except KvPolicyError:
        return None
    return str(json.loads(resolved)["policy"])
