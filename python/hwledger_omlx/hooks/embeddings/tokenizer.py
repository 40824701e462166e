"""An encoder's tokenizer, called as the fork calls one and never taken apart by it.

The fork looks for a `_tokenizer` within and uses that; on transformers' it is the bare one of the library tokenizers,
which pads by its file and tells nothing of it. There is no such attribute here.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class EncoderTokenizer:
    """Cuts texts off where the model ends, and pads to the longest of a batch.

    Args:
        inner: transformers' tokenizer of the model.
        longest_tokens: most tokens of a text, or of a pair of texts, special ones included.
        lower_case: texts are put into lower case first.
    """

    def __init__(self, inner: Any, longest_tokens: int, *, lower_case: bool = False) -> None:
        self.inner = inner
        self.longest_tokens = longest_tokens
        self.lower_case = lower_case

    def __call__(
        self,
        texts: Sequence[str],
        others: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: bool = True,
        **settings: Any,
    ) -> Mapping[str, Any]:
        """Token ids and attention mask of texts, or of pairs of them, as transformers' tokenizers return them."""
        longest = self.longest_tokens if max_length is None else min(max_length, self.longest_tokens)
        encoded: Mapping[str, Any] = self.inner(
            [self._cased(text) for text in texts],
            None if others is None else [self._cased(text) for text in others],
            max_length=longest,
            truncation=truncation,
            **settings,
        )
        return encoded

    def encode(self, text: str, **settings: Any) -> list[int]:
        """The tokens of one text, whole."""
        ids: list[int] = self.inner.encode(self._cased(text), **settings)
        return ids

    def _cased(self, text: str) -> str:
        return text.lower() if self.lower_case else text
