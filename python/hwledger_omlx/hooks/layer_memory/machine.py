"""MLX's account of its memory now, and the device's, each with where it comes from."""

from typing import Any

import mlx.core as mx
import psutil


def mlx_memory() -> dict[str, Any]:
    """As the core's `memory::live::MlxMemory` has it. On any thread."""
    device, free = _device()
    return {
        "active_bytes": _measured(mx.get_active_memory(), "mx.get_active_memory"),
        "cache_bytes": _measured(mx.get_cache_memory(), "mx.get_cache_memory"),
        "peak_bytes": _measured(mx.get_peak_memory(), "mx.get_peak_memory"),
        "device_bytes": device,
        "free_bytes": free,
    }


def _device() -> tuple[dict[str, Any], dict[str, Any]]:
    """Its memory, and what of it is free."""
    info: dict[str, Any] = mx.device_info() if hasattr(mx, "device_info") else {}
    # CUDA's says so; its memory is not the system's.
    if "total_memory" in info and mx.default_device() == mx.Device(mx.gpu):
        total = _measured(info["total_memory"], "mx.device_info")
        if "free_memory" in info:
            return total, _measured(info["free_memory"], "mx.device_info")
        return total, {"value": None, "source": "unavailable", "how": "mx.device_info does not say what is free"}
    # Apple Silicon's GPU and any CPU have the system's.
    memory = psutil.virtual_memory()
    return _measured(memory.total, "the system's memory"), _measured(memory.available, "the system's memory")


def _measured(value: Any, how: str) -> dict[str, Any]:
    return {"value": int(value), "source": "measured", "how": how}
