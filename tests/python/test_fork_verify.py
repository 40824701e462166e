import pytest

from forks import ENGINE, SHIMS, STEP, counted, write_fork, write_series, write_shims
from hwledger_omlx.errors import ForkError, SeriesError
from hwledger_omlx.fork.digest import Sources
from hwledger_omlx.fork.home import home
from hwledger_omlx.fork.locate import locate
from hwledger_omlx.fork.lock import lock
from hwledger_omlx.fork.prove import MEMORY_FILE, prove
from hwledger_omlx.fork.series import LOCK_FILE, Series
from hwledger_omlx.fork.verify import require_safe, verify


@pytest.fixture
def shims(tmp_path, monkeypatch):
    """A folder of shims that self-tests can import, and a home in which nothing is remembered."""
    for name, value in write_shims(tmp_path / "shims").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HWLEDGER_OMLX_HOME", str(tmp_path / "ours"))
    return tmp_path / "shims"


def proven(tmp_path, **more):
    """The hook `STEP` with the digest of the engine as it is, under 0.7.0."""
    hook = {**STEP, **more}
    source = Sources(write_fork(tmp_path / "proven", more.pop("modules", None)) / "omlx")
    return {**hook, "digests": {"0.7.0": source.target(hook["target"]).digest}}


def verdict(tmp_path, hook, modules=None, *, version="0.7.0", **more):
    fork = locate(write_fork(tmp_path / "fork", modules, version=version))
    series = Series.of_folder(write_series(tmp_path / "patches", hook))
    (only,) = verify(fork, series, **more)
    return only


def test_known_source_is_applied_and_nothing_is_run(tmp_path, shims):
    judged = verdict(tmp_path, proven(tmp_path))
    assert (judged.status, judged.reason) == ("applied", "source as proven on 0.7.0")
    assert counted(shims) == 0


def test_docstrings_annotations_and_the_version_do_not_matter(tmp_path, shims):
    same = ENGINE.replace('"""What a hook wraps."""', '"""New words."""').replace(": str, count: int", ", count")
    assert verdict(tmp_path, proven(tmp_path), {"engine": same}, version="9.9.0").status == "applied"
    assert counted(shims) == 0


def test_a_changed_body_is_drifted_once_proven_and_the_proof_is_remembered(tmp_path, shims):
    modules = {"engine": ENGINE.replace(" x{count}", " times {count}")}
    hook = proven(tmp_path)
    judged = verdict(tmp_path, hook, modules, version="0.8.0")
    assert judged.status == "drifted"
    assert judged.reason == (
        "source of omlx.engine:Engine.step changed since 0.7.0 (proven on 0.7.0); self-test passed"
    )
    again = verify(locate(tmp_path / "fork"), Series.of_folder(tmp_path / "patches"))
    assert (again[0].status, counted(shims)) == ("drifted", 1)
    (home() / MEMORY_FILE).write_text("{")
    assert verify(locate(tmp_path / "fork"), Series.of_folder(tmp_path / "patches"))[0].status == "drifted"
    assert counted(shims) == 2


def test_an_added_parameter_is_drift(tmp_path, shims):
    modules = {"engine": ENGINE.replace("count: int = 1", "count: int = 1, *, priority=0")}
    assert verdict(tmp_path, proven(tmp_path), modules).status == "drifted"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("def step", "def advance", "omlx.engine:Engine has no step"),
        ("class Engine", "class Motor", "omlx.engine has no Engine"),
        ("request: str, count", "prompt: str, count", "has no parameter request (it has self, prompt, count)"),
        ("self, request: str,", "self, request: str, /,", "parameter request of omlx.engine:Engine.step is now pos"),
        ("def step(self, request: str, count: int = 1)", "def step(self, *request, count=1)", "is now *args"),
        ("    def step", "    async def step", "omlx.engine:Engine.step is an async function, not a function"),
        ("    def step", "    @property\n    def step", "omlx.engine:Engine.step is a property, not a function"),
        ("    def step", "    step = 3\n    def other", "omlx.engine:Engine.step is an assignment, not a function"),
        ("def make", "def (", "engine.py cannot be parsed"),
    ],
)
def test_what_the_hook_relies_on_is_gone(tmp_path, shims, old, new, reason):
    judged = verdict(tmp_path, proven(tmp_path), {"engine": ENGINE.replace(old, new)})
    assert (judged.status, counted(shims)) == ("refused", 0)
    assert reason in judged.reason


