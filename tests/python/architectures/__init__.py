"""Tiny real models out of mlx-lm's own architectures, one for each way in which a model keeps its state.

`models.py` is the table of architectures, `weights.py` makes a model folder from an entry of it, `prompts.py` makes
prompts whose every token is known, and `expected.py` says what a cache must restore of them.
"""

from architectures.models import ARCHITECTURES, Architecture
from architectures.weights import write

__all__ = ["ARCHITECTURES", "Architecture", "write"]
