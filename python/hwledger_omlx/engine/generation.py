"""The life of one request: from the checked request to its last event. Runs on the engine's event loop.

Knows a loaded model and how to deliver events; nothing of threads, of who listens, or of other requests.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hwledger_omlx.engine import upstream
from hwledger_omlx.engine.events import (
    DoneEvent,
    Event,
    FinishReason,
    Generation,
    ProgressEvent,
    Timings,
    TokenEvent,
    Usage,
)
from hwledger_omlx.engine.model_folder import ModelFolder
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.engine.stop_text import StopText
from hwledger_omlx.errors import EngineError, RequestError
from hwledger_omlx.hooks import prefill_progress
from hwledger_omlx.hooks.layer_caches import dial
from hwledger_omlx.hooks.layer_memory import naming
from hwledger_omlx.hooks.paged_cache import binding

_CLOCK_S = 0.001
"""How much earlier than asked for a loop's timer may fire, at most."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that takes requests, of whichever kind."""

    folder: ModelFolder
    placed: upstream.Placed
    limit_tokens: int | None = None
    """What was set as most tokens of a prompt and its answer together; None where nothing was."""

    @property
    def engine(self) -> Any:
        """The fork's engine."""
        return self.placed.engine

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of a prompt and its answer together: what was set, and no more than the model allows."""
        limits = (self.folder.context_tokens, self.limit_tokens)
        return min((each for each in limits if each is not None), default=None)


class RequestRun:
    """One request under way. `run` delivers every event, the `DoneEvent` last, or raises.

    Args:
        model: what answers.
        request: what is asked.
        deliver: takes the events.
        submitted_s: when it was submitted, on the monotonic clock.
    """

    def __init__(
        self, model: LoadedModel, request: GenerateRequest, deliver: Callable[[Event], None], submitted_s: float
    ) -> None:
        self._model = model
        self._request = request
        self._deliver = deliver
        self._core = upstream.requests_of(model.engine)
        # The fork aborts by id and later; an id of this run alone cannot hit the next request of the caller's id.
        self._fork_id = naming.fork_id(request.request_id)
        self._dial = dial.dial_of(upstream.scheduler_of(model.placed))
        self._added = False
        self._began = False
        self._submitted_s = submitted_s
        self._first_token_s: float | None = None
        self._stop = StopText(request.stop)
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._prompt_tokens = 0
        self._cached_tokens = 0

    async def run(self) -> None:
        """Works the request off.

        Raises:
            RequestError: the prompt does not fit the model.
            EngineError: the engine failed while it worked on it.
        """
        reason: FinishReason = "cancelled"
        try:
            token_ids, images = await upstream.prompt_of(self._model.placed, self._request)
            limit = self._model.context_tokens
            self._check_fits(len(token_ids), limit)
            self._prompt_tokens = len(token_ids)
            self._progress(0, len(token_ids))
            tell = asyncio.get_running_loop().call_soon_threadsafe
            prefill_progress.subscribe(self._fork_id, lambda done, total: tell(self._progress, done, total))
            await upstream.prefix_stored(self._core, token_ids)
            if self._request.tenant:
                binding.set_tenant(self._fork_id, self._request.tenant)
            dial.promise(self._fork_id, self._dial)
            self._added = True
            await self._core.add_request(
                prompt=token_ids,
                sampling_params=upstream.sampling_params(
                    self._request, None if limit is None else limit - len(token_ids), self._model.folder.vocab_tokens
                ),
                request_id=self._fork_id,
                **images,
            )
            reason = await self._follow()
        except asyncio.CancelledError:
            # Only the engine cancels this task, when the caller gave the request up or its deadline has passed. The
            # fork ends it at its next step.
            reason = self._why_cancelled()
            if self._added:
                await self._core.abort_request(self._fork_id)
        finally:
            prefill_progress.unsubscribe(self._fork_id)
            binding.forget_tenant(self._fork_id)
            dial.forget_promise(self._fork_id)
        self._deliver(DoneEvent(self._request.request_id, self._generation(reason)))

    def give_up(self) -> None:
        """Delivers the last event of a request that was cancelled before its turn came."""
        self._deliver(DoneEvent(self._request.request_id, self._generation(self._why_cancelled())))

    def _why_cancelled(self) -> FinishReason:
        deadline_s = self._request.deadline_s
        over = deadline_s is not None and time.monotonic() - self._submitted_s >= deadline_s - _CLOCK_S
        return "deadline" if over else "cancelled"

    async def _follow(self) -> FinishReason:
        stream = upstream.outputs(self._core, self._fork_id)
        try:
            async for output in stream:
                if output.error:
                    raise EngineError(f"the engine gave up on {self._request.request_id}: {output.error}")
                self._take(output)
                if output.finished:
                    return self._finish(output)
                if self._stop.stopped:
                    naming.set_end(self._fork_id, "stop")
                    await self._core.abort_request(self._fork_id)
                    return "stop"
        finally:
            await stream.aclose()
        raise EngineError(f"the fork ended {self._request.request_id} without a last output")

    def _take(self, output: Any) -> None:
        token_ids, text = tuple(output.new_token_ids), output.new_text
        if token_ids and self._first_token_s is None:
            self._first_token_s = time.monotonic()
        if text and not self._began:
            self._began = True
            text = upstream.first_text(self._model.engine, self._request, [*self._token_ids, *token_ids], text)
        # First of all, for somebody waits for it; what follows is for the end.
        self._show(self._stop.push(text), token_ids)
        self._token_ids.extend(token_ids)
        self._cached_tokens = max(self._cached_tokens, output.cached_tokens)

    def _finish(self, output: Any) -> FinishReason:
        # The fork keeps from `new_token_ids` the tokens that completed a stop sequence, and lists them in the whole.
        completing = tuple(output.output_token_ids[len(self._token_ids) :])
        self._token_ids.extend(completing)
        if completing and output.finish_reason == "stop" and self._request.stop:
            self._show("", completing)
            return "stop"
        self._show(self._stop.finish(), completing)
        return "length" if output.finish_reason == "length" and not self._stop.stopped else "stop"

    def _show(self, text: str, token_ids: tuple[int, ...]) -> None:
        if text or token_ids:
            self._deliver(TokenEvent(self._request.request_id, text, token_ids))
        if text:
            self._text.append(text)

    def _progress(self, done: int, of_uncached: int) -> None:
        # Progress comes over from another thread and may be overtaken by the first token.
        if self._first_token_s is None:
            restored = self._prompt_tokens - of_uncached
            self._deliver(ProgressEvent(self._request.request_id, restored + done, self._prompt_tokens))

    def _check_fits(self, prompt_tokens: int, limit: int | None) -> None:
        if prompt_tokens == 0:
            raise RequestError("the prompt has no tokens; give some text")
        if limit is not None and prompt_tokens >= limit:
            raise RequestError(
                f"the prompt has {prompt_tokens} tokens and {self._model.folder.model_id} takes {limit}, "
                "its answer included; shorten the prompt or take a model with a longer context"
            )

    def _generation(self, reason: FinishReason) -> Generation:
        text, reasoning, tool_calls = upstream.answer_parts(self._model.engine, self._request, "".join(self._text))
        ended_s = time.monotonic()
        first_s = ended_s if self._first_token_s is None else self._first_token_s
        later_tokens = len(self._token_ids) - 1
        decode_s = ended_s - first_s
        return Generation(
            request_id=self._request.request_id,
            model=self._model.folder.model_id,
            text=text,
            token_ids=tuple(self._token_ids),
            finish_reason="tool_calls" if tool_calls and reason == "stop" else reason,
            usage=Usage(self._prompt_tokens, len(self._token_ids), self._cached_tokens),
            timings=Timings(
                ttft_s=first_s - self._submitted_s,
                total_s=ended_s - self._submitted_s,
                decode_tokens_per_s=later_tokens / decode_s if later_tokens > 0 and decode_s > 0 else 0.0,
            ),
            reasoning=reasoning,
            tool_calls=tool_calls,
        )
