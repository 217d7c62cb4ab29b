"""What a namespace looks like from outside: taken before and after, it shows what somebody left behind."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyroute2

from jetplane.lab import namespaces

Snapshot = dict[str, str]
"""A name for each thing → what it is, both readable."""

_SYSCTLS = Path("/proc/sys/net")
_CLONED = 0x200  # linux/rtnetlink.h, RTM_F_CLONED: a cached route
_VOLATILE = ("nf_conntrack_count", "route/flush", "fib_notify_on_flag_change")
_TCA_BPF_ID = 11  # linux/pkt_cls.h; pyroute2 does not know it
_CLSACT = (0xFFFF0000 | 0xFFF2, 0xFFFF0000 | 0xFFF3)  # ingress and egress of clsact


def take(namespace: str) -> Snapshot:
    """Describe links, addresses, routes, rules, traffic control and sysctls of a namespace."""
    return namespaces.inside(namespace, _take)


def compare(before: Snapshot, after: Snapshot) -> list[str]:
    """Return one line for each difference."""
    gone = [f"gone: {name} {before[name]}" for name in before if name not in after]
    new = [f"new: {name} {after[name]}" for name in after if name not in before]
    changed = [
        f"changed: {name}: {value} is now {after[name]}"
        for name, value in before.items()
        if name in after and after[name] != value
    ]
    return gone + new + changed


def program_ids(namespace: str) -> dict[str, int]:
    """Return the ids of the BPF programs attached in the namespace, by interface and hook."""

    def look() -> dict[str, int]:
        with pyroute2.IPRoute() as route:
            found = {}
            for link in route.get_links():
                name, xdp = link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_XDP")
                if xdp and xdp.get_attr("IFLA_XDP_PROG_ID"):
                    found[f"{name} xdp"] = xdp.get_attr("IFLA_XDP_PROG_ID")
                for parent, hook in zip(_CLSACT, ("ingress", "egress"), strict=True):
                    for tc_filter in _filters(route, link["index"], parent):
                        found[f"{name} {hook}"] = _program_id(tc_filter.get_attr("TCA_OPTIONS"))
            return found

    return namespaces.inside(namespace, look)


def _take() -> Snapshot:
    found: Snapshot = {}
    with pyroute2.IPRoute() as route:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
        for link in route.get_links():
            name = names[link["index"]]
            xdp = link.get_attr("IFLA_XDP")
            found[f"link {name}"] = (
                f"mtu {link.get_attr('IFLA_MTU')} flags {link['flags']:#x} promiscuity "
                f"{link.get_attr('IFLA_PROMISCUITY')} xdp {xdp.get_attr('IFLA_XDP_ATTACHED') if xdp else 0}"
            )
            for parent, hook in zip(_CLSACT, ("ingress", "egress"), strict=True):
                for number, _ in enumerate(_filters(route, link["index"], parent)):
                    found[f"filter {name} {hook} {number}"] = "present"
        for qdisc in route.get_qdiscs():
            found[f"qdisc {names.get(qdisc['index'])} {qdisc['parent']:#x}"] = str(qdisc.get_attr("TCA_KIND"))
        for address in route.get_addr():
            text = f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
            found[f"address {text} on {names.get(address['index'])}"] = f"flags {address.get_attr('IFA_FLAGS'):#x}"
        found |= {f"route {_words(r, _ROUTE, names)}": _kind(r) for r in route.get_routes() if not r["flags"] & _CLONED}
        for family in (2, 10):
            found |= {f"rule {_words(rule, _RULE, names)}": "present" for rule in route.get_rules(family=family)}
    return found | _sysctls()


_ROUTE = ("DST", "TABLE", "GATEWAY", "OIF", "PRIORITY", "PREFSRC")
_RULE = ("PRIORITY", "IIFNAME", "OIFNAME", "SRC", "DST", "FWMARK", "FWMASK", "TABLE")


def _words(message: Any, attributes: Iterable[str], names: dict[int, str]) -> str:
    prefix = "RTA" if attributes is _ROUTE else "FRA"
    words = [f"inet{'6' if message['family'] == 10 else '4'}"]
    for attribute in attributes:
        value = message.get_attr(f"{prefix}_{attribute}")
        if value is not None:
            words.append(f"{attribute.lower()} {names.get(value, value) if attribute == 'OIF' else value}")
    return " ".join(words) + f"/{message['dst_len']}" + ("" if prefix == "RTA" else f" action {message['action']}")


def _kind(route: Any) -> str:
    return f"type {route['type']} proto {route['proto']} scope {route['scope']}"


def _filters(route: pyroute2.IPRoute, index: int, parent: int) -> list[Any]:
    return [f for f in route.get_filters(index=index, parent=parent) if f.get_attr("TCA_OPTIONS")]


def _program_id(options: Any) -> int:
    for name, value in options["attrs"]:
        if name == "UNKNOWN" and value["header"]["type"] == _TCA_BPF_ID:
            return int.from_bytes(value.data[value.offset + 4 : value.offset + 8], sys.byteorder)
    return 0


def _sysctls() -> Snapshot:
    found: Snapshot = {}
    for path in _SYSCTLS.rglob("*"):
        if path.is_file() and not str(path).endswith(_VOLATILE):
            with contextlib.suppress(OSError):  # some can only be written
                found[f"sysctl {path.relative_to(_SYSCTLS)}"] = path.read_text(errors="replace").strip()
    return found
