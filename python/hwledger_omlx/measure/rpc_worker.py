"""A process that says tokens over JSON-RPC as fast as it can: the way of an engine's tokens, without an engine.

Its one method, `tokens {count}`, is answered like a `generate` of so many tokens.
"""

from hwledger_omlx._native import RpcConnection, RpcRequest
from hwledger_omlx.engine.events import DoneEvent, Generation, Timings, TokenEvent, Usage
from hwledger_omlx.rpc.calls import Calls
from hwledger_omlx.rpc.descriptors import taken
from hwledger_omlx.rpc.generating import Answer

QUEUE_BYTES = 2**20
_TOKENS_BETWEEN_LOOKS = 64
_REQUEST_ID = "req-0123456789abcdef0123456789abcdef"


def main() -> None:
    """Serves until its input ends."""
    with taken(0, 1) as (reading, writing):
        connection = RpcConnection(reading, writing, message_bytes=4096, queue_bytes=QUEUE_BYTES)
        while (requests := connection.receive(60.0)) is not None:
            for request in requests:
                _say_tokens(connection, request)
        connection.close()
        connection.flush(60.0)


def _say_tokens(connection: RpcConnection, request: RpcRequest) -> None:
    params = request.params
    count = params["count"] if isinstance(params, dict) else 0
    if not isinstance(count, int):
        raise TypeError(f"count must be a number, not {count!r}")
    calls = Calls(1)
    calls.begin()
    answer = Answer(calls, request, connection.stream("token", _REQUEST_ID))
    for number in range(count):
        # Tokens that wait would be joined, and fewer messages be counted.
        if number % _TOKENS_BETWEEN_LOOKS == 0 and connection.waiting_bytes > QUEUE_BYTES // 2:
            connection.flush(60.0)
        answer.take(TokenEvent(_REQUEST_ID, " token", (number,)))
    usage, timings = Usage(1, count, 0), Timings(0.0, 0.0, 0.0)
    answer.take(DoneEvent(_REQUEST_ID, Generation(_REQUEST_ID, "", "", (), "length", usage, timings)))


if __name__ == "__main__":
    main()
