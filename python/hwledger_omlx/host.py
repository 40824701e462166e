"""The face of the package to the Rust host (rust/host), which calls these functions and nothing else by name.

Requests and settings arrive as JSON text. Events leave as the objects they are: to read an object's fields from Rust
costs less than to make text of them and parse it.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import numbers
import os
import platform
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwledger_omlx import __version__, logs, signals
from hwledger_omlx._native import LayerMemory
from hwledger_omlx.engine.config import EngineConfig
from hwledger_omlx.engine.events import Event
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.errors import EngineError, Error, RequestError

Sink = Callable[[Event | BaseException], None]
"""Takes each event of a request, and the exception that ends it, on the engine's thread. Of the host; never blocks."""


def prepare(stdout_to_stderr: bool) -> None:
    """Called once, when the interpreter has started.

    Args:
        stdout_to_stderr: what Python code prints goes to standard error; standard output is the host's alone.
    """
    # The host ignores what would lead Python elsewhere; so shall the processes that Python starts.
    for variable in ("PYTHONHOME", "PYTHONPATH"):
        os.environ.pop(variable, None)
    signals.leave_to_host()
    if stdout_to_stderr:
        sys.stdout = sys.stderr
    logs.configure(to_stderr=stdout_to_stderr)


def command(arguments: list[str]) -> int:
    """Runs a command line of `hwledger-omlx` on the calling thread, Python's main one, and returns its exit code."""
    from hwledger_omlx import cli

    return cli.run(arguments, program="hwledger-omlx-host")


def end(number: int) -> None:
    """A signal has come that asks the running command to end. Does not wait for the end."""
    signals.end(number)


def reload() -> None:
    """SIGHUP has come. Does not wait."""
    signals.reload()


def open_session(config: str) -> Any:
    """A started session of the settings in `config`, a JSON object with the fields of `EngineConfig`. Blocks to load.

    Raises:
        Error: whatever `Session.start` raises, and EngineError for settings that cannot be.
    """
    from hwledger_omlx.engine.session import Session  # the first import of the fork and MLX, which doctor must survive

    settings = json.loads(config)
    try:
        session = Session(EngineConfig(model=settings.pop("model"), **settings))
    except (TypeError, KeyError) as error:
        raise EngineError(f"these are no settings of an engine: {error}") from error
    session.start()
    return session


def open_server(config: str) -> Any:
    """A server that takes requests, of the settings in `config`: a JSON object with the fields of `ServerSettings`.

    Raises:
        Error: whatever `Server.start` raises, and EngineError for settings that cannot be.
    """
    from hwledger_omlx.serve.server import Server
    from hwledger_omlx.serve.settings import ServerSettings

    settings = json.loads(config)
    try:
        engine = EngineConfig(**settings.pop("engine"))
        folders = tuple(map(Path, settings.pop("model_dirs")))
        wanted = ServerSettings(engine=engine, model_dirs=folders, **settings)
    except (TypeError, KeyError) as error:
        raise EngineError(f"these are no settings of a server: {error}") from error
    server = Server(wanted)
    server.start()
    return server


def health(server: Any) -> str:
    """What `/health` says of a started server, as JSON."""
    return json.dumps(server.health.report())


def memory_ledger(session: Any, model: str) -> LayerMemory | None:
    """The samples of a model, of the first where none is named; None where it has none, or there is no such model."""
    from hwledger_omlx.engine import memory as engine_memory

    loaded = session.loaded
    chosen = loaded.get(model) if model else next(iter(loaded.values()), None)
    return None if chosen is None else next(iter(engine_memory.ledgers([chosen])), None)


def report(session: Any) -> str:
    """The fork that a started session runs, and the state of each hook, as JSON."""
    return json.dumps(_fork_report(session.fork))


def submit(session: Any, request: str, sink: Sink) -> str:
    """Submits a request, a JSON object with `prompt` and the fields of `GenerateRequest`, and returns its id.

    Raises:
        RequestError: the request asks for what cannot be.
        EngineClosedError: the session is closed.
    """
    fields = json.loads(request)
    prompt = fields.pop("prompt")
    request_id: str = session.submit(GenerateRequest.parse(prompt, **fields), sink)
    return request_id


def embed(session: Any, asked: tuple[list[str], str | None]) -> tuple[str, bytes, int, int]:
    """The model, the vectors of texts as 32-bit floats one after the other, their dimensions, and the texts' tokens."""
    made = session.run(session.one_shot.embed(*asked))
    return made.model, made.vectors.tobytes(), int(made.vectors.shape[1]), made.prompt_tokens


def rerank(session: Any, asked: tuple[str, list[str], str | None, int | None]) -> str:
    """Documents by how well they answer a query, as JSON."""
    return json.dumps(dataclasses.asdict(session.run(session.one_shot.rerank(*asked))))


def transcribe(session: Any, asked: tuple[Path | bytes, str | None, str | None]) -> str:
    """Speech as text, as JSON."""
    made = session.run(session.one_shot.transcribe(*asked))
    segments = [{name: _finite(value) for name, value in each.items()} for each in made.segments]
    return json.dumps(dataclasses.asdict(made) | {"segments": segments}, default=float)


