"""`hwledger-omlx chat`: a conversation in the terminal."""

import sys
from collections.abc import Callable

import typer
from rich.console import Console
from rich.markup import escape

from hwledger_omlx import DoneEvent, Engine, Error, Generation, Message, TokenEvent
from hwledger_omlx.cli import options
from hwledger_omlx.engine import kv_policy

_HELP = "/clear starts over, /exit or Ctrl-D ends, Ctrl-C stops an answer."


def chat(
    model: options.Model = options.SHIPPED_MODEL,
    system: options.System = None,
    max_tokens: options.MaxTokens = 1024,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = None,
    cache_dir: options.CacheDir = None,
    no_cache: options.NoCache = False,
    kv: options.Kv = None,
    fork: options.Fork = None,
) -> None:
    """Talk with a model; each turn says what the cache saved."""
    notes = Console(stderr=True, highlight=False)
    opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    with Engine(
        model, cache=None if no_cache else "paged", cache_dir=cache_dir, kv=kv_policy.named(kv), fork=fork
    ) as engine:
        read = _reader()
        notes.print(f"[dim]{', '.join(engine.models)} on {engine.fork}. {_HELP}[/dim]")
        messages = list(opening)
        while (said := read()) is not None:
            if said in ("/exit", "/quit"):
                break
            if said == "/clear":
                messages = list(opening)
                notes.print("[dim]A new conversation.[/dim]")
                continue
            if said.startswith("/"):
                notes.print(f"[dim]{_HELP}[/dim]")
                continue
            if not said.strip():
                continue
            asked: list[Message] = [*messages, {"role": "user", "content": said}]
            try:
                result = _answer(engine, asked, max_tokens, temperature, seed)
            except Error as error:
                # A turn that cannot be (too long a conversation, say) ends neither the engine nor the talk.
                notes.print(f"[red]{escape(str(error))}[/red]")
                continue
            if result is None:
                notes.print("[dim]stopped[/dim]")
                continue
            messages = [*asked, {"role": "assistant", "content": result.text}]
            notes.print(f"[dim]{_summary(result)}[/dim]")


def _answer(
    engine: Engine, messages: list[Message], max_tokens: int, temperature: float, seed: int | None
) -> Generation | None:
    """Streams the answer; None where Ctrl-C stopped it."""
    try:
        for event in engine.stream(messages, max_tokens=max_tokens, temperature=temperature, seed=seed):
            if isinstance(event, TokenEvent):
                sys.stdout.write(event.text)
                sys.stdout.flush()
            elif isinstance(event, DoneEvent):
                typer.echo()
                return event.result
    except KeyboardInterrupt:
        typer.echo()
    return None


def _summary(result: Generation) -> str:
    usage, timings = result.usage, result.timings
    return (
        f"{usage.prompt_tokens} prompt tokens, {usage.cached_tokens} of them cached; first token after "
        f"{timings.ttft_s:.2f} s, {timings.decode_tokens_per_s:.1f} tokens/s"
    )


def _reader() -> Callable[[], str | None]:
    """Gives one line a call, None at the end: with editing and history in a terminal, plainly from a pipe."""
    if not sys.stdin.isatty():
        return lambda: line.rstrip("\n") if (line := sys.stdin.readline()) else None
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession()

    def read() -> str | None:
        while True:
            try:
                return session.prompt("> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                return None

    return read
