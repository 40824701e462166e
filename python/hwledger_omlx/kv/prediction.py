"""What a model predicts while its keys and values are held at a dial's formats. Knows mlx-lm models and our caches.

The tokens go through running caches in chunks, as in prefill, so all that a token attends to is what is held.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import psutil
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from hwledger_omlx.engine import model_folder
from hwledger_omlx.errors import ModelError
from hwledger_omlx.hooks.kv_quant.rebinding import attend_through_ours
from hwledger_omlx.hooks.layer_caches.building import build
from hwledger_omlx.hooks.layer_caches.dial import Dial

CHUNK_TOKENS = 256
"""Of a prefill, here. Smaller than a server's, so that most of a short text is read back from what is held."""


_FLOAT32_TIMES = 2
"""Most that weights grow by, those of 16 bits."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, attending through our layer caches."""

    folder: model_folder.ModelFolder
    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, model: str | Path) -> "LoadedModel":
        """From a folder or a Hugging Face id.

        Raises:
            ModelError: there is no such model, or mlx-lm cannot load it.
        """
        from mlx_lm import load

        folder = model_folder.locate(model)
        try:
            loaded, tokenizer, *_ = load(str(folder.path))
        except (ValueError, KeyError, OSError) as error:
            raise ModelError(f"mlx-lm cannot load {folder.model_id}: {error}") from error
        attend_through_ours(loaded)
        return cls(folder, loaded, tokenizer)

    def compute_in_float32(self) -> bool:
        """Has the model compute in float32 from now on, if it fits well into the memory; whether it does.

        What rounding to 16 bits does to logits is more than what 8-bit keys do, and it does not add up over the layers:
        sensitivities that were measured with it make many layers look alike.
        """
        if _FLOAT32_TIMES * self.folder.weights_bytes > psutil.virtual_memory().total // 2:
            return False
        self.model.set_dtype(mx.float32)
        return True

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with none added."""
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]

    def caches(self, dial: Dial, tokens: int) -> list[Any]:
        """Empty layer caches at the formats of `dial`, with room for exactly `tokens` tokens."""
        return build(dial, make_prompt_cache(self.model), tokens)

    def logits(
        self, ids: Sequence[int], caches: Sequence[Any], chunk_tokens: int = CHUNK_TOKENS
    ) -> NDArray[np.float32]:
        """Logits `[tokens, vocabulary]` of `ids`, which the caches hold afterwards."""
        found = []
        for start in range(0, len(ids), chunk_tokens):
            chunk = self.model(mx.array([list(ids[start : start + chunk_tokens])]), cache=caches)[0]
            mx.eval(chunk, [cache.state for cache in caches])
            found.append(np.array(chunk.astype(mx.float32)))
        return np.concatenate(found)


def held_nbytes(caches: Sequence[Any]) -> int:
    """Bytes that layer caches have allocated."""
    return sum(int(cache.nbytes) for cache in caches)
