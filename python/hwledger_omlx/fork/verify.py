"""Judges each hook of the series against the source of a fork, without importing it.

Known source: applied. Unknown source but the same interface: drifted, and the hook's self-test, in a process of its
own, has the last word. Anything the hook relies on missing: refused, and upstream's behaviour stays.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from hwledger_omlx._native import Hook
from hwledger_omlx.errors import ForkError, SeriesError
from hwledger_omlx.fork.digest import SourceError, Sources, Target
from hwledger_omlx.fork.locate import Fork
from hwledger_omlx.fork.prove import prove
from hwledger_omlx.fork.series import Digests, Series, locked_digests
from hwledger_omlx.fork.usage import uses

Status = Literal["applied", "drifted", "refused", "off", "inapplicable"]


@dataclass(frozen=True)
class HookReport:
    """What became of one hook, as users read it."""

    id: str
    patch: str
    target: str
    status: Status
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What is to become of one hook on one fork."""

    hook: Hook
    status: Status
    reason: str
    digest: str | None = None
    """Of the target in this fork; None where there is no target or nobody looked."""

    @property
    def report(self) -> HookReport:
        """The verdict without the hook's inner life."""
        return HookReport(self.hook.id, self.hook.patch, self.hook.target, self.status, self.reason)


def verify(
    fork: Fork, series: Series | None = None, *, features_off: frozenset[str] = frozenset(), self_tests: bool = True
) -> tuple[Verdict, ...]:
    """A verdict for each hook, in the order of the series.

    Args:
        fork: where the source is.
        series: the hooks; the shipped ones by default.
        features_off: features whose hooks are not wanted.
        self_tests: prove drifted hooks in a subprocess, once for each source they meet. Without, the reason says that
            the self-test was not run.
    """
    series = series or Series.shipped()
    locked = locked_digests()
    sources = Sources(fork.package)
    verdicts = tuple(judge(fork, sources, hook, locked, features_off) for hook in series.hooks)
    if not self_tests:
        return tuple(
            dataclasses.replace(each, reason=f"{each.reason}; self-test not run") if each.status == "drifted" else each
            for each in verdicts
        )
    return _proven(fork, series, verdicts)


def judge(
    fork: Fork, sources: Sources, hook: Hook, locked: Digests, features_off: frozenset[str] = frozenset()
) -> Verdict:
    """The verdict that reading the source gives; `drifted` still awaits its self-test."""
    if hook.feature in features_off:
        return Verdict(hook, "off", f"feature {hook.feature} is turned off")
    release = fork.release
    if hook.releases is not None and release is not None and not _includes(hook, release):
        return Verdict(
            hook, "inapplicable", f"only for releases {hook.releases} of the fork, and this is {fork.version}"
        )
    try:
        target = sources.target(hook.target)
        broken = _broken_promise(sources, hook, target)
    except SourceError as error:
        if hook.releases is not None and release is None:
            # A fork that hides its version may be from before the target existed: then there is nothing to hook.
            return Verdict(
                hook, "inapplicable", f"only for releases {hook.releases}, the version is unknown, and {error}"
            )
        return Verdict(hook, "refused", str(error))
    if broken:
        return Verdict(hook, "refused", broken, target.digest)
    known = [*hook.digests.items(), *locked.get(hook.id, {}).items()]
    same = _in_order({release for release, digest in known if digest == target.digest})
    if same:
        return Verdict(hook, "applied", f"source as proven on {', '.join(same)}", target.digest)
    return Verdict(hook, "drifted", _drift(hook, {release for release, _ in known}), target.digest)


def _broken_promise(sources: Sources, hook: Hook, target: Target) -> str | None:
    """Why the hook cannot work on this target, or None."""
    expected = hook.form or ("function" if hook.kind == "wrap" else None)
    if (expected and target.form != expected) or target.form == "async-function" != expected:
        return f"{hook.target} is {_article(target.form)}, not {_article(expected or 'function')}"
    kinds = {parameter.name: parameter.kind for parameter in target.parameters}
    for name in hook.parameters:
        if name not in kinds:
            return f"{hook.target} has no parameter {name} (it has {', '.join(kinds) or 'none'})"
        if kinds[name] not in {"positional-or-keyword", "keyword-only"}:
            return f"parameter {name} of {hook.target} is now {kinds[name]}"
    for place in hook.rebind:
        if not sources.binds(place):
            return f"{place}, where {hook.target} was used, is gone"
    if hook.protocol_objects:
        answered = frozenset(hook.protocol_calls)
        unknown = {name: place for name, place in uses(sources, hook.protocol_objects).items() if name not in answered}
        if unknown:
            calls = ", ".join(f"{name} ({place})" for name, place in sorted(unknown.items()))
            return f"the fork uses what our object for {hook.target} does not have: {calls}"
    return None


def _article(form: str) -> str:
    return f"{'an' if form[0] in 'aeiou' else 'a'} {form.replace('-', ' ')}"


def _drift(hook: Hook, known: Collection[str]) -> str:
    if not known:
        return f"source of {hook.target} was never proven on any release"
    releases = _in_order(known)
    return f"source of {hook.target} changed since {releases[-1]} (proven on {', '.join(releases)})"


def _in_order(releases: Collection[str]) -> list[str]:
    def key(release: str) -> tuple[Version, str]:
        try:
            return Version(release), release
        except InvalidVersion:
            return Version("0"), release

    return sorted(releases, key=key)


def _includes(hook: Hook, release: Version) -> bool:
    try:
        return SpecifierSet(hook.releases or "").contains(release, prereleases=True)
    except InvalidSpecifier as error:
        raise SeriesError(f"{hook.patch}.toml: hook `{hook.id}`: releases is no PEP 440 specifier: {error}") from error


def _proven(fork: Fork, series: Series, verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    drifted = {each.hook.id: each.digest for each in verdicts if each.status == "drifted" and each.digest}
    outcomes = prove(fork, series, drifted)
    result = []
    for each in verdicts:
        if each.status == "drifted":
            failure = outcomes[each.hook.id]
            status: Status = "refused" if failure else "drifted"
            said = f"self-test failed: {failure}" if failure else "self-test passed"
            each = dataclasses.replace(each, status=status, reason=f"{each.reason}; {said}")
        result.append(each)
    return tuple(result)


def require_safe(fork: Fork, verdicts: Sequence[Verdict]) -> None:
    """Raises `ForkError` where a hook without which the fork must not be loaded is refused or off."""
    for each in verdicts:
        if each.hook.required and each.status in {"refused", "off"}:
            raise ForkError(
                f"{fork} cannot be loaded safely: required hook {each.hook.id} is {each.status}: {each.reason}; "
                "use a tested release, such as flyto-mlx 0.7.0"
            )
