"""Everything of a namespace that the network of a node changes: before and after must be the same.

The lab's snapshot says links, addresses, routes, rules, programs and sysctls; this adds offloads and proxies.
"""

from __future__ import annotations

import pyroute2

from jetplane.lab import namespaces
from jetplane.lab import snapshot as lab
from jetplane.lab.waiting import wait_until
from jetplane.network import features

compare = lab.compare

_TENTATIVE = 0x40  # linux/if_addr.h, IFA_F_TENTATIVE
_LINK = 253  # linux/rtnetlink.h, RT_SCOPE_LINK


def take(namespace: str) -> lab.Snapshot:
    """Describe a namespace: name → what it is, both readable."""
    return lab.take(namespace) | namespaces.inside(namespace, _offloads_and_proxies)


def wait_for_links(namespace: str, *names: str) -> None:
    """Wait until the kernel has done what it does of itself to a fresh interface; its own IPv6 address comes last."""

    def are_settled() -> bool:
        with pyroute2.IPRoute() as route:
            found = [a for n in names for a in route.get_addr(index=route.link_lookup(ifname=n)[0], family=10)]
        usable = {a["index"] for a in found if a["scope"] == _LINK and not a.get_attr("IFA_FLAGS") & _TENTATIVE}
        return len(usable) == len(names)

    wait_until(f"the links of {namespace}", lambda: namespaces.inside(namespace, are_settled))


def _offloads_and_proxies() -> lab.Snapshot:
    found = {}
    with pyroute2.IPRoute(strict_check=True) as route:
        for link in route.get_links():
            name = link.get_attr("IFLA_IFNAME")
            found |= {f"offload {name} {key}": str(state) for key, state in features.read_all(name).items()}
        for family in (2, 10):
            for proxy in route.neigh("dump", family=family, flags=8, dump_filter=lambda _: True):
                found[f"proxy {proxy.get_attr('NDA_DST')} on {proxy['ifindex']}"] = "present"
    return found
