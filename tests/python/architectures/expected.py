"""What a cache must restore of a prompt, by the history of what was served before: an oracle in a few lines.

It knows prompts as texts and nothing of blocks, files or restarts, none of which may change what can be restored.
"""

from architectures.models import Architecture
from architectures.prompts import shared_tokens, token_count, tokens
from architectures.weights import END_OF_TURN


class History:
    """Every conversation that an engine has served so far."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._served: list[str] = []
        self._snapshots: list[tuple[str, int]] = []

    def restorable(self, prompt: str) -> int:
        """Tokens of `prompt` that need not be computed again."""
        known = self._known(prompt)
        if not self._architecture.stored:
            return 0
        if self._architecture.cut_anywhere:
            return known
        return max(
            (place for text, place in self._snapshots if place <= min(known, shared_tokens(text, prompt))), default=0
        )

    def serve(self, prompt: str, answer: str) -> None:
        """Notes that `prompt` was answered with `answer`."""
        ends = [place + 1 for place, token in enumerate(tokens(prompt)) if token == END_OF_TURN]
        known = self._known(prompt)  # a prompt that leaves the known ones there may not be the last to do so
        whole = prompt + answer
        places = {*ends[:1], *ends[-1:], known, token_count(prompt) - 1, token_count(whole)}
        self._served.append(whole)
        self._snapshots += [(whole, place) for place in sorted(places)]

    def _known(self, prompt: str) -> int:
        longest = max((shared_tokens(text, prompt) for text in self._served), default=0)
        return min(
            longest, token_count(prompt) - 1
        )  # the last token is computed in any case: it gives the first logits
