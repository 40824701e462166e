"""A policy's text, a model, and what was measured of it, put together: the dial to look at."""

import importlib
from pathlib import Path
from typing import Any

from hwledger_omlx.errors import KvProfileNotFoundError
from hwledger_omlx.hooks.kv_quant import geometry
from hwledger_omlx.kv import profile as profiles
from hwledger_omlx.kv.dial_view import DEFAULT_TOKENS, DialView, view
from hwledger_omlx.kv.prediction import LoadedModel
from hwledger_omlx.kv.profile import Profile

_native: Any = importlib.import_module("hwledger_omlx._native")


def has_policies() -> bool:
    """Whether this build knows KV policies."""
    return hasattr(_native, "KvPolicy")


def parse(policy: str) -> Any:
    """The `KvPolicy` of a text.

    Raises:
        KvPolicyError: it is none.
    """
    return _native.KvPolicy.parse(policy)


def dial_of(model: str | Path, policy: str, *, tokens: int = DEFAULT_TOKENS) -> DialView:
    """The dial of `policy` on `model`, with what calibration measured where there is a profile.

    Raises:
        KvPolicyError: it is no policy, or the model cannot take it.
        KvProfileNotFoundError: the policy is `auto`, and the model has not been calibrated.
        ModelError: no such model.
    """
    parsed = parse(policy)
    loaded = LoadedModel.load(model)
    text: str | None = None
    try:
        text = profiles.text_of(profiles.fingerprint(loaded.folder.path), str(model))
    except KvProfileNotFoundError:
        if "auto:" in str(parsed):
            raise
    measured = geometry.measure(loaded.model)
    resolved = parsed.resolve(measured.text, text)
    profile = None if text is None else Profile.parse(text)
    return view(loaded.folder.model_id, resolved, measured.text, measured.paths, profile, tokens)
