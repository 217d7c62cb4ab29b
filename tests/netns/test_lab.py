"""The lab itself: it stands as drawn, hands out what a tester needs, and leaves nothing behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetplane.errors import ConfigurationError, JetplaneError, RequirementError
from jetplane.lab import capture, leftovers, namespaces, snapshot, topology, traffic
from jetplane.lab.addresses import NODE_IPV4, NODE_IPV6, TO_NODE, UPLINK, LabOptions, plan
from jetplane.lab.waiting import patience, wait_until

# A process that builds a lab, says its name and waits to be killed.
BUILDER = """
import signal
from jetplane.lab import topology
signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests in the background has it ignored
with topology.lab() as lab:
    print(lab.name, flush=True)
    signal.pause()
"""


@pytest.fixture
def builder(root: None) -> Iterator[subprocess.Popen[str]]:
    """A process with a lab of its own."""
    with subprocess.Popen([sys.executable, "-c", BUILDER], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def name_from(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert name, "the builder died"
    return name


def traces_of(name: str) -> list[str]:
    """Everything on the machine that still belongs to a lab."""
    directory = leftovers.DIRECTORY / name
    sockets = [str(path) for path in Path("/run/wireguard").glob(f"jl{name}*")]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line]
    processes = [str(pid) for pid in leftovers.processes(name, set())]
    return namespaces.names(f"jetlab-{name}-") + processes + sockets + mounts + [str(directory)] * directory.exists()


def test_a_lab_stands_as_drawn_and_leaves_nothing(root: None) -> None:
    with topology.lab() as lab:
        assert set(namespaces.names(f"jetlab-{lab.name}-")) == set(lab.plan.namespaces.values())
        for subscriber in lab.plan.subscribers:
            ping = ["ping", "-n", "-q", "-c", "1", "-W", "5", str(NODE_IPV4.ip)]
            assert namespaces.run(subscriber.namespace, ping, lab=lab.name, timeout=patience(10)).returncode == 0
    assert traces_of(lab.name) == []


def test_two_labs_of_one_process_stand_side_by_side(root: None) -> None:
    with topology.lab() as one, topology.lab() as other:
        assert one.name != other.name
        assert traces_of(one.name)
        assert traces_of(other.name)
    assert traces_of(one.name) + traces_of(other.name) == []


def test_a_failure_while_building_leaves_nothing(root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: topology.Lab) -> None:
        raise JetplaneError("no")

    monkeypatch.setattr(topology.Lab, "_make_clients", refuse)
    before = leftovers.labs()
    with pytest.raises(JetplaneError, match="no"), topology.lab():
        pass
    assert leftovers.labs() == before


def test_the_lab_of_a_killed_process_is_removed_by_the_next_start(builder: subprocess.Popen[str]) -> None:
    name = name_from(builder)
    assert len(traces_of(name)) > 6
    builder.kill()
    builder.wait()
    with topology.lab() as lab:
        assert lab.name != name
        assert traces_of(name) == []


def test_the_lab_of_a_living_process_is_not_touched(builder: subprocess.Popen[str]) -> None:
    name = name_from(builder)
    before = traces_of(name)
    leftovers.remove_abandoned()
    topology.down()
    assert traces_of(name) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_process_removes_its_lab_or_the_next_start_does(
    builder: subprocess.Popen[str], number: signal.Signals
) -> None:
    name = name_from(builder)
    builder.send_signal(number)
    builder.wait(patience(20))
    if number == signal.SIGTERM:  # ends Python at once, as kill -9 does
        leftovers.remove_abandoned()
    assert traces_of(name) == []


def test_a_directory_without_an_owner_is_removed_when_its_process_is_gone(root: None) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    leftovers.DIRECTORY.mkdir(exist_ok=True)
    (leftovers.DIRECTORY / str(ended.pid)).mkdir()
    assert str(ended.pid) in leftovers.remove_abandoned()


def test_the_capture_sees_a_foreign_source_and_ignores_the_nodes_own(root: None) -> None:
    with topology.lab() as lab:
        own = (*lab.plan.exit_ipv4, str(NODE_IPV4.ip), str(NODE_IPV6.ip))
        with capture.LeakWatch(lab.plan.internet, TO_NODE, own) as watch:
            for source in (lab.plan.exit_ipv4[0], "198.18.0.77", "100.64.1.2"):
                frame = capture.udp_frame(lab.plan.node, UPLINK, source, "192.0.2.10")
                capture.send_frame(lab.plan.node, UPLINK, frame, past_guards=False)
            seen: list[str] = []

            def both() -> bool:
                seen.extend(watch.leaks())
                return len(seen) >= 2

            wait_until("two frames", both)
            assert seen == ["source 198.18.0.77", "source 100.64.1.2"]


def test_a_snapshot_shows_what_was_left_behind(root: None) -> None:
    with topology.lab() as lab:
        before = snapshot.take(lab.plan.node)
        assert snapshot.compare(before, snapshot.take(lab.plan.node)) == []
        namespaces.write_sysctls(lab.plan.node, {"ipv4/ip_forward": 1})
        add = ["ip", "route", "add", "blackhole", "203.0.113.77"]
        assert namespaces.run(lab.plan.node, add, lab=lab.name, timeout=10).returncode == 0
        differences = "\n".join(snapshot.compare(before, snapshot.take(lab.plan.node)))
        assert "sysctl ipv4/ip_forward: 0 is now 1" in differences
        assert "203.0.113.77" in differences


@pytest.mark.timeout(600)
def test_up_leaves_a_lab_that_outlives_its_command_and_down_removes_it(root: None, download_size: int) -> None:
    """With plain Ethernet for tunnels, which is its other face; what stands is found in its JSON alone."""
    command = [sys.executable, "-m", "jetplane", "lab"]
    up = [*command, "up", "--json", "--peers", "3", "--transport", "veth"]
    done = subprocess.run(up, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    name = state["namespaces"]["node"].split("-")[1]
    try:
        assert json.loads((leftovers.DIRECTORY / name / "lab.json").read_text()) == state
        assert set(state["namespaces"]) == {"subscriber1", "subscriber2", "node", "internet"}
        assert [set(each) for each in state["subscribers"]] == [{"ipv4", "ipv6", "interface", "public_key"}] * 2
        assert {family: len(sites) for family, sites in state["internet"].items()} == {"ipv4": 2, "ipv6": 2}
        assert set(state["node"]) == {"exit_ipv4", "exit_ipv6", "config", "metrics", "wireguard", "pid"}
        assert "not a VPN" in state["node"]["wireguard"]
        assert "NOT A VPN" in Path(state["node"]["config"]).read_text()
        os.kill(state["node"]["pid"], 0)
        leftovers.remove_abandoned()
        for role, sites in itertools.product(("subscriber1", "subscriber2"), state["internet"].values()):
            for site in sites:
                there = traffic.Visit(name, state["namespaces"][role], site)
                assert traffic.udp_echo(there, 3) == 3
            assert traffic.download(there, download_size, leftovers.DIRECTORY / name).whole
    finally:
        down = subprocess.run([*command, "down", name], capture_output=True, text=True, check=False)
    assert down.returncode == 0, down.stderr
    assert traces_of(name) == []


def test_whoever_is_not_root_is_told_so(root: None) -> None:
    """In a child, since root cannot be had back."""
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            with topology.lab():
                os._exit(1)
        except RequirementError as error:
            os._exit(0 if str(error) == "lab: needs root" else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_missing_programs_are_named_by_their_packages(root: None) -> None:
    demo = [sys.executable, "-m", "jetplane", "demo"]
    done = subprocess.run(demo, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "curl, iputils-ping, traceroute, wireguard-tools are missing" in done.stderr
    assert "apt-get install" in done.stderr


def test_down_names_the_labs_that_stand_when_asked_for_another(root: None) -> None:
    with pytest.raises(JetplaneError, match="no such standing lab"):
        topology.down("0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tunnels": 3}, "expected 1, 2 or 4"),
        ({"exit_addresses": 0}, "expected 1 to 32"),
        ({"exit_addresses": 33}, "expected 1 to 32"),
        ({"first_exit": 33}, "expected 0 to 32"),
        ({"peers": -1}, "expected 0 to"),
        ({"peers": 200_000}, "expected 0 to"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        LabOptions(**options)  # type: ignore[arg-type]


def test_joined_labs_can_have_exit_addresses_of_their_own() -> None:
    one, other = (plan("1", LabOptions(exit_addresses=4, first_exit=first)) for first in (0, 4))
    assert len({*one.exit_ipv4, *other.exit_ipv4, *one.exit_ipv6, *other.exit_ipv6}) == 16


def test_no_two_addresses_of_a_plan_are_the_same() -> None:
    laid = plan("1", LabOptions(tunnels=4, peers=4000, exit_addresses=32))
    addresses = [address for pair in laid.idle_peers(4000) for address in pair]
    for subscriber in laid.subscribers:
        addresses += [subscriber.inner_ipv4, subscriber.inner_ipv6, subscriber.outer_ipv4.ip, subscriber.outer_ipv6.ip]
    for tunnel in laid.tunnels:
        addresses += [tunnel.ipv4.ip, tunnel.ipv6.ip]
    assert len(set(addresses)) == len(addresses)
    assert all(len(tunnel.name) <= 15 for tunnel in plan("4194304z", LabOptions(tunnels=4)).tunnels)
