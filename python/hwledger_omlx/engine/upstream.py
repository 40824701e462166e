"""The fork as the engine uses it: beside `watched_pool` and `activity`, the place of `engine/` that knows its names.

Everything is imported late, after the patch series has been applied. Names are those of oMLX 0.3.6 to flyto-mlx 0.7.0;
a fork that lacks one gets a `ForkError` that names it.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import importlib
import json
import logging
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hwledger_omlx.engine import images
from hwledger_omlx.engine.events import ToolCall
from hwledger_omlx.engine.model_folder import ModelFolder
from hwledger_omlx.engine.model_kind import GENERATING, WITHOUT_TOKENIZER, ModelKind, kind_of
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.errors import EngineError, Error, ForkError, ModelError, RequestError
from hwledger_omlx.fork.home import home
from hwledger_omlx.hooks.paged_cache.binding import Binding

T = TypeVar("T")

_CPU_PREFILL_CHUNK_TOKENS = 512
"""In place of the fork's 2048, on a CPU: the shipped model takes 2,260 tokens in 9.2 s so, and in 12.1 s by the fork's
chunks. A cancelled request ends within a chunk, so it ends sooner too."""


def module(name: str) -> ModuleType:
    """The fork's module `omlx.<name>`.

    Raises:
        ForkError: it cannot be imported; says which import failed.
    """
    try:
        return importlib.import_module(f"omlx.{name}")
    except ImportError as error:
        raise ForkError(
            f"the fork's omlx.{name} cannot be imported ({error}); install what is missing or use another release"
        ) from error


def attribute(owner: Any, name: str) -> Any:
    """`owner.name`, or a `ForkError` that names what this fork lacks."""
    try:
        return getattr(owner, name)
    except AttributeError as error:
        kind = owner.__name__ if isinstance(owner, ModuleType) else type(owner).__name__
        raise ForkError(f"this fork has no {kind}.{name}, which the engine needs; use a tested release") from error


def active_bytes() -> int:
    """Bytes of all MLX arrays that are alive now."""
    return int(attribute(importlib.import_module("mlx.core"), "get_active_memory")())


def mlx_memory_bytes(which: str) -> int:
    """MLX's own count: `active` of all arrays now, `cache` of what it keeps for new ones, `peak` of the most so far."""
    return int(attribute(importlib.import_module("mlx.core"), f"get_{which}_memory")())


def open_pool(*, fork_cache_dir: Path | None, paged_cache: Binding | None, max_concurrent_requests: int) -> Any:
    """A new `EnginePool`. Must be called on the event loop that will run it.

    Args:
        fork_cache_dir: folder of the fork's own paged SSD cache; None turns it off.
        paged_cache: our cache, for every model of the pool; None for none.
        max_concurrent_requests: most requests in one batch.

    Raises:
        EngineError: `fork_cache_dir` cannot be written to.
    """
    if fork_cache_dir is not None:
        _check_writable(fork_cache_dir)
    scheduler = module("scheduler")
    wanted: dict[str, Any] = {
        "max_num_seqs": max_concurrent_requests,
        "completion_batch_size": max_concurrent_requests,
        "paged_ssd_cache_dir": None if fork_cache_dir is None else str(fork_cache_dir),
    }
    mlx = importlib.import_module("mlx.core")
    if mlx.default_device() == mlx.Device(mlx.cpu):
        wanted["prefill_step_size"] = _CPU_PREFILL_CHUNK_TOKENS
    config_class = attribute(scheduler, "SchedulerConfig")
    if missing := wanted.keys() - {field.name for field in dataclasses.fields(config_class)}:
        raise ForkError(f"this fork's SchedulerConfig has no {', '.join(sorted(missing))}; use a tested release")
    config = config_class(**wanted)
    if paged_cache is not None:
        paged_cache.bind(config)
    return attribute(module("engine_pool"), "EnginePool")(scheduler_config=config)


