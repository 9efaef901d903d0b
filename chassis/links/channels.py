"""Client channels to other services, over unix sockets and TCP alike.

A channel's keepalive finds a peer that vanished without closing; a call has a deadline instead.
"""

from __future__ import annotations

from grpc import aio

from chassis.links.credentials import channel

KEEPALIVE_S = 1.0
KEEPALIVE_TIMEOUT_S = 2.0
RECONNECT_FIRST_S = 0.1
RECONNECT_MOST_S = 0.3
CONNECT_S = 5.0
RESOLVE_APART_S = 1.0


def open_channel(address: str, *, max_message_mib: int = 32) -> aio.Channel:
    """Open a channel to `address` (`unix:PATH` or `HOST:PORT`); it connects when first used.

    Messages up to `max_message_mib` MiB are sent and taken. A local subchannel pool keeps the
    connection's fate apart from other channels to the same address.
    """
    limit = max_message_mib << 20
    return channel(
        address,
        options=[
            ("grpc.max_send_message_length", limit),
            ("grpc.max_receive_message_length", limit),
            ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
            # Which of these two ends a connection depends on gRPC's version; the second by itself
            # would wait 60 s.
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
            ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", int(RECONNECT_FIRST_S * 1000)),
            # Despite its name, how long one attempt to connect may take.
            ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),
            ("grpc.max_reconnect_backoff_ms", int(RECONNECT_MOST_S * 1000)),
            # A service that comes back elsewhere under its name is looked up again at once; gRPC by
            # itself would wait for 30 s after the last look-up.
            ("grpc.dns_min_time_between_resolutions_ms", int(RESOLVE_APART_S * 1000)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ],
    )
