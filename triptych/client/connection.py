"""Set-up of a client's channel; the same for both clients."""

from __future__ import annotations

from triptych import addresses
from triptych.client.options import OptionError

_MAX_MESSAGE_BYTES = 32 << 20

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A call made between two attempts to connect fails at once; by themselves these would soon be
    # minutes apart, and a server that is back would not be found.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A proxy of the environment is for the web, and would swallow calls to this machine.
    ("grpc.enable_http_proxy", 0),
)


def checked(address: str) -> str:
    """`address`, if it is one to connect to.

    Raises:
        OptionError: it is none; the text says what to write instead.
    """
    fault = addresses.find_fault(address)
    if fault is not None:
        raise OptionError(f"address {address[:200]!r}: {fault}")
    return address
