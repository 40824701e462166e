"""`hwledger-omlx demo`: an agent's loop, a restart, and what the cache made of both.

A long system prompt of notes, several turns that ask about them with the whole conversation resent each time, then the
engine closed and opened again over the same cache folder, and more turns.
"""

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwledger_omlx import Engine, Message, probes
from hwledger_omlx.cli import options
from hwledger_omlx.models import NOTES

_TURNS_BEFORE_RESTART = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the conversation, as measured."""

    turn: int
    after_restart: bool
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float
    tokens_per_s: float
    question: str
    answer: str
    expected: str
    correct: bool


def demo(
    cache_dir: options.CacheDir = None,
    fork: options.Fork = None,
    as_json: options.Json = False,
) -> None:
    """Run an agent's loop on the shipped model, restart the engine, and show what was restored. Needs no network."""
    notes = Console(stderr=True, highlight=False)
    started_s = time.monotonic()
    with ExitStack() as stack:
        if cache_dir is None:
            cache_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwledger-omlx-demo-")))
        turns: list[Turn] = []
        fork_line = ""
        for after_restart, span in ((False, slice(_TURNS_BEFORE_RESTART)), (True, slice(_TURNS_BEFORE_RESTART, None))):
            if sys.stderr.isatty():
                notes.print(
                    "[dim]engine restarted over the same cache[/dim]" if after_restart else "[dim]a new cache[/dim]"
                )
            with Engine(NOTES, cache_dir=cache_dir, fork=fork) as engine:
                fork_line = f"{engine.fork}"
                turns.extend(_converse(engine, turns, span, after_restart, notes))
    wrong = sum(not turn.correct for turn in turns)
    if as_json:
        typer.echo(json.dumps({"turns": [dataclasses.asdict(turn) for turn in turns]}, indent=2))
    else:
        console = Console()
        console.print(_table(turns))
        console.print(_summary(turns), highlight=False)
        console.print(f"[dim]{fork_line}; {time.monotonic() - started_s:.0f} s in all[/dim]", highlight=False)
    if wrong:
        raise typer.Exit(1)


def _converse(
    engine: Engine, earlier: Sequence[Turn], span: slice, after_restart: bool, notes: Console
) -> Iterator[Turn]:
    session = probes.agent_session()
    messages: list[Message] = [{"role": "system", "content": session.system}]
    for turn in earlier:
        messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    for number, asked in list(enumerate(session.turns, 1))[span]:
        messages.append({"role": "user", "content": asked.user})
        result = engine.generate(messages, max_tokens=64, temperature=0.0)
        messages.append({"role": "assistant", "content": result.text})
        if sys.stderr.isatty():
            notes.print(f"[dim]{number}. {asked.user}[/dim] {result.text}")
        yield Turn(
            turn=number,
            after_restart=after_restart,
            prompt_tokens=result.usage.prompt_tokens,
            cached_tokens=result.usage.cached_tokens,
            ttft_s=round(result.timings.ttft_s, 4),
            tokens_per_s=round(result.timings.decode_tokens_per_s, 2),
            question=asked.user,
            answer=result.text,
            expected=asked.expected,
            correct=probes.matches(result.text, asked.expected),
        )


def _table(turns: Sequence[Turn]) -> Table:
    table = Table(box=SIMPLE, title="An agent's loop on the shipped model", title_justify="left", expand=True)
    for heading in ("", "prompt\ntokens", "cached\ntokens", "TTFT\ns", "tokens\n/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("question", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("answer", no_wrap=True)
    table.add_column("right", no_wrap=True)
    for before, turn in zip([None, *turns], turns, strict=False):
        if before is not None and turn.after_restart != before.after_restart:
            table.add_section()
        table.add_row(
            f"{turn.turn}",
            f"{turn.prompt_tokens}",
            f"{turn.cached_tokens}",
            f"{turn.ttft_s:.2f}",
            f"{turn.tokens_per_s:.0f}",
            escape(turn.question),
            escape(turn.answer),
            "yes" if turn.correct else f"[red]NO: {escape(turn.expected)}[/red]",
        )
    return table


def _summary(turns: Sequence[Turn]) -> str:
    right = sum(turn.correct for turn in turns)
    restarted = next(turn for turn in turns if turn.after_restart)
    return (
        f"{right} of {len(turns)} answers right; the engine was restarted before turn {restarted.turn}. The first "
        f"prompt took {turns[0].ttft_s:.2f} s to its first token; after the restart {restarted.cached_tokens} of "
        f"{restarted.prompt_tokens} tokens came from disk: {restarted.ttft_s:.2f} s, "
        f"{turns[0].ttft_s / restarted.ttft_s:.1f} times faster."
    )
