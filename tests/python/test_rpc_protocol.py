"""The protocol as it was promised, `references/rpc_v1.json`: nothing of it goes away or changes, and a server keeps it.

What a minor version adds may be added to that file; no line of it may be changed or taken out.
"""

import copy
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonrpcclient
import psutil
import pytest

from hwledger_omlx.rpc import document
from rpc_client import Client

FROZEN: dict[str, Any] = json.loads((Path(__file__).parent / "references" / "rpc_v1.json").read_text(encoding="utf-8"))
REQUIRED = object()
KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "true or false": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
OLD_PARAMS = {
    "generate": {
        "prompt": "text",
        "messages": "list",
        "model": "text",
        "max_tokens": "whole number",
        "temperature": "number",
        "stream": "true or false",
        "request_id": "text",
        "seed": "whole number",
    },
    "cancel": {"request_id": "text"},
    "load_model": {"model": "text", "max_kv_size": "whole number"},
    "unload_model": {"model": "text"},
    "memory_report": {},
    "health": {},
}
"""The sidecar protocol that was there before this one."""
OLD_RESULTS = {
    "generate": {
        "request_id": "text",
        "prompt_tokens": "whole number",
        "completion_tokens": "whole number",
        "stopped_reason": "text",
    },
    "cancel": {"cancelled": "true or false"},
    "load_model": {"loaded": "true or false", "model": "text", "context_length": "whole number"},
    "unload_model": {},
    "memory_report": {
        "total_unified_mb": "number",
        "used_by_mlx_mb": "number",
        "kv_cache_mb": "number",
        "loaded_models": "list",
    },
    "health": {"status": "text", "uptime_s": "number", "mlx_version": "text"},
}


def broken(frozen: Mapping[str, Any], offered: Mapping[str, Any]) -> list[str]:
    """What a client of the frozen protocol would stumble over."""
    found = []
    if offered["version"].split(".")[0] != frozen["version"].split(".")[0]:
        found.append("version")
    for name, method in frozen["methods"].items():
        other = offered["methods"].get(name)
        if other is None:
            found.append(name)
            continue
        # By their places too, for they may be given as an array.
        before, now = method["params"], other["params"]
        found += [f"{name}({old['name']})" for old, new in zip(before, now, strict=False) if old != new]
        found += [f"{name}({old['name']})" for old in before[len(now) :]]
        found += [f"{name}({new['name']})" for new in now[len(before) :] if "default" not in new]
        found += _broken_values(name, method["result"], other["result"])
    for name, params in frozen["notifications"].items():
        found += _broken_values(name, params, offered["notifications"].get(name, {}))
    return found


def _broken_values(path: str, frozen: Mapping[str, Any], offered: Mapping[str, Any]) -> Iterator[str]:
    for name, old in frozen.items():
        new = offered.get(name)
        if new is None:
            yield f"{path}.{name}"
        elif isinstance(old.get("of"), dict) and isinstance(new.get("of"), dict):
            if {**old, "of": None} != {**new, "of": None}:
                yield f"{path}.{name}"
            yield from _broken_values(f"{path}.{name}", old["of"], new["of"])
        elif old != new:
            yield f"{path}.{name}"


def test_nothing_that_was_promised_has_gone_or_changed() -> None:
    assert broken(FROZEN, document.protocol()) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda said: said.update(version="2.0"), "version"),
        (lambda said: said["methods"].pop("cancel"), "cancel"),
        (lambda said: said["methods"]["generate"]["params"].pop(), "generate(tenant)"),
        (lambda said: said["methods"]["generate"]["params"].insert(3, {"name": "new", "default": 1}), "generate(seed)"),
        (lambda said: said["methods"]["generate"]["params"][3].update(default=1), "generate(max_tokens)"),
        (lambda said: said["methods"]["cancel"]["params"].append({"name": "why", "kind": "text"}), "cancel(why)"),
        (lambda said: said["methods"]["health"]["result"].pop("uptime_s"), "health.uptime_s"),
        (lambda said: said["methods"]["health"]["result"]["status"].update(nullable=True), "health.status"),
        (lambda said: said["notifications"]["memory"]["layers"]["of"].pop("layer"), "memory.layers.layer"),
        (lambda said: said["notifications"].pop("token"), "token.text"),
    ],
)
def test_a_change_that_breaks_clients_is_found_and_an_addition_is_none(
    change: Callable[[dict[str, Any]], object], found: str
) -> None:
    offered = copy.deepcopy(FROZEN)
    assert broken(FROZEN, offered) == []
    offered["methods"]["new"] = {"params": [], "result": {}}
    offered["methods"]["cancel"]["params"].append({"name": "how", "kind": "text", "default": None})
    offered["methods"]["health"]["result"]["new"] = {"kind": "text", "nullable": False, "optional": False}
    offered["version"] = "1.7"
    assert broken(FROZEN, offered) == []
    change(offered)
    assert found in broken(FROZEN, offered)


