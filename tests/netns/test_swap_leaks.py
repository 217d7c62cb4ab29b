"""Whatever is missing, half loaded or being exchanged: nothing leaves a node with a source that is not its own.

A subscriber sends all the time while a capture on the site's side looks for sources that are neither exit addresses
nor the node's. Losses are counted where there should be none.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyroute2
import pytest

from jetplane.dataplane import bpf
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.programs import ProgramType
from jetplane.errors import JetplaneError
from jetplane.lab import namespaces, snapshot, topology
from jetplane.lab.addresses import NODE_IPV4, NODE_IPV6, TO_NODE, UPLINK, LabOptions
from jetplane.lab.capture import LeakWatch
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, wait_until
from jetplane.preflight import probe
from tests.netns import nat_place as place
from tests.netns.chatter import Chatter, chatter

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def built(root: None) -> Iterator[Lab]:
    """Real tunnels, two exit addresses of each family, and a node that has not been started."""
    with topology.lab(LabOptions(exit_addresses=2)) as made:
        yield made


@pytest.fixture(scope="module")
def theirs(built: Lab) -> int:
    """An XDP program of somebody's on the uplink, which lets everything pass and is to give way; its id."""

    def put() -> int:
        with bpf.opened(probe.load(ProgramType.XDP, returns=2, name="other")) as fd, Links() as links:
            links.set_xdp(interface_index(UPLINK), fd, "native")
            return bpf.prog_info(fd).id

    built.node.config.write_text(
        built.node.config.read_text().replace("[uplink]\n", "[uplink]\nreplace_foreign_xdp = true\n")
    )
    return namespaces.inside(built.plan.node, put)


@pytest.fixture(scope="module")
def lab(built: Lab, theirs: int) -> Lab:
    """A running node."""
    built.start()
    assert f"WARNING XDP program other (id {theirs}) on {UPLINK} gives way to the guard" in built.node.log.read_text()
    return built


@pytest.fixture(scope="module")
def talk(lab: Lab) -> Iterator[Chatter]:
    """The subscriber that sends through all of this."""
    with chatter(lab) as made:
        yield made


@pytest.fixture
def watch(lab: Lab) -> Iterator[LeakWatch]:
    """Nothing may leak in a test that asks for this."""
    own = (*lab.plan.exit_ipv4, *lab.plan.exit_ipv6, str(NODE_IPV4.ip), str(NODE_IPV6.ip))
    with LeakWatch(lab.plan.internet, TO_NODE, own) as made:
        yield made
        assert made.leaks() == []
        assert made.lost() == 0


def test_nothing_leaks_and_nothing_is_lost_while_programs_are_exchanged(
    lab: Lab, watch: LeakWatch, talk: Chatter
) -> None:
    """Changed settings are constants of new programs, compiled and put in the place of the old ones."""
    since = dict(talk.sent)
    for filtering in ("address-and-port", "address"):
        place.set_filtering([lab], filtering)
    assert talk.lost(since) == {4: 0, 6: 0}


def test_nothing_leaks_and_nothing_is_lost_when_the_controller_is_killed(
    lab: Lab, watch: LeakWatch, talk: Chatter
) -> None:
    since = dict(talk.sent)
    for _ in range(3):
        lab.node.kill()
        talk.wait_for_more(20)
        lab.node.start()
    assert talk.lost(since) == {4: 0, 6: 0}


def test_nothing_leaks_when_the_controller_is_killed_in_the_middle_of_an_exchange(
    lab: Lab, watch: LeakWatch, talk: Chatter
) -> None:
    """While it compiles, and as soon as one program is another: the next one finds whatever the last one left."""
    for moment in (_compiling, _exchanging):
        reached = moment(lab)
        lab.node.config.write_text(_other_refresh(lab.node.config.read_text()))
        lab.node.reload()
        _wait_closely(reached)
        lab.node.kill()
        lab.node.start()
        talk.wait_for_arrivals()


def _wait_closely(holds: Callable[[], bool]) -> None:
    """As wait_until, for moments that are short."""
    deadline = time.monotonic() + patience(60)
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def _compiling(lab: Lab) -> Callable[[], bool]:
    """From now on the daemon has one more child."""
    listed = Path(f"/proc/{lab.node.pid}/task/{lab.node.pid}/children")
    before = set(listed.read_text().split())
    return lambda: bool(set(listed.read_text().split()) - before)


def _exchanging(lab: Lab) -> Callable[[], bool]:
    """From now on one of the programs is another."""
    before = snapshot.program_ids(lab.plan.node)
    return lambda: snapshot.program_ids(lab.plan.node) != before


def _other_refresh(text: str) -> str:
    """Change a setting that is a constant of the programs."""
    extra = "inbound_refresh = true\n"
    return text.replace(extra, "") if extra in text else text.replace("[nat]\n", f"[nat]\n{extra}")


PROGRAMS = ("nat_out", "nat_in", "leak_guard", "guard")


def test_nothing_leaks_whichever_programs_are_missing(lab: Lab, watch: LeakWatch, talk: Chatter) -> None:
    """One after the other goes, each of them first in some round, while nobody mends; then the node mends itself."""
    for turn in range(2 * len(PROGRAMS)):
        order = PROGRAMS[turn % len(PROGRAMS) :] + PROGRAMS[: turn % len(PROGRAMS)]
        with _frozen(lab):
            for program in order:
                _detach(lab, program)
                talk.wait_for_more(5)
        talk.wait_for_arrivals()


