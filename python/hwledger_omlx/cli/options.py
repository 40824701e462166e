"""Options that several commands share, so that they read and mean the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from hwledger_omlx.models import NOTES

Model = Annotated[
    str, typer.Option("--model", "-m", help="Model folder or Hugging Face id.", show_default="the shipped model")
]
Fork = Annotated[Path | None, typer.Option("--fork", help="Folder of an oMLX checkout in place of the installed one.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="hwledger.toml; else HWLEDGER_OMLX_CONFIG, or the one that is found."
    ),
]
CacheDir = Annotated[Path | None, typer.Option("--cache-dir", help="Folder of the KV cache.")]
Kv = Annotated[
    str | None,
    typer.Option(
        "--kv",
        metavar="POLICY",
        help="Bits of keys and values: 8, k8v4, auto:0.35, or a TOML or JSON file; 16 without.",
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no KV cache beyond a request.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens to generate.")]
Temperature = Annotated[float, typer.Option("--temperature", "-t", help="0 takes the likeliest token each time.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Same seed, same text.")]
System = Annotated[str | None, typer.Option("--system", "-s", help="System prompt; makes the prompt a chat message.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

SHIPPED_MODEL = str(NOTES)
