"""What happens to a peer in its life on a node, as its subscriber and its operator see it, over real WireGuard."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jetplane.admin import client
from jetplane.lab import namespaces, topology, traffic
from jetplane.lab.addresses import SITES_IPV4, SITES_IPV6, LabOptions
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, slowness, wait_until
from tests.netns.test_wireguard_secrets import found

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lab(root: None) -> Iterator[Lab]:
    """One tunnel, two subscribers, ten idle peers."""
    with topology.lab(LabOptions(peers=10)) as built:
        built.start()
        yield built


@pytest.fixture
def both(lab: Lab) -> Iterator[Lab]:
    """The same, with both subscribers connected; afterwards the peers are as they were."""
    peers, config = lab.node.peers.read_text(), lab.node.config.read_text()
    for number in (0, 1):
        connect(lab, number)
    yield lab
    lab.node.peers.write_text(peers)
    if lab.node.config.read_text() != config:
        lab.node.config.write_text(config)
        ask(lab, "POST", "/v1/reload")


def ask(lab: Lab, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return client.ask(lab.node.run_directory, method, path, body, seconds=patience(30))


def visit(lab: Lab, subscriber: int, family: int = 4) -> traffic.Visit:
    site = SITES_IPV4[0] if family == 4 else SITES_IPV6[0]
    return traffic.Visit(lab.name, lab.plan.subscribers[subscriber].namespace, site)


def wg(lab: Lab, subscriber: int, *arguments: str | Path) -> str:
    plan = lab.plan.subscribers[subscriber]
    command = ["wg", *(plan.interface if part == "IF" else part for part in arguments)]
    done = namespaces.run(plan.namespace, command, lab=lab.name, timeout=patience(10))
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def handshake_anew(lab: Lab, subscriber: int) -> None:
    """As a user who connects again: the client forgets its session. Its configuration is what the lab has written."""
    interface = lab.plan.subscribers[subscriber].interface
    wg(lab, subscriber, "setconf", "IF", lab.directory / f"{interface}.conf")


def connect(lab: Lab, subscriber: int) -> None:
    handshake_anew(lab, subscriber)
    wait_until("the tunnel", lambda: traffic.ping(visit(lab, subscriber), 1, wait=1) == 1, seconds=30)


def edit_peer(lab: Lab, subscriber: int, line: str) -> None:
    """Put a line into the record of a subscriber."""
    key = f'public_key = "{lab.public_keys[subscriber]}"\n'
    text = lab.node.peers.read_text()
    assert text.count(key) == 1
    lab.node.peers.write_text(text.replace(key, f"{key}{line}\n"))


def observed(lab: Lab) -> int:
    return sum(tunnel["observed"] for tunnel in ask(lab, "GET", "/v1/status")["tunnels"])


def live_bindings(lab: Lab, subscriber: int) -> int:
    """Bindings that the data plane holds of a subscriber's addresses."""
    plan = lab.plan.subscribers[subscriber]
    mine = {plan.inner_ipv4.packed, plan.inner_ipv6.packed}
    from jetplane import config
    from jetplane.dataplane.node import DataPlane

    def count() -> int:
        dataplane = DataPlane(config.load(lab.node.config))
        try:
            keys = [bytes(key)[:16] for key, _ in dataplane._map("endpoints").items()]
        finally:
            dataplane.close()
        return sum(key[12:] in mine or key in mine for key in keys)

    return namespaces.inside(lab.plan.node, count)


def test_a_peer_is_cut_off_at_the_second_it_expires_and_does_not_come_back(both: Lab) -> None:
    before = observed(both)
    with traffic.Stream(visit(both, 0)) as stream, traffic.Stream(visit(both, 1)) as other:
        stream.wait_for_more(100_000, seconds=30)
        at = int(time.time() + patience(2)) + 1
        edit_peer(both, 0, f"expires_at = {datetime.fromtimestamp(at, UTC).isoformat()}")
        offset = time.time() - time.monotonic()
        stream.wait_for_silence(min(slowness(), 3), seconds=30)
        ended = stream.last_arrival + offset
        assert at - 0.5 * slowness() < ended < at + 0.5 * slowness()
        began = time.monotonic()
        other.wait_for_more(100_000, seconds=30)
        assert other.longest_gap(began) < 0.5 * slowness()
    assert observed(both) == before - 1
    edit_peer(both, 1, "# the file is read again")
    ask(both, "POST", "/v1/reload")
    assert observed(both) == before - 1
    listed = json.loads(both.node.jetplane("peers", "list", "--json").stdout)["peers"]
    assert both.public_keys[0] not in {row["public_key"] for row in listed}
    handshake_anew(both, 0)
    assert traffic.ping(visit(both, 0), 2, wait=1) == 0
    wait_until("its bindings to be gone", lambda: live_bindings(both, 0) == 0, seconds=5)