def test_a_missing_module_is_named(tmp_path, shims):
    judged = verdict(tmp_path, proven(tmp_path), {"engine": None})
    assert (judged.status, judged.reason) == ("refused", "module omlx.engine is missing")


@pytest.mark.parametrize(
    ("self_test", "reason"),
    [
        ("fails", "self-test failed: RuntimeError: the probe says no"),
        ("dies", "self-test failed: the process ended with 9"),
        ("absent", "self-test failed: AttributeError"),
    ],
)
def test_a_failed_self_test_refuses_the_hook(tmp_path, shims, self_test, reason):
    hook = {**STEP, "self_test": f"probe_shims:{self_test}"}
    judged = verdict(tmp_path, hook)
    assert judged.status == "refused"
    assert judged.reason.startswith("source of omlx.engine:Engine.step was never proven on any release; ")
    assert reason in judged.reason


def test_a_self_test_that_hangs_is_ended(tmp_path, shims):
    fork = locate(write_fork(tmp_path / "fork"))
    series = Series.of_folder(write_series(tmp_path / "patches", {**STEP, "self_test": "probe_shims:hangs"}))
    assert prove(fork, series, {"probe.step": "0" * 32}, timeout_s=2) == {"probe.step": "no result within 2 s"}


def test_a_shim_that_breaks_fails_its_self_test(tmp_path, shims):
    hook = {**STEP, "id": "probe.limit", "target": "omlx.engine:LIMIT", "kind": "replace", "parameters": []}
    hook |= {"shim": "probe_shims:broken", "self_test": "probe_shims:limit_works"}
    judged = verdict(tmp_path, hook)
    assert judged.status == "refused"
    assert "RuntimeError: shim is broken" in judged.reason


def test_without_self_tests_drift_is_said_to_be_unproven(tmp_path, shims):
    judged = verdict(tmp_path, STEP, self_tests=False)
    assert judged.status == "drifted"
    assert judged.reason.endswith("self-test not run")


def test_a_feature_that_is_off_is_not_looked_at(tmp_path):
    judged = verdict(tmp_path, STEP, {"engine": None}, features_off=frozenset({"probe"}))
    assert (judged.status, judged.reason) == ("off", "feature probe is turned off")


@pytest.mark.parametrize(
    ("version", "status"),
    [("0.5.0", "inapplicable"), ("0.6.0rc1", "inapplicable"), ("0.6.0", "refused"), ("0.7.0.dev3", "refused")],
)
def test_releases_from_before_the_target_are_no_reason_to_refuse(tmp_path, version, status):
    judged = verdict(tmp_path, {**STEP, "releases": ">=0.6"}, {"engine": None}, version=version)
    assert judged.status == status


def test_an_unknown_version_goes_by_the_source(tmp_path, shims):
    hook = {**proven(tmp_path), "releases": ">=0.6"}
    assert verdict(tmp_path, hook, version=None).status == "applied"
    (tmp_path / "fork" / "omlx" / "engine.py").unlink()
    (judged,) = verify(locate(tmp_path / "fork"), Series.of_folder(tmp_path / "patches"))
    assert judged.status == "inapplicable"


def test_a_specifier_that_is_none_is_an_error(tmp_path):
    with pytest.raises(SeriesError, match="releases is no PEP 440 specifier"):
        verdict(tmp_path, {**STEP, "releases": "since 0.6"})


STORE = {
    **STEP,
    "id": "probe.store",
    "target": "omlx.engine:Store",
    "kind": "replace",
    "form": "class",
    "shim": "probe_shims:store",
    "self_test": "probe_shims:limit_works",
    "parameters": [],
    "protocol": {"objects": ["store"], "calls": ["save"]},
}


