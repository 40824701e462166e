"""What MLX runs on, by name. Knows nothing of models."""

import importlib


def device_name() -> str:
    """MLX's default device, with the accelerator's name where it has one: `cpu`, `gpu (Apple M3 Max)`.

    `none` where MLX is missing.
    """
    # By name: MLX's own types do not describe every release.
    try:
        mx = importlib.import_module("mlx.core")
    except ImportError:
        return "none"
    device = mx.default_device()
    kind = str(device).removeprefix("Device(").partition(",")[0]
    if kind == "cpu":
        return "cpu"
    about = getattr(mx, "device_info", None)
    try:
        name = about().get("device_name") if about is not None else None
    except RuntimeError:
        name = None
    return f"{kind} ({name})" if name else kind
