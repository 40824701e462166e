"""Puts one hook in place: at the import of the module that has the target, whenever that comes.

It judges nothing. What went wrong at the last moment is kept in the hook's `Placement`.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import wrapt

from hwledger_omlx._native import Hook
from hwledger_omlx.errors import ForkError


class Placement:
    """Where one hook's object has been put, and what kept it from getting there."""

    def __init__(self, hook: Hook, on_problem: Callable[[str], None]) -> None:
        self.hook = hook
        self.problem: str | None = None
        self._on_problem = on_problem
        self._original: Any = wrapt.MISSING
        self._ours: Any = wrapt.MISSING
        self._slots: list[tuple[Any, str]] = []

    def arm(self) -> None:
        """Has the hook applied as soon as its module is imported; at once if it already is.

        Raises:
            ForkError: the hook is required, its module is already imported, and it cannot be applied.
        """
        module, _, _ = self.hook.target.partition(":")
        wrapt.register_post_import_hook(self._apply, module)
        for place in self.hook.rebind:
            wrapt.register_post_import_hook(self._rebinder(place), place.partition(":")[0])

    def check(self) -> str | None:
        """Why the hook's object is not the one in use, or None; modules that are not imported yet are not looked at."""
        if self.problem:
            return self.problem
        module = self.hook.target.partition(":")[0]
        if self._ours is wrapt.MISSING:
            return f"{module} was imported without the hook" if module in sys.modules else None
        for parent, attribute in self._slots:
            if not self._is_ours(_held(parent, attribute)):
                return f"{_name(parent)}.{attribute} was replaced by something else after the hook was applied"
        return None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Upstream's own object in all places, for as long as the context lasts. For self-tests, which compare."""
        if self._ours is wrapt.MISSING:
            raise ForkError(f"hook {self.hook.id} is not in place")
        held = [(parent, attribute, _held(parent, attribute)) for parent, attribute in self._slots]
        try:
            for parent, attribute, _ in held:
                wrapt.apply_patch(parent, attribute, self._original)
            yield
        finally:
            for parent, attribute, value in held:
                wrapt.apply_patch(parent, attribute, value)

    def _is_ours(self, value: Any) -> bool:
        # Someone else's wrapper around ours is fine.
        return value is self._ours or any(each is self._ours for each in wrapt.wrapper_chain(value))

    def _apply(self, module: ModuleType) -> None:
        dotted = self.hook.target.partition(":")[2]
        try:
            parent, attribute, self._original = wrapt.resolve_path(module, dotted)
            shim = _resolve(self.hook.shim)
            if self.hook.kind == "wrap":
                ours: Any = wrapt.wrap_function_wrapper(module, dotted, shim)
            else:
                ours = shim(self._original)
                wrapt.apply_patch(parent, attribute, ours)
        except Exception as error:  # noqa: BLE001
            # Anything raised here would fail the fork's own import, which must work without the hook.
            self._fail(f"{type(error).__name__}: {error}")
        else:
            self._ours = ours
            self._slots.append((parent, attribute))

    def _rebinder(self, place: str) -> Callable[[ModuleType], None]:
        name = place.partition(":")[2]

        def rebind(module: ModuleType) -> None:
            value = getattr(module, name, wrapt.MISSING)
            if self._ours is wrapt.MISSING:
                self._fail(self.problem or f"{module.__name__} was imported before {self.hook.target} was hooked")
            elif value is self._original:
                wrapt.apply_patch(module, name, self._ours)
                self._slots.append((module, name))
            elif self._is_ours(value):
                self._slots.append((module, name))
            else:
                self._fail(f"{place} is neither upstream's object nor ours")

        return rebind

    def _fail(self, problem: str) -> None:
        if self.problem is None:
            self.problem = problem
            self._on_problem(problem)
        if self.hook.required:
            raise ForkError(f"the fork cannot be used safely: required hook {self.hook.id} failed: {problem}")


def _resolve(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


def _held(parent: Any, attribute: str) -> Any:
    # Not getattr on a class: it would bind the descriptor, and each time to a new object.
    return vars(parent).get(attribute, wrapt.MISSING)


def _name(parent: Any) -> str:
    return str(getattr(parent, "__qualname__", None) or getattr(parent, "__name__", parent))
