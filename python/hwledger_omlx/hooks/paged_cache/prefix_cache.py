"""The prefixes of one loaded model: found, restored into layer caches, and saved. Knows the store, and no scheduler.

Nothing here may fail a request: what the store cannot do, the model computes.
"""

import logging
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hwledger_omlx._native import Layout, Match, Snapshot, Store
from hwledger_omlx.hooks.layer_caches.building import build
from hwledger_omlx.hooks.layer_caches.dial import Dial
from hwledger_omlx.hooks.layer_caches.quantized import QuantizedKVCache
from hwledger_omlx.hooks.paged_cache import boundaries, cuda, leaves, parts

_log = logging.getLogger("hwledger_omlx.cache")

_WORTH_TRANSCODING_TOKENS = 64
"""A prefix of another policy must have so many tokens more. Restoring and encoding them costs less than computing one
in ten; with fewer, what is there already is better."""


@dataclass(slots=True)
class Prefix:
    """What is known of one request's prompt, from its prefill to its end."""

    namespace: bytes
    label: str
    """Whose prefixes, for people."""
    dial: Dial
    """At which formats it runs and is stored, from its beginning to its end."""
    tokens: "array[int]"
    """The prompt's, as the store knows them."""
    caches: list[Any]
    """The model's layer caches, with the restored tokens in them."""
    restored_tokens: int
    shared_tokens: int
    """Tokens that a stored prompt begins with too, whether or not they could be restored."""
    held: Match | None
    """Keeps the stored prefix from being evicted for as long as the request lives."""
    saved_tokens: int = 0
    in_steps: bool = False
    """Whether upstream prefills it in steps. It names the prompt to the batch only where it does not."""

    def release(self) -> None:
        """Lets go of the caches and of what is held in the store."""
        self.caches = []
        if self.held is not None:
            self.held.release()
            self.held = None


@dataclass(slots=True)
class Unsupported:
    """Why a model's prompts are not cached."""

    reason: str