def test_a_record_that_has_expired_is_never_applied(both: Lab) -> None:
    before = observed(both)
    edit_peer(both, 0, "expires_at = 2001-01-01T00:00:00Z")
    wait_until("the peer to go", lambda: observed(both) == before - 1, seconds=10)


def test_a_restricted_peer_keeps_its_record_and_has_no_traffic_until_that_is_lifted(both: Lab) -> None:
    before, text = observed(both), both.node.peers.read_text()
    with traffic.Stream(visit(both, 0)) as stream:
        stream.wait_for_more(100_000, seconds=30)
        assert both.node.jetplane("peers", "set", both.public_keys[0], "--restricted").returncode == 0
        stream.wait_for_silence(min(slowness(), 3), seconds=30)
    assert observed(both) == before - 1
    listed = json.loads(both.node.jetplane("peers", "list", "--json").stdout)["peers"]
    assert {row["public_key"] for row in listed if row["restricted"]} == {both.public_keys[0]}
    handshake_anew(both, 0)
    assert traffic.ping(visit(both, 0), 2, wait=1) == 0
    wait_until("its bindings to be gone", lambda: live_bindings(both, 0) == 0, seconds=5)
    assert both.node.jetplane("peers", "set", both.public_keys[0], "--no-restricted").returncode == 0
    connect(both, 0)
    both.node.peers.write_text(text)
    assert observed(both) == before


def test_a_key_is_forgotten_without_a_controller_too(both: Lab) -> None:
    """The data plane goes on without it, so a peer would, too."""
    key = both.public_keys[1]
    assert both.node.stop() == 0
    try:
        with traffic.Stream(visit(both, 1)) as stream:
            stream.wait_for_more(100_000, seconds=30)
            done = both.node.jetplane("peers", "forget", key, "--json")
            assert json.loads(done.stdout) == {"forgotten": True, "record": "removed", "running": False}
            stream.wait_for_silence(min(slowness(), 3))
        assert live_bindings(both, 1) == 0
        assert key not in both.node.peers.read_text()
    finally:
        both.node.start()


NAMES = ("node.log", "run/status.json", "run/journal.json")


def test_a_forgotten_key_is_gone_within_a_second_and_nothing_names_it(both: Lab) -> None:
    key = both.public_keys[0]
    with traffic.Stream(visit(both, 0)) as stream:
        stream.wait_for_more(100_000, seconds=30)
        assert live_bindings(both, 0) > 0
        began = time.monotonic()
        told = ask(both, "POST", "/v1/forget", {"public_key": key})
        took = time.monotonic() - began
        assert told == {"forgotten": True, "record": "removed"}
        assert took < slowness()
        stream.wait_for_silence(min(slowness(), 3))
        assert stream.last_arrival - began < slowness()
    assert live_bindings(both, 0) == 0
    assert key not in both.node.peers.read_text()
    dump = ["wg", "show", both.plan.tunnels[0].name, "dump"]
    assert key not in namespaces.run(both.plan.node, dump, lab=both.name, timeout=patience(10)).stdout.decode()
    _assert_nobody_names(both, key)
    again = both.node.jetplane("peers", "forget", key)
    assert again.returncode == 1
    assert b"no peer with this public key" in again.stderr


def _assert_nobody_names(lab: Lab, key: str) -> None:
    """The key or an address of the subscriber, in what the node writes, says or remembers."""
    plan = lab.plan.subscribers[0]
    words = [key, b64decode(key).hex(), str(plan.inner_ipv4), str(plan.inner_ipv6)]
    said = [path.read_text() for path in lab.directory.rglob("*") if path.name in {Path(n).name for n in NAMES}]
    assert len(said) >= len(NAMES)
    said += [json.dumps(ask(lab, "GET", path)) for path in ("/v1/status", "/v1/sessions", "/v1/peers")]
    said.append(lab.node.jetplane("status").stdout.decode())
    for text, word in itertools.product(said, words):
        assert not re.search(rf"(?<![\w.:]){re.escape(word)}(?![\w.:])", text)


