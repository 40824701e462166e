"""At which policy the KV of each loaded model is held: read as users write it, fitted to the model, put in force."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwledger_omlx._native import KvPolicy, is_kv_policy_file
from hwledger_omlx.engine import upstream
from hwledger_omlx.engine.model_folder import ModelFolder
from hwledger_omlx.errors import EngineError, KvPolicyError
from hwledger_omlx.fork.verify import HookReport
from hwledger_omlx.hooks.layer_caches.dial import PLAIN, Dial, dial_of, set_dial
from hwledger_omlx.kv import profile

KvSetting = str | Mapping[str, Any] | Path | KvPolicy | None
"""A policy as text, such as `"8"` or `"k8v4"`, as a mapping, in a TOML or JSON file, or parsed; None for 16 bit."""

_PATCH = "kv-quant"


def parse(given: KvSetting) -> KvPolicy:
    """The policy that a user has named.

    Raises:
        KvPolicyError: it is none.
    """
    if isinstance(given, KvPolicy):
        return given
    if given is None:
        return KvPolicy.parse(PLAIN)
    if isinstance(given, str):
        return KvPolicy.parse(given)
    if isinstance(given, Mapping):
        try:
            text = json.dumps(dict(given))
        except (TypeError, ValueError) as error:
            raise KvPolicyError(f"this mapping is no KV policy: {error}") from error
        return KvPolicy.from_json(text)
    if isinstance(given, Path):
        return _read(given)
    raise KvPolicyError(f"a KV policy is a text such as '8' or 'k8v4', a mapping, a path or a KvPolicy, not {given!r}")


def named(text: str | None) -> KvSetting:
    """What a user has named on a command line or in a configuration: a policy, or the file that has it."""
    return Path(text).expanduser() if text is not None and is_kv_policy_file(text) else text


def _read(path: Path) -> KvPolicy:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KvPolicyError(f"the KV policy {path} cannot be read: {error}") from error
    try:
        return KvPolicy.from_json(text) if path.suffix.lower() == ".json" else KvPolicy.from_toml(text)
    except KvPolicyError as error:
        raise KvPolicyError(f"{path}: {error}") from error


def is_plain(policy: KvPolicy) -> bool:
    """Whether nothing is encoded, running or at rest."""
    return str(policy) == PLAIN


@dataclass(frozen=True, slots=True)
class Fitted:
    """A policy that a model can take."""

    scheduler: Any
    dial: Dial

    def put_in_force(self) -> None:
        """For requests that begin from now on."""
        set_dial(self.scheduler, self.dial)


async def fit(policy: KvPolicy, folder: ModelFolder, placed: upstream.Placed, hooks: Sequence[HookReport]) -> Fitted:
    """Fits a policy to a loaded model.

    Raises:
        KvPolicyError: the model cannot take it; names the layer. Or it asks for a profile that is not there.
        EngineError: the patch that would carry it out is not in use.
    """
    scheduler = upstream.scheduler_of(placed)
    if is_plain(policy):
        return Fitted(scheduler, Dial())
    unused = [hook for hook in hooks if hook.patch.endswith(_PATCH) and hook.status not in {"applied", "drifted"}]
    if unused:
        raise EngineError(
            f"KV policy {policy} cannot be in force: hook {unused[0].id} is {unused[0].status}: {unused[0].reason}"
        )
    if upstream.has_fork_cache(placed):
        raise EngineError(f"KV policy {policy} cannot be in force with the fork's own cache; use cache='paged' or None")
    geometry = await _geometry(placed, scheduler)
    measured = await asyncio.to_thread(_profile, folder) if policy.needs_profile else None
    resolved = policy.resolve(geometry.text, measured)
    dial = Dial.parse(resolved, geometry.paths)
    await _try(policy, dial, folder, placed, scheduler)
    return Fitted(scheduler, dial)


def in_force(placed: upstream.Placed) -> str:
    """The text of the policy that new requests of a model run at."""
    return dial_of(upstream.scheduler_of(placed)).policy


async def _geometry(placed: upstream.Placed, scheduler: Any) -> Any:
    from hwledger_omlx.hooks.kv_quant import geometry  # MLX, which not every import of the package needs

    return await upstream.on_inference_thread(placed, lambda: geometry.measure(scheduler.model))


async def _try(policy: KvPolicy, dial: Dial, folder: ModelFolder, placed: upstream.Placed, scheduler: Any) -> None:
    from hwledger_omlx.hooks.kv_quant import trial  # MLX

    try:
        await upstream.on_inference_thread(placed, lambda: trial.run(scheduler.model, dial))
    except Exception as error:
        # A model may do anything with its caches.
        raise KvPolicyError(
            f"{folder.model_id} cannot run at KV policy {policy}: its layers use their caches as only 16 bit "
            f"allows ({type(error).__name__}: {error})"
        ) from error


def _profile(folder: ModelFolder) -> str:
    return profile.text_of(profile.fingerprint(folder.path), str(folder.path))
