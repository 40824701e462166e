"""The keys, or the values, of one request in one layer: the first tokens plain, then encoded ones, the last ones plain.

Only what a format encodes in whole runs, or what a policy wants in 16 bit, is plain; the rest is encoded as it comes,
so that no more than one chunk of prefill is ever there in full.
"""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from hwledger_omlx.hooks.layer_caches.arrays import ArraySpec, hollow
from hwledger_omlx.hooks.layer_caches.formats import Format, is_plain, spec_of
from hwledger_omlx.hooks.layer_caches.live import copied, roomy


@dataclass
class HeldTokens:
    """Tokens of one array, `[1, heads, tokens, width]` in all.

    Args:
        format: of the encoded ones.
        first_tokens: how many at the front stay plain.
        recent_tokens: how many at the end stay plain.
        reserve_tokens: for how many to allocate as long as they do.
    """

    format: Format
    first_tokens: int = 0
    recent_tokens: int = 0
    reserve_tokens: int = 0
    like: ArraySpec | None = None
    """Heads, width and dtype; None before the first token."""
    front: Any = None
    encoded: list[Any] = field(default_factory=list)
    """The format's components, with room behind the tokens."""
    encoded_tokens: int = 0
    tail: Any = None

    @property
    def tokens(self) -> int:
        """All of them."""
        return _length(self.front) + self.encoded_tokens + _length(self.tail)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(int(array.nbytes) for array in (self.front, *self.encoded, self.tail) if array is not None)

    @property
    def decoded_nbytes(self) -> int:
        """Bytes that `dense` takes beyond what is held."""
        if self.like is None or is_plain(self.format):
            return 0
        return self.like.nbytes // self.like.shape[2] * self.tokens

    @property
    def newest(self) -> Any:
        """The array that the newest token is in; None without tokens. To be set to another of the same numbers."""
        if self.tail is not None:
            return self.tail
        return self.encoded[0] if self.encoded else self.front

    @newest.setter
    def newest(self, same: Any) -> None:
        if self.tail is not None:
            self.tail = same
        elif self.encoded:
            self.encoded[0] = same
        else:
            self.front = same

    def append(self, dense: Any) -> None:
        """Takes `[1, heads, tokens, width]` behind what is there."""
        if self.like is None:
            self.like = spec_of(dense)
        missing = self.first_tokens - _length(self.front)
        if missing > 0:
            self.front = _owned(_joined(self.front, dense[..., :missing, :]))
            dense = dense[..., missing:, :]
        plain = _joined(self.tail, dense)
        run = self.format.run_tokens
        due = max(0, _length(plain) - self.recent_tokens) // run * run
        if due:
            self._encode(plain[..., :due, :])
            plain = _owned(plain[..., due:, :])
        self.tail = plain if _length(plain) else None

    def put_encoded(self, components: list[Any], tokens: int, like: ArraySpec) -> None:
        """Takes the tokens behind the first ones, encoded, where there are none. The arrays may have more room."""
        self.like, self.encoded, self.encoded_tokens = like, components, tokens

    def put_dense(self, dense: Any) -> None:
        """Takes the tokens behind the first ones, `[1, heads, tokens, width]`, where there are none."""
        first_tokens, self.first_tokens = self.first_tokens, 0
        self.append(dense)
        self.first_tokens = first_tokens

    def put_first(self, dense: Any) -> None:
        """Takes the first tokens, `[1, heads, tokens, width]` or more of them, in front of those that are there."""
        if self.first_tokens:
            self.front = _owned(dense[..., : self.first_tokens, :])

    def dense(self) -> Any:
        """`[1, heads, tokens, width]` of all tokens. Nothing is computed before somebody evaluates it."""
        parts = [self.front] if self.front is not None else []
        if self.encoded_tokens and self.like is not None:
            parts.append(self.format.decode(self.components(), self.like))
        if self.tail is not None:
            parts.append(self.tail)
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)

    def components(self) -> list[Any]:
        """The components of the encoded tokens, without the room behind them."""
        return self._encoded_since(0)

    def components_since(self, token: int) -> tuple[list[Any], int]:
        """The components of the tokens from `token` on, those that are plain encoded for it; and where they begin.

        For formats with runs of one token. Where no token is plain it costs nothing to begin at the first.
        """
        if self.front is None and self.tail is None:
            return self.components(), 0
        parts = [self.format.encode(plain) for plain in self._plain_since(token, self.front, 0)]
        start = max(0, token - _length(self.front))
        if start < self.encoded_tokens:
            parts.append(self._encoded_since(start))
        behind = _length(self.front) + self.encoded_tokens
        parts += [self.format.encode(plain) for plain in self._plain_since(token, self.tail, behind)]
        joined = [
            mx.concatenate(pieces, axis=component.axis) if len(pieces) > 1 else pieces[0]
            for component, *pieces in zip(self.format.components, *parts, strict=True)
        ]
        return joined, token

    def dense_since(self, token: int) -> tuple[Any, int]:
        """`[1, heads, tokens, width]` from `token` on, or from a little before; and where it begins."""
        if is_plain(self.format):
            return self.dense(), 0
        assert self.like is not None  # noqa: S101  there are tokens
        front, run = _length(self.front), self.format.run_tokens
        start = max(0, token - front) // run * run
        parts = self._plain_since(token, self.front, 0)
        if start < self.encoded_tokens:
            parts.append(self.format.decode(self._encoded_since(start), self.like))
        parts += self._plain_since(token, self.tail, front + self.encoded_tokens)
        begins = front + start if token >= front and start < self.encoded_tokens else token
        return (parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)), begins

    def _plain_since(self, token: int, plain: Any, position: int) -> list[Any]:
        start = max(0, token - position)
        return [plain[..., start:, :]] if start < _length(plain) else []

    def _encoded_since(self, start: int) -> list[Any]:
        return [
            _sliced(array, component.axis, component.slot(start), component.slot(self.encoded_tokens))
            for array, component in zip(self.encoded, self.format.components, strict=True)
        ]

    def trim(self, tokens: int) -> None:
        """Drops the last `tokens`, of which there must be as many."""
        kept = self.tokens - tokens
        front = _length(self.front)
        if kept >= front + self.encoded_tokens:
            self.tail = _kept(self.tail, kept - front - self.encoded_tokens)
        elif kept >= front:
            run = self.format.run_tokens
            whole = (kept - front) // run * run
            opened = _kept(self._decoded_run(whole), kept - front - whole) if whole < kept - front else None
            self.encoded_tokens, self.tail = whole, opened
        else:
            self.encoded_tokens, self.tail, self.front = 0, None, _kept(self.front, kept)

    def copy(self) -> "HeldTokens":
        """The same tokens, on the same memory."""
        return HeldTokens(
            self.format,
            self.first_tokens,
            self.recent_tokens,
            self.reserve_tokens,
            self.like,
            self.front,
            list(self.encoded),
            self.encoded_tokens,
            self.tail,
        )

    def _decoded_run(self, start: int) -> Any:
        end = start + self.format.run_tokens
        assert self.like is not None  # noqa: S101  there are tokens
        run = [
            _sliced(array, component.axis, component.slot(start), component.slot(end))
            for array, component in zip(self.encoded, self.format.components, strict=True)
        ]
        return self.format.decode(run, self.like)

    def _encode(self, dense: Any) -> None:
        components = self.format.components
        end = self.encoded_tokens + _length(dense)
        self._make_room(end)
        for place, (component, new) in enumerate(zip(components, self.format.encode(dense), strict=True)):
            span = slice(component.slot(self.encoded_tokens), component.slot(end))
            self.encoded[place][(slice(None),) * component.axis + (span,)] = new
        self.encoded_tokens = end

    def _make_room(self, tokens: int) -> None:
        components = self.format.components
        if self.encoded and self.encoded[0].shape[components[0].axis] >= components[0].slot(tokens):
            return
        assert self.like is not None  # noqa: S101  append has set it
        wanted = self.reserve_tokens - self.first_tokens
        run = self.format.run_tokens
        room = hollow(self.format.specs(self.like, -(-(wanted if wanted >= tokens else roomy(tokens)) // run) * run))
        if self.encoded_tokens:
            for component, array, old in zip(components, room, self.components(), strict=True):
                array[(slice(None),) * component.axis + (slice(0, component.slot(self.encoded_tokens)),)] = old
                copied.add(old)
            # Layer by layer, as `live` does.
            mx.eval(room)
        self.encoded = room


def _length(array: Any) -> int:
    return 0 if array is None else int(array.shape[2])


def _joined(before: Any, after: Any) -> Any:
    if before is None:
        return after
    return mx.concatenate([before, after], axis=2) if _length(after) else before


def _owned(array: Any) -> Any:
    """The same in memory of its own: a slice would keep all of a prefill's chunk. For want of a copy, times 1."""
    return array * mx.array(1, array.dtype)


def _kept(array: Any, tokens: int) -> Any:
    return array[..., :tokens, :] if tokens else None


def _sliced(array: Any, axis: int, start: int, stop: int) -> Any:
    return array if (start, stop) == (0, array.shape[axis]) else array[(slice(None),) * axis + (slice(start, stop),)]
