"""What a packet costs a node with the kernel's WireGuard in front: recorded messages are played to it. Runs in a guest.

The subscriber encrypts before anything is timed; what is timed is decryption, translation and forwarding, and a short
source and sink. With one processor whose clock counts instructions, time is instructions.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from bench import contenders
from bench.contenders import FORWARDING, JETPLANE, MASQUERADE, nft
from bench.frames import DISCARD_PORT, FIRST_PORT
from jetplane.dataplane import toolchain
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.programs import Hook, ProgramType
from jetplane.dataplane.run import prog_test_run
from jetplane.errors import JetplaneError
from jetplane.lab import clients, links, namespaces
from jetplane.lab.addresses import NODE_IPV4, SITES_IPV4, TO_NODE, TUNNEL_MTU, UPLINK, LabOptions
from jetplane.lab.topology import Lab, lab
from jetplane.lab.waiting import wait_until

FLOWTABLE = "nftables masquerade + flowtable"
NAMES = (JETPLANE, FORWARDING, MASQUERADE, FLOWTABLE)

FRAME = 122
"""As in replay.bpf.c: 18 bytes of payload, in IPv4, in a data message, in IPv4 and Ethernet."""
FLOWS = 128
BURST, BURSTS = 512, 5
"""Half of what a peer's queue holds (MAX_QUEUED_PACKETS, drivers/net/wireguard): nothing is lost."""
FLOOD = 4096
"""Far more than it holds."""

_UDP_CHECKSUM = 40
_LIVE_FRAMES = 2
_ETH_P_ALL = 3
_RULES = """
table inet bench {{
    flowtable fast {{
        hook ingress priority filter
        devices = {{ {tunnel}, {uplink} }}
    }}
    chain forward {{
        type filter hook forward priority filter
        meta l4proto {{ tcp, udp }} flow add @fast
    }}
}}
"""


class Player:
    """Source and sink around one node."""

    def __init__(self, built: Lab) -> None:
        self._plan = built.plan
        self._lab = built
        with tempfile.TemporaryDirectory(prefix="jetplane-bench-") as directory:
            os.environ["BCC_KERNEL_SOURCE"] = str(toolchain.make_headers(Path(directory, "headers")))
            from bcc import BPF

            self._module = BPF(text=Path(__file__).with_name("replay.bpf.c").read_bytes())
        self._replay = int(self._module.load_func(b"replay", int(ProgramType.XDP)).fd)
        self._arrive = int(self._module.load_func(b"arrive", int(ProgramType.SCHED_CLS)).fd)
        namespaces.inside(self._plan.internet, self._attach)

    def _attach(self) -> None:
        with Links() as netlink:
            index = interface_index(TO_NODE)
            netlink.add_clsact(index)
            netlink.replace_filter(index, Hook.INGRESS, self._arrive, "arrive")
        task = self._module[b"tasks"][0]
        task.ifindex = index
        self._module[b"tasks"][0] = task

    def close(self) -> None:
        """Free the programs."""
        self._module.cleanup()

    def wait_for_tunnel(self) -> None:
        """See that packets come through, from one end to the other."""
        before = self._task().arrived

        def comes() -> bool:
            namespaces.inside(self._plan.subscribers[0].namespace, lambda: _send(1, 0))
            time.sleep(0.05)
            return bool(self._task().arrived > before)

        wait_until("packets to come through the tunnel", comes, seconds=60)

    def record(self, packets: int) -> None:
        """Let the subscriber encrypt so many packets, and keep what it sends from the node."""
        internet, subscriber = self._plan.internet, self._plan.subscribers[0]
        inside = socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)
        tap = namespaces.inside(internet, lambda: socket.socket(*inside))
        rule = ["from", str(subscriber.outer_ipv4.ip), "iif", subscriber.provider_link, "pref", "10", "blackhole"]
        self._ip("rule", "add", *rule)
        heads = links.hardware_address(self._plan.node, UPLINK) + links.hardware_address(internet, TO_NODE)
        frames, kept = self._module[b"frames"], 0
        with tap:
            tap.bind((subscriber.provider_link, 0))
            tap.settimeout(10)
            while kept < packets:
                # A few at a time: the socket's buffer is small.
                wanted = min(32, packets - kept)
                namespaces.inside(subscriber.namespace, functools.partial(_send, wanted, kept))
                for _ in range(wanted):
                    while len(frame := tap.recv(2048)) != FRAME:
                        pass
                    value = frames.Leaf()
                    # The link leaves the checksum of UDP to whoever is last: none is as good.
                    whole = heads + frame[len(heads) : _UDP_CHECKSUM] + bytes(2) + frame[_UDP_CHECKSUM + 2 :]
                    value.halves[:] = memoryview(whole).cast("H").tolist()
                    frames[kept] = value
                    kept += 1
        self._ip("rule", "del", *rule)
        task = self._task()
        task.next = 0
        self._module[b"tasks"][0] = task

    def play(self, packets: int) -> tuple[int, float]:
        """Send the next recorded packets at full speed: how many arrived, and ns from the first sent to the last."""
        task = self._task()
        task.sent = task.arrived = 0
        self._module[b"tasks"][0] = task
        data = bytes(FRAME)
        namespaces.inside(
            self._plan.internet, lambda: prog_test_run(self._replay, data, repeat=packets, flags=_LIVE_FRAMES)
        )
        before = -1
        while (now := int(self._task().arrived)) != before:
            before = now
            time.sleep(0.1)
        task = self._task()
        return int(task.arrived), float(task.ended - task.began)

    def _task(self) -> Any:
        return self._module[b"tasks"][0]

    def _ip(self, *arguments: str) -> None:
        done = namespaces.run(self._plan.internet, ["ip", *arguments], lab=self._lab.name, timeout=60)
        if done.returncode:
            raise JetplaneError(f"bench: ip {' '.join(arguments)}: {done.stderr.decode().strip()}")


