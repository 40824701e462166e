"""`hwledger-omlx generate`: one prompt, its answer streamed to standard output."""

import dataclasses
import json
import sys
from typing import Annotated

import typer

from hwledger_omlx import DoneEvent, Engine, Message, TokenEvent
from hwledger_omlx.cli import options
from hwledger_omlx.engine import kv_policy


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from standard input.")],
    model: options.Model = options.SHIPPED_MODEL,
    system: options.System = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a chat message.")] = False,
    max_tokens: options.MaxTokens = 256,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")] = None,
    cache_dir: options.CacheDir = None,
    no_cache: options.NoCache = False,
    kv: options.Kv = None,
    fork: options.Fork = None,
    as_json: options.Json = False,
) -> None:
    """Continue a text, or answer a message, and stream the result."""
    text = sys.stdin.read() if prompt == "-" else prompt
    asked: str | list[Message] = text
    if chat or system is not None:
        asked = [{"role": "user", "content": text}]
        if system is not None:
            asked.insert(0, {"role": "system", "content": system})
    with Engine(
        model, cache=None if no_cache else "paged", cache_dir=cache_dir, kv=kv_policy.named(kv), fork=fork
    ) as engine:
        for event in engine.stream(
            asked, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=tuple(stop or ())
        ):
            if isinstance(event, TokenEvent) and not as_json:
                sys.stdout.write(event.text)
                sys.stdout.flush()
            elif isinstance(event, DoneEvent) and as_json:
                typer.echo(json.dumps(dataclasses.asdict(event.result)))
        if not as_json:
            typer.echo()
