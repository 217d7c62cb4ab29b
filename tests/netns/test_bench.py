"""The benches' own honesty: they time only what they have seen translated."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator

import pytest

from bench import fairness, scrapes, shaping
from bench.contenders import FORWARDING, Contender, forwarding_node, jetplane_node
from bench.delay import Delay
from bench.forwarding import Course
from jetplane.errors import JetplaneError
from jetplane.lab.addresses import LabOptions
from jetplane.lab.topology import lab

_ATTEMPTS = 5


@pytest.fixture(scope="module")
def router(root: None) -> Iterator[Contender]:
    """A node that forwards and translates nothing."""
    with lab(LabOptions(transport="veth", peers=2 * fairness.PEERS)) as built:
        yield forwarding_node(built)


@pytest.mark.parametrize("version", [4, 6])
def test_a_node_that_forwards_passes_the_check_for_one_that_forwards(router: Contender, version: int) -> None:
    course = Course(router)
    try:
        course.check(version, 100)
    finally:
        course.close()


def test_flows_that_have_not_been_before_all_arrive_and_seem_to_come_from_the_subscribers_meant(
    router: Contender,
) -> None:
    course = Course(router)
    try:
        assert course.rate_fresh(2, 256) > 0
        first = ipaddress.ip_address(router.inside(4, 2)) + 64
        assert {address for address, _ in course.origins(4, 256)} == {str(first), str(first + 1)}
    finally:
        course.close()


def test_a_node_that_does_not_translate_is_never_timed_as_one_that_does(router: Contender) -> None:
    course = Course(dataclasses.replace(router, sources={4: frozenset(router.lab.plan.exit_ipv4)}))
    try:
        with pytest.raises(JetplaneError, match=rf"{FORWARDING}: its source: .* nothing is measured"):
            course.check(4, 100)
    finally:
        course.close()


def test_a_greedy_peer_leaves_the_others_their_share_of_the_line(root: None) -> None:
    """In one attempt of a few: who else uses this machine can delay a packet for longer than a line's queue."""
    plan = fairness.FAIR_MBIT
    options = LabOptions(transport="veth", peers=2 * fairness.PEERS, up_mbit=plan, down_mbit=plan)
    with lab(options) as built, fairness.Crowd(jetplane_node(built)) as crowd:
        crowd.lay_line()
        crowd.meet()
        for returning in (False, True):
            attempts = (crowd.shares(returning=returning, greedy=True) for _ in range(_ATTEMPTS))
            assert any(found.mean >= 95 and found.greedy < 200 for found in attempts)


def test_shares_are_told_only_where_there_was_contention(router: Contender) -> None:
    with fairness.Crowd(router) as crowd:
        crowd.meet()
        with pytest.raises(JetplaneError, match="there was no contention"):
            crowd.shares(returning=False, greedy=True)


def test_what_could_not_be_offered_is_not_told(router: Contender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "OFFERED", 0.5)
    monkeypatch.setattr(fairness, "TRIES", 1)
    with fairness.Crowd(router) as crowd:
        crowd.meet()
        with pytest.raises(fairness.TooBusyError, match="too busy to send for fifty peers"):
            crowd.shares(returning=False, greedy=True)


def test_a_crowd_that_does_not_appear_under_exit_addresses_is_never_measured(router: Contender) -> None:
    pretends = dataclasses.replace(router, sources={4: frozenset(router.lab.plan.exit_ipv4)})
    with fairness.Crowd(pretends) as crowd, pytest.raises(JetplaneError, match=r"peers appear as 198\.18\."):
        crowd.meet()


def test_a_way_is_as_long_as_it_is_said_to_be_or_nothing_is_timed(router: Contender) -> None:
    with Delay(router.lab, 0) as delay:
        delay.set(200)
        shaping.check(router.lab, delay, 200)
        with pytest.raises(JetplaneError, match=r"a round trip of 20 ms: 2.* nothing is measured"):
            shaping.check(router.lab, delay, 20)


def test_the_exporters_tell_of_the_peers_that_there_are(root: None) -> None:
    with scrapes.node(1) as node:
        assert min(node.own.time(20).median, node.own.time(20, first=True).median, node.rival.time(2).median) > 0
        with pytest.raises(JetplaneError, match="does not tell of 7 peers: nothing is measured"):
            dataclasses.replace(node, peers=7).check()
        with pytest.raises(JetplaneError, match="tells of 0 peers: nothing is measured"):
            dataclasses.replace(node, rival=node.own).check()
        with pytest.raises(JetplaneError, match="its answer is another: nothing is measured"):
            dataclasses.replace(node, bare=node.rival).check()