def _send(packets: int, first: int) -> None:
    """Datagrams of 18 bytes, of FLOWS flows in turn, so that GRO does not make one of two."""
    for number in range(first, first + packets):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("", FIRST_PORT + number % FLOWS))
            sender.sendto(bytes(18), (SITES_IPV4[0], DISCARD_PORT))


def _jetplane(built: Lab) -> None:
    built.start()


def _forwarding(built: Lab) -> None:
    """The kernel's WireGuard and forwarding, with the offloads that jetplane would have set."""
    plan, node = built.plan, built.plan.node
    tunnel = plan.tunnels[0]
    if not links.make_wireguard(node, tunnel.name):
        raise JetplaneError("bench: this kernel has no WireGuard")
    command = ["wg", "set", tunnel.name, "listen-port", str(tunnel.listen_port), "private-key",
               str(built.directory / "node.key")]  # fmt: skip
    for subscriber, key in zip(plan.subscribers, built.public_keys, strict=True):
        allowed = f"{subscriber.inner_ipv4}/32,{subscriber.inner_ipv6}/128"
        command += ["peer", key, "allowed-ips", allowed]
    done = namespaces.run(node, command, lab=built.name, timeout=60)
    if done.returncode:
        raise JetplaneError(f"bench: wg set: {done.stderr.decode().strip()}")
    links.set_up(links.End(node, tunnel.name, (str(tunnel.ipv4), str(tunnel.ipv6))), mtu=TUNNEL_MTU)
    links.add_routes(plan.internet, [(str(tunnel.ipv4.network), str(NODE_IPV4.ip), TO_NODE)])
    namespaces.write_sysctls(node, {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
    for interface in (UPLINK, tunnel.name):
        contenders.switch(built, interface, "rx-udp-gro-forwarding", "on")
    for subscriber in plan.subscribers:
        clients.connect(subscriber)


def _masquerading(built: Lab) -> None:
    nft(built, "-f", "-", text=contenders.MASQUERADE_RULES)
    _forwarding(built)


def _offloading(built: Lab) -> None:
    _masquerading(built)
    nft(built, "-f", "-", text=_RULES.format(tunnel=built.plan.tunnels[0].name, uplink=UPLINK))


_PREPARE: dict[str, Callable[[Lab], None]] = {
    JETPLANE: _jetplane, FORWARDING: _forwarding, MASQUERADE: _masquerading, FLOWTABLE: _offloading,
}  # fmt: skip


@contextlib.contextmanager
def player(name: str, backend: Literal["kernel", "userspace"] = "kernel") -> Iterator[Player]:
    """A contender's node with its source and sink."""
    with lab(LabOptions(transport="wireguard", backend=backend)) as built:
        contenders.receive_frames(built, UPLINK)
        _PREPARE[name](built)
        made = Player(built)
        try:
            yield made
        finally:
            made.close()


def main() -> int:
    """Measure every contender; write a line of JSON for each to $JETPLANE_REPORTS."""
    with Path(os.environ["JETPLANE_REPORTS"]).open("a", encoding="utf-8") as reports:
        for name in NAMES:
            began = time.monotonic()
            try:
                with player(name) as played:
                    played.wait_for_tunnel()
                    played.record(BURST * (BURSTS + 1) + FLOOD)
                    bursts = [played.play(BURST) for _ in range(BURSTS + 1)][1:]  # the first warms up
                    if lost := sum(BURST - arrived for arrived, _ in bursts):
                        raise JetplaneError(f"bench: {name}: {lost} packets were lost without overload")
                    flood, flood_ns = played.play(FLOOD)
            except JetplaneError as error:
                print(json.dumps({"name": name, "error": str(error)}), file=reports, flush=True)
                continue
            line = {
                "name": name,
                "kernel": os.uname().release,
                "instructions": [ns / BURST for _, ns in bursts],
                "delivered": flood,
                "delivered_per_ms": flood / flood_ns * 1e6,
                "took_s": round(time.monotonic() - began, 1),
            }
            print(f"{name}: {statistics.median(ns / BURST for _, ns in bursts):.0f}", file=sys.stderr)
            print(json.dumps(line), file=reports, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
