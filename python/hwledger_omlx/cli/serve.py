"""`hwledger-omlx serve`: the fork's HTTP server on our engine, with the flags of `omlx serve`.

Each flag of that is here and means the same, or is refused with the reason. What is not given comes from the
environment and from `hwledger.toml`.
"""

import contextlib
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hwledger_omlx import logs, signals, supervision
from hwledger_omlx.cli import options
from hwledger_omlx.config.load import load
from hwledger_omlx.config.process import put_environment
from hwledger_omlx.config.reload import LiveConfig
from hwledger_omlx.config.scratch import own_temporary_folder
from hwledger_omlx.errors import ConfigError


class LogLevel(StrEnum):
    """As `omlx serve` names them."""

    TRACE = "trace"
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Keepalive(StrEnum):
    """As `omlx serve` names them."""

    CHUNK = "chunk"
    COMMENT = "comment"
    OFF = "off"


class GuardTier(StrEnum):
    """As `omlx serve` names them."""

    SAFE = "safe"
    BALANCED = "balanced"
    AGGRESSIVE = "aggressive"


REFUSED = {
    "--max-model-memory": "omlx ignores it; give --memory-guard-tier safe, balanced or aggressive",
    "--max-process-memory": "omlx only guesses a tier from it; give --memory-guard-tier safe, balanced or aggressive",
    "--initial-cache-blocks": "this cache allocates nothing ahead; leave it out",
}
"""Flags of `omlx serve` that could not mean the same, and why."""

