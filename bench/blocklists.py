"""What a blocklist costs by its length: nanoseconds of a packet, and seconds to load.

The flood is the worst case there is: every packet from another corner of the address space, so that no look-up finds
in a cache what the one before has left there; and in IPv6 from a /32 of which something is listed.
"""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Iterator
from pathlib import Path

from bench import cores
from bench.contenders import configure, jetplane_node, receive_frames
from bench.flood import BARE, Flood, bare_drops, jetplane_drops
from bench.flooding import Flooding, Sources
from bench.forwarding import Say
from bench.frames import udp
from bench.results import Row, alone, compared
from jetplane.dataplane import child
from jetplane.lab.addresses import UPLINK, LabOptions
from jetplane.lab.topology import Lab, lab

SIZES = (0, 1_000, 100_000, 1_000_000)
BENCH = "blocklist"

_UDP = 17
_EVERYWHERE = Sources(count=1 << 20, stride=0x9E3779B1)
"""A million addresses all over; the stride is Knuth's, volume 3, 6.4."""
_FROM = {4: "20.0.0.1", 6: "2a00:1::1"}
_TIMEOUT_S = 300.0


def addresses(version: int, size: int) -> Iterator[str]:
    """A list of so many prefixes as feeds have them: of IPv4, single addresses and a few /24s; of IPv6, /48s."""
    chance = random.Random(size)
    for number in range(size):
        if version == 6:
            yield f"{ipaddress.IPv6Address(0x2A00 << 112 | chance.getrandbits(32) << 80)}/48"
        elif number % 8:
            yield str(ipaddress.IPv4Address(chance.randrange(1 << 24, 224 << 24)))
        else:
            yield f"{ipaddress.IPv4Address(chance.randrange(1 << 16, 224 << 16) << 8)}/24"


def measure(*, rounds: int, packets: int, say: Say) -> Iterator[Row]:
    """Rows for each family and size: what a packet costs beside one that is dropped unseen, and the time to load."""
    with lab(LabOptions(transport="veth")) as built, lab(LabOptions(transport="veth")) as bare:
        receive_frames(bare, UPLINK)
        configure(built, "[guard]\nbogons = false\n", "[guard]\nbogons = true\n")
        own = jetplane_node(built)
        for version in (4, 6):
            exits = built.plan.exit_ipv4 if version == 4 else built.plan.exit_ipv6
            payload = udp(9, 1023, bytes(18 if version == 4 else 6))
            flood = Flood("", ("NO_BINDING", "BLOCKED", "BOGON"), _FROM[version], exits[0], _UDP, payload, _EVERYWHERE)
            flooding = Flooding(version, len(flood.whole(bytes(6)).frame))
            try:
                for size in SIZES:
                    took = _load(built, version, size)
                    with jetplane_drops(own, flood.reasons) as one, bare_drops(bare, flooding) as other:
                        ns: list[list[float]] = [[], []]
                        for _ in range(rounds + 1):
                            for found, target in zip(ns, (one, other), strict=True):
                                flooding.aim(target.place, target.whole(flood), flood.sources)
                                found.append(1e9 / flooding.send(packets, cpu=cores.source_core()).typical())
                        for target in (one, other):
                            target.confirm(flood, packets * (rounds + 1))
                    name = f"IPv{version}, {size:,} prefixes"
                    row = compared(BENCH, name, "ns/packet", ns[0][1:], BARE, ns[1][1:])  # the first warms up
                    say(f"{BENCH} {name}: {row.jetplane} ns, bare {row.rival_value} ns, loaded in {took:.2f} s")
                    yield row
                    yield alone(BENCH, f"{name}, loaded", "s", [took])
            finally:
                flooding.close()


def _load(built: Lab, version: int, size: int) -> float:
    """Fill the node's maps as the controller does, in a process of its own; seconds until the list is in force."""
    file = Path(built.directory, "listed.txt")
    with file.open("w", encoding="ascii") as lines:
        lines.writelines(f"{line}\n" for line in addresses(version, size))
    run = built.node.run_directory
    task = {"files": [str(file)], "bogons": True, "layout": str(run / "layout.json"), "pins": str(run / "bpf")}
    began = time.monotonic()
    child.ask("jetplane.dataplane.lists.fill_child", task, timeout=_TIMEOUT_S)
    return time.monotonic() - began