def test_the_controllers_memory_does_not_name_a_forgotten_key(both: Lab) -> None:
    """The control: another peer's key is there."""
    key, other = (b64decode(one) for one in both.public_keys)
    assert _in_memory(both, other), "the control"
    ask(both, "POST", "/v1/forget", {"public_key": both.public_keys[0]})
    assert _in_memory(both, key) == set()


def _in_memory(lab: Lab, key: bytes) -> set[str]:
    from base64 import b64encode

    return found(lab.node.pid, {"binary": key, "base64": b64encode(key)[:40], "hex": key.hex().encode()})


def test_a_draining_node_takes_nobody_new_keeps_who_is_there_and_counts_them(both: Lab) -> None:
    with traffic.Stream(visit(both, 1)) as stream:
        stream.wait_for_more(100_000, seconds=30)
        told = json.loads(both.node.jetplane("drain", "--no-wait", "--json").stdout)
        name = both.plan.tunnels[0].name
        assert told["draining"] == [name]
        assert told["sessions"] == {name: 2}
        assert not told["drained"]
        began = time.monotonic()
        before = ask(both, "GET", "/v1/status")["counters"]["DRAINING"]
        handshake_anew(both, 0)
        assert traffic.ping(visit(both, 0), 2, wait=1) == 0, "a new session began"
        assert ask(both, "GET", "/v1/status")["counters"]["DRAINING"] > before
        stream.wait_for_more(100_000, seconds=30)
        assert stream.longest_gap(began) < 0.5 * slowness(), "who is there stays"
        both.node.kill()
        both.node.start()
        assert ask(both, "GET", "/v1/sessions")["draining"] == [name], "the next controller goes on"
        both.node.jetplane("peers", "remove", *both.public_keys)
        stream.wait_for_silence(min(slowness(), 3))
    told = json.loads(both.node.jetplane("drain", "--json").stdout)
    assert (told["drained"], told["sessions"]) == (True, {name: 0})
    said = f"{name}: drained, the last session has ended"
    wait_until("the controller to say so", lambda: said in both.node.log.read_text(), seconds=20)
    ended = both.node.jetplane("undrain", "--json")
    assert json.loads(ended.stdout)["draining"] == []


def test_a_tunnel_that_is_not_there_cannot_drain(both: Lab) -> None:
    done = both.node.jetplane("drain", "nosuch0")
    assert done.returncode == 1
    assert b"there is none of this name" in done.stderr
    assert ask(both, "GET", "/v1/sessions")["draining"] == []


def test_a_plan_changes_while_a_flow_goes_on(both: Lab) -> None:
    """The rate of the new plan holds at once, and the flow keeps its session and its binding."""
    with traffic.Stream(visit(both, 0)) as stream:
        stream.wait_for_more(200_000, seconds=30)
        counters = ask(both, "GET", "/v1/status")["counters"]
        with both.node.config.open("a") as file:
            file.write("\n[plan.slow]\nup_mbit = 1\ndown_mbit = 1\n")
        ask(both, "POST", "/v1/reload")
        edit_peer(both, 0, 'plan = "slow"')
        drops = counters["RATE"]
        wait_until("the rate", lambda: ask(both, "GET", "/v1/status")["counters"]["RATE"] > drops, seconds=30)
        began = time.monotonic()
        stream.wait_for_more(50_000, seconds=30)
        assert stream.longest_gap(began) < 2 * slowness()
        assert ask(both, "GET", "/v1/status")["counters"]["STALE_PEER"] == counters["STALE_PEER"]


def test_a_preshared_key_changes_while_a_flow_goes_on(both: Lab) -> None:
    """The session stays; the next handshake takes the new key, and fails without it."""
    psk = subprocess.run(["wg", "genpsk"], capture_output=True, check=True, text=True).stdout.strip()
    secret = both.directory / "psk"
    secret.write_text(psk)
    node_key = wg(both, 0, "show", "IF", "peers").strip()
    with traffic.Stream(visit(both, 0)) as stream:
        stream.wait_for_more(100_000, seconds=30)
        before, began = _handshake(both, 0), time.monotonic()
        generation = ask(both, "GET", "/v1/status")["generation"]
        edit_peer(both, 0, f'preshared_key = "{psk}"')
        wait_until("the change", lambda: ask(both, "GET", "/v1/status")["generation"] > generation)
        stream.wait_for_more(200_000, seconds=30)
        assert stream.longest_gap(began) < 0.5 * slowness()
        assert _handshake(both, 0) == before, "the session is the same"
    handshake_anew(both, 0)
    assert traffic.ping(visit(both, 0), 2, wait=1) == 0, "a handshake without the new key succeeded"
    endpoint = wg(both, 0, "show", "IF", "endpoints").split()[1]
    wg(both, 0, "set", "IF", "peer", node_key, "remove")
    known = ("endpoint", endpoint, "allowed-ips", "0.0.0.0/0,::/0")
    wg(both, 0, "set", "IF", "peer", node_key, "preshared-key", secret, *known)
    wait_until("the new key to be used", lambda: traffic.ping(visit(both, 0), 1, wait=1) == 1, seconds=30)