_UNIT_OF_OMLX = re.compile(r"(?<=[KMGT])B\s*$", re.IGNORECASE)


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Folders or Hugging Face ids to load; else the shipped model."),
    ] = None,
    config: options.Config = None,
    model_dir: Annotated[
        str | None, typer.Option("--model-dir", help="Folders of models, loaded when asked for; separated by commas.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; beyond this machine it takes a key.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="8000 without; 0 for any that is free.")] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="What requests must carry; or HWLEDGER_OMLX_API_KEY.")
    ] = None,
    cache_dir: Annotated[
        str | None, typer.Option("--paged-ssd-cache-dir", "--cache-dir", help="Folder of the KV cache.")
    ] = None,
    quota: Annotated[
        str | None,
        typer.Option(
            "--paged-ssd-cache-max-size", metavar="SIZE", help="Most that it takes: 100GB (of 1024, as omlx)."
        ),
    ] = None,
    hot: Annotated[
        str | None,
        typer.Option("--hot-cache-max-size", metavar="SIZE", help="RAM for what was saved lately: 8GB (of 1024)."),
    ] = None,
    no_cache: options.NoCache = False,
    max_concurrent_requests: Annotated[
        int | None, typer.Option("--max-concurrent-requests", help="Most requests in one batch; 8 without.")
    ] = None,
    kv: options.Kv = None,
    memory_guard_tier: Annotated[
        GuardTier | None, typer.Option("--memory-guard-tier", help="How much memory is left to others.")
    ] = None,
    sse_keepalive_mode: Annotated[
        Keepalive | None,
        typer.Option("--sse-keepalive-mode", help="What a stream sends while there is nothing to send."),
    ] = None,
    mcp_config: Annotated[
        str | None, typer.Option("--mcp-config", help="JSON or YAML file that names MCP servers.")
    ] = None,
    hf_endpoint: Annotated[str | None, typer.Option("--hf-endpoint", help="URL of the Hugging Face hub.")] = None,
    ms_endpoint: Annotated[str | None, typer.Option("--ms-endpoint", help="URL of the ModelScope hub.")] = None,
    http_proxy: Annotated[str | None, typer.Option("--http-proxy", help="URL of the proxy for HTTP.")] = None,
    https_proxy: Annotated[str | None, typer.Option("--https-proxy", help="URL of the proxy for HTTPS.")] = None,
    no_proxy: Annotated[
        str | None, typer.Option("--no-proxy", help="Hosts reached without, separated by commas.")
    ] = None,
    ca_bundle: Annotated[str | None, typer.Option("--ca-bundle", help="PEM file of certificates to trust.")] = None,
    base_path: Annotated[
        str | None, typer.Option("--base-path", help="Folder of all files that have none of their own.")
    ] = None,
    fork: options.Fork = None,
    shutdown: Annotated[
        float | None,
        typer.Option("--shutdown-seconds", help="Time of answers under way to end, once told to stop; 20."),
    ] = None,
    stuck_after: Annotated[
        float | None,
        typer.Option("--stuck-after-seconds", help="Seconds without a sign of life; then /health says stuck; 8."),
    ] = None,
    restart_stuck: Annotated[
        bool, typer.Option("--restart-stuck", help="Under a supervisor, which ends and starts again what is stuck.")
    ] = False,
    restart_after: Annotated[
        float | None,
        typer.Option("--restart-after-seconds", help="With --restart-stuck: how long it may be stuck; 60."),
    ] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option("--log-level", help="Without, HWLEDGER_OMLX_LOG or warning.")
    ] = None,
    max_model_memory: Annotated[str | None, typer.Option("--max-model-memory", hidden=True)] = None,
    max_process_memory: Annotated[str | None, typer.Option("--max-process-memory", hidden=True)] = None,
    initial_cache_blocks: Annotated[str | None, typer.Option("--initial-cache-blocks", hidden=True)] = None,
) -> None:
    """Serve models over HTTP: OpenAI's and Anthropic's API, /health, /metrics and the admin page.

    SIGHUP, and POST /admin/api/config/reload, load the configuration anew.
    """
    flags = given(
        {
            "MODEL": models or None,
            "--model-dir": model_dir,
            "--host": host,
            "--port": port,
            "--api-key": api_key,
            "--paged-ssd-cache-dir": cache_dir,
            "--paged-ssd-cache-max-size": quota,
            "--hot-cache-max-size": hot,
            "--no-cache": no_cache or None,
            "--max-concurrent-requests": max_concurrent_requests,
            "--kv": kv,
            "--memory-guard-tier": memory_guard_tier,
            "--sse-keepalive-mode": sse_keepalive_mode,
            "--mcp-config": mcp_config,
            "--hf-endpoint": hf_endpoint,
            "--ms-endpoint": ms_endpoint,
            "--http-proxy": http_proxy,
            "--https-proxy": https_proxy,
            "--no-proxy": no_proxy,
            "--ca-bundle": ca_bundle,
            "--base-path": base_path,
            "--fork": None if fork is None else str(fork),
            "--shutdown-seconds": shutdown,
            "--stuck-after-seconds": stuck_after,
            "--restart-stuck": restart_stuck or None,
            "--restart-after-seconds": restart_after,
            "--log-level": log_level,
            "--max-model-memory": max_model_memory,
            "--max-process-memory": max_process_memory,
            "--initial-cache-blocks": initial_cache_blocks,
        }
    )
    environment = dict(os.environ)
    in_force = load(config, environment, flags)
    if in_force.value("server.restart_stuck") and not supervision.is_supervised():
        # What is wrong with the settings is said before a child is started.
        restart_after_s = in_force.server().restart_after_s
        raise typer.Exit(supervision.supervise_this_command(restart_after_s=restart_after_s))
    with signals.handled(), contextlib.ExitStack() as stack:
        put_environment(in_force)
        stack.enter_context(own_temporary_folder())
        logs.configure(to_stderr=True, level=in_force.value("log.level"))

        from hwledger_omlx.serve.server import Server  # FastAPI, which no other command needs

        server = Server(
            in_force.server(),
            reload=lambda: live.reload_as_json(),
        )
        # A file that was there is missed when it is gone; it says nothing no more only when it is empty.
        live = LiveConfig(in_force, server.session, lambda: load(in_force.file, environment, flags), server)
        server.start()
        with signals.answered(
            server.end_soon,
            within_s=lambda: server.settings.shutdown_s + signals.TO_CLOSE_S,
            flush=server.flush,
            reload=live.reload_and_tell,
        ):
            try:
                typer.echo(f"{server.url} serves {', '.join(server.model_ids) or 'no model yet'}")
                server.wait()
            finally:
                server.stop()


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """What was given of the flags, as the configuration takes it.

    Raises:
        ConfigError: one of them is of `omlx serve` and could not mean the same here.
    """
    flags = {flag: value for flag, value in flags.items() if value is not None}
    for flag in flags:
        if flag in REFUSED:
            raise ConfigError(f"{flag} is not taken: {REFUSED[flag]}")
    for flag in ("--paged-ssd-cache-max-size", "--hot-cache-max-size"):
        if flag in flags:
            # omlx counts its KB, MB and GB by 1024 (its config.parse_size).
            flags[flag] = _UNIT_OF_OMLX.sub("iB", str(flags[flag]))
    if flags.pop("--no-cache", None):
        flags["--no-cache"] = "off"
    for flag in ("--paged-ssd-cache-dir", "--base-path", "--mcp-config", "--ca-bundle", "--fork"):
        if flag in flags:
            flags[flag] = str(Path(flags[flag]).expanduser().absolute())
    return flags
