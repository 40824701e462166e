"""Names the machine and the software a measurement was taken on, without naming its user: no path, no host name.

Works on Linux and macOS. Knows nothing of what is measured.
"""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwledger_omlx.memory.device import device_name
from hwledger_omlx.memory.plan_machine import machine_memory_bytes

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what a report's numbers were taken."""

    cpu: str
    cores: float
    """CPU cores that this process may use: affinity and container quota counted in."""
    memory_bytes: int
    """RAM of the machine, or of the container where it is limited."""
    os: str
    python: str
    mlx: str
    """Version of MLX."""
    device: str
    """MLX's default device, with the accelerator's name where it has one."""
    fork: str
    """Distribution and version that the package `omlx` came from."""
    hwledger_omlx: str
    """Our version."""
    revision: str | None
    """Git commit when run from a checkout, with `+changes` where files differ from it."""
    load_average_1m: float
    """The machine's load before anything was measured; well above 0 means that others were at work."""
    date_utc: str

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def environment(*, fork: str | None = None) -> Environment:
    """Looks around. Call it before measuring, so that the load average is that of the others.

    Args:
        fork: what a contestant's process said about the `omlx` it loaded; by default the installed distribution.
    """
    return Environment(
        cpu=_cpu(),
        cores=_cores(),
        memory_bytes=machine_memory_bytes(),
        os=_os(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        mlx=_version_of("mlx"),
        device=device_name(),
        fork=fork or installed_fork(),
        hwledger_omlx=_version_of("hwledger-omlx"),
        revision=_revision(),
        load_average_1m=round(os.getloadavg()[0], 2),
        date_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def installed_fork() -> str:
    """`name version` of the distribution that installed `omlx`; `none` where none did."""
    names = importlib.metadata.packages_distributions().get("omlx", [])
    return ", ".join(f"{name} {_version_of(name)}" for name in dict.fromkeys(names)) or "none"


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _os() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]} {platform.machine()}"
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def _cpu() -> str:
    if platform.system() == "Darwin":
        return _output_of(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _cores() -> float:
    cores = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    quota = _first_words("/sys/fs/cgroup/cpu.max")
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit():
        cores = min(cores, round(int(quota[0]) / int(quota[1]), 2))
    return cores


def _first_words(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").split()
    except OSError:
        return []


def _revision() -> str | None:
    commit = _output_of(["git", "-C", str(_HERE), "rev-parse", "--short=12", "HEAD"])
    # An installed wheel inside somebody's repository is no checkout of ours.
    if commit is None or _output_of(["git", "-C", str(_HERE), "ls-files", Path(__file__).name]) is None:
        return None
    changed = _output_of(["git", "-C", str(_HERE), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+changes" if changed else commit


def _output_of(command: list[str]) -> str | None:
    """What the command prints; None where it fails or prints nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
