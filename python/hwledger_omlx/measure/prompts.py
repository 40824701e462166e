"""Prompts of a wanted length that never repeat, and a copy of a model that never ends a text by itself.

Both serve speed measurements only: what is generated does not matter, that it is the same work for everyone does.
Knows the files of a Hugging Face model folder and the `tokenizers` library; nothing of engines.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from hwledger_omlx.errors import HarnessError

_TEXT = (
    "after again along among bread bridge bring brother brown called carry chair city clear cold corner daughter door "
    "early evening every family field find first flower follow friend garden great green happy harbour heard home "
    "house hundred kitchen lamp later letter light little long market meadow morning mother mountain music near never "
    "night north number often orange paper people quiet rain red river road school seven silver small song south "
    "station stone story street summer table three time today town train tree under village walk warm water week while "
    "white window winter wood yellow yesterday young"
)
_WORDS = tuple(_TEXT.split())


class Prompts:
    """Makes prompts for one model's tokenizer."""

    def __init__(self, model: Path) -> None:
        """Reads `tokenizer.json` of the model folder.

        Raises:
            HarnessError: there is none, or it cannot be read.
        """
        file = model / "tokenizer.json"
        if not file.is_file():
            raise HarnessError(
                "the model folder has no tokenizer.json, which is needed to make prompts of a given length"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # The library raises bare Exception for whatever is wrong with the file.
            raise HarnessError(f"the model's tokenizer.json cannot be read: {error}") from error

    def make(self, tokens: int, *key: object) -> str:
        """A text of about `tokens` tokens (cutting may merge or split the last one). Same key, same text.

        Another key gives another text from its first word on, so that no cache finds a common start.
        """
        words = _sentences(random.Random("/".join(map(str, key))))  # noqa: S311  (no secret; must be reproducible)
        text = " ".join(next(words) for _ in range(2 * tokens + 8))
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) < tokens:
            raise HarnessError(f"could not make a prompt of {tokens} tokens: {len(text)} characters gave {len(ids)}")
        return str(self._tokenizer.decode(ids[:tokens])).strip()


def _sentences(source: random.Random) -> Iterator[str]:
    while True:
        length = source.randint(5, 12)
        words = [source.choice(_WORDS) for _ in range(length)]
        yield from (f"{source.randint(2, 99)}", words[0], *words[1:-1], f"{words[-1]}.")


def endless_copy(model: Path, into: Path) -> Path:
    """A folder in `into` that holds the model with no end-of-text token, so that `max_tokens` are always generated.

    The fork has no "ignore EOS": without this, a short answer would leave a decode speed to be measured on five tokens.
    Weights are linked, not copied. The folder's name says nothing of the model, since the fork gives a model that has
    `qwen3` in its path an end-of-text token back.
    """
    folder = into / "endless"
    folder.mkdir(parents=True)
    for file in model.iterdir():
        if file.name in ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
            (folder / file.name).write_text(json.dumps(_without_end(_read(file))), encoding="utf-8")
        elif file.is_file():
            (folder / file.name).symlink_to(file.resolve())
    return folder


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"the model's {file.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise HarnessError(f"the model's {file.name} holds no JSON object")
    return content


def _without_end(settings: dict[str, Any]) -> dict[str, Any]:
    """`eos_token_id` becomes an empty list and `eos_token` null, also in the nested configuration of a larger model."""
    replaced: dict[str, Any] = {"eos_token_id": [], "eos_token": None}
    changed = {name: replaced.get(name, value) for name, value in settings.items()}
    if isinstance(changed.get("text_config"), dict):
        changed["text_config"] = _without_end(changed["text_config"])
    if "model_type" in changed:
        # Where config.json names none, mlx-lm asks the tokenizer, whose class may have one by default.
        changed["eos_token_id"] = []
    return changed
