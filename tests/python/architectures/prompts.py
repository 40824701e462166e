"""Prompts whose every token is known: bytes of text between end-of-turn tokens, rendered as the chat template does.

What an answer says is ASCII too, so a prompt and its answer can be joined as text and are the same tokens again.
"""

import random
import re

from architectures.weights import END_OF_TURN, SPECIAL

PROMPT_TOKENS = 1591
SYSTEM_TOKENS = 311
"""Up to the end-of-turn token of the system prompt, with it."""
EDIT_TOKENS = 1113
"""Tokens before the edit at 70 %."""
TURN_TOKENS = 200
"""What a next turn adds to the answer before it."""
_WORDS = "tide lamp orbit salt river glass moss ember quill north raven copper winter hollow amber stone".split()
_SPECIAL_PATTERN = re.compile("|".join(map(re.escape, SPECIAL)))


def token_count(text: str) -> int:
    """Tokens of a prompt."""
    return len(_SPECIAL_PATTERN.sub("#", text))


def conversation(seed: int = 0) -> str:
    """A system prompt and a long message, of `PROMPT_TOKENS` tokens. Of one seed, always the same text."""
    system = _filled("<|im_start|>system\n", END_OF_TURN, SYSTEM_TOKENS, seed=seed)
    rest = PROMPT_TOKENS - SYSTEM_TOKENS
    return system + _filled("\n<|im_start|>user\n", f"{END_OF_TURN}\n<|im_start|>assistant\n", rest, seed=seed + 1)


def question(seed: int) -> str:
    """A short conversation of one message, of 300 tokens."""
    return _filled("<|im_start|>user\n", f"{END_OF_TURN}\n<|im_start|>assistant\n", 300, seed=seed)


def edited(prompt: str, new: str, before_tokens: int = EDIT_TOKENS) -> str:
    """The prompt with other characters, as many as `new` has, after its first `before_tokens` tokens."""
    place = next(index for index in range(len(prompt)) if token_count(prompt[:index]) == before_tokens)
    assert prompt[place] != new[0]
    assert "<" not in prompt[place : place + len(new)] + new
    return prompt[:place] + new + prompt[place + len(new) :]


def next_turn(prompt: str, answer: str, seed: int = 7) -> str:
    """The conversation after the answer: its end of turn and another message, `TURN_TOKENS` together."""
    end = f"{END_OF_TURN}\n<|im_start|>assistant\n"
    return prompt + answer + _filled(f"{END_OF_TURN}\n<|im_start|>user\n", end, TURN_TOKENS, seed=seed)


def _filled(before: str, after: str, tokens: int, *, seed: int) -> str:
    draw = random.Random(seed)
    room = tokens - token_count(before) - token_count(after)
    text = ""
    while len(text) < room:
        text += draw.choice(_WORDS) + " "
    return before + text[:room] + after


def tokens(text: str) -> list[str]:
    """The tokens of a prompt, each as the text that it stands for."""
    return re.findall(f"{_SPECIAL_PATTERN.pattern}|(?s:.)", text)


def shared_tokens(one: str, other: str) -> int:
    """How many tokens both begin with."""
    pairs = zip(tokens(one), tokens(other), strict=False)
    return next(
        (index for index, (mine, theirs) in enumerate(pairs) if mine != theirs), min(map(token_count, (one, other)))
    )
