"""What a KV policy costs a model in quality: measured layer by layer, kept as a profile, shown as a dial.

In a notebook: `from hwledger_omlx import kv; kv.dial("path/to/model", "k8v4")`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwledger_omlx.kv.show import DialPicture

__all__ = ["dial"]


def dial(model: str | Path, policy: str, *, tokens: int = 8192) -> "DialPicture":
    """The dial of a policy on a model, to look at.

    Args:
        model: folder or Hugging Face id.
        policy: its text.
        tokens: at which bytes are counted.

    Raises:
        KvPolicyError: it is no policy, or the model cannot take it.
        KvProfileNotFoundError: the policy is `auto`, and the model has not been calibrated.
        ModelError: no such model.
    """
    # Imported here: they need MLX.
    from hwledger_omlx.kv.policies import dial_of
    from hwledger_omlx.kv.show import DialPicture

    return DialPicture(dial_of(model, policy, tokens=tokens))
