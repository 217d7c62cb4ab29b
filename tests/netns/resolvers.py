"""A resolver that an operator would run on a node: Debian's dnsmasq; and questions to it, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from jetplane.lab import namespaces
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import wait_until

PROGRAMS = {"dnsmasq": "dnsmasq-base"}
"""Program → the Debian package that has it."""

NAME, ADDRESS = "here.example", "192.0.2.99"
"""What no resolver but the node's knows."""
LARGE, TEXTS = "large.example", tuple(f"{n:02d}" + "x" * 200 for n in range(16))
"""More than a packet of the tunnel holds."""
TYPE_A, TYPE_TXT, TYPE_OPT, CLASS_IN = 1, 16, 41, 1
"""RFC 1035, section 3.2; RFC 6891."""


def service(lab: Lab) -> dict[int, str]:
    """The node's addresses on its first tunnel, by family."""
    tunnel = lab.plan.tunnels[0]
    return {4: str(tunnel.ipv4.ip), 6: str(tunnel.ipv6.ip)}


@contextmanager
def dnsmasq(lab: Lab) -> Iterator[None]:
    """A resolver at these addresses, without anybody to ask in turn."""
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]
    command += ["--bind-interfaces", "--user=root", "--log-facility=-", "--edns-packet-max=4096"]
    command += [f"--listen-address={address}" for address in service(lab).values()]
    command += [f"--host-record={NAME},{ADDRESS}", f"--txt-record={LARGE}," + ",".join(TEXTS)]
    log = lab.directory / "dnsmasq.log"
    with log.open("wb") as output:
        process = namespaces.spawn(lab.plan.node, command, lab=lab.name, stdout=output, stderr=output)
    try:
        wait_until("dnsmasq", lambda: b"started" in log.read_bytes(), process)  # it has bound its sockets before
        yield
    finally:
        namespaces.kill(process)


def query(name: str, kind: int) -> bytes:
    """A question (RFC 1035, section 4.1) of somebody who takes large answers (RFC 6891, section 6.1)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    options = struct.pack(">BHHIH", 0, TYPE_OPT, 4096, 0, 0)
    return (
        struct.pack(">HHHHHH", 0x5353, 0x0100, 1, 0, 0, 1) + labels + struct.pack(">BHH", 0, kind, CLASS_IN) + options
    )