def _handshake(lab: Lab, subscriber: int) -> str:
    return wg(lab, subscriber, "show", "IF", "latest-handshakes").split()[1]


def test_the_nodes_key_changes_while_flows_go_on(lab: Lab) -> None:
    """Old and new side by side: who moves over keeps flow and binding, who does not is served until the end.

    The last of this file: it leaves another tunnel behind.
    """
    for number in (0, 1):
        connect(lab, number)
    plan, home = lab.plan, lab.plan.tunnels[0]
    new = subprocess.run(["wg", "genkey"], capture_output=True, check=True, text=True).stdout
    public = subprocess.run(["wg", "pubkey"], input=new, capture_output=True, check=True, text=True).stdout.strip()
    (lab.directory / "new.key").touch(mode=0o600)
    (lab.directory / "new.key").write_text(new)
    before = lab.node.config.read_text()
    second = (
        f'\n[[tunnel]]\nname = "{home.name}n"\nlisten_port = {home.listen_port + 50}\nprivate_key_file = "new.key"\n'
    )
    lab.node.config.write_text(before + second + f'follows = "{home.name}"\n')
    ask(lab, "POST", "/v1/reload")
    tunnels = ask(lab, "GET", "/v1/status")["tunnels"]
    assert [tunnel["wanted"] for tunnel in tunnels] == [tunnel["observed"] for tunnel in tunnels] == [12, 12]

    def move(subscriber: int) -> None:
        old = wg(lab, subscriber, "show", "IF", "endpoints").split()
        endpoint = f"{old[1].rpartition(':')[0]}:{home.listen_port + 50}"
        wg(lab, subscriber, "set", "IF", "peer", old[0], "remove")
        allowed = ("allowed-ips", "0.0.0.0/0,::/0")
        wg(lab, subscriber, "set", "IF", "peer", public, "endpoint", endpoint, *allowed, "persistent-keepalive", "5")

    with traffic.Stream(visit(lab, 0)) as moving, traffic.Stream(visit(lab, 1, 6)) as staying:
        for stream in (moving, staying):
            stream.wait_for_more(100_000, seconds=30)
        created = ask(lab, "GET", "/v1/status")["counters"]["BINDINGS_CREATED"]
        began = time.monotonic()
        move(0)
        assert traffic.ping(visit(lab, 0), 1) == 1, "its first packet takes all its flows along"
        for stream in (moving, staying):
            stream.wait_for_more(500_000, seconds=30)
        assert moving.longest_gap(began) < 2 * slowness()
        assert staying.longest_gap(began) < 0.5 * slowness()
        assert ask(lab, "GET", "/v1/status")["counters"]["BINDINGS_CREATED"] == created + 1, "the ping's"
        counts = ask(lab, "GET", "/v1/sessions")["sessions"]
        assert counts[f"{home.name}n"] == 1

        ask(lab, "POST", "/v1/drain", {"tunnels": [home.name]})
        handshake_anew(lab, 1)
        assert traffic.ping(visit(lab, 1), 1, wait=1) == 0, "the old key takes nobody new"
        began = time.monotonic()
        table = re.search(r"\n\[\[tunnel\]\].*?(?=\n\[)", before, re.DOTALL)
        assert table is not None
        addresses = re.search(r"\naddresses = .*", table[0])
        assert addresses is not None
        lab.node.config.write_text(before.replace(table[0], second.rstrip("\n") + addresses[0] + f"\nmtu = {1420}\n"))
        ask(lab, "POST", "/v1/reload")
        moving.wait_for_more(500_000, seconds=30)
        assert moving.longest_gap(began) < 2 * slowness(), "the old tunnel went, and nobody noticed"
        assert [t["name"] for t in ask(lab, "GET", "/v1/status")["tunnels"]] == [f"{home.name}n"]
        move(1)
        wait_until("the other one", lambda: traffic.ping(visit(lab, 1), 1, wait=1) == 1, seconds=30)
    assert namespaces.run(plan.node, ["ip", "link", "show", home.name], lab=lab.name, timeout=10).returncode == 1
