"""JSON-RPC 2.0 over standard input and output, on one engine. `docs/rpc.md` is the protocol.

Reading, checking and writing of messages is Rust's (`rust/core/src/rpc`); here is what the methods do.
"""

from hwledger_omlx.engine.request_defaults import RequestDefaults
from hwledger_omlx.rpc.server import RpcServer, end_soon, serve
from hwledger_omlx.rpc.settings import RpcSettings

__all__ = ["RequestDefaults", "RpcServer", "RpcSettings", "end_soon", "serve"]
