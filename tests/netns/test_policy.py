"""Where subscribers may not go, as their own programs hear of it, and a policy that changes under a running node."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from jetplane.lab import namespaces, topology, traffic
from jetplane.lab.addresses import GATEWAY_IPV4, GATEWAY_IPV6, SITES_IPV4, SITES_IPV6, LabOptions
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, wait_until

pytestmark = pytest.mark.timeout(300)

PROHIBITED = {4: errno.EHOSTUNREACH, 6: errno.EACCES}
"""What Linux makes of "administratively prohibited": icmp_err_convert in net/ipv4/icmp.c, tab_unreach in net/ipv6."""
REFUSED = errno.ECONNREFUSED
SITES = (SITES_IPV4[0], SITES_IPV6[0])
GATEWAYS = (str(GATEWAY_IPV4.ip), str(GATEWAY_IPV6.ip))


@pytest.fixture(scope="module")
def policed(root: None) -> Iterator[Lab]:
    with topology.lab(LabOptions(transport="veth")) as built:
        built.start()
        yield built


def connect(lab: Lab, address: str, port: int) -> int:
    """What a subscriber's kernel says to a TCP connection: an errno, 0 when it stands."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    namespace = lab.plan.subscribers[0].namespace
    with namespaces.inside(namespace, lambda: socket.socket(family, socket.SOCK_STREAM)) as one:
        one.settimeout(patience(5))
        return one.connect_ex((address, port))


def answers(lab: Lab, address: str) -> bool:
    return traffic.ping(traffic.Visit(lab.name, lab.plan.subscribers[0].namespace, address), 1, wait=1) == 1


def change(lab: Lab, policy: str) -> None:
    """Let this be the whole [policy], and the node follow it."""
    settings = lab.node.config
    text = settings.read_text().partition("[policy]")[0]
    settings.write_text(f"{text}[policy]\n{policy}\n")
    lab.node.reload()


@pytest.mark.parametrize(
    ("address", "port"),
    [("10.1.2.3", 80), ("100.64.9.9", 80), ("fd00:ec2::254", 80), ("64:ff9b::a00:1", 80)]
    + [(site, 25) for site in SITES]
    + [(gateway, 80) for gateway in GATEWAYS],
)
def test_what_is_denied_is_told_at_once(policed: Lab, address: str, port: int) -> None:
    """Private networks, metadata services, mail, and who is on the link of the node."""
    before = policed.node.status()["counters"]
    assert connect(policed, address, port) == PROHIBITED[6 if ":" in address else 4]
    after = policed.node.status()["counters"]
    reason = "POLICY_PORT" if port == 25 else "POLICY_DESTINATION"
    assert after[reason] > before[reason]


@pytest.mark.parametrize("site", SITES)
def test_other_ports_of_the_same_site_are_reached(policed: Lab, site: str) -> None:
    assert connect(policed, site, 24) == REFUSED


def test_a_changed_policy_holds_for_what_is_under_way_too(policed: Lab) -> None:
    """And what is denied in silence is not answered, what is allowed is."""
    assert all(answers(policed, site) for site in SITES)
    denied = ", ".join(f'"{site}"' for site in SITES)
    allowed = ", ".join(f'"{gateway}"' for gateway in GATEWAYS)

    change(policed, f'deny = [{denied}]\nallow = [{allowed}]\ndeny_ports = []\nanswer = "silence"')
    wait_until("the policy to hold", lambda: not any(answers(policed, site) for site in SITES))
    assert all(answers(policed, gateway) for gateway in GATEWAYS)
    assert connect(policed, SITES_IPV4[1], 25) == REFUSED
    before = policed.node.status()["counters"]["POLICY_DESTINATION"]
    assert connect(policed, SITES[0], 80) in (errno.EAGAIN, errno.ETIMEDOUT)
    assert policed.node.status()["counters"]["POLICY_DESTINATION"] > before

    change(policed, 'deny = ["nowhere"]')
    told = policed.node.jetplane("reload").stderr.decode()
    assert 'policy.deny = "nowhere": expected a prefix' in told
    assert not any(answers(policed, site) for site in SITES), "the old policy is still in force"

    change(policed, "")
    wait_until("the policy to be lifted", lambda: all(answers(policed, site) for site in SITES))
