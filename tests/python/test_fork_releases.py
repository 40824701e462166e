"""The series against real releases: the installed one, and those unpacked under `HWLEDGER_OMLX_TEST_FORKS`."""

import json

from forks import run_python
from hwledger_omlx.fork.prove import prove
from hwledger_omlx.fork.series import Series
from hwledger_omlx.fork.verify import verify

USE = """
import importlib, json, sys
from pathlib import Path
from hwledger_omlx.fork import load, fork_home
it = load(sys.argv[1] if len(sys.argv) > 1 else FORK)
for name in ("engine_pool", "scheduler", "settings", "server", "prefill_progress", "metrics.dflash_routing"):
    importlib.import_module(f"omlx.{name}")
from omlx import settings
from omlx.settings import GlobalSettings, init_settings
assert settings.DEFAULT_BASE_PATH == fork_home()
assert getattr(settings, "resolve_default_base_path", fork_home)() == fork_home()
init_settings().ensure_directories()
GlobalSettings().save()
from omlx.metrics.dflash_routing import write_routing_decision
write_routing_decision({"model_name": "m"})
# Without settings, as its tests do it: 0.5.0 then spells ~/.omlx itself.
from omlx.server import init_server
init_server(model_dirs=[str(Path.home() / "models")])
from omlx.server_metrics import get_server_metrics
get_server_metrics().save_alltime()
it.confirm()
files = sorted(str(path.relative_to(fork_home())) for path in fork_home().rglob("*") if path.is_file())
at_home = sorted(each.name for each in Path.home().iterdir())
print(json.dumps([{each.id: each.status for each in it.hooks}, files, at_home]))
"""


def test_every_hook_is_proven_on_the_release(release):
    judged = verify(release, self_tests=False)
    odd = [each.report for each in judged if each.status not in {"applied", "inapplicable"}]
    assert not odd
    absent = {each.hook.id for each in judged if each.status == "inapplicable"}
    assert absent == ({"home.resolve"} if release.version == "0.5.0" else set())


def test_every_self_test_passes_on_the_release(release):
    digests = {each.hook.id: each.digest for each in verify(release, self_tests=False) if each.digest}
    outcomes = prove(release, Series.shipped(), digests, afresh=True)
    assert outcomes == dict.fromkeys(digests)


def test_the_release_keeps_out_of_the_home_of_the_user(release, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    done = run_python(
        f"FORK = {str(release.package)!r}\n{USE}",
        HOME=str(home),
        HWLEDGER_OMLX_HOME=str(tmp_path / "ours"),
        # What the user's own server goes by must not lead ours into its folder.
        FMLX_BASE_PATH=str(home / ".fmlx"),
        DFLASH_METRIC_DIR=str(home / ".omlx" / "metrics"),
    )
    assert done.returncode == 0, done.stderr
    statuses, files, at_home = json.loads(done.stdout.splitlines()[-1])
    assert set(statuses.values()) <= {"applied", "inapplicable"}
    assert {"settings.json", "stats.json", "metrics/dflash_routing.jsonl"} <= set(files)
    assert at_home == ["models"]
