"""What a plan must know of this machine: how much memory MLX can have, and how far it runs ahead of its device.

Asks MLX and the system; measures nothing.
"""

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_CPU_CHUNK_TOKENS, _GPU_CHUNK_TOKENS = 512, 2048
"""The engine's on a CPU, and the fork's: `prefill_step_size`."""
_METAL_COMMIT = {"p": (20, 40), "g": (40, 40), "s": (50, 50), "d": (50, 50)}
"""Operations, and Mi numbers of inputs, of a commit, by the last letter of the GPU's architecture (phone, base, Max,
Ultra): `mlx/backend/metal/device.cpp`."""
_CUDA_COMMIT = {"8.0": (20, 400), "9.0": (100, 1000), "10.0": (100, 1000), "12.0": (100, 1000), "12.1": (20, 25)}
"""The same by compute capability: `get_graph_limits` of `mlx/backend/cuda/device.cpp` (0.32)."""
_OTHER_METAL, _OTHER_CUDA = (40, 40), (20, 100)


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes, and where the number comes from."""

    bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class Device:
    """What MLX computes on."""

    kind: str
    """`cpu`, `metal` or `cuda`."""
    commit_operations: int
    """Most operations that MLX hands to the device at once."""
    commit_numbers: int
    """Most numbers of their inputs."""

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a prompt that the engine computes at once."""
        return _CPU_CHUNK_TOKENS if self.kind == "cpu" else _GPU_CHUNK_TOKENS


def device() -> Device:
    """MLX's default device. `MLX_MAX_OPS_PER_BUFFER` and `MLX_MAX_MB_PER_BUFFER` are minded, as MLX does."""
    mx: Any = importlib.import_module("mlx.core")
    if mx.default_device() != mx.Device(mx.gpu):
        return Device("cpu", 1, 1)
    info = mx.device_info()
    if mx.metal.is_available():
        kind, limits = "metal", _METAL_COMMIT.get(str(info.get("architecture", ""))[-1:], _OTHER_METAL)
    else:
        kind, limits = "cuda", _CUDA_COMMIT.get(_compute_capability(info), _OTHER_CUDA)
    operations = _set_in_environment("MLX_MAX_OPS_PER_BUFFER", limits[0])
    return Device(kind, operations, _set_in_environment("MLX_MAX_MB_PER_BUFFER", limits[1]) << 20)


def memory() -> Amount:
    """What a model may take on this machine.

    On Apple Silicon what MLX is recommended to keep on the GPU, on another GPU its own memory, else the machine's or,
    where it is limited, the container's.
    """
    mx: Any = importlib.import_module("mlx.core")
    if mx.default_device() == mx.Device(mx.gpu):
        info = mx.device_info()
        for name in ("max_recommended_working_set_size", "total_memory", "memory_size"):
            if isinstance(size := info.get(name), int) and size > 0:
                return Amount(size, f"{name} of MLX's device {info.get('device_name', '')}".rstrip())
    return Amount(machine_memory_bytes(), "memory of this machine")


def machine_memory_bytes() -> int:
    """RAM of the machine, or of the container where it is limited."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _compute_capability(info: dict[str, Any]) -> str:
    major, minor = info.get("compute_capability_major"), info.get("compute_capability_minor")
    if major is not None and minor is not None:
        return f"{major}.{minor}"
    digits = "".join(filter(str.isdigit, str(info.get("architecture", ""))))
    return f"{digits[:-1]}.{digits[-1]}" if len(digits) > 1 else ""


def _set_in_environment(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() and int(value) > 0 else default