@contextmanager
def _frozen(lab: Lab) -> Iterator[None]:
    """Nobody mends the node meanwhile; afterwards it must mend itself."""
    try:
        with lab.node.frozen():
            yield
    finally:
        lab.node.reload()
        wait_until("the node to mend itself", lambda: _is_healthy(lab), seconds=60)


def _detach(lab: Lab, program: str) -> None:
    tunnel = lab.plan.tunnels[0].name
    command = {
        "nat_out": ("tc", "filter", "del", "dev", tunnel, "ingress"),
        "nat_in": ("tc", "filter", "del", "dev", UPLINK, "ingress"),
        "leak_guard": ("tc", "filter", "del", "dev", UPLINK, "egress"),
        "guard": ("ip", "link", "set", "dev", UPLINK, "xdp", "off"),
    }
    said = place.program(lab, lab.plan.node, *command[program])
    assert not said, said


def test_nothing_leaks_when_all_that_is_pinned_is_gone(lab: Lab, watch: LeakWatch, talk: Chatter) -> None:
    """What is attached lives on; the controller finds the maps by it, and makes the programs anew."""
    before = _pinned(lab)
    for pinned in before:
        pinned.unlink()
    talk.wait_for_more(20)
    lab.node.reload()
    wait_until("the node to mend itself", lambda: _pinned(lab) == before and _is_healthy(lab), seconds=60)
    talk.wait_for_arrivals()


def _is_healthy(lab: Lab) -> bool:
    """Who asks while maps are being made anew may find none."""
    try:
        return lab.node.report().healthy
    except JetplaneError:
        return False


def _pinned(lab: Lab) -> list[Path]:
    """Maps and programs; not what gave way to the guard: that is nobody's to make anew."""
    return sorted((lab.node.run_directory / "bpf").glob("*-*/*"))


def test_nothing_leaks_when_exit_addresses_come_and_go(lab: Lab, watch: LeakWatch, talk: Chatter) -> None:
    second = f'["{lab.plan.exit_ipv4[1]}"]\nipv6 = ["{lab.plan.exit_ipv6[1]}"]\n'
    before = lab.node.config.read_text()
    exits = before[before.index("[exit]\nipv4 = ") + len("[exit]\nipv4 = ") : before.index("routed = true")]
    for wanted in (second, exits):
        text = lab.node.config.read_text()
        now = text[text.index("[exit]\nipv4 = ") + len("[exit]\nipv4 = ") : text.index("routed = true")]
        place.change_configuration([lab], lambda text, now=now, wanted=wanted: text.replace(now, wanted))  # type: ignore[misc]
        talk.wait_for_arrivals()


def test_nothing_leaks_when_a_tunnel_is_removed_and_when_the_node_goes_down(
    lab: Lab, watch: LeakWatch, talk: Chatter, theirs: int
) -> None:
    """What was on the uplink before the node is back when that is down."""
    for _ in range(2):
        assert not place.program(lab, lab.plan.node, "ip", "link", "del", lab.plan.tunnels[0].name)
        talk.wait_for_more(20)
        lab.node.reload()
        wait_until("the node to mend itself", lambda: _is_healthy(lab), seconds=60)
        _connect_again(lab)
        talk.wait_for_arrivals()
    done = lab.node.jetplane("down")
    assert done.returncode == 0, done.stderr
    assert f"put back XDP program other (id {theirs}) on {UPLINK}" in done.stdout.decode()
    assert namespaces.inside(lab.plan.node, _program_on_the_uplink) == theirs
    lab.node.reap()
    talk.wait_for_more(20)
    lab.node.start()
    _connect_again(lab)
    talk.wait_for_arrivals()


def _program_on_the_uplink() -> int:
    with Links() as links:
        found = links.xdp(interface_index(UPLINK))
    return found.prog_id if found else 0


def _connect_again(lab: Lab) -> None:
    """As a user would, instead of waiting until the client gives its old session up."""
    subscriber = lab.plan.subscribers[0]
    configuration = f"{lab.directory}/{subscriber.interface}.conf"
    assert not place.program(lab, subscriber.namespace, "wg", "setconf", subscriber.interface, configuration)


def test_the_watch_would_see_a_leak(lab: Lab, talk: Chatter) -> None:
    """The control: with translation, leak guard and the rules that discard all gone, inner addresses do leave."""
    inner = {f"source {place.inner(lab, 0, family)}" for family in place.FAMILIES}
    with _frozen(lab), LeakWatch(lab.plan.internet, TO_NODE, ()) as seen:
        _detach(lab, "nat_out")
        _detach(lab, "leak_guard")
        namespaces.inside(lab.plan.node, _flush_rules)
        found: set[str] = set()

        def leaked() -> bool:
            found.update(seen.leaks())
            return inner <= found

        wait_until("a leak", leaked)
    talk.wait_for_arrivals()


def _flush_rules() -> None:
    """Leave the kernel's own three tables only."""
    with pyroute2.IPRoute() as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            route.flush_rules(family=family, priority=lambda priority: 0 < (priority or 0) < 32766)
