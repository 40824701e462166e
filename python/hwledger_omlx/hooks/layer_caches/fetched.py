"""Remembers what a cache gave out last, without keeping it alive."""

import weakref
from typing import Any


class Fetched:
    """Keys and values that an update returned.

    Attention may take what they stand for in another form only if it was given these very arrays: models also attend to
    what they have made of them.
    """

    def __init__(self) -> None:
        self._keys: Any = None
        self._values: Any = None

    def are(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Remembers the arrays and returns them."""
        self._keys, self._values = weakref.ref(keys), weakref.ref(values)
        return keys, values

    def match(self, keys: Any, values: Any) -> bool:
        """Whether these very arrays are what was given out last."""
        return self._keys is not None and self._keys() is keys and self._values() is values
