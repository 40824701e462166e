"""Images in chat: what a vision model of the fork makes of messages that may hold them.

Images are content parts as in OpenAI's API, `{"type": "image_url", "image_url": {"url": ...}}`, with a `data:` URL or
whatever else the fork's loader takes.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from hwledger_omlx.engine.events import Message
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.errors import ForkError, RequestError

_IMAGE_PARTS = frozenset({"image", "image_url", "input_image"})


def present_in(prompt: str | Sequence[Message]) -> bool:
    """Whether a prompt has an image in it."""
    return not isinstance(prompt, str) and _count(prompt) > 0


def _count(prompt: Sequence[Message]) -> int:
    return sum(
        isinstance(part, dict) and part.get("type") in _IMAGE_PARTS
        for message in prompt
        if isinstance(message.get("content"), list | tuple)
        for part in message["content"]
    )


async def prompt_of(
    engine: Any, request: GenerateRequest, extract: Callable[[Any], tuple[Any, list[Any]]], executor: Executor
) -> tuple[list[int], dict[str, Any]]:
    """The tokens of chat messages and what `add_request` takes for the images in them.

    Args:
        engine: the fork's `VLMBatchedEngine`.
        request: has messages.
        extract: the fork's `extract_images_from_messages`, which leaves out what it cannot read.
        executor: the thread that evaluates the model's arrays.

    Raises:
        RequestError: an image cannot be read, or the template refuses the messages.
    """
    prepare = getattr(engine, "_process_chat_messages", None)
    if prepare is None:
        raise ForkError("this fork prepares images in another way than the engine knows; use a tested release")
    kwargs = {"chat_template_kwargs": dict(request.chat_template_kwargs)} if request.chat_template_kwargs else {}
    messages = [dict(message) for message in request.prompt if not isinstance(message, str)]
    tools = [dict(tool) for tool in request.tools] or None
    asked = _count(messages)

    def work() -> Any:
        if len(extract(messages)[1]) != asked:
            raise RequestError(
                "an image cannot be read; give image_url parts with the data of a PNG, JPEG or WebP file"
            )
        return prepare(messages, tools, kwargs)

    try:
        token_ids, embeddings, more, digest, key_start, key_ranges = await asyncio.get_running_loop().run_in_executor(
            executor, work
        )
    except RequestError:
        raise
    except Exception as error:
        # Templates, image decoders and the model's own processor each raise what they raise.
        raise RequestError(f"the model cannot take these messages and images: {error}") from error
    return list(token_ids), {
        "vlm_inputs_embeds": embeddings,
        "vlm_extra_kwargs": more,
        "vlm_image_hash": digest,
        "vlm_cache_key_start": key_start,
        "vlm_cache_key_ranges": key_ranges,
    }
