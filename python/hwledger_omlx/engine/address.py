"""Where the KV of a prompt is in the cache: its namespace and its tokens."""

from collections.abc import Iterable, Sequence
from typing import cast

from hwledger_omlx.cache.cache import Prompt
from hwledger_omlx.engine import upstream
from hwledger_omlx.engine.events import Message
from hwledger_omlx.engine.generation import LoadedModel
from hwledger_omlx.engine.request import GenerateRequest
from hwledger_omlx.errors import StoreError
from hwledger_omlx.hooks.layer_caches.dial import dial_of
from hwledger_omlx.hooks.paged_cache.binding import attached


def address_of(model: LoadedModel, prompt: Prompt, tenant: str) -> tuple[bytes, Iterable[int]]:
    """Where a prompt's KV is, at the policy of new requests.

    Raises:
        StoreError: the model's prompts are not cached, or the tokens of this one are known only when it is sent.
        RequestError: it is no prompt.
    """
    scheduler = upstream.scheduler_of(model.placed)
    prefixes = attached(scheduler)
    if prefixes is None or prefixes.unsupported:
        raise StoreError(f"the prompts of {model.folder.model_id} are not cached")
    namespace = prefixes.namespace(tenant, dial_of(scheduler).policy)
    if not isinstance(prompt, str) and all(isinstance(each, int) for each in prompt):
        return namespace, cast("Sequence[int]", prompt)
    request = GenerateRequest.parse(cast("str | Sequence[Message]", prompt))
    if model.placed.kind == "vision" and not isinstance(request.prompt, str):
        raise StoreError("the tokens of a chat with a vision model are known when it is sent; give tokens, or text")
    return namespace, upstream.prompt_token_ids(model.engine, request)