def _check_writable(cache_dir: Path) -> None:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir):
            pass
    except OSError as error:
        raise EngineError(
            f"the KV cache cannot be kept in {cache_dir}: {error}; give another cache_dir, or cache=None for none"
        ) from error


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """A model in the pool."""

    engine: Any
    """The fork's engine: `BatchedEngine`, `VLMBatchedEngine`, `EmbeddingEngine`, ..."""
    pool_id: str
    """The pool's name for it."""
    root: Path
    """The folder that the pool finds it from: its own, or one that holds a link to it."""
    kind: ModelKind
    """What it is for."""

    @property
    def generates(self) -> bool:
        """Whether it works off requests for text, token by token."""
        return self.kind in GENERATING


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A model that the pool knows of, loaded or not."""

    pool_id: str
    root: Path
    kind: ModelKind


async def load_model(pool: Any, folder: ModelFolder, found: Found) -> None:
    """Loads the model of `folder` into `pool`.

    Args:
        pool: from `open_pool`.
        folder: what to load.
        found: as what the pool has `discovered` it.

    Raises:
        ModelError: the fork cannot load it.
    """
    if found.kind not in WITHOUT_TOKENIZER:
        folder.require_tokenizer()
    try:
        with _quiet():
            await pool.get_engine(found.pool_id)
    except Error:
        raise
    except Exception as error:
        # mlx-lm and the fork raise what their parsers raise: KeyError, ValueError, RuntimeError, ...
        raise ModelError(load_failure(folder.path, folder.model_type, error)) from error


def placed_in(pool: Any, pool_id: str) -> Placed:
    """A model that the pool has loaded, by its own accord too."""
    entry = pool.get_entry(pool_id)
    return Placed(entry.engine, pool_id, Path(entry.model_path), kind_of(entry))


def scheduler_of(placed: Placed) -> Any:
    """The scheduler that works off the model's requests."""
    return attribute(attribute(requests_of(placed.engine), "engine"), "scheduler")


async def on_inference_thread(placed: Placed, work: Callable[[], T]) -> T:
    """What `work` returns, run between two steps of the model on the thread that evaluates its arrays."""
    return await asyncio.get_running_loop().run_in_executor(_executor_of(placed), work)


def _executor_of(placed: Placed) -> Executor:
    core = attribute(requests_of(placed.engine), "engine")
    # Releases before 0.6 have one thread for all models.
    executor: Executor = getattr(core, "_mlx_executor", None) or attribute(module("engine_core"), "get_mlx_executor")()
    return executor


def has_fork_cache(placed: Placed) -> bool:
    """Whether the fork's own cache is in use; the fork goes on without where it cannot open it."""
    return bool(placed.engine.prefix_cache_enabled)


def discovered(pool: Any, folder: ModelFolder, others: Sequence[Path]) -> Found:
    """Has the pool know of the model of `folder`.

    Args:
        pool: from `open_pool`.
        folder: what is to be loaded.
        others: the roots of the models already there.

    Raises:
        ModelError: the fork finds no model in the folder.
    """
    # The pool names a model by its folder, which for a snapshot of the hub is a commit; and in a folder with a
    # subfolder that has a config.json of its own it finds that one alone. A link shows it this model, by our name.
    linked = home() / "models" / hashlib.blake2b(bytes(folder.path), digest_size=8).hexdigest()
    for root in (folder.path, linked) if folder.path.name == folder.model_id else (linked,):
        if root is linked:
            linked.mkdir(parents=True, exist_ok=True)
            link = linked / folder.model_id
            if not link.is_symlink():
                link.symlink_to(folder.path, target_is_directory=True)
        # discover_models forgets what it is not given, so the loaded ones are named again.
        pool.discover_models([str(each) for each in (root, *others)])
        entry = pool.get_entry(folder.model_id)
        if entry is not None and Path(entry.model_path).resolve() == folder.path:
            return Found(folder.model_id, root, kind_of(entry))
    raise ModelError(f"the fork finds no model that it knows in {folder.path} ({folder.model_type})")


async def unload_model(pool: Any, pool_id: str) -> None:
    """Stops the model's engine and releases its memory, once its KV is stored."""
    await attribute(pool, "_unload_engine")(pool_id)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the fork logs of a load that fails, it also raises; said twice it hides the one line that matters."""
    logger = logging.getLogger("omlx")
    level = logger.level
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def load_failure(path: Path, model_type: str, error: Exception) -> str:
    """What to tell of a model that the fork could not load."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = " ".join(lines[:2])[:300].rstrip(" :,")
    if isinstance(error, ValueError) and "not supported" in reason:
        return f"{path}: architecture {model_type!r} is not supported by this mlx-lm; {reason}"
    return (
        f"{path} ({model_type}) could not be loaded: {type(error).__name__}: {reason}; check that its "
        "config.json and weights belong together, or fetch the model again"
    )


async def prompt_of(placed: Placed, request: GenerateRequest) -> tuple[list[int], dict[str, Any]]:
    """The tokens of the request's prompt, and what else `add_request` takes with them, for the images in it.

    Raises:
        RequestError: the template refuses the messages, or an image cannot be used.
    """
    if placed.kind == "vision" and not isinstance(request.prompt, str):
        extract = attribute(module("utils.image"), "extract_images_from_messages")
        return await images.prompt_of(placed.engine, request, extract, _executor_of(placed))
    # A long prompt takes a tokenizer tens of milliseconds and more; other streams go on meanwhile.
    return await asyncio.to_thread(prompt_token_ids, placed.engine, request), {}