@dataclass
class PrefixCache:
    """Finds, restores and saves the prefixes of one model.

    Args:
        store: where they are.
        label: the model's name, for people.
        make_caches: makes the model's empty layer caches.
        namespace: gives the digest of a tenant's prefixes under a policy; its first call may take a while.
        prefill: runs the model over tokens, which extends the layer caches given.
    """

    store: Store
    label: str
    make_caches: Callable[[], list[Any]]
    namespace: Callable[[str, str], bytes]
    prefill: Callable[[Sequence[int], list[Any]], None]
    unsupported: Unsupported | None = None
    needs_snapshot: bool = False
    has_windows: bool = False
    window_tokens: int = 0
    """The least number of tokens that a window holds; 0 without windows."""
    _warned: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        try:
            found = leaves.leaves(self.make_caches())
        except leaves.UnsupportedCacheError as error:
            self.unsupported = Unsupported(f"layer caches of class {error} cannot be stored")
            _log.warning("%s runs without the KV cache: %s", self.label, self.unsupported.reason)
            return
        self.needs_snapshot = any(leaf.kind == "state" for leaf in found)
        windows = [int(leaf.cache.max_size) for leaf in found if leaf.kind == "window"]
        self.has_windows = bool(windows)
        self.window_tokens = min(windows, default=0)

    # -- restoring ----------------------------------------------------------------------------------------------

    def open(self, tokens: "array[int]", *, tenant: str, dial: Dial, reserve_tokens: int) -> Prefix:
        """Layer caches for a prompt, with as much of it as is stored, but for its last token.

        Args:
            tokens: the prompt's, by `boundaries.identity_tokens`.
            tenant: whose prefixes; prompts of different tenants share nothing.
            dial: formats of the caches, and of what is stored.
            reserve_tokens: tokens that the caches should hold without growing.
        """
        with self.sparing_requests("nothing was restored"):
            namespace = self.namespace(tenant, dial.policy)
            label = f"{self.label}/{tenant}" if tenant else self.label
            longest = len(tokens)
            while True:
                match, is_own = self._longest(namespace, label, tokens, tenant, dial)
                usable = match.restorable < longest
                caches = build(dial, self.make_caches(), reserve_tokens)
                count = self._restored(match, tokens, dial, caches, reserve_tokens) if usable else None
                if count is not None:
                    # What another policy's namespace holds is still to be stored in this one's.
                    saved = count if is_own else 0
                    return Prefix(namespace, label, dial, tokens, caches, count, match.tokens, match, saved)
                # A record was bad. If it is out of the store now, the next lookup finds less; else there is none.
                longest = match.restorable
                match.release()
                if not usable:
                    return Prefix(namespace, label, dial, tokens, caches, 0, 0, None)
        return Prefix(b"", "", dial, tokens, build(dial, self.make_caches(), reserve_tokens), 0, 0, None)

    @contextmanager
    def sparing_requests(self, consequence: str) -> Iterator[None]:
        """Keeps whatever fails inside from the request, and from the others in its batch. Logs the first failure."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            # Upstream knows no way to fail one request from here: some it would lose, with a stream that never ends.
            self._warn(consequence, error)

    def _longest(
        self, namespace: bytes, label: str, tokens: "array[int]", tenant: str, dial: Dial
    ) -> tuple[Match, bool]:
        """The longest stored prefix: of this policy, or of a more precise one that has much more of the prompt.

        Returns:
            The match, and whether it is of this policy.
        """
        own = found = self.store.lookup(namespace, tokens, len(tokens) - 1, label=label)
        if found.restorable + _WORTH_TRANSCODING_TOKENS >= len(tokens):
            return found, True
        for key, description in self.store.layouts(label):
            if key == namespace or not self._is_ours(key, description, tenant):
                continue
            if not parts.serves(parts.described_by(description), dial):
                continue
            other = self.store.lookup(key, tokens, len(tokens) - 1, label=label)
            shorter = other if other.restorable < found.restorable + _WORTH_TRANSCODING_TOKENS else found
            found = found if shorter is other else other
            shorter.release()
        return found, found is own

    def _is_ours(self, key: bytes, description: bytes, tenant: str) -> bool:
        """Whether a namespace is of this model and tenant, at whatever policy."""
        try:
            return self.namespace(tenant, parts.policy_of(description)) == key
        except ValueError:
            return False  # another version's

    def _restored(
        self, match: Match, tokens: "array[int]", dial: Dial, caches: list[Any], reserve_tokens: int
    ) -> int | None:
        """How many tokens of the match are in `caches` now, which may be none; None where a record was bad."""
        first = tokens[: dial.first_tokens]
        # An image's tokens are not the model's.
        if match.restorable <= len(first) or (first and max(first) >= boundaries.KEYED_BIT):
            return 0
        count = self._read(match, caches, reserve_tokens)
        if count <= len(first):
            return None
        if first:
            self._compute_first(first, caches)
        return count

    def _read(self, match: Match, caches: list[Any], reserve_tokens: int) -> int:
        """Tokens read into `caches`; 0 where they must not be used."""
        described = parts.described_by(match.description)
        wanted = match.restorable
        room = parts.room(described, caches, wanted, reserve_tokens)
        read = wanted
        stored = [place for place, part in enumerate(described) if part.row_nbytes]
        arrays = [room.arrays[place] for place in stored]
        if arrays:
            first_tokens = [room.first_tokens[place] for place in stored]
            read = match.restore(arrays, first_tokens=first_tokens).tokens
            cuda.prefetch(arrays)
        if read < wanted and (self.needs_snapshot or self.has_windows):
            return 0
        if match.snapshot_meta is not None:
            states = leaves.snapshot_room(match.snapshot_meta)
            if not match.restore_snapshot(states):
                return 0
            leaves.remember(caches, match.snapshot_meta, states)
        parts.fill(caches, described, room.arrays, read)
        return read

    def _compute_first(self, tokens: "array[int]", caches: list[Any]) -> None:
        """Puts the first tokens into `caches` in full: they are few, and the model makes them anew."""
        if not any(isinstance(leaf.cache, QuantizedKVCache) for leaf in leaves.leaves(caches)):
            return
        computed = self.make_caches()
        self.prefill(tokens, computed)
        for made, leaf in zip(leaves.leaves(computed), leaves.leaves(caches), strict=True):
            if isinstance(leaf.cache, QuantizedKVCache):
                leaf.cache.held_keys.put_first(made.cache.keys)
                leaf.cache.held_values.put_first(made.cache.values)

    # -- saving -------------------------------------------------------------------------------------------------

    def save(self, prefix: Prefix, tokens: "array[int]", caches: Sequence[Any], *, snapshot: bool = True) -> None:
        """Saves what is not stored yet of `tokens`, which `caches` hold, on the thread that made them.

        Args:
            prefix: of the request.
            tokens: as many as the caches hold, as the store knows them.
            caches: the model's layer caches, or those of a batch's row.
            snapshot: whether recurrent layers are saved as they are now.
        """
        needs_snapshot = snapshot and self.needs_snapshot
        if not prefix.namespace or len(tokens) <= (0 if needs_snapshot else prefix.saved_tokens):
            return
        with self.sparing_requests("nothing was saved"):
            found = leaves.leaves(caches)
            held = leaves.token_count(found)
            if held is not None and held != len(tokens):
                raise ValueError(f"the layers hold {held} tokens and {len(tokens)} were named")
            stored = parts.stored(found, prefix.dial, min(prefix.saved_tokens, len(tokens) - 1))
            kept = [place for place, part in enumerate(stored.parts) if part.row_nbytes]
            layout = Layout(
                [stored.parts[place].layout for place in kept],
                self.needs_snapshot,
                parts.describe(stored.parts, prefix.dial.policy),
            )
            state = Snapshot(*leaves.snapshot(found)) if needs_snapshot else None
            saved = self.store.save(
                prefix.namespace,
                layout,
                tokens,
                [stored.arrays[place] for place in kept],
                state,
                label=prefix.label,
                first_tokens=[stored.first_tokens[place] for place in kept],
            )
            if saved.refused is None:
                prefix.saved_tokens = len(tokens)

    def _warn(self, consequence: str, error: Exception) -> None:
        if not self._warned.is_set():
            self._warned.set()
            _log.warning("the KV cache failed, %s: %s (later failures are not logged)", consequence, error)


def in_background(work: Callable[[], bytes]) -> "Future[bytes]":
    """The result of `work`, which begins at once on a thread of its own."""
    future: Future[bytes] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001
            # Raised again where the result is asked for.
            future.set_exception(error)

    threading.Thread(target=run, name="hwledger-fingerprint", daemon=True).start()
    return future
