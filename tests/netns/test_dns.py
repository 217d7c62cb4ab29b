"""A resolver on the node (dnsmasq), asked by a subscriber through WireGuard; and a policy that leaves him no other."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import socket
import struct
from collections.abc import Iterator

import pytest

from jetplane.lab import capture, namespaces, topology
from jetplane.lab.addresses import SITES_IPV4, SITES_IPV6, TO_NODE, LabOptions
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience
from tests.netns.resolvers import ADDRESS, LARGE, NAME, TEXTS, TYPE_A, TYPE_TXT, dnsmasq, query, service
from tests.netns.test_peers_report import reported

pytestmark = pytest.mark.timeout(300)

KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
SITES = {4: SITES_IPV4[0], 6: SITES_IPV6[0]}
SERVICE, STEERED = "steer = false", "steer = true"


@pytest.fixture(scope="module")
def asked(root: None) -> Iterator[Lab]:
    """A node with the service on the first of two tunnels, which every test sets as it needs it: most steer, so that
    little is compiled. Each subscriber has a tunnel of his own."""
    with topology.lab(LabOptions(tunnels=2)) as built:
        change(built, STEERED)
        built.start()
        yield built


@pytest.fixture
def resolved(asked: Lab) -> Iterator[Lab]:
    """And with a resolver that listens."""
    with dnsmasq(asked):
        yield asked


def change(lab: Lab, steer: str) -> bool:
    """Let the configuration say so; whether it did not before."""
    settings, addresses = lab.node.config, json.dumps(list(service(lab).values()))
    before = settings.read_text()
    wanted = f"{before.partition('[dns]')[0]}[dns]\nservice = true\naddresses = {addresses}\n{steer}\n"
    settings.write_text(wanted)
    return wanted != before


def reload(lab: Lab, steer: str) -> None:
    """The same on a node that runs, which knows what is in its file."""
    if change(lab, steer):
        done = lab.node.jetplane("reload")
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def asking(lab: Lab, address: str, kind: int = socket.SOCK_DGRAM, *, subscriber: int = 0) -> Iterator[socket.socket]:
    """A subscriber's socket that hears nobody but this resolver."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespaces.inside(lab.plan.subscribers[subscriber].namespace, lambda: socket.socket(family, kind)) as one:
        one.settimeout(patience(5))
        one.connect((address, 53))
        yield one


def ask(lab: Lab, address: str, message: bytes, kind: int = socket.SOCK_DGRAM, *, subscriber: int = 0) -> bytes:
    """What that resolver, and nobody else, answers. Raises OSError as the subscriber's kernel would tell it."""
    with asking(lab, address, kind, subscriber=subscriber) as one:
        if kind == socket.SOCK_DGRAM:
            one.send(message)
            return one.recv(65535)
        one.sendall(struct.pack(">H", len(message)) + message)
        (size,) = struct.unpack(">H", one.recv(2, socket.MSG_WAITALL))
        return one.recv(size, socket.MSG_WAITALL)


def answer(lab: Lab, address: str, kind: int = socket.SOCK_DGRAM, *, subscriber: int = 0) -> str:
    """The address that the resolver gives for NAME; else the name of the error."""
    try:
        told = ask(lab, address, query(NAME, TYPE_A), kind, subscriber=subscriber)
    except TimeoutError:
        return "TIMEOUT"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ADDRESS if socket.inet_aton(ADDRESS) in told else told.hex()


def test_with_steering_no_question_leaves_and_every_one_is_answered(resolved: Lab) -> None:
    reload(resolved, STEERED)
    checks = json.loads(resolved.node.jetplane("check", "--json").stdout)["checks"]
    assert [check["state"] for check in checks if check["name"] == "resolver"] == ["ok"]
    with capture.Tap(resolved.plan.internet, TO_NODE) as wire:
        asked = (*SITES_IPV4, *SITES_IPV6, "10.9.8.7", "2001:db8:77::1", *service(resolved).values())
        for site, kind, subscriber in itertools.product(asked, KINDS, (0, 1)):
            assert answer(resolved, site, kind, subscriber=subscriber) == ADDRESS, site
        large = ask(resolved, SITES[4], query(LARGE, TYPE_TXT)), ask(resolved, SITES[6], query(LARGE, TYPE_TXT))
        assert all(text.encode() in told for told in large for text in TEXTS), "answers in fragments are whole"
        seen = [one for frame in wire.frames() if (one := capture.sighting(frame))]
        assert wire.lost() == 0
    assert seen, "the tunnel itself is on this wire"
    assert not [one for one in seen if one.ports and 53 in one.ports]


def test_an_open_connection_is_in_the_report_and_nothing_is_left_of_questions_that_were_answered(resolved: Lab) -> None:
    reload(resolved, STEERED)
    for site in SITES.values():
        assert answer(resolved, site) == ADDRESS
    with asking(resolved, SITES[4], socket.SOCK_STREAM) as one:
        questions = reported(resolved, resolved.public_keys[0])["data_plane"]["questions"]
        mine = f"{resolved.plan.subscribers[0].inner_ipv4} port {one.getsockname()[1]}"
        assert [(q["protocol"], q["asked"]) for q in questions if q["inner"] == mine] == [("tcp", SITES[4])]
    assert not [q for q in questions if q["protocol"] == "udp"]
    judged = json.loads(resolved.node.jetplane("audit", "--json").stdout)
    assert {c["name"]: c["ok"] for c in judged["checks"] if c["name"].startswith("bpf-")} == dict.fromkeys(
        ("bpf-maps", "bpf-programs", "bpf-pins"), True
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [4, 6])
def test_a_resolver_that_is_down_is_told_at_once_as_if_by_whom_was_asked(asked: Lab, family: int, kind: int) -> None:
    reload(asked, STEERED)
    assert answer(asked, SITES[family], kind) == "ECONNREFUSED"
    assert answer(asked, service(asked)[family], kind) == "ECONNREFUSED"


def test_steering_ends_with_a_reload_and_the_service_stays(resolved: Lab) -> None:
    """At the sites nobody listens at port 53, and the subscriber hears so from there."""
    reload(resolved, STEERED)
    assert answer(resolved, SITES[4]) == ADDRESS
    reload(resolved, SERVICE)
    for family in (4, 6):
        for kind in KINDS:
            assert answer(resolved, service(resolved)[family], kind) == ADDRESS
            assert answer(resolved, SITES[family], kind) == "ECONNREFUSED"
    attached = {one["program"] for one in resolved.node.status()["programs"]}
    assert "dns_answer" not in attached and "nat_out" in attached
