"""`hwledger-omlx bench`: the benchmarks, one command each. Options and printing only; measuring is in `measure/`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hwledger_omlx.cli import options
from hwledger_omlx.measure import Report, Turn

bench_app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    help="Measure against a bar, in one run and in turns. Exit code 0 whether the bars are met or not; with --check, 1 "
    "when one is missed. An error is 2.",
)

Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Measured rounds, after one to warm up.")]
HostBinary = Annotated[
    Path | None, typer.Option(help="Measure that of the program hwledger-omlx-host.", show_default="the wheel's")
]
Check = Annotated[bool, typer.Option("--check", help="Exit with code 1 when a bar is missed.")]


@bench_app.command()
def engine(
    model: options.Model = options.SHIPPED_MODEL,
    rounds: Rounds = 11,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the prompt whose TTFT is measured.")] = 512,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens that each throughput request generates.")] = 32,
    concurrency: Annotated[str, typer.Option(help="Numbers of requests at the same time, with commas.")] = "1,4,8",
    fork: options.Fork = None,
    as_json: options.Json = False,
    check: Check = False,
) -> None:
    """Our engine against the bare fork: TTFT, tokens per second, memory. Bar: never slower than 0.97x the bare fork.

    Both run in processes of their own and take turns. Prints a table, or with --json
    {"results": [{"name", "value", "unit", "against", "ratio", "bar", "met"}], "environment": {...}}. The ratio is
    "times as good": value/against where higher is better, against/value where lower is.
    """
    from hwledger_omlx.measure.engine_bench import EngineBench

    bench = EngineBench(
        model=model,
        fork=fork,
        rounds=rounds,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        concurrency=_numbers(concurrency, "--concurrency"),
    )
    with progress_of_turns("bench engine") as on_turn:
        report = bench.run(on_turn)
    finish(report, as_json=as_json, check=check)


@bench_app.command()
def cache(
    only: Annotated[
        str,
        typer.Option(
            help="Parts, with commas: resend, next-turn, restore, save, index, gpu-restore (on an accelerator)."
        ),
    ] = "resend,next-turn,restore,save,index",
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Measured rounds.", show_default="5")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A quarter of the data, and 2 rounds.")] = False,
    scratch: Annotated[
        Path | None, typer.Option(help="Folder on the disk to measure.", show_default="the temporary folder")
    ] = None,
    gpu_tokens: Annotated[str, typer.Option(help="Lengths of gpu-restore's prompts, with commas.")] = "31339,100000",
    fork: options.Fork = None,
    as_json: options.Json = False,
    check: Check = False,
) -> None:
    """Our paged cache against the unpatched fork's: after a restart, from disk, from memory, and what saving costs.

    Each in processes of its own, in turns. Takes some minutes and some GB of disk, all given back. Prints a table, or
    with --json {"report", "version", "results": [...], "environment": {...}, "notes": [...]}, the results as bench
    engine has them.
    """
    from hwledger_omlx.measure.cache_bench import CacheBench

    bench = CacheBench(
        parts=[part.strip() for part in only.split(",")],
        rounds=rounds or (2 if quick else 5),
        quick=quick,
        fork=fork,
        scratch=scratch,
        gpu_prompt_tokens=_numbers(gpu_tokens, "--gpu-tokens"),
    )
    with progress_of_turns("bench cache") as on_turn:
        report = bench.run(on_turn)
    finish(report, as_json=as_json, check=check)


@bench_app.command()
def kv(
    only: Annotated[str, typer.Option(help="Parts, with commas: quality, codecs, decode.")] = "quality,codecs,decode",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model folder or Hugging Face id.", show_default="the shipped model"),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Measured rounds of codecs and decode.")] = 5,
    windows: Annotated[
        int | None,
        typer.Option(min=1, help="Contexts of 1,024 tokens that quality reads.", show_default="16, or 4 on a CPU"),
    ] = None,
    questions: Annotated[
        int | None,
        typer.Option(min=1, help="Questions at each length and depth.", show_default="16, or 4 on a CPU"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer bits, less text, 2 rounds.")] = False,
    as_json: options.Json = False,
    check: Check = False,
) -> None:
    """Keys and values at fewer bits: what it costs a model in quality, how fast our codecs are, what decoding gains.

    Quality by scheme and bits, keys and values apart, takes most of an hour on two cores for the shipped model. Prints
    tables, or with --json {"report", "version", "points": [...], "results": [...], "environment": {...}, "notes"},
    the results as bench engine has them.
    """
    from hwledger_omlx.measure.kv_bench import KvBench

    bench = KvBench(
        parts=[part.strip() for part in only.split(",")],
        model=model,
        rounds=rounds,
        windows=windows,
        recall_per_cell=questions,
        quick=quick,
    )
    with progress_of_turns("bench kv") as on_turn:
        report = bench.run(on_turn)
    finish(report, as_json=as_json, check=check)


@bench_app.command()
def memory(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model folder or Hugging Face id.", show_default="the shipped model"),
    ] = None,
    rounds: Rounds = 5,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens that each request generates.")] = 96,
    concurrency: Annotated[str, typer.Option(help="Numbers of requests at the same time, with commas.")] = "1,8",
    kv: Annotated[str, typer.Option(help="KV policies, with semicolons.")] = "16;8",
    as_json: options.Json = False,
    check: Check = False,
) -> None:
    """What sampling the layers' memory costs decoding: with the hooks and without, in one process and in turns.

    Bar: at most 1 % of decode time. Prints a table, or with --json the results as bench engine has them.
    """
    from hwledger_omlx.measure.memory_bench import MemoryBench

    bench = MemoryBench(
        model=model,
        rounds=rounds,
        max_tokens=max_tokens,
        concurrency=_numbers(concurrency, "--concurrency"),
        policies=[each.strip() for each in kv.split(";")],
    )
    with progress_of_turns("bench memory") as on_turn:
        report = bench.run(on_turn)
    finish(report, as_json=as_json, check=check)


@bench_app.command()
def plan(
    only: Annotated[str, typer.Option(help="Parts, with commas: caches, peak.")] = "caches,peak",
    architectures: Annotated[
        str | None,
        typer.Option(help="Architectures of caches, with commas.", show_default="all that mlx-lm has"),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Measured rounds of peak.")] = 3,
    as_json: options.Json = False,
    check: Check = False,
) -> None:
    """The planner against the truth: bytes of every architecture's caches and weights, and MLX's peak in the engine.

    Some minutes on two cores. Prints a table, or with --json {"report", "version", "results": [...], "environment":
    {...}, "notes": [...]}, the results as bench engine has them.
    """
    from hwledger_omlx.measure.plan_bench import PlanBench

    bench = PlanBench(
        parts=[part.strip() for part in only.split(",")],
        only_architectures=[name.strip() for name in architectures.split(",")] if architectures else (),
        rounds=rounds,
    )
    with progress_of_turns("bench plan") as on_turn:
        report = bench.run(on_turn)
    finish(report, as_json=as_json, check=check)


@bench_app.command()
def host(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model folder or Hugging Face id.", show_default="the shipped model"),
    ] = None,
    host_binary: Annotated[
        Path | None,
        typer.Option(help="The program hwledger-omlx-host.", show_default="on the path, or in the checkout's target"),
    ] = None,
    rounds: Rounds = 5,
    max_tokens: Annotated[int, typer.Option(min=8, help="Tokens of each request.")] = 128,
    fork: options.Fork = None,
    as_json: options.Json = False,
    check: Check = False,
) -> None:
    """A token from the engine to a Rust program: in process, by HTTP, by JSON-RPC. Bar: at most 50 µs in process.

    Prints a table, or with --json the results as bench engine has them.
    """
    from hwledger_omlx.measure.host_bench import HostBench

    bench = HostBench(model=model, host=host_binary, fork=fork, rounds=rounds, max_tokens=max_tokens)
    with progress_of_turns("bench host") as on_turn:
        report = bench.run(on_turn)
    finish(report, as_json=as_json, check=check)


@bench_app.command()
def rpc(
    rounds: Rounds = 5,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each kind in a turn, and tokens.")] = 50_000,
    host_binary: HostBinary = None,
    as_json: options.Json = False,
    check: Check = False,
) -> None:
    """How many messages a second JSON-RPC carries, through a real process and its pipes. Bar: 20,000.

    Prints a table, or with --json the results as bench engine has them.
    """
    from hwledger_omlx.measure.rpc_bench import RpcBench

    with progress_of_turns("bench rpc") as on_turn:
        report = RpcBench(rounds=rounds, requests=requests, host=host_binary).run(on_turn)
    finish(report, as_json=as_json, check=check)


@bench_app.command()
def soak(
    model: options.Model = options.SHIPPED_MODEL,
    seconds: Annotated[int, typer.Option("--seconds", min=1, help="How long the clients talk.")] = 600,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Clients at the same time.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Of what the clients do.")] = 0,
    host_binary: HostBinary = None,
    as_json: options.Json = False,
    check: Check = False,
) -> None:
    """A server for ten minutes, with clients that cancel, hang up and read slowly: errors, and what it holds after.

    Bars: no error, no thread more, nothing under way at the end, at most 5 % more memory than in the middle. Prints a
    table, or with --json the results as bench engine has them.
    """
    from hwledger_omlx.measure.soak_bench import SoakBench

    bench = SoakBench(model=model, seconds=seconds, clients=clients, seed=seed, host=host_binary)
    with _progress_of_seconds("bench soak") as on_second:
        report = bench.run(on_second)
    finish(report, as_json=as_json, check=check)


def finish(report: Report, *, as_json: bool, check: bool) -> None:
    """Prints the report and sets the exit code: 1 for a missed bar where `check` asks for it."""
    report.print(as_json=as_json)
    if check and report.missed:
        raise typer.Exit(1)


@contextmanager
def progress_of_turns(title: str) -> Iterator[Callable[[str, Turn, int, int], None]]:
    """A bar on standard error, one step a turn; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{title}: loading", total=None)

        def on_turn(contestant: str, turn: Turn, done: int, total: int) -> None:
            what = " ".join(part for part in (turn.case, "(warm-up)" if turn.warm_up else "") if part)
            bar.update(task, description=f"{title}: {contestant} {what}".rstrip(), completed=done, total=total)

        yield on_turn


@contextmanager
def _progress_of_seconds(title: str) -> Iterator[Callable[[int, int, str], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{title}: loading", total=None)

        def on_second(done: int, total: int, what: str) -> None:
            bar.update(task, description=f"{title}: {what}", completed=done, total=total)

        yield on_second


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no list of numbers; write for example 1,4,8", param_hint=option
        ) from error
