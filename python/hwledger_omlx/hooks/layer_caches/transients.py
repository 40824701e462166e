"""Keeps what is decoded for the moment from piling up.

MLX hands work to a device well ahead of it and allocates as it does, so without a pause the decoded keys and values of
all layers are there at once: on an H200, 6.4 GB of them beside a cache of 1.9 GB. A pause now and then, when enough is
under way, costs next to nothing, for that much takes a while to compute in any case.
"""

import threading
from typing import Any

import mlx.core as mx

_MOST_BYTES = 512 << 20


class _UnderWay(threading.local):
    nbytes = 0


_under_way = _UnderWay()


def expect(nbytes: int, depends_on: tuple[Any, ...]) -> None:
    """To be called before something of so many bytes is decoded.

    Args:
        nbytes: of what will be there until attention is done with it.
        depends_on: arrays that cannot be computed before all decoding so far has been made use of, such as the keys of
            the next layer. They are waited for where too much is under way.
    """
    if _under_way.nbytes and _under_way.nbytes + nbytes > _MOST_BYTES:
        mx.eval(depends_on)
        _under_way.nbytes = 0
    _under_way.nbytes += nbytes
