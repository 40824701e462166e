"""`hwledger-omlx serve`: the fork's HTTP server on our engine, with the flags of `omlx serve` where that has them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hwledger_omlx import EngineConfig, PagedCache, logs, signals, supervision
from hwledger_omlx.cli import options

_TO_CLOSE_S = 30.0
"""What the engine may take to close, beyond the time that answers have to end."""
_LONGEST_START_S = 60.0
"""What Python may take to import all there is, before the first heartbeat."""


class LogLevel(StrEnum):
    """As `omlx serve` names them."""

    TRACE = "trace"
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Folders or Hugging Face ids to load; else the shipped model."),
    ] = None,
    model_dir: Annotated[
        str, typer.Option("--model-dir", help="Folders of models, loaded when asked for; separated by commas.")
    ] = "",
    host: Annotated[str, typer.Option("--host", help="Address to listen on; beyond this machine it takes a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any that is free.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="HWLEDGER_OMLX_API_KEY", help="What requests must carry.")
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
    kv: options.Kv = None,
    fork: options.Fork = None,
    shutdown: Annotated[
        float, typer.Option("--shutdown-seconds", help="Time of answers under way to end, once it is told to stop.")
    ] = 20.0,
    stuck_after: Annotated[
        float, typer.Option("--stuck-after-seconds", help="Without a sign of life so long, /health says stuck.")
    ] = 10.0,
    restart_stuck: Annotated[
        bool, typer.Option("--restart-stuck", help="Under a supervisor, which ends and starts again what is stuck.")
    ] = False,
    restart_after: Annotated[
        float, typer.Option("--restart-after-seconds", help="Stuck or silent for so long, it is started again.")
    ] = 60.0,
    log_level: Annotated[
        LogLevel | None, typer.Option("--log-level", help="Without, HWLEDGER_OMLX_LOG or warning.")
    ] = None,
) -> None:
    """Serve models over HTTP: OpenAI's and Anthropic's API, /health, /metrics and the admin page."""
    from hwledger_omlx.engine.session import Session
    from hwledger_omlx.serve.app import folders_of  # FastAPI, which no other command needs
    from hwledger_omlx.serve.server import Server
    from hwledger_omlx.serve.settings import ServerSettings

    if log_level is not None:
        logs.configure(to_stderr=True, level=log_level.value)
    if restart_stuck and not supervision.is_supervised():
        raise typer.Exit(supervision.supervise_this_command(silence_s=max(_LONGEST_START_S, restart_after)))
    folders = folders_of(model_dir)
    cache = None if no_cache else PagedCache(quota_bytes=quota, hot_bytes=hot)
    engine = EngineConfig(
        model=None,
        cache=cache,
        cache_dir=cache_dir,
        kv=kv,
        fork=fork,
        max_concurrent_requests=max_concurrent_requests,
    )
    settings = ServerSettings(
        engine=engine,
        models=models or ([] if folders else [options.SHIPPED_MODEL]),
        model_dirs=folders,
        host=host,
        port=port,
        api_key=api_key,
        shutdown_s=shutdown,
        stuck_after_s=stuck_after,
        restart_after_s=restart_after,
    )
    server = Server(settings, memory=Session.memory, dropped_rows=lambda: server.session.ledger.stats().dropped_rows)
    with signals.handled():
        server.start()
        with signals.answered(server.end_soon, within_s=shutdown + _TO_CLOSE_S, flush=server.flush):
            try:
                typer.echo(f"{server.url} serves {', '.join(server.model_ids) or 'no model yet'}")
                server.wait()
            finally:
                server.stop()