def prompt_token_ids(engine: Any, request: GenerateRequest) -> list[int]:
    """The tokens of the request's prompt, by the model's own template and tokenizer.

    Raises:
        RequestError: the template refuses the messages.
    """
    if isinstance(request.prompt, str):
        text = request.prompt
    else:
        convert = attribute(module("api.tool_calling"), "convert_tools_for_template")
        tools = convert([dict(tool) for tool in request.tools]) if request.tools else None
        messages = engine._preprocess_messages([dict(message) for message in request.prompt])
        kwargs = dict(request.chat_template_kwargs) if request.chat_template_kwargs else None
        try:
            text = engine._apply_chat_template(messages, tools, chat_template_kwargs=kwargs)
        except Exception as error:
            # Templates are programs of the model's: they raise jinja2's errors and anything their filters raise.
            raise RequestError(f"the model's chat template refuses these messages: {error}") from error
    try:
        return list(engine.tokenizer.encode(text))
    except (UnicodeError, TypeError, ValueError) as error:
        raise RequestError(f"the model's tokenizer does not take this prompt: {error}") from error


def sampling_params(request: GenerateRequest, room_tokens: int | None, vocab_tokens: int | None) -> Any:
    """The fork's `SamplingParams` for the request, within the room that its prompt leaves, and the vocabulary."""
    # All tokens and more is what 0 says; MLX raises on it in the middle of a batch.
    top_k = request.top_k if vocab_tokens is None or request.top_k < vocab_tokens else 0
    return attribute(module("request"), "SamplingParams")(
        max_tokens=request.max_tokens if room_tokens is None else min(request.max_tokens, room_tokens),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        stop=list(request.stop),
        seed=request.seed,
        thinking_budget=request.thinking_budget,
    )


def requests_of(engine: Any) -> Any:
    """The `AsyncEngineCore` that takes `engine`'s requests: `add_request`, `stream_outputs`, `abort_request`."""
    return attribute(engine, "_engine")


async def prefix_stored(core: Any, token_ids: Sequence[int]) -> None:
    """Waits while the fork stores the KV of an answered request whose prompt begins as `token_ids` does.

    The fork answers first and stores afterwards, on a worker. An agent's next turn comes at once; looked up before the
    last one is stored, it would be computed again, at a hundred times what the wait costs. Other requests do not wait.
    """
    scheduler = attribute(attribute(core, "engine"), "scheduler")
    # Ours is saved before the answer is out.
    storing: dict[str, Any] = getattr(scheduler, "_inflight_store_futures", {})
    block_tokens = scheduler.config.paged_cache_block_size
    begins = list(token_ids[:block_tokens])
    for request_id, future in list(storing.items()):
        stored = scheduler.requests.get(request_id)
        if stored is not None and list(stored.prompt_token_ids[:block_tokens]) == begins:
            # What the store raises is the fork's to log; this request is computed in full then.
            await asyncio.wait([asyncio.wrap_future(future)])


async def outputs(core: Any, request_id: str) -> AsyncGenerator[Any]:
    """The fork's outputs of a request; one with `error` set is the last."""
    stream = core.stream_outputs(request_id)
    try:
        async for output in stream:
            yield output
            if output.error:
                return
    finally:
        await stream.aclose()


def first_text(engine: Any, request: GenerateRequest, token_ids: Sequence[int], text: str) -> str:
    """The first text of an answer; where it continues a text, with the space that mlx-lm's detokenizer trims off it."""
    if isinstance(request.prompt, str) and not text.startswith(" ") and engine.tokenizer.decode(token_ids)[:1] == " ":
        return " " + text
    return text


def answer_parts(engine: Any, request: GenerateRequest, raw: str) -> tuple[str, str, tuple[ToolCall, ...]]:
    """Splits the raw output into `(text, reasoning, tool calls)`, by the fork's parsers."""
    pattern = attribute(module("api.utils"), "SPECIAL_TOKENS_PATTERN")
    plain = pattern.sub("", raw)
    if isinstance(request.prompt, str):
        return plain, "", ()
    reasoning, text = attribute(module("api.thinking"), "extract_thinking")(plain)
    calls: tuple[ToolCall, ...] = ()
    if request.tools:
        parse = attribute(module("api.tool_calling"), "parse_tool_calls_with_thinking_fallback")
        text, parsed = parse(reasoning, text, engine.tokenizer, [dict(tool) for tool in request.tools])
        calls = tuple(
            ToolCall(call.id, call.function.name, _as_json_text(call.function.arguments)) for call in parsed or ()
        )
    return text.strip(), reasoning.strip(), calls


def _as_json_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)
