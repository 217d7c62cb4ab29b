"""The choice of an exit address links no user across nodes or over time: statistics over simulated nodes.

Every test statistic is put on the scale of a standard normal deviate; what is chosen well stays below LIMIT, and each
way of choosing badly that one could think of is found out by at least one of them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from jetplane import abi
from jetplane.model import InnerAddress, PublicKey
from jetplane.plan import Entry, choose_exit, plan_entries
from jetplane.secret import LIFETIME_S, RotatingSecret

NODES, KEYS, EXITS = 50, 600, 8
LIMIT = 4.0
"""Chance exceeds it once in 16,000; the seeds are fixed, so a run is like every other."""

Choice = Callable[[PublicKey, int], int]
"""Key and number of the node → index of the exit address."""

_chance = random.Random(7)
PUBLIC_KEYS = [PublicKey(_chance.randbytes(32)) for _ in range(KEYS)]
SECRETS = [_chance.randbytes(32) for _ in range(NODES)]


def as_jetplane_does(key: PublicKey, node: int) -> int:
    chosen = choose_exit(key, SECRETS[node], range(EXITS))
    assert chosen is not None
    return chosen


def by_the_key_alone(key: PublicKey, node: int) -> int:
    return int.from_bytes(hashlib.blake2b(key).digest()[:8]) % EXITS


def by_one_secret_for_all(key: PublicKey, node: int) -> int:
    chosen = choose_exit(key, SECRETS[0], range(EXITS))
    assert chosen is not None
    return chosen


def by_the_key_and_an_offset(key: PublicKey, node: int) -> int:
    """Every node begins to count elsewhere: ranks differ, and still tell everything."""
    return (by_the_key_alone(key, node) + SECRETS[node][0]) % EXITS


def by_a_secret_of_few_values(key: PublicKey, node: int) -> int:
    """As if all nodes had been installed from one of four images."""
    chosen = choose_exit(key, SECRETS[node % 4], range(EXITS))
    assert chosen is not None
    return chosen


def table(choice: Choice) -> list[list[int]]:
    """Node → the choice for each key."""
    return [[choice(key, node) for key in PUBLIC_KEYS] for node in range(NODES)]


def deviation(chi_square: float, freedom: int) -> float:
    """How far a chi-square of so many degrees of freedom is from what is expected, in standard deviations."""
    return (chi_square - freedom) / math.sqrt(2 * freedom)


def concordance(chosen: Sequence[Sequence[int]]) -> float:
    """Do the ranks of keys agree among nodes? Friedman's test (Kendall and Gibbons, "Rank Correlation Methods")."""
    mean, variance = (EXITS - 1) / 2, (EXITS * EXITS - 1) / 12
    sums = [sum(column) - NODES * mean for column in zip(*chosen, strict=True)]
    return deviation(sum(total * total for total in sums) / (NODES * variance), KEYS)


def association(chosen: Sequence[Sequence[int]]) -> float:
    """Does the choice on one node tell anything about that on another? Pearson's test, over all pairs of nodes."""
    total, pairs, expected = 0.0, 0, KEYS / EXITS**2
    for one, other in itertools.combinations(chosen, 2):
        counts = Counter(zip(one, other, strict=True))
        total += sum(n * n for n in counts.values()) / expected - KEYS
        pairs += 1
    # Against the uniform, not the observed, marginal distributions: so all cells but one are free.
    return deviation(total, pairs * (EXITS**2 - 1))


def unevenness(chosen: Sequence[Sequence[int]]) -> float:
    """Is one exit address chosen more than another?"""
    expected = KEYS / EXITS
    total = sum((n - expected) ** 2 / expected for row in chosen for n in Counter(row).values())
    return deviation(total, NODES * (EXITS - 1))


STATISTICS = (concordance, association, unevenness)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_choices_of_the_same_keys_on_fifty_nodes_are_independent(
    statistic: Callable[[Sequence[Sequence[int]]], float],
) -> None:
    assert abs(statistic(table(as_jetplane_does))) < LIMIT


@pytest.mark.parametrize(
    ("choice", "statistic"),
    [
        (by_the_key_alone, concordance),
        (by_the_key_alone, association),
        (by_one_secret_for_all, concordance),
        (by_the_key_and_an_offset, association),
        (by_a_secret_of_few_values, association),
    ],
)
def test_a_choice_that_links_users_is_found_out(
    choice: Choice, statistic: Callable[[Sequence[Sequence[int]]], float]
) -> None:
    assert statistic(table(choice)) > 10 * LIMIT


def test_the_choice_before_a_rotation_tells_nothing_about_that_after_it() -> None:
    """One node over fifty lifetimes of its secret."""
    now = 0.0
    chance = random.Random(11)
    secret = RotatingSecret(clock=lambda: now, make=chance.randbytes)
    chosen = []
    for _ in range(NODES):
        row = [choose_exit(key, secret.current(), range(EXITS)) for key in PUBLIC_KEYS]
        chosen.append([index for index in row if index is not None])
        now += LIFETIME_S
    for statistic in STATISTICS:
        assert abs(statistic(chosen)) < LIMIT


def test_a_secret_lasts_for_its_lifetime_and_no_longer() -> None:
    now = 100.0
    secret = RotatingSecret(clock=lambda: now)
    first = secret.current()
    now += LIFETIME_S - 1
    assert secret.current() == first and len(first) == 32
    now += 1
    assert secret.current() != first
    assert first.hex() not in repr(secret)
    assert RotatingSecret().current() != RotatingSecret().current(), "every start has its own"


NO_EXIT = abi.constants()["NO_EXIT"]


def entry(number: int, secret: bytes) -> Entry:
    chosen = choose_exit(PUBLIC_KEYS[number], secret, range(EXITS))
    assert chosen is not None
    return Entry((InnerAddress.parse(f"10.64.{number // 256}.{number % 256}"),), 5, (chosen, NO_EXIT))


def test_a_rotation_moves_no_live_peer_and_chooses_anew_for_who_comes_back() -> None:
    old, new = SECRETS[0], SECRETS[1]
    held = {index: entry(index, old) for index in range(200)}
    wanted = {made.addresses[0]: made for made in (entry(n, new) for n in range(200))}

    assert plan_entries(wanted, held.items(), KEYS).count == 0

    assert set(plan_entries({}, held.items(), KEYS).ends) == set(held)
    back = list(plan_entries(wanted, (), KEYS).gives)
    moved = sum(step.entry.exit_index != entry(n, old).exit_index for n, step in enumerate(back))
    assert moved > 150, "seven of eight should have moved"
