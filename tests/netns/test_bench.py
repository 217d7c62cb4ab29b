"""The benches' own honesty: they time only what they have seen translated."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator

import pytest

from bench.contenders import FORWARDING, Contender, forwarding_node
from bench.forwarding import Course
from jetplane.errors import JetplaneError
from jetplane.lab.addresses import LabOptions
from jetplane.lab.topology import lab


@pytest.fixture(scope="module")
def router(root: None) -> Iterator[Contender]:
    """A node that forwards and translates nothing."""
    with lab(LabOptions(transport="veth")) as built:
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
        assert course.rate_fresh(0, 2, 256) > 0
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
