"""Standard input and output as the protocol's own: whatever else prints, prints to standard error."""

import contextlib
import os
import sys
from collections.abc import Iterator

from hwledger_omlx.errors import EngineError


@contextlib.contextmanager
def taken(input_fd: int, output_fd: int) -> Iterator[tuple[int, int]]:
    """Copies of both descriptors. Meanwhile standard input is empty, and standard output is standard error.

    So that neither a library that prints nor a process that one starts can write into the stream, or read from it.

    Raises:
        EngineError: one of them is not open.
    """
    if (input_fd == 0 and sys.__stdin__ is None) or (output_fd == 1 and sys.__stdout__ is None):
        raise EngineError("standard input or output is closed, and JSON-RPC needs both; start it with pipes")
    with contextlib.ExitStack() as stack:
        copies = [stack.enter_context(_copy(descriptor)) for descriptor in (input_fd, output_fd)]
        nothing = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, nothing)
        if output_fd == 1:
            if sys.stdout is not None:
                sys.stdout.flush()
            stack.enter_context(_replaced(1, 2 if sys.__stderr__ is not None else nothing))
        if input_fd == 0:
            stack.enter_context(_replaced(0, nothing))
        yield copies[0], copies[1]


@contextlib.contextmanager
def _copy(descriptor: int) -> Iterator[int]:
    try:
        copy = os.dup(descriptor)
    except OSError as error:
        raise EngineError(f"file descriptor {descriptor} cannot be used for JSON-RPC: {error}") from error
    try:
        yield copy
    finally:
        os.close(copy)


@contextlib.contextmanager
def _replaced(descriptor: int, by: int) -> Iterator[None]:
    before = os.dup(descriptor)
    os.dup2(by, descriptor)
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()  # what was printed meanwhile belongs where it went
        os.dup2(before, descriptor)
        os.close(before)
