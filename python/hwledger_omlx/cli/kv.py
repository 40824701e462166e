"""`hwledger-omlx kv`: measures what fewer bits of keys and values cost a model, and shows the dial of a policy."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hwledger_omlx.cli import options
from hwledger_omlx.errors import KvTextError

kv_app = typer.Typer(no_args_is_help=True, help="Bits of keys and values, layer by layer: measure them, look at them.")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hugging Face id.")]


@kv_app.command()
def calibrate(
    model: Model,
    text: Annotated[Path, typer.Option("--text", metavar="FILE", help="Text of the kind that the model will read.")],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="How much of it to measure on.")] = 4096,
    as_json: options.Json = False,
) -> None:
    """Measures each layer's keys and values at each format, for `--kv auto:...`, and keeps it beside the cache.

    Runs the model over the text some twenty times a layer. With --json prints the profile: {"version", "model", "text",
    "tokens", "layers": [{"k": {FORMAT: {"kl", "error"}}, "v": {...}} | null, ...]}.
    """
    from hwledger_omlx.kv.calibration import calibrate as measure
    from hwledger_omlx.kv.show import profile_table

    source = _read(text)
    with _progress("kv calibrate") as on_step:
        profile = measure(model, source, tokens=tokens, on_step=on_step)
    path = profile.write()
    if as_json:
        typer.echo(json.dumps(profile.as_json(), indent=2))
        return
    console = Console(highlight=False)
    console.print(f"measured on {profile.tokens:,} tokens; what each format costs where nothing else is changed:")
    console.print(profile_table(profile))
    console.print(f"kept in {path}", soft_wrap=True, markup=False)


@kv_app.command()
def show(
    model: Model,
    kv: Annotated[
        str | None,
        typer.Option("--kv", metavar="POLICY", help="The dial of that policy: 8, k8v4, auto:0.35. Else the profile."),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="At which bytes are counted.")] = 8192,
    as_json: options.Json = False,
) -> None:
    """The dial of a policy on a model, layer by layer: bits, bytes, error. Without --kv, what calibration measured."""
    from hwledger_omlx.engine import kv_policy, model_folder
    from hwledger_omlx.kv import profile as profiles
    from hwledger_omlx.kv.show import DialPicture, profile_table

    console = Console(highlight=False)
    if kv is None:
        folder = model_folder.locate(model)
        profile = profiles.Profile.parse(profiles.text_of(profiles.fingerprint(folder.path), model))
        if as_json:
            typer.echo(json.dumps(profile.as_json(), indent=2))
        else:
            console.print(f"{folder.model_id}, measured on {profile.tokens:,} tokens", markup=False)
            console.print(profile_table(profile))
        return
    from hwledger_omlx.kv.policies import dial_of

    view = dial_of(model, str(kv_policy.parse(kv_policy.named(kv))), tokens=tokens)
    if as_json:
        typer.echo(json.dumps(view.as_json(), indent=2))
    else:
        console.print(DialPicture(view))


def _read(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise KvTextError(f"there is no text {path}; give a file of the kind that the model will read") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KvTextError(f"the text {path} cannot be read: {error}") from error


@contextmanager
def _progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"{title}: loading", total=None)
        yield lambda what, done, steps: bar.update(task, description=f"{title}: {what}", completed=done, total=steps)
