"""Stop sequences on the text of a stream, to the letter.

The fork ends a request at a stop sequence, but by then it has streamed the sequence's beginning. Knows nothing of
tokens or of the fork.
"""

from collections.abc import Sequence


class StopText:
    """Passes text through until one of the stop sequences turns up; holds back what may become the start of one."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = tuple(sequences)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of everything pushed so far that may now be shown. Empty once stopped."""
        if self.stopped or not self._sequences:
            return "" if self.stopped else text
        self._held += text
        found = [at for at in map(self._held.find, self._sequences) if at >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        kept = max(self._overlap(sequence) for sequence in self._sequences)
        cut = len(self._held) - kept
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back, once nothing more can come."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, sequence: str) -> int:
        """Length of the longest end of the held text that begins `sequence`."""
        longest = min(len(sequence) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if sequence.startswith(self._held[-size:])), 0)
