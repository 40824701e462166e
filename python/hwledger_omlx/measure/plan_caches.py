"""`bench plan`, caches: what the planner says that caches hold, against what they hold.

Each architecture's small model runs over random tokens, in mlx-lm's own caches and in ours at 16 bit.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache

from hwledger_omlx._native import ModelShape
from hwledger_omlx.errors import Error, HarnessError
from hwledger_omlx.hooks.layer_caches.building import build
from hwledger_omlx.hooks.layer_caches.dial import Dial
from hwledger_omlx.measure.plan_architectures import Architecture, experts_in_float32

TOKENS = (1, 255, 256, 257, 1000)
_COMPUTED_ON_A_CPU = (1, 257)
"""Prompts that are computed where there is no GPU. Of the others MLX knows the shapes before anything is computed."""
_DECODED_TOKENS = 3
"""Behind the prompt of 255 tokens, once more: caches grow."""
_CHUNK_TOKENS = 1 << 20
"""All of a prompt at once."""
HOLDERS = ("mlx_lm", "alone")
_STILL_FILLING = {
    ("longcat_flash_ngram", 1): "a state of the last 3 token ids has 1 of them after 1 token: 16 bytes less"
}
"""States that have their full size a few tokens later."""


@dataclass(frozen=True)
class Checked:
    """What came of one architecture."""

    name: str
    attention: tuple[str, ...] = ()
    """Kinds of its layers, each once."""
    caches: int = 0
    """Caches that were compared, at all lengths."""
    wrong: list[str] = field(default_factory=list)
    """What was not as predicted."""
    failure: str = ""
    """Why it could not be compared."""
    remarks: list[str] = field(default_factory=list)
    """What is not as predicted for a reason that is known, and of no size."""


def check(architecture: Architecture, tokens: Sequence[int] = TOKENS) -> Checked:
    """Builds the model, writes it, has it planned by its files and compares."""
    try:
        model = architecture.build()
    except HarnessError as error:
        return Checked(architecture.name, failure=str(error))
    with tempfile.TemporaryDirectory(prefix="hwledger-bench-") as scratch, experts_in_float32():
        folder = Path(scratch)
        architecture.write(folder, model)
        try:
            shape = ModelShape.read(folder)
            said = json.loads(shape.to_json())
            wrong = _weights(said["weights"], folder, model)
            compared, remarks = 0, []
            for holder in HOLDERS:
                for prefilled, decoded in [*((count, 0) for count in tokens), (255, _DECODED_TOKENS)]:
                    predicted = _predicted(shape, said, holder, prefilled, decoded)
                    real = _real(model, holder, prefilled, decoded)
                    compared += len(real)
                    found = _differences(f"{holder} at {prefilled}+{decoded}", predicted, real)
                    if found and (remark := _STILL_FILLING.get((architecture.name, prefilled))):
                        remarks = [remark]
                    else:
                        wrong += found
        except Error as error:
            return Checked(architecture.name, failure=str(error))
        # Whatever mlx-lm's models raise on this device.
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            return Checked(architecture.name, failure=f"it does not run here: {type(error).__name__}: {error}")
    kinds = tuple(dict.fromkeys(layer["attention"] for layer in said["layers"]))
    return Checked(architecture.name, kinds, compared, wrong, remarks=remarks)


def _weights(said: dict[str, Any], folder: Path, model: Any) -> list[str]:
    loaded = sum(int(array.nbytes) for _, array in tree_flatten(model.parameters()))
    in_files = 0
    for file in folder.glob("*.safetensors"):
        header_bytes = int.from_bytes(file.read_bytes()[:8], "little")
        in_files += file.stat().st_size - 8 - header_bytes
    wrong = []
    if said["bytes"] != loaded:
        wrong.append(f"weights: {said['bytes']:,} predicted, {loaded:,} loaded")
    if said["file_bytes"] != in_files:
        wrong.append(f"weights: {said['file_bytes']:,} predicted in files of {in_files:,}")
    return wrong


def _predicted(shape: ModelShape, said: dict[str, Any], holder: str, prefilled: int, decoded: int) -> dict[int, int]:
    layers = json.loads(shape.cache_bytes("16", holder, prefilled, chunk_tokens=_CHUNK_TOKENS, decoded_tokens=decoded))
    return {
        place["cache"]: each["kv_bytes"] + each["state_bytes"]
        for place, each in zip(said["layers"], layers, strict=True)
        if place["cache"] is not None
    }


def _real(model: Any, holder: str, prefilled: int, decoded: int) -> dict[int, int]:
    caches = make_prompt_cache(model)
    if holder == "alone":
        caches = build(Dial(), caches)
    draw: Callable[[int], Any] = lambda count: mx.random.randint(0, 100, (1, count))  # noqa: E731
    computed = mx.default_device() == mx.Device(mx.gpu) or (prefilled in _COMPUTED_ON_A_CPU and not decoded)
    for count in [prefilled, *([1] * decoded)]:
        model(draw(count), cache=caches)
        if computed:
            mx.eval([_arrays(cache) for cache in caches])
    return {place: sum(array.nbytes for array in _arrays(cache)) for place, cache in enumerate(caches)}


def _arrays(cache: Any) -> list[Any]:
    """What a cache holds, with the room behind its tokens."""
    if isinstance(cache, CacheList):
        return [array for each in cache.caches for array in _arrays(each)]
    if isinstance(cache, ArraysCache):
        return [array for array in cache.cache if array is not None]
    return [array for array in (cache.keys, cache.values) if array is not None]


def _differences(where: str, predicted: dict[int, int], real: dict[int, int]) -> list[str]:
    if predicted.keys() != real.keys():
        return [f"{where}: {len(predicted)} caches predicted, there are {len(real)}"]
    return [
        f"{where}, cache {place}: {predicted[place]:,} bytes predicted, {real[place]:,} held"
        for place in real
        if predicted[place] != real[place]
    ]
