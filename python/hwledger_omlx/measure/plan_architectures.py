"""Small models of every architecture that mlx-lm has, with random weights, written as model folders.

Their configurations stand in `plan_architectures.toml`.
"""

import contextlib
import io
import json
import pkgutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from hwledger_omlx.errors import HarnessError

_CONFIGURATIONS = Path(__file__).with_name("plan_architectures.toml")
_NO_MODELS = frozenset(
    "activations base bitlinear_layers cache gated_delta mla pipeline rope_utils ssm switch_layers".split()
)
"""Modules of `mlx_lm.models` that are parts of others."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture in one small configuration."""

    name: str
    """`model_type` of config.json."""
    config: dict[str, Any]
    """config.json."""

    def build(self) -> Any:
        """The model as mlx-lm makes it, with random weights of 16 bit.

        Raises:
            HarnessError: mlx-lm cannot; the message says why.
        """
        from mlx_lm.utils import _get_classes

        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                model_class, args_class = _get_classes(self.config)
                model = model_class(args_class.from_dict(self.config))
        # A module of mlx-lm prints that a package of its own is missing, and ends the process.
        except (Exception, SystemExit) as error:
            reason = printed.getvalue().strip() or _said(error)
            raise HarnessError(f"mlx-lm cannot build it here: {reason}") from error
        model.set_dtype(mx.bfloat16)
        mx.eval(model.parameters())
        return model

    def write(self, folder: Path, model: Any) -> None:
        """config.json and the model's weights, in two files with an index where there is more than one tensor."""
        from mlx.utils import tree_flatten

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=1), encoding="utf-8")
        weights = tree_flatten(model.parameters())
        half = len(weights) // 2
        files = {"model-00001-of-00002.safetensors": weights[:half], "model-00002-of-00002.safetensors": weights[half:]}
        for name, tensors in files.items():
            mx.save_safetensors(str(folder / name), dict(tensors))
        index = {"weight_map": {tensor: name for name, tensors in files.items() for tensor, _ in tensors}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def architectures() -> list[Architecture]:
    """All of them, by name."""
    read = tomllib.loads(_CONFIGURATIONS.read_text(encoding="utf-8"))
    common, own = read["common"], read["architectures"]
    return [Architecture(name, {**common, **own[name], "model_type": name}) for name in sorted(own)]


def without_configuration() -> list[str]:
    """Architectures of the installed mlx-lm that there is no configuration of."""
    import mlx_lm.models

    modules = {module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)}
    return sorted(modules - _NO_MODELS - {_module_of(each.name) for each in architectures()})


@contextlib.contextmanager
def experts_in_float32() -> Iterator[None]:
    """Where MLX computes on a CPU, has experts compute in 32 bit: there is no such product of 16-bit numbers there.

    What comes of it is 16-bit again, so that all else is as on a GPU.
    """
    if mx.default_device() == mx.Device(mx.gpu):
        yield
        return
    gather = mx.gather_mm

    def widened(left: Any, right: Any, *args: Any, **kwargs: Any) -> Any:
        product = gather(left.astype(mx.float32), right.astype(mx.float32), *args, **kwargs)
        return product.astype(left.dtype)

    mx.gather_mm = widened
    try:
        yield
    finally:
        mx.gather_mm = gather


def _module_of(model_type: str) -> str:
    from mlx_lm.utils import MODEL_REMAPPING

    return str(MODEL_REMAPPING.get(model_type, model_type))


def _said(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
