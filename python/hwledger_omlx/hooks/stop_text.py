"""Stop sequences left to the fork's matching on text, which is exact; only single stop tokens are matched as tokens.

Where a sequence is matched token by token, the fork drops the token that completed it, so nobody can tell the beginning
of a stop sequence from text. Its matching on text records every token, and `engine/generation.py` sees what was cut.
"""

import asyncio
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwledger_omlx.fork.load import LoadedFork


def build_state_machine(
    wrapped: Callable[..., Any], instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Around `omlx.scheduler:Scheduler._build_state_machine(request)`, which turns stop tokens into a state machine."""
    request = args[0] if args else kwargs["request"]
    asked = request.sampling_params
    request.sampling_params = dataclasses.replace(asked, stop=[])
    try:
        return wrapped(*args, **kwargs)
    finally:
        request.sampling_params = asked


def self_test(loaded: "LoadedFork") -> str | None:
    """A stop sequence cuts the text exactly, and a request without one gives the text it gives without the hook."""
    from hwledger_omlx.fork import probe_model

    hook = next(report.id for report in loaded.hooks if report.target.endswith("._build_state_machine"))
    with tempfile.TemporaryDirectory(prefix="hwledger-omlx-probe-") as folder:
        return asyncio.run(_compare(loaded, hook, probe_model.write(Path(folder))))


async def _compare(loaded: "LoadedFork", hook: str, model: Path) -> str | None:
    from hwledger_omlx.fork import probe_model

    async with probe_model.engine(model) as engine:

        async def text(stop: list[str] | None) -> str:
            output = await engine.generate("the quick brown fox", max_tokens=24, temperature=0.0, stop=stop)
            return str(output.text)

        whole = await text(None)
        with loaded.lifted(hook):
            upstream = await text(None)
        sequence = whole[len(whole) // 2 :][:3]
        cut = await text([sequence])
    if whole != upstream:
        return f"greedy text differs with the hook: {whole!r}, without {upstream!r}"
    expected = whole[: whole.index(sequence)]
    if cut.strip() != expected.strip():
        return f"stop sequence {sequence!r} gave {cut!r}, not {expected!r}"
    return None
