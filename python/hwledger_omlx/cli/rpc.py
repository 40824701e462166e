"""`hwledger-omlx rpc`: JSON-RPC 2.0 over standard input and output, for a program that starts this one."""

import contextlib
import os
from typing import Annotated

import typer

from hwledger_omlx import logs, signals
from hwledger_omlx.cli import options
from hwledger_omlx.cli.serve import LogLevel, given
from hwledger_omlx.config.load import load
from hwledger_omlx.config.process import put_environment
from hwledger_omlx.config.reload import LiveConfig
from hwledger_omlx.config.scratch import own_temporary_folder
from hwledger_omlx.config.uses import tell_unused_by_rpc


def rpc(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Folders or Hugging Face ids to load; else server.models of the configuration."
        ),
    ] = None,
    config: options.Config = None,
    cache_dir: Annotated[
        str | None, typer.Option("--paged-ssd-cache-dir", "--cache-dir", help="Folder of the KV cache.")
    ] = None,
    quota: Annotated[
        str | None, typer.Option("--paged-ssd-cache-max-size", metavar="SIZE", help="Most that it takes: 100GB.")
    ] = None,
    hot: Annotated[
        str | None, typer.Option("--hot-cache-max-size", metavar="SIZE", help="RAM for what was saved lately: 8GB.")
    ] = None,
    no_cache: options.NoCache = False,
    max_concurrent_requests: Annotated[
        int | None, typer.Option("--max-concurrent-requests", help="Most requests in one batch; 8 without.")
    ] = None,
    max_calls: Annotated[int, typer.Option("--max-calls", help="Most calls under way; more are refused.")] = 256,
    kv: options.Kv = None,
    fork: options.Fork = None,
    shutdown: Annotated[
        float | None,
        typer.Option("--shutdown-seconds", help="Time of calls under way to end, once nothing more comes; 20."),
    ] = None,
    stuck_after: Annotated[
        float | None,
        typer.Option("--stuck-after-seconds", help="Seconds without a sign of life; then health says stuck; 8."),
    ] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option("--log-level", help="Without, HWLEDGER_OMLX_LOG or warning.")
    ] = None,
) -> None:
    """Speak JSON-RPC 2.0 on standard input and output, a message a line. Logs go to standard error.

    Ends with exit code 0 when standard input ends, or on SIGTERM or Ctrl-C: calls under way have --shutdown-seconds.
    Where the engine cannot end in time it is ended all the same, with exit code 70, or 128 and the signal.
    SIGHUP, and `config.reload`, load the configuration anew.
    """
    flags = given(
        {
            "MODEL": models or None,
            "--paged-ssd-cache-dir": cache_dir,
            "--paged-ssd-cache-max-size": quota,
            "--hot-cache-max-size": hot,
            "--no-cache": no_cache or None,
            "--max-concurrent-requests": max_concurrent_requests,
            "--kv": kv,
            "--fork": None if fork is None else str(fork),
            "--shutdown-seconds": shutdown,
            "--stuck-after-seconds": stuck_after,
            "--log-level": log_level,
        }
    )
    environment = dict(os.environ)
    with signals.handled(), contextlib.ExitStack() as stack:
        in_force = load(config, environment, flags)
        put_environment(in_force)
        stack.enter_context(own_temporary_folder())
        logs.configure(to_stderr=True, level=in_force.value("log.level"))
        tell_unused_by_rpc(in_force)

        from hwledger_omlx.rpc import RequestDefaults, RpcServer, RpcSettings  # the engine, which --help does not need

        settings = in_force.server()
        server = RpcServer(
            RpcSettings(
                engine=in_force.engine(),
                models=in_force.listed_models,
                defaults=RequestDefaults(settings.fork.sampling, settings.fork.models),
                shutdown_s=settings.shutdown_s,
                stuck_after_s=settings.stuck_after_s,
                max_calls=max_calls,
                reload=lambda: live.reload_as_json(),
            )
        )
        live = LiveConfig(in_force, server.session, lambda: load(in_force.file, environment, flags), rpc=server)
        with signals.answered(
            server.end_soon,
            within_s=lambda: server.settings.shutdown_s + signals.TO_CLOSE_S,
            flush=lambda: server.session.cache.flush(),
            reload=live.reload_and_tell,
        ):
            code = server.run()
    raise typer.Exit(code)
