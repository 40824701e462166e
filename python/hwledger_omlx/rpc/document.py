"""`docs/rpc.md`, made of what the methods say of themselves: `python -m hwledger_omlx.rpc.document`."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from hwledger_omlx.rpc.fields import REQUIRED, Field, Kind, Value
from hwledger_omlx.rpc.method import Method, Notification
from hwledger_omlx.rpc.methods import METHODS, NOTIFICATIONS, VERSION

_START = f"""# JSON-RPC over standard input and output

Version {VERSION}. Made of the code by `python -m hwledger_omlx.rpc.document > docs/rpc.md`.

`hwledger-omlx rpc [MODEL]...`, and `hwledger-omlx-host rpc`, speak [JSON-RPC
2.0](https://www.jsonrpc.org/specification) with the program that starts them: one message a line, UTF-8, ended by a
line feed, in both directions at once. What is no message goes to standard error: logs, and whatever Python or a
library prints.

```
$ printf '%s\\n' '{{"jsonrpc":"2.0","id":1,"method":"health"}}' | hwledger-omlx rpc
{{"jsonrpc":"2.0","id":1,"result":{{"status":"ok","uptime_s":0.01,"mlx_version":"0.32.3"}}}}
```

## Rules

- A request has `jsonrpc`, `method` and `id`, and `params` as an object, or as an array in the order of the tables
  below. An `id` is a text, null, or a number of at most 64 bits. Without an `id` it is a notification: worked off,
  never answered.
- Requests run at the same time, so answers come in the order in which they are ready. Wait for the answer to
  `load_model` before you ask the model something.
- A batch, a list of at most 1,024 requests, has one answer, a list, when its last request has ended. Notifications
  come meanwhile.
- A message has at most 16 MiB. A longer one is answered by an error, its rest is passed over, and the next line is
  read. The same holds for a line that is no JSON or no UTF-8.
- Nothing waits for a client that reads slowly, and nothing is lost: tokens that wait are joined, `memory` samples
  that went by are counted. While more than 1 MiB waits to be read, nothing more is read from the client.
- `hwledger-omlx bench rpc` measures how many messages a second this carries: on two cores more than 20,000 requests
  with their answers, and 300,000 tokens (README). Were it less than 20,000, there would be a framing of
  length-prefixed protobuf by the same schema; as it is, JSON is the one.
- Parameters with a configurable default, where a `generate` leaves them out, have what `hwledger.toml` says: of its
  model in `[models.<id>]`, or of all in `[sampling]`. With `force_sampling` its `temperature`, `top_p` and `top_k`
  count also where the request says otherwise. Models are loaded at the start as named on the command line, otherwise
  as listed in `server.models`. What counts for HTTP alone is named on standard error at the start, and by
  `config.reload` as `unused`.
- Within a major version of the protocol, methods, parameters with a default, fields and notifications are added and
  nothing else is changed. So pass over what you do not know.
- When standard input ends, or on SIGTERM or SIGINT, no more is taken; what runs has `--shutdown-seconds` (20) to
  end, the rest is cancelled and answered so, and the exit code is 0. A second signal ends the process at once, with
  128 and its number. A client that closes its end of standard output ends it too: with a line on standard error,
  and exit code 2. Standard input that is closed from the start has ended; standard output that is closed or the
  null device is refused, with exit code 2.
- An engine that hangs is ended all the same, 30 seconds later, without orphans: with a line on standard error, and
  exit code 70, or 128 and the number of the signal. What the cache had accepted is kept.

## Errors

| code | meaning |
|---|---|
| -32700 | The line is no JSON, no UTF-8, or too long; `id` is null. |
| -32600 | JSON, and no request. |
| -32601 | No method of that name. |
| -32602 | The method does not take such parameters; the message names the one, and the nearest known. |
| -32603 | A fault of the server's; its log has the trace. |
| -32000 | The method failed. |

From -32601 on, `data` has `class`, the name of the exception in `hwledger_omlx` (`ModelError`, `RequestError`,
`KvPolicyError`, `EngineClosedError`, ...), and `message`:

```json
{{"jsonrpc":"2.0","id":5,"error":{{"code":-32000,"message":"none","data":{{"class":"ModelError","message":"none"}}}}}}
```
"""


def document() -> str:
    """The whole text."""
    parts = [_START.rstrip(), "## Methods"]
    parts += ["\n".join(_method(method)) for method in METHODS.values()]
    parts.append("## Notifications")
    parts += ["\n".join(_notification(notification)) for notification in NOTIFICATIONS]
    return "\n\n".join(parts) + "\n"


def _method(method: Method) -> Iterator[str]:
    yield f"### {method.name}\n"
    yield method.doc
    if method.params:
        yield "\n| parameter | kind | default | |\n|---|---|---|---|"
        yield from (_parameter(name, field) for name, field in method.params.items())
    yield "\n| result | kind | |\n|---|---|---|"
    yield from _values(method.result)
    asked, answered = method.example
    yield "\n```json"
    yield _line({"jsonrpc": "2.0", "id": 1, "method": method.name, **({"params": asked} if asked else {})})
    yield _line({"jsonrpc": "2.0", "id": 1, "result": answered})
    yield "```"


def _parameter(name: str, field: Field) -> str:
    default = (
        "required" if field.default is REQUIRED else "" if field.default is None else f"`{json.dumps(field.default)}`"
    )
    if field.configurable:
        default += ", configurable"
    return f"| `{name}` | {field.kind.name} | {default} | {field.doc} |"


def _values(values: Mapping[str, Value], within: str = "") -> Iterator[str]:
    for name, value in values.items():
        path = within + name
        of = f" of {value.of.name}" if isinstance(value.of, Kind) else ""
        yield f"| `{path}` | {value.kind.name}{of}{' or null' if value.nullable else ''} | {value.doc} |"
        if isinstance(value.of, Mapping):
            yield from _values(value.of, f"{path}[].")


def protocol() -> dict[str, Any]:
    """All of it in JSON's types: what a client may send, and what it may count on."""
    return {
        "version": VERSION,
        "methods": {
            method.name: {
                "params": [
                    {
                        "name": name,
                        "kind": field.kind.name,
                        **({} if field.default is REQUIRED else {"default": field.default}),
                    }
                    for name, field in method.params.items()
                ],
                "result": _as_json(method.result),
            }
            for method in METHODS.values()
        },
        "notifications": {each.name: _as_json(each.params) for each in NOTIFICATIONS},
    }


def _as_json(values: Mapping[str, Value]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, value in values.items():
        said[name] = {"kind": value.kind.name, "nullable": value.nullable, "optional": value.optional}
        if value.of is not None:
            said[name]["of"] = value.of.name if isinstance(value.of, Kind) else _as_json(value.of)
    return said


def _notification(notification: Notification) -> Iterator[str]:
    yield f"### {notification.name}\n"
    yield notification.doc
    yield "\n| parameter | kind | |\n|---|---|---|"
    yield from _values(notification.params)
    yield "\n```json"
    yield _line({"jsonrpc": "2.0", "method": notification.name, "params": notification.example})
    yield "```"


def _line(message: Mapping[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"))


if __name__ == "__main__":
    sys.stdout.write(document())
