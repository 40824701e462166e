"""How a store lives: closed, dropped, under threads and signals, through forks and the end of Python."""

import array
import gc
import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from hwledger_omlx import errors
from hwledger_omlx._native import Layout
from stores import SPACE, empty_like, kv, layout_of, open_store, range_ids, same_bytes, save


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kv"


@pytest.fixture
def store(folder):
    with open_store(folder) as opened:
        yield opened


# -- life -------------------------------------------------------------------------------------------------------


def test_closed_it_takes_nothing_and_says_so(folder):
    store = open_store(folder)
    arrays = kv(10)
    save(store, range_ids(10), arrays)
    match = store.lookup(SPACE, range_ids(10))
    store.close()
    store.close()
    assert store.closed
    assert repr(store).endswith("closed)")
    assert store.save(SPACE, layout_of(arrays), [1] * 10, arrays).refused == "closed"
    for call in (store.flush, store.verify, store.compact, store.purge, store.info):
        with pytest.raises(errors.StoreClosedError):
            call()
    match.release()
    match.release()
    assert json.loads(store.stats())["state"] == "closed"


def test_a_folder_that_is_open_is_the_same_store(folder):
    arrays = kv(10)
    first, second = open_store(folder), open_store(folder)
    save(first, range_ids(10), arrays)
    first.close()
    with second, second.lookup(SPACE, range_ids(10)) as match:
        assert match.tokens == 10


def test_a_store_that_nobody_holds_is_closed(folder):
    save(open_store(folder), range_ids(10), kv(10))
    gc.collect()
    with open_store(folder) as again:
        assert again.lookup(SPACE, range_ids(10)).tokens == 10


@pytest.mark.parametrize("queue_bytes", [64 << 20, 4 << 20])
def test_buffers_are_held_until_they_are_copied(folder, queue_bytes):
    tokens = 2048
    views = [memoryview(bytearray(os.urandom(tokens * 4096))).cast("B", (1, 1, tokens, 4096)) for _ in range(2)]
    wanted = [bytes(view) for view in views]
    with open_store(folder, queue_bytes=queue_bytes, hot_bytes=0) as store:
        saved = store.save(SPACE, Layout([(1, 4096)] * 2), range_ids(tokens), views)
        assert (saved.refused, saved.deferred) == (None, queue_bytes < 2 * tokens * 4096)
        if saved.deferred:
            store.flush()
        for view in views:
            view.release()  # a BufferError if Rust still held it
        targets = [bytearray(each) for each in wanted]
        with store.lookup(SPACE, range_ids(tokens)) as match:
            match.restore([memoryview(each).cast("B", (1, 1, tokens, 4096)) for each in targets])
    assert targets == wanted


def test_errors_of_opening(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StoreIOError) as raised:
        open_store(tmp_path / "file")
    assert isinstance(raised.value, OSError)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(errors.ForeignFolderError, match="notes"):
        open_store(foreign)
    assert [each.name for each in foreign.iterdir()] == ["notes.txt"]
    for wrong in ({"queue_bytes": 0}, {"segment_bytes": 2 << 30}):
        with pytest.raises(errors.StoreConfigError) as raised:
            open_store(tmp_path / "kv", **wrong)
        assert isinstance(raised.value, ValueError)
    with pytest.raises(ValueError, match="ttl_seconds"):
        open_store(tmp_path / "kv", ttl_seconds=-1)
    with pytest.raises(OverflowError):
        open_store(tmp_path / "kv", quota_bytes=-1)


def test_the_tree_of_errors():
    assert issubclass(errors.StoreNotFoundError, errors.StoreIOError | FileNotFoundError)
    for error in (errors.StoreIOError, errors.StoreConfigError, errors.StoreInUseError, errors.ForeignFolderError):
        assert issubclass(error, errors.StoreError)
        raised = pickle.loads(pickle.dumps(error("text")))  # noqa: S301 - as a process pool does
        assert (type(raised), str(raised)) == (error, "text")


