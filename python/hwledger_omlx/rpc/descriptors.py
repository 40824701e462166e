"""Standard input and output as the protocol's own: whatever else prints, prints to standard error."""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from hwledger_omlx.errors import EngineError


@contextlib.contextmanager
def taken(input_fd: int, output_fd: int) -> Iterator[tuple[int, int]]:
    """Copies of both descriptors. Meanwhile standard input is empty, and standard output is standard error.

    So that neither a library that prints nor a process that one starts can write into the stream, or read from it.
    Standard input that is closed is input that has ended.

    Raises:
        EngineError: one of them cannot be used, or nobody would read what is written.
    """
    # By `sys`, for something that was opened since may have the number of a closed one. In the Rust host the null
    # device has it: there, a closed one is not to be told from one that was given so.
    if (output_fd == 1 and sys.__stdout__ is None) or _is_null_device(output_fd):
        raise EngineError(
            "standard output is closed or the null device, and nobody would read the answers; start it with a pipe"
        )
    has_input = input_fd != 0 or sys.__stdin__ is not None
    with contextlib.ExitStack() as stack:
        nothing = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, nothing)
        reading = stack.enter_context(_copy(input_fd if has_input else nothing))
        writing = stack.enter_context(_copy(output_fd))
        if output_fd == 1:
            if sys.stdout is not None:
                sys.stdout.flush()
            stack.enter_context(_replaced(1, 2 if sys.__stderr__ is not None else nothing))
        if input_fd == 0 and has_input:
            stack.enter_context(_replaced(0, nothing))
        yield reading, writing


def _is_null_device(descriptor: int) -> bool:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False  # which whoever copies it says better
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == Path(os.devnull).stat().st_rdev


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
