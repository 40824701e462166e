"""A policy's text, a model, and what was measured of it, put together: the dial to look at."""

from pathlib import Path

from hwledger_omlx._native import KvPolicy
from hwledger_omlx.errors import KvProfileNotFoundError
from hwledger_omlx.hooks.kv_quant import geometry
from hwledger_omlx.kv import profile as profiles
from hwledger_omlx.kv.dial_view import DEFAULT_TOKENS, DialView, view
from hwledger_omlx.kv.prediction import LoadedModel
from hwledger_omlx.kv.profile import Profile


def dial_of(model: str | Path, policy: str, *, tokens: int = DEFAULT_TOKENS) -> DialView:
    """The dial of `policy` on `model`, with what calibration measured where there is a profile.

    Raises:
        KvPolicyError: it is no policy, or the model cannot take it.
        KvProfileNotFoundError: the policy is `auto`, and the model has not been calibrated.
        ModelError: no such model.
    """
    parsed = KvPolicy.parse(policy)
    loaded = LoadedModel.load(model)
    text: str | None = None
    try:
        text = profiles.text_of(profiles.fingerprint(loaded.folder.path), str(model))
    except KvProfileNotFoundError:
        if parsed.needs_profile:
            raise
    measured = geometry.measure(loaded.model)
    resolved = parsed.resolve(measured.text, text)
    profile = None if text is None else Profile.parse(text)
    return view(loaded.folder.model_id, resolved, measured.text, measured.paths, profile, tokens)
