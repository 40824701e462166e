"""`hwledger-omlx rpc`: JSON-RPC 2.0 over standard input and output, for a program that starts this one."""

from pathlib import Path
from typing import Annotated

import typer

from hwledger_omlx import EngineConfig, PagedCache, logs, signals
from hwledger_omlx.cli import options
from hwledger_omlx.cli.serve import LogLevel


def rpc(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Folders or Hugging Face ids to load; else the client loads its own."
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option("--cache-dir", "--paged-ssd-cache-dir", help="Folder of the KV cache.")
    ] = None,
    quota: Annotated[
        str | None, typer.Option("--paged-ssd-cache-max-size", metavar="SIZE", help="Most that it takes: 100GB.")
    ] = None,
    hot: Annotated[
        str | None, typer.Option("--hot-cache-max-size", metavar="SIZE", help="RAM for what was saved lately: 8GB.")
    ] = None,
    no_cache: options.NoCache = False,
    max_concurrent_requests: Annotated[
        int, typer.Option("--max-concurrent-requests", help="Most requests in one batch.")
    ] = 8,
    max_calls: Annotated[int, typer.Option("--max-calls", help="Most calls under way; more are refused.")] = 256,
    kv: options.Kv = None,
    fork: options.Fork = None,
    shutdown: Annotated[
        float, typer.Option("--shutdown-seconds", help="Time of calls under way to end, once nothing more comes.")
    ] = 20.0,
    stuck_after: Annotated[
        float, typer.Option("--stuck-after-seconds", help="Without a sign of life so long, health says stuck.")
    ] = 10.0,
    log_level: Annotated[
        LogLevel | None, typer.Option("--log-level", help="Without, HWLEDGER_OMLX_LOG or warning.")
    ] = None,
) -> None:
    """Speak JSON-RPC 2.0 on standard input and output, a message a line. Logs go to standard error.

    Ends with exit code 0 when standard input ends, or on SIGTERM or Ctrl-C: calls under way have --shutdown-seconds.
    """
    from hwledger_omlx.rpc import RpcServer, RpcSettings  # the engine, which --help does not need

    if log_level is not None:
        logs.configure(to_stderr=True, level=log_level.value)
    engine = EngineConfig(
        model=None,
        cache=None if no_cache else PagedCache(quota_bytes=quota, hot_bytes=hot),
        cache_dir=cache_dir,
        kv=kv,
        fork=fork,
        max_concurrent_requests=max_concurrent_requests,
    )
    server = RpcServer(
        RpcSettings(
            engine=engine,
            models=models or (),
            shutdown_s=shutdown,
            stuck_after_s=stuck_after,
            max_calls=max_calls,
        )
    )
    within_s = shutdown + signals.TO_CLOSE_S
    with (
        signals.handled(),
        signals.answered(server.end_soon, within_s=within_s, flush=lambda: server.session.cache.flush()),
    ):
        code = server.run()
    raise typer.Exit(code)
