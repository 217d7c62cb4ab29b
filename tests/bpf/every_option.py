"""A node with every option of the configuration on at once.

What is off vanishes when the programs are compiled, so those that other tests load are parts of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jetplane.config.tables import MOST_PREFIXES

ALLOWED = ("10.99.0.0/16", "fd99::/48")
DENIED = tuple(f"198.18.{2 * number}.0/24" for number in range(MOST_PREFIXES - len(ALLOWED)))
"""As many prefixes as there may be; none adjoins another."""

RELAYS = tuple(
    {"listen_port": 52000 + n, "exit": f"198.51.100.{n}:51820" if n % 2 else f"[2001:db8:9::{n:x}]:51820"}
    for n in range(1, 65)
)
"""As many exit nodes as a fleet may have, of both families."""

EVERYTHING: Mapping[str, Any] = {
    "transport": "wireguard",
    "follower": "jet0",
    "nat": {
        "filtering": "address-and-port",
        "inbound_refresh": True,
        "port_parity": True,
        "tcp_reuse": True,
        "tcp_reuse_flows": 1024,
    },
    "guard": {"bogons": True, "max_blocked": 1024, "handshakes_per_second": 10, "icmp_echo_per_second": 100},
    "policy": {
        "deny": DENIED,
        "allow": ALLOWED,
        "deny_ports": ["tcp/25", "udp/6881-6999"],
        "new_flows_per_second": 500,
        "answer": "prohibited",
    },
    "dns": {"service": True, "steer": True},
    "relay": {"to": RELAYS},
    "metrics": {"design_peers": 1000},
}