def _finite(value: Any) -> Any:
    """A model that is unsure of everything gives probabilities that are no numbers, which JSON has not."""
    return None if isinstance(value, numbers.Real) and not math.isfinite(value) else value


def speak(session: Any, asked: tuple[str, str | None, str | None]) -> tuple[str, bytes, int, float]:
    """The model, a WAV file, its samples a second and its length in seconds."""
    made = session.run(session.one_shot.speak(*asked))
    return made.model, made.wav, made.sample_rate_hz, made.duration_s


def bench_prompts(session: Any, model: str | None, tokens: int, count: int, seed: int) -> tuple[str, list[str]]:
    """A tenant that nobody else is, and prompts for a model: the same for the same seed.

    Raises:
        RequestError: no such model is loaded, or no prompt is asked for.
        HarnessError: the model's tokenizer cannot make prompts.
    """
    from hwledger_omlx.measure.prompts import Prompts

    models = session.models
    chosen = models.get(model) if model else next(iter(models.values()), None)
    if chosen is None:
        raise RequestError(f"no model {model!r} is loaded (loaded: {', '.join(models) or 'none'})")
    if tokens < 1 or count < 1:
        raise RequestError("a benchmark takes at least one request of one token")
    prompts = Prompts(chosen.path)
    return f"bench-{uuid.uuid4().hex}", [prompts.make(tokens, seed, number) for number in range(count)]


def stamp_tokens() -> None:
    """Stamps every token that leaves an engine from now on."""
    from hwledger_omlx.measure import token_stamps

    token_stamps.install()


def token_stamps() -> list[tuple[int, int, int]]:
    """The stamps since the last time."""
    from hwledger_omlx.measure import token_stamps

    return token_stamps.take()


def cache_stats(session: Any) -> str | None:
    """What the KV cache of a started session did and holds, as JSON; None unless it is ours."""
    stats: str | None = session.cache.stats_json()
    return stats


def cache_flush(session: Any) -> None:
    """Returns when everything that the cache accepted is on disk."""
    session.cache.flush()


def cache_purge(session: Any, model: str | None) -> str:
    """Forgets every prompt, or those of one model; what went, as JSON."""
    return json.dumps(dataclasses.asdict(session.cache.purge(model)))


def cache_pin(session: Any, prompt: str, keep: bool, model: str | None, tenant: str) -> int:
    """Keeps what is stored of a prompt, or takes that back; how many tokens. The prompt is JSON."""
    act = session.cache.pin if keep else session.cache.unpin
    tokens: int = act(json.loads(prompt), model=model, tenant=tenant)
    return tokens


def memory(session: Any) -> str:
    """Where the memory of a started session goes, as JSON by the schema `hwledger.v1`.

    Raises:
        EngineClosedError: the session is closed.
    """
    report: str = session.memory().to_json()
    return report


def doctor(fork: str | Path | None) -> str:
    """Examines interpreter, package, fork, hooks and device; the JSON of the host's `DoctorReport`. Loads no model.

    Args:
        fork: a checkout, as in `EngineConfig`.
    """
    problems: list[str] = []
    spec = importlib.util.find_spec("hwledger_omlx._native")
    found: dict[str, Any] = {
        "interpreter": sys.executable,
        "python": platform.python_version(),
        "package": {"version": __version__, "path": str(Path(__file__).parent)},
        "native": spec.origin if spec else None,
        "problems": problems,
    }
    if found["native"] != "built-in":
        problems.append(f"hwledger_omlx._native comes from {found['native']}, not from the host: its state is double")
    _examine(found, "device", _device)
    _examine(found, "fork", lambda: _load_fork(fork))
    hooks = found["fork"]["hooks"] if found["fork"] else []
    problems += [f"hook {hook['id']} is refused: {hook['reason']}" for hook in hooks if hook["status"] == "refused"]
    return json.dumps(found)


def _examine(found: dict[str, Any], part: str, look: Callable[[], dict[str, Any]]) -> None:
    found[part] = None
    try:
        found[part] = look()
    except Error as error:
        found["problems"].append(str(error))
    except Exception as error:  # noqa: BLE001 - an examination tells of whatever is broken
        found["problems"].append(f"{part} cannot be examined: {type(error).__name__}: {error}")


def _device() -> dict[str, Any]:
    import mlx.core as mx

    mx.eval(mx.ones(1) + 1)  # a device that is listed need not work
    return {"mlx": importlib.metadata.version("mlx"), "name": str(mx.default_device())}


def _load_fork(fork: str | Path | None) -> dict[str, Any]:
    from hwledger_omlx.engine import upstream
    from hwledger_omlx.fork.load import load

    loaded = load(None if fork is None else Path(fork))
    # Whether a hook is in use shows only where its module is there; these are what a session imports.
    for name in ("scheduler", "engine_pool", "engine.batched"):
        upstream.module(name)
    loaded.confirm()
    return _fork_report(loaded)


def _fork_report(loaded: Any) -> dict[str, Any]:
    fork = loaded.fork
    return {
        "distribution": fork.distribution,
        "version": str(fork.version),
        "path": str(fork.path),
        "hooks": [{"id": hook.id, "status": str(hook.status), "reason": hook.reason or ""} for hook in loaded.hooks],
    }
