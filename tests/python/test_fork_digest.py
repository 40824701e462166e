import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from forks import write_fork
from hwledger_omlx.fork import digest as module
from hwledger_omlx.fork.digest import Parameter, SourceError, Sources, digest
from hwledger_omlx.fork.usage import uses

SAMPLE = r'''
class Box:
    """Doc."""
    limit: int = 3
    name: str

    @property
    def size(self) -> int:
        return len(f"{self.name!r:>{self.limit}} and {3.5e300} {'x' 'y'} {{}}{self.limit=}")

    async def read(self, a, /, b=1, *rest, c: int = 2, **more):
        pass

text = "caf\u00e9 \ud83d \U0001f600"
if text:
    LIMIT = 1
else:
    LIMIT = 2
match text:
    case [1, *rest] if rest: 1j
'''


def of(source: str) -> str:
    return digest(ast.parse(source).body)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('def f(a):\n    """Doc."""\n    return a', "def f(a):\n    return a"),
        ('def f(a):\n    """Doc."""', "def f(a): pass"),
        ("def f(a: int, *b: str) -> str:\n    return a", "def f(a, *b):\n    return a"),
        ("x: int = 3", "x = 3"),
        ("def f():\n    x: int\n    x = 1", "def f():\n    x = 1"),
        ("def f():\n    # why\n    return (1)", "def f(): return 1"),
        ("class A:\n    '''Doc.'''\n    def f(self): 'Doc.'", "class A:\n    def f(self): pass"),
    ],
)
def test_what_does_nothing_does_not_count(one, other):
    assert of(one) == of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a): return a", "def f(b): return b"),
        ("def f(a): return a", "def f(a=1): return a"),
        ("def f(a): return a", "async def f(a): return a"),
        ("def f(a): return a", "@cache\ndef f(a): return a"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("x = f'{a}b'", "x = f'{a}c'"),
        ("x = a + b", "x = a - b"),
        ("class A:\n    x: int\n    y: int", "class A:\n    y: int\n    x: int"),
        ("def f(a, /): return a", "def f(*, a): return a"),
    ],
)
def test_what_does_something_counts(one, other):
    assert of(one) != of(other)


def test_a_digest_is_what_a_manifest_takes():
    assert len(of("x = 1")) == 32
    assert set(of("x = 1")) <= set("0123456789abcdef")


def _interpreters():
    here = Path(sys.base_prefix).parent
    return sorted(path for path in here.glob("3.1[1-9]*/bin/python") if path.is_file())


@pytest.mark.parametrize("interpreter", _interpreters(), ids=lambda path: path.parent.parent.name)
def test_every_python_gives_the_same_digest(interpreter, tmp_path):
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE, encoding="utf-8")
    code = (
        "import importlib.util, json, sys, ast\n"
        "spec = importlib.util.spec_from_file_location('digest', sys.argv[1])\n"
        "module = sys.modules['digest'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "body = ast.parse(open(sys.argv[2], 'rb').read()).body\n"
        "print(json.dumps([module.digest([node]) for node in body]))\n"
    )
    command = [str(interpreter), "-I", "-c", code, module.__file__, str(sample)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [digest([node]) for node in ast.parse(SAMPLE).body]


def test_targets_have_form_and_parameters(tmp_path):
    sources = Sources(write_fork(tmp_path, {"a.b": SAMPLE}) / "omlx")
    assert sources.target("omlx.a.b:Box").form == "class"
    assert sources.target("omlx.a.b:Box.size").form == "property"
    assert sources.target("omlx.a.b:LIMIT").form == "assignment"
    read = sources.target("omlx.a.b:Box.read")
    assert (read.form, read.parameters) == (
        "async-function",
        (
            Parameter("self", "positional-only"),
            Parameter("a", "positional-only"),
            Parameter("b", "positional-or-keyword"),
            Parameter("rest", "*args"),
            Parameter("c", "keyword-only"),
            Parameter("more", "**kwargs"),
        ),
    )


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("omlx.a.c:Box", "module omlx.a.c is missing"),
        ("omlx.a.b:Box.length", "omlx.a.b:Box has no length"),
        ("omlx.a.b:Crate.size", "omlx.a.b has no Crate"),
        ("omlx.a.b:LIMIT.size", "omlx.a.b:LIMIT is no class"),
        ("other.a:Box", "module other.a is not of the package omlx"),
        ("omlx.bad:x", "cannot be parsed"),
    ],
)
def test_what_is_missing_is_named(tmp_path, place, said):
    sources = Sources(write_fork(tmp_path, {"a.b": SAMPLE, "bad": "def ("}) / "omlx")
    with pytest.raises(SourceError, match=said):
        sources.target(place)


def test_every_definition_of_a_name_counts(tmp_path):
    one = Sources(write_fork(tmp_path / "1", {"m": "if a:\n    x = 1\nelse:\n    x = 2"}) / "omlx")
    two = Sources(write_fork(tmp_path / "2", {"m": "if a:\n    x = 3\nelse:\n    x = 2"}) / "omlx")
    assert one.target("omlx.m:x").digest != two.target("omlx.m:x").digest


def test_uses_are_found_wherever_the_object_is_held(tmp_path):
    source = """
class Scheduler:
    def step(self):
        self.store.save(1)
        store = self.store
        store.load(2)
        self.other.hidden()
        getattr(self.store, "close")()
        if hasattr(self.store, "asked"):
            getattr(store, "optional", None)
"""
    sources = Sources(write_fork(tmp_path, {"s": source, "bad": "def ("}) / "omlx")
    assert uses(sources, ["store"]) == {"save": "omlx/s.py:4", "load": "omlx/s.py:6", "close": "omlx/s.py:8"}