def test_the_protocol_before_it_is_in_it_field_for_field() -> None:
    for name, params in OLD_PARAMS.items():
        method = FROZEN["methods"][name]
        taken = {each["name"]: each["kind"] for each in method["params"]}
        given = {field: value["kind"] for field, value in method["result"].items() if not value["optional"]}
        assert params.items() <= taken.items(), name
        assert OLD_RESULTS[name].items() <= given.items(), name
    assert FROZEN["notifications"]["token"].keys() >= {"request_id", "text"}
    assert FROZEN["methods"]["memory_report"]["result"]["loaded_models"]["of"] == "text"


def misfits(values: Mapping[str, Any], said: Mapping[str, Any], path: str) -> Iterator[str]:
    """Fields that are not as promised, or that nobody has told of."""
    yield from (f"{path}.{name} is new" for name in said.keys() - values.keys())
    for name, value in values.items():
        place = f"{path}.{name}"
        if name not in said:
            if not value["optional"]:
                yield f"{place} is missing"
            continue
        given = said[name]
        if given is None and value["nullable"]:
            continue
        if not KINDS[value["kind"]](given):
            yield f"{place} is {given!r}"
            continue
        of = value.get("of")
        for each in (given.values() if isinstance(given, dict) else given) if of is not None else ():
            if isinstance(of, str):
                if not KINDS[of](each):
                    yield f"{place} has {each!r}"
            else:
                yield from misfits(of, each, place)


def test_a_server_answers_in_the_types_that_were_promised(client: Client, tiny_model: Path) -> None:
    long = {"prompt": "on and on", "max_tokens": 3000, "temperature": 0, "request_id": "long"}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("protocol.version", {}),
        ("health", {}),
        ("memory.subscribe", {"min_interval_s": 0}),
        ("generate", {"prompt": "a", "max_tokens": 3, "request_id": "g"}),
        ("generate", {"messages": [{"role": "user", "content": "b"}], "max_tokens": 3, "stream": False, "seed": 1}),
        ("memory_report", {}),
        ("kv.policy", {}),
        ("bench.run", {"prompt_tokens": 20, "max_tokens": 4}),
        ("memory.unsubscribe", {}),
        ("cache.stats", {}),
        ("config.reload", {}),
        ("cancel", {"request_id": "long"}),
        ("unload_model", {"model": "tiny"}),
        ("load_model", {"model": str(tiny_model)}),
    ]
    client.send(jsonrpcclient.request("generate", long, id="long"))
    client.until(lambda said: said.get("method") == "token")
    results: dict[str, Any] = {}
    for method, params in calls:
        results[method] = client.result(method, **params)
        assert list(misfits(FROZEN["methods"][method]["result"], results[method], method)) == []
    assert list(misfits(FROZEN["methods"]["generate"]["result"], client.answer("long").result, "generate")) == []
    assert results.keys() == FROZEN["methods"].keys()
    for each in client.notifications:
        assert list(misfits(FROZEN["notifications"][each["method"]], each["params"], each["method"])) == []
    assert {each["method"] for each in client.notifications} == FROZEN["notifications"].keys()
    # And of what it says what can be known from outside.
    again = client.result("health")
    assert again["uptime_s"] > results["health"]["uptime_s"] > 0
    assert again["mlx_version"] == importlib.metadata.version("mlx")
    assert results["health"]["status"] == "busy"
    memory = results["memory_report"]
    assert memory["total_unified_mb"] == pytest.approx(psutil.virtual_memory().total / 2**20)
    (model,) = memory["models"]
    assert model["weights_mb"] < memory["used_by_mlx_mb"] < memory["total_unified_mb"]
    assert memory["loaded_models"] == ["tiny"]