# -- threads ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_forced_switch():
    """A thread that waits for the interpreter gets it only where another one lets go of it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("call", ["restore", "save", "lookup", "flush", "stats", "verify"])
@pytest.mark.usefixtures("no_forced_switch")
def test_other_threads_run_meanwhile(store, call):
    arrays = kv(2000, rows=8, width=64)
    prompt = range_ids(2000)
    save(store, prompt, arrays)
    targets = empty_like(arrays, 2000)
    match = store.lookup(SPACE, prompt)
    calls = {
        "restore": lambda _: match.restore(targets),
        "save": lambda turn: save(store, array.array("I", [10_000 + turn]) + prompt[1:], arrays),
        "lookup": lambda _: store.lookup(SPACE, prompt),
        "flush": lambda _: store.flush(),
        "stats": lambda _: store.stats(),
        "verify": lambda _: store.verify(),
    }
    ran = []
    go = threading.Event()

    def wait_and_run():
        go.wait()
        ran.append(True)

    thread = threading.Thread(target=wait_and_run)
    thread.start()
    go.set()
    for turn in range(100_000):
        calls[call](turn % 8)
        if ran:
            break
    assert ran, f"{call} keeps the interpreter"
    match.release()
    thread.join()


def test_threads_that_save_look_up_and_restore_at_once(folder):
    failures = []

    def work(seed):
        try:
            arrays = kv(400, seed=seed)
            prompt = array.array("I", [seed]) + range_ids(399)
            for length in range(50, 401, 50):
                assert store.save(SPACE, layout_of(arrays), prompt[:length], arrays).refused is None
                with store.lookup(SPACE, prompt[:length]) as match:
                    targets = empty_like(arrays, length)
                    assert match.restore(targets).tokens == length
                assert all(same_bytes(t, a[:, :, :length]) for t, a in zip(targets, arrays, strict=True))
        except Exception as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    with open_store(folder, queue_bytes=1 << 20, hot_bytes=1 << 20) as store:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert json.loads(store.verify())["bad"] == []


# -- processes --------------------------------------------------------------------------------------------------

SCRIPT = """
import array, os, signal, sys, threading
import numpy as np
from hwledger_omlx import errors
from hwledger_omlx._native import Layout, Store, namespace_digest
SPACE = namespace_digest({"model": "a"})
TOKENS = 4096
PROMPT = array.array("I", range(TOKENS))
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
LAYOUT = Layout([(4, 256)] * 8)
def arrays(): return [np.full((1, 4, TOKENS, 256), 1 + part, np.uint8) for part in range(8)]
def open_store(**more):
    usual = {"quota_bytes": 1 << 30, "hot_bytes": 0, "queue_bytes": 64 << 20, "min_free_bytes": 0}
    return Store.open(sys.argv[1], **{**usual, **more})
def save(store): return store.save(SPACE, LAYOUT, PROMPT, arrays())
"""


def run(folder, code):
    """Runs code in a Python of its own; its output, which must come without a word on standard error."""
    script = SCRIPT + textwrap.dedent(code)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def stored(folder):
    with open_store(folder) as store, store.lookup(SPACE, range_ids(4096)) as match:
        targets = [np.zeros((1, 4, 4096, 256), np.uint8) for _ in match.parts]
        tokens = match.restore(targets).tokens
        assert all((target[:, :, :tokens] == 1 + part).all() for part, target in enumerate(targets))
        return tokens


@pytest.mark.parametrize(
    "code",
    [
        "store = open_store(); save(store)",
        "save(open_store())",
        # A deferred save: its buffers are released by a thread of the store, on the way out.
        "store = open_store(queue_bytes=4 << 20); assert save(store).deferred",
        # Kept alive by a cycle that nothing collects, and by a thread that never ends.
        "cycle = [open_store(queue_bytes=4 << 20)]; cycle.append(cycle); save(cycle[0])",
        """
        store = open_store(queue_bytes=4 << 20)
        save(store)
        store.flush()
        match = store.lookup(SPACE, PROMPT)
        begun = threading.Event()
        def forever():
            sources, targets = arrays(), arrays()
            for turn in range(1 << 20):
                try: match.restore(targets)
                except errors.StoreClosedError: pass
                store.save(SPACE, LAYOUT, array.array("I", [9000 + turn % 4]) + PROMPT[1:], sources)
                begun.set()
        threading.Thread(target=forever, daemon=True).start()
        assert begun.wait(60)
        """,
        "import atexit; store = open_store(); atexit.register(store.flush); save(store)",
        "store = open_store(); save(store); raise SystemExit(0)",
    ],
)
def test_the_end_of_python_closes_a_store_that_was_left_open(folder, code):
    run(folder, code)
    assert stored(folder) == 4096


def test_a_forked_child_leaves_the_store_alone(folder):
    run(
        folder,
        """
        store = open_store()
        save(store)
        match = store.lookup(SPACE, PROMPT)
        child = os.fork()
        if child == 0:
            calls = [lambda: store.lookup(SPACE, PROMPT), lambda: save(store), store.flush, store.stats, store.verify,
                     lambda: match.restore(arrays())]
            for call in calls:
                try: call()
                except errors.StoreError as error: assert "fork" in str(error), error
                else: os._exit(3)
            match.release()
            store.close()
            del match, store
            with Store.open(sys.argv[1] + "-child", quota_bytes=1 << 30, hot_bytes=0, queue_bytes=64 << 20,
                            min_free_bytes=0) as own:
                assert save(own).refused is None
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert match.restore(arrays()).tokens == TOKENS
        store.flush()
        """,
    )
    assert stored(folder) == 4096
    assert stored(Path(f"{folder}-child")) == 4096


def test_two_processes_do_not_share_a_folder(folder):
    with open_store(folder):
        said = run(
            folder,
            """
            try: open_store()
            except errors.StoreInUseError as error: print(error)
            """,
        )
    assert str(folder) in said
    assert f"process {os.getpid()}" in said


def test_ctrl_c_ends_a_wait_and_not_the_store(folder):
    run(
        folder,
        """
        store = open_store()
        save(store)
        main = threading.get_ident()
        interrupted = threading.Event()
        def press():
            while not interrupted.wait(0.05):
                signal.pthread_kill(main, signal.SIGINT)
        thread = threading.Thread(target=press)
        try:
            thread.start()
            while True:
                store.verify()
        except KeyboardInterrupt:
            interrupted.set()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        thread.join()
        assert store.lookup(SPACE, PROMPT).tokens == TOKENS
        store.flush()
        store.close()
        """,
    )
    assert stored(folder) == 4096
