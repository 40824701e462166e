"""The engine on each release of the fork: same text, and a cache that outlives it."""

import json
from pathlib import Path

from forks import run_python
from hwledger_omlx.fork.locate import Fork

USE = """
import json, sys
from pathlib import Path
import hwledger_omlx as hw
from hwledger_omlx.models import NOTES

model, fork, cache = NOTES, Path(FORK), Path(CACHE)
prompt = "Mira Tolvane lives in Brassk. " * 40 + "Once upon a time"
told = []
for _ in range(2):
    with hw.Engine(model, fork=fork, cache_dir=cache) as engine:
        out = engine.generate(prompt, max_tokens=12, temperature=0.0)
        told.append([out.text, out.usage.cached_tokens, out.usage.prompt_tokens])
        drawn = [engine.generate("Once", max_tokens=8, temperature=1.0, seed=3).token_ids for _ in range(2)]
        assert drawn[0] == drawn[1]
        assert {hook.status for hook in engine.hooks} <= {"applied", "inapplicable"}, engine.hooks
        told.append(str(engine.fork))
print(json.dumps(told))
"""

TEXT: dict[str, str] = {}


def test_the_engine_runs_on_the_release_and_restores_after_a_restart(release: Fork, tmp_path: Path) -> None:
    path = release.package if release.source == "installed" else release.path
    done = run_python(f"FORK, CACHE = {str(path)!r}, {str(tmp_path)!r}\n{USE}")
    assert (done.returncode, done.stderr) == (0, "")
    cold, _, warm, told = json.loads(done.stdout)
    assert release.version in told
    assert warm[0] == cold[0]
    assert cold[1] == 0
    assert 0 < warm[1] < warm[2]
    TEXT[release.version] = cold[0]
    assert len(set(TEXT.values())) == 1, "the releases tell different stories"
