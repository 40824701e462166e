"""The ids of requests as callers know them. Imports nothing.

The engine gives the fork an id of one run alone: the caller's, `#` and twelve hexadecimal digits. What is reported
bears the caller's. An end that the fork cannot know, such as a stop text that the engine saw, is told here too.
"""

import re
import uuid

_ends_as: dict[str, str] = {}
_RUN = re.compile(r"#[0-9a-f]{12}\Z")


def fork_id(request_id: str) -> str:
    """The id under which the fork runs a request."""
    return f"{request_id}#{uuid.uuid4().hex[:12]}"


def request_id_of(fork_id: str) -> str:
    """The caller's id of a request of the fork."""
    return _RUN.sub("", fork_id)


def set_end(fork_id: str, finish_reason: str) -> None:
    """Says why a request is given up that has what it was asked for."""
    _ends_as[fork_id] = finish_reason


def take_end(fork_id: str) -> str | None:
    """What `set_end` has said, once."""
    return _ends_as.pop(fork_id, None)