@pytest.mark.parametrize(("call", "status"), [("self.store.save(1)", "applied"), ("self.store.purge(1)", "refused")])
def test_an_unknown_call_on_a_replaced_object_refuses_the_hook(tmp_path, shims, call, status):
    user = f"class User:\n    def use(self):\n        {call}\n"
    known = Sources(write_fork(tmp_path / "known") / "omlx").target("omlx.engine:Store").digest
    judged = verdict(tmp_path, {**STORE, "digests": {"0.7.0": known}}, {"user": user})
    assert judged.status == status
    if status == "refused":
        assert judged.reason == (
            "the fork uses what our object for omlx.engine:Store does not have: purge (omlx/user.py:3)"
        )


def test_a_place_to_rebind_that_is_gone_refuses_the_hook(tmp_path):
    judged = verdict(tmp_path, {**STORE, "rebind": ["omlx.user:Store"]}, {"user": "from omlx.engine import make"})
    assert judged.status == "refused"
    assert "omlx.user:Store" in judged.reason


def test_a_required_hook_that_is_refused_or_off_makes_the_fork_unsafe(tmp_path):
    hook = {**STEP, "required": True}
    fork = locate(write_fork(tmp_path / "fork", {"engine": None}))
    series = Series.of_folder(write_series(tmp_path / "patches", hook))
    for off in (frozenset(), frozenset({"probe"})):
        with pytest.raises(ForkError, match=r"cannot be loaded safely: required hook probe\.step is (refused|off): "):
            require_safe(fork, verify(fork, series, features_off=off))


def test_lock_writes_digests_into_the_manifests_and_leaves_the_rest(tmp_path, shims):
    fork = locate(write_fork(tmp_path / "fork"))
    folder = write_series(tmp_path / "patches", STEP)
    (manifest,) = folder.glob("*.toml")
    manifest.write_text("# a remark\n" + manifest.read_text())
    before = manifest.read_text()
    locked = lock(fork, folder)
    assert [each.status for each in locked.verdicts] == ["applied"]
    assert locked.files == (manifest,)
    digest = Sources(fork.package).target(STEP["target"]).digest
    assert manifest.read_text() == before.rstrip() + f'\n\n[hook.digests]\n"0.7.0" = "{digest}"\n'
    assert (lock(fork, folder).files, counted(shims)) == ((), 2)


def test_lock_writes_nothing_where_a_self_test_fails_or_a_hook_is_refused(tmp_path, shims):
    fork = locate(write_fork(tmp_path / "fork"))
    gone = {**STEP, "id": "probe.gone", "target": "omlx.engine:Engine.gone"}
    for number, bad in enumerate([{**STEP, "self_test": "probe_shims:fails"}, gone]):
        folder = write_series(tmp_path / f"patches{number}", {**STEP, "id": "probe.good"}, bad)
        before = next(folder.glob("*.toml")).read_text()
        with pytest.raises(ForkError, match="nothing locked for checkout"):
            lock(fork, folder)
        assert next(folder.glob("*.toml")).read_text() == before


def test_lock_without_a_folder_is_for_this_machine(tmp_path, shims, monkeypatch):
    fork = locate(write_fork(tmp_path / "fork", version="0.8.0"))
    series = Series.of_folder(write_series(tmp_path / "patches", STEP))
    monkeypatch.setattr(Series, "shipped", classmethod(lambda cls: series))
    locked = lock(fork)
    assert locked.files == (home() / LOCK_FILE,)
    assert [(each.status, each.reason) for each in verify(fork)] == [("applied", "source as proven on 0.8.0")]
    (home() / LOCK_FILE).write_text("[]")
    with pytest.raises(SeriesError, match="is damaged"):
        verify(fork)


def test_lock_needs_a_version_to_record_under(tmp_path):
    fork = locate(write_fork(tmp_path / "fork", version=None))
    with pytest.raises(ForkError, match="version cannot be read"):
        lock(fork, write_series(tmp_path / "patches", STEP))


def test_a_folder_without_manifests_is_an_error(tmp_path):
    with pytest.raises(SeriesError, match="no patch manifest"):
        Series.of_folder(tmp_path)


def test_the_shims_of_these_tests_are_python():
    compile(SHIMS, "probe_shims.py", "exec")
