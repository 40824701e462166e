"""`serve` as a process of its own, of the wheel or of the host, for tests that are its clients."""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import load_file, save_file

import client_models
from hwledger_omlx.fork import probe_model
from hwledger_omlx.models import NOTES
from programs import program

KEY = "secret"
MODELS = {"notes", "tiny", "caller", "embedder", "broken", "failing"}


@dataclass(frozen=True)
class Served:
    """A server that runs, with the shipped model loaded and the others to be had."""

    url: str
    process: psutil.Process
    folder: Path
    """Its home, with the models and the cache in it."""

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {KEY}"}, timeout=120)

    def metrics(self) -> dict[str, float]:
        """By name, and by name and labels; without labels the sum of all."""
        with self.client() as client:
            text = client.get("/metrics").raise_for_status().text
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
        return found


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Served]:
    offered = folder / "models"
    client_models.write_caller(offered / "caller")
    client_models.write_caller(offered / "failing", fails=True)
    client_models.write_embedder(offered / "embedder")
    _never_ending(probe_model.write(offered / "tiny"))
    (probe_model.write(offered / "broken") / "tokenizer.json").unlink()
    options = ["--model-dir", offered, "--cache-dir", folder / "kv", "--api-key", KEY, "--port", "0"]
    with (
        (folder / "log").open("w+") as log,
        subprocess.Popen(
            [*program("serve"), str(NOTES), *map(str, options)],
            env={**os.environ, "HWLEDGER_OMLX_HOME": str(folder / "home")},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            log.seek(0)
            found = re.match(r"(http://\S+) serves (.*)", line)
            assert found, log.read()
            assert set(found[2].split(", ")) == MODELS
            yield Served(found[1], psutil.Process(process.pid), folder)
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def _never_ending(model: Path) -> None:
    """Greedily, the model's special tokens never come, for it has no weights for them."""
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][:4] = 0
    save_file(weights, model / "model.safetensors", metadata={"format": "mlx"})


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for it, a minute at most."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        time.sleep(0.05)
