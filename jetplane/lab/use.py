"""Checks of ordinary use: what a subscriber does on any day, and what the site sees of it."""

from __future__ import annotations

import re
import socket
from functools import partial

from jetplane.lab import capture, servers, traffic
from jetplane.lab.addresses import NODE_IPV4, NODE_IPV6, SITES_IPV4, SITES_IPV6, TO_NODE
from jetplane.lab.entry import PORTS, TO_ENTRY, multihop
from jetplane.lab.stage import BURST, Failed, Seen, Stage, require
from jetplane.lab.waiting import wait_until

_NODE = (str(NODE_IPV4.ip), str(NODE_IPV6.ip))


def downloads(stage: Stage, subscriber: int, family: int) -> str:
    """A file must arrive whole."""
    done = traffic.download(stage.visit(subscriber, family), stage.size, stage.lab.directory)
    require(done.size == stage.size and done.whole, f"{done.size} of {stage.size} bytes, hash right: {done.whole}")
    return f"{done.size >> 20} MiB, hash right, {done.mbit_per_second:.0f} Mbit/s"


def pings(stage: Stage, subscriber: int, family: int) -> str:
    """Every echo request must be answered."""
    answered = traffic.ping(stage.visit(subscriber, family), 5)
    require(answered == 5, f"{answered} of 5 answered")
    return "5 of 5 answered"


def echoes(stage: Stage, subscriber: int, family: int) -> str:
    """Every datagram must come back."""
    answered = traffic.udp_echo(stage.visit(subscriber, family), BURST)
    require(answered == BURST, f"{answered} of {BURST} came back")
    return f"{BURST} of {BURST} datagrams came back"


def traces(stage: Stage, subscriber: int, family: int) -> str:
    """The way must show the node's tunnel address, then the site."""
    visit = stage.visit(subscriber, family)
    tunnel = stage.lab.plan.tunnels[stage.lab.plan.subscribers[subscriber].tunnel]
    expected = [str(tunnel.ipv4.ip if family == 4 else tunnel.ipv6.ip), visit.site]
    hops = traffic.trace(visit)
    require(hops == expected, f"hops {hops}, expected {expected}")
    return " → ".join(hops)


def each_side(stage: Stage, subscriber: int, family: int) -> str:
    """Ask the site who is there, and look at both wires meanwhile.

    The provider must see WireGuard and nothing else; the wire behind the node, and the site, an exit address only.
    """
    visit = stage.visit(subscriber, family)
    plan = stage.lab.plan.subscribers[subscriber]
    internet, port = stage.lab.plan.internet, stage.lab.plan.tunnels[plan.tunnel].listen_port
    with capture.Tap(internet, plan.provider_link) as near, capture.Tap(internet, TO_NODE) as far:
        told = _address_in(traffic.page(visit, "whoami"))
        provider, behind = _sightings(near), _sightings(far)
    outer = {str(seen.source) for seen in provider if _is_wireguard(seen, port) and str(seen.source) not in _NODE}
    plain = {f"{seen.source} to {seen.destination}" for seen in provider if not _is_wireguard(seen, port)}
    wire = {str(seen.source) for seen in behind if str(seen.destination) == visit.site}
    exits = set(stage.exits(family))
    require(len(outer) == 1, f"the provider saw WireGuard from {sorted(outer)}")
    require(not plain, f"the provider saw {sorted(plain)}")
    require(bool(wire) and wire <= exits, f"on the wire: {sorted(wire)}")
    require(told in exits, f"the site was visited by {told}")
    inner = str(plan.inner_ipv4 if family == 4 else plan.inner_ipv6)
    stage.seen.append(Seen(subscriber + 1, inner, outer.pop(), " ".join(sorted(wire)), visit.site, told))
    return f"sent from {inner}, the site saw {told}"


def _sightings(tap: capture.Tap) -> list[capture.Sighting]:
    """What has come, without neighbour discovery."""
    seen = (capture.sighting(frame) for frame in tap.frames())
    return [one for one in seen if one and one.protocol != socket.IPPROTO_ICMPV6]


def _is_wireguard(seen: capture.Sighting, port: int) -> bool:
    return seen.protocol == socket.IPPROTO_UDP and seen.ports is not None and port in seen.ports


def _address_in(answer: bytes) -> str:
    found = re.match(rb'\["([0-9a-f.:]+)", \d+\]', answer)
    if not found:
        raise Failed("the site gave no answer")
    return found[1].decode()


def sites_saw_exits_only(stage: Stage) -> str:
    """No service of any site was ever visited by an inner or outer address."""
    report = servers.ask(stage.lab.visitors)
    sources = {str(row["source"]) for row in report}
    allowed = set(stage.exits(4)) | set(stage.exits(6))
    require(bool(sources) and sources <= allowed, f"sources {sorted(sources)}")
    return f"{sum(int(row['count']) for row in report)} visits, from {', '.join(sorted(sources))} only"


def goes_by_entry(stage: Stage) -> str:
    """Multi-hop, in all four combinations of families. The wire of the entry must carry WireGuard alone."""
    lab, ways = stage.lab, [(here, there) for here in (4, 6) for there in (4, 6)]
    with multihop(lab) as far, capture.Tap(lab.plan.internet, TO_ENTRY) as tap:
        for here, there in ways:
            far.dial(here, there)
            visit = far.visit(SITES_IPV4[0] if there == 4 else SITES_IPV6[0])
            wait_until("the tunnel through two nodes", partial(_is_answered, visit))
            done = traffic.download(visit, min(stage.size, 4 << 20), lab.directory)
            require(done.whole, f"to the entry over IPv{here}, on over IPv{there}: {done.size} bytes, hash wrong")
        told = _address_in(traffic.page(visit, "whoami"))
        sites = {*SITES_IPV4, *SITES_IPV6}
        seen = [s for s in _sightings(tap) if {str(s.source), str(s.destination)} & sites]
    require(told in stage.exits(6), f"the site sees {told}, which is no exit address")
    require(not seen, f"{len(seen)} packets to or from a site at the entry node")
    return f"{len(ways)} combinations of IPv4 and IPv6, ports {PORTS[4]} and {PORTS[6]}; sites see {told}"


def _is_answered(visit: traffic.Visit) -> bool:
    return traffic.ping(visit, 1, wait=1) == 1
