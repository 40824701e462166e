"""Loads are made in processes of their own, since a process has room for one fork."""

import json
import textwrap

import pytest

from forks import STEP, run_python, write_fork, write_series, write_shims
from hwledger_omlx.fork.digest import Sources

LIMIT = {
    **STEP,
    "id": "probe.limit",
    "target": "omlx.engine:LIMIT",
    "kind": "replace",
    "shim": "probe_shims:limit",
    "self_test": "probe_shims:limit_works",
    "parameters": [],
    "feature": "limit",
}

USER = "from omlx.engine import LIMIT, Store\n"


@pytest.fixture
def loading(tmp_path):
    """Runs code in a process that has `load_it(**kwargs)`, over a fork and a series; returns what the code printed."""
    environment = write_shims(tmp_path / "shims") | {"HWLEDGER_OMLX_HOME": str(tmp_path / "ours")}

    def run(code, *hooks, modules=None, prove=True, fork=None):
        path = fork or write_fork(tmp_path / "fork", modules)
        if prove:
            sources = Sources(write_fork(tmp_path / "known", modules) / "omlx")
            hooks = [{**hook, "digests": {"0.7.0": sources.target(hook["target"]).digest}} for hook in hooks]
        series = write_series(tmp_path / "patches", *hooks)
        prelude = f"""
            import json, logging, sys, threading
            from pathlib import Path
            from hwledger_omlx.errors import ForkError
            from hwledger_omlx.fork.load import load, loaded
            from hwledger_omlx.fork.series import Series
            warned = []
            class Keep(logging.Handler):
                def emit(self, record): warned.append(record.getMessage())
            logging.getLogger("hwledger_omlx.fork").addHandler(Keep(logging.WARNING))
            series = Series.of_folder(Path({str(series)!r}))
            path = {str(path)!r}
            def load_it(**more): return load(path, series=series, **more)
            def statuses(it): return {{each.id: each.status for each in it.hooks}}
            def error(call, *args, **kwargs):
                try: call(*args, **kwargs)
                except Exception as caught: return f"{{type(caught).__name__}}: {{caught}}"
        """
        done = run_python(textwrap.dedent(prelude) + textwrap.dedent(code), **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_hooks_are_applied_when_their_module_is_imported_and_nothing_is_imported_before(loading):
    out = loading(
        """
        it = load_it()
        early = [name for name in sys.modules if name.split(".")[0] in ("omlx", "probe_shims")]
        from omlx.engine import Engine, LIMIT
        it.confirm()
        print(json.dumps([early, Engine().step("a", count=2), LIMIT, statuses(it), warned, str(it.fork)]))
        """,
        STEP,
        LIMIT,
    )
    early, said, limit, statuses, warned, fork = out
    assert (early, said, limit, warned) == ([], "hooked a x2", 103, [])
    assert statuses == {"probe.step": "applied", "probe.limit": "applied"}
    assert fork.startswith("checkout 0.7.0 at ")


def test_a_refused_hook_says_so_once_in_one_line_and_upstream_stays_whole(loading):
    out = loading(
        """
        it = load_it()
        load_it(); it.confirm()
        from omlx.engine import Engine, LIMIT
        it.confirm()
        print(json.dumps([Engine().step("a"), type(Engine.step).__name__, LIMIT, warned, statuses(it)]))
        """,
        {**STEP, "parameters": ["prompt"]},
        LIMIT,
    )
    said, kind, limit, warned, statuses = out
    assert (said, kind, limit) == ("a x1", "function", 103)
    assert statuses == {"probe.step": "refused", "probe.limit": "applied"}
    (line,) = warned
    assert "\n" not in line
    assert line.startswith(
        "hook probe.step refused, upstream's behaviour stays: omlx.engine:Engine.step has no parameter"
    )


def test_a_drifted_hook_is_applied_with_one_warning(loading):
    out = loading(
        """
        it = load_it()
        load_it()
        from omlx.engine import Engine
        print(json.dumps([Engine().step("a"), warned, statuses(it)]))
        """,
        STEP,
        prove=False,
    )
    said, warned, statuses = out
    assert (said, statuses) == ("hooked a x1", {"probe.step": "drifted"})
    assert warned == [
        "hook probe.step drifted, applied all the same: source of omlx.engine:Engine.step was never proven on any "
        "release; self-test passed"
    ]


def test_a_required_hook_that_is_refused_stops_the_load_before_anything_changes(loading):
    out = loading(
        """
        said = error(load_it)
        print(json.dumps([said, loaded() is None, path in sys.path]))
        """,
        {**STEP, "required": True, "parameters": ["prompt"]},
        prove=False,
    )
    assert out[0].startswith("ForkError: checkout 0.7.0 at ")
    assert "cannot be loaded safely: required hook probe.step is refused" in out[0]
    assert out[1:] == [True, False]


def test_features_can_be_turned_off_but_not_changed(loading):
    out = loading(
        """
        unknown = error(load_it, features_off={"prob"})
        it = load_it(features_off={"probe"})
        from omlx.engine import Engine
        again = load_it() is it and load_it(features_off={"probe"}) is it
        changed = error(load_it, features_off=())
        print(json.dumps([unknown, Engine().step("a"), statuses(it), again, changed, warned]))
        """,
        STEP,
        LIMIT,
    )
    unknown, said, statuses, again, changed, warned = out
    assert unknown == "ForkError: no feature prob to turn off; there are limit, probe"
    assert (said, again, warned) == ("a x1", True, [])
    assert statuses == {"probe.step": "off", "probe.limit": "applied"}
    assert "is loaded with features off: probe" in changed


def test_one_fork_per_process_from_every_thread(loading, tmp_path):
    other = write_fork(tmp_path / "other")
    out = loading(
        f"""
        found = []
        threads = [threading.Thread(target=lambda: found.append(load_it())) for _ in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
        from omlx.engine import Engine
        same = len(set(map(id, found))) == 1 and found[0] is load() is loaded() is load(path + "/omlx")
        print(json.dumps([len(found), same, Engine().step("a"), error(load, {str(other)!r})]))
        """,
        STEP,
    )
    assert out[:3] == [8, True, "hooked a x1"]
    assert out[3].startswith("ForkError: checkout 0.7.0 at ")
    assert str(other) in out[3]
    assert "one fork per process" in out[3]


def test_a_fork_that_was_imported_first_is_hooked_all_the_same(loading):
    out = loading(
        """
        sys.path.insert(0, path)
        from omlx.engine import Engine, LIMIT as before
        import omlx.user
        it = load_it()
        it.confirm()
        print(json.dumps([Engine().step("a"), before, omlx.user.LIMIT, omlx.engine.LIMIT, statuses(it)]))
        """,
        STEP,
        {**LIMIT, "rebind": ["omlx.user:LIMIT"]},
        modules={"user": USER},
    )
    assert out == ["hooked a x1", 3, 103, 103, {"probe.step": "applied", "probe.limit": "applied"}]


def test_another_fork_that_was_imported_first_is_an_error(loading, tmp_path):
    other = write_fork(tmp_path / "other")
    out = loading(
        f"""
        sys.path.insert(0, {str(other)!r})
        import omlx
        print(json.dumps(error(load_it)))
        """,
        STEP,
    )
    assert out.startswith("ForkError: omlx is already imported from ")
    assert str(other) in out


@pytest.mark.parametrize("first", ["omlx.engine", "omlx.user"])
def test_copies_are_rebound_whatever_is_imported_first(loading, first):
    out = loading(
        f"""
        import importlib
        it = load_it()
        importlib.import_module({first!r})
        import omlx.engine, omlx.user
        it.confirm()
        print(json.dumps([omlx.engine.LIMIT, omlx.user.LIMIT, statuses(it)]))
        """,
        {**LIMIT, "rebind": ["omlx.user:LIMIT"]},
        modules={"user": USER},
    )
    assert out == [103, 103, {"probe.limit": "applied"}]


def test_confirm_finds_a_hook_that_is_no_longer_in_use(loading):
    out = loading(
        """
        it = load_it()
        import omlx.engine, wrapt
        wrapt.wrap_function_wrapper(omlx.engine, "Engine.step", lambda wrapped, instance, a, k: wrapped(*a, **k))
        it.confirm()
        on_top = statuses(it)
        omlx.engine.Engine.step = lambda self, request: request
        it.confirm(); it.confirm()
        print(json.dumps([on_top, statuses(it), warned]))
        """,
        STEP,
    )
    on_top, statuses, warned = out
    assert (on_top, statuses) == ({"probe.step": "applied"}, {"probe.step": "refused"})
    assert warned == [
        "hook probe.step refused, upstream's behaviour stays: Engine.step was replaced by something else after the "
        "hook was applied"
    ]


def test_confirm_raises_for_a_required_hook(loading):
    out = loading(
        """
        it = load_it()
        import omlx.engine
        omlx.engine.LIMIT = 4
        print(json.dumps(error(it.confirm)))
        """,
        {**LIMIT, "required": True},
    )
    assert "is not safe to use: required hook probe.limit: omlx.engine.LIMIT was replaced" in out


def test_a_shim_that_breaks_at_import_leaves_the_import_working(loading):
    out = loading(
        """
        it = load_it()
        from omlx.engine import LIMIT
        it.confirm()
        print(json.dumps([LIMIT, statuses(it), warned]))
        """,
        {**LIMIT, "shim": "probe_shims:broken"},
    )
    assert out[:2] == [3, {"probe.limit": "refused"}]
    assert out[2] == ["hook probe.limit refused, upstream's behaviour stays: RuntimeError: shim is broken"]


def test_a_required_shim_that_breaks_fails_the_import(loading):
    out = loading(
        """
        it = load_it()
        import importlib
        print(json.dumps([error(importlib.import_module, "omlx.engine"), "omlx.engine" in sys.modules]))
        """,
        {**LIMIT, "shim": "probe_shims:broken", "required": True},
    )
    assert out == [
        "ForkError: the fork cannot be used safely: required hook probe.limit failed: RuntimeError: shim is broken",
        False,
    ]


def test_an_unknown_version_is_warned_of(loading, tmp_path):
    out = loading(
        """
        it = load_it()
        print(json.dumps([warned, it.fork.version]))
        """,
        STEP,
        fork=write_fork(tmp_path / "fork", version=None),
    )
    assert out[1] == "unknown"
    assert len(out[0]) == 1
    assert "its version cannot be read" in out[0][0]
