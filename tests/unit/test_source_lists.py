"""Blocklists and bogons: what the tables say of an address is what the list says of it."""

from __future__ import annotations

import ipaddress
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane import abi
from jetplane.dataplane.lists import ipv6, lines, prefixes, tables
from jetplane.dataplane.lists.prefixes import Prefix
from jetplane.dataplane.lists.tables import Tables
from jetplane.errors import ConfigurationError

C = abi.constants()
LINES = 2  # so that some are full
UNLISTED, BLOCKED, BOGON = C["SOURCE_UNLISTED"], C["SOURCE_BLOCKED"], C["SOURCE_BOGON"]
IN_PART = C["SOURCE_IN_PART"]


def line_of(made: Tables, key: int) -> tuple[array[int], int]:
    at = C["SOURCE_LINE_ENTRIES"] * lines.line_index(key, LINES)
    return made.lines[at : at + C["SOURCE_LINE_ENTRIES"]], key


def looked_up(made: Tables, version: int, address: int) -> int:
    """What the guard finds, step by step as source_list.h describes it."""
    if version == 4:
        field = made.words[address >> 13] >> 2 * (address >> 8 & 31) & 3
        if field != IN_PART:
            return field
        line, key = line_of(made, lines.v4_key(address))
        bits = next((entry >> 32 for entry in line if entry & 0xFFFFFFFF == key), None)
        if bits is not None:
            return BLOCKED if bits >> (address & 31) & 1 else UNLISTED
        if not line[-1]:
            return UNLISTED
        return BLOCKED if made.leaves.get(address >> 8, 0) >> (address & 0xFF) & 1 else UNLISTED
    if address >> 125 == 1:
        place = ipv6.filter_place(address >> 96)
        where = made.filter[place >> 5] >> 2 * (place & 31) & 3
        said = UNLISTED
        if where & C["SOURCE_IN_LINES"]:
            line, key = line_of(made, lines.v6_key(address))
            full = IN_PART if line[-1] else UNLISTED
            said = next((entry ^ key for entry in line if entry ^ key <= IN_PART), full)
        if said == UNLISTED and where & C["SOURCE_IN_TRIE"]:
            said = IN_PART
        if said != IN_PART:
            return said
    matches = [
        (length, what)
        for (first, length), what in made.trie.items()
        if first >> 128 - length == address >> 128 - length
    ]
    return max(matches)[1] if matches else UNLISTED


def test_no_list_has_more_in_the_trie_than_it_has_prefixes() -> None:
    """Each /44 would have sixteen entries, and there is room for sixteen in all; half of them are listed in part."""
    blocked = [Prefix(6, 0x2A0112 << 104 | n << 84, 44) for n in range(64)]
    inside = [Prefix(6, 0x2A0113 << 104 | n << 84 | 1, 128) for n in range(64)]
    bogus = [Prefix(6, 0x2A0113 << 104 | n << 84, 44) for n in range(64)]
    made = tables.make((*blocked, *inside), bogus, lines=LINES)
    assert made.listed == 192
    assert len(made.trie) <= 192
    assert looked_up(made, 6, inside[9].first) == BLOCKED
    assert looked_up(made, 6, inside[9].first + 1) == BOGON
    assert looked_up(made, 6, blocked[63].first + (1 << 83)) == BLOCKED


def holds(listed: list[Prefix], version: int, address: int) -> bool:
    return any(p.version == version and p.first >> p.bits - p.length == address >> p.bits - p.length for p in listed)


@st.composite
def a_prefix(draw: st.DrawFn) -> Prefix:
    """A prefix in a small corner, so that many overlap."""
    version = draw(st.sampled_from((4, 6)))
    bits = 32 if version == 4 else 128
    length = draw(st.integers(12, 32) if version == 4 else st.integers(20, 128))
    corner = 0xC6336400 if version == 4 else 0x2A0112340000000000000000_0000_0000
    address = corner ^ draw(st.integers(0, 0xFFFFF)) << draw(st.sampled_from((0, 8) if version == 4 else (0, 32, 80)))
    return Prefix(version, address >> bits - length << bits - length, length)


@given(
    blocked=st.lists(a_prefix(), max_size=12),
    bogus=st.lists(a_prefix().filter(lambda p: p.length <= 24), max_size=4),
    data=st.data(),
)
def test_the_tables_say_what_the_lists_say(blocked: list[Prefix], bogus: list[Prefix], data: st.DataObject) -> None:
    made = tables.make(iter(blocked), iter(bogus), lines=LINES)
    for prefix in (*blocked, *bogus):
        size = 1 << prefix.bits - prefix.length
        near = data.draw(st.integers(-2, size + 1))
        address = (prefix.first + near) % (1 << prefix.bits)
        found = looked_up(made, prefix.version, address)
        if holds(bogus, prefix.version, address) and found == BOGON:
            # A longer blocked prefix within a bogus /24 need not show: it is turned away either way.
            continue
        wanted = (
            BLOCKED
            if holds(blocked, prefix.version, address)
            else BOGON
            if holds(bogus, prefix.version, address)
            else UNLISTED
        )
        assert found == wanted, (prefix, address)


KNOWN_BOGONS = (
    "0.0.0.1", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.9.9", "172.31.0.1", "192.0.0.9", "192.0.2.1",
    "192.168.1.1", "198.19.0.1", "203.0.113.7", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:8.8.8.8", "64:ff9b:1::1", "100::1", "2001:db8::1", "2001:2::1", "2002::1", "fc00::1",
    "fe80::1", "ff02::1", "4000::1",
)  # fmt: skip
KNOWN_GOOD = (
    "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.32.0.1", "192.0.1.1",
    "223.255.255.255", "2001:4860::1", "2001:20::1", "2001:200::1", "2400:cb00::1", "2a00::1", "3ffe::1",
)  # fmt: skip


@pytest.fixture(scope="module")
def bogus() -> Tables:
    return tables.make((), prefixes.bogons(), lines=LINES)


@pytest.mark.parametrize("text", KNOWN_BOGONS)
def test_nobody_on_the_internet_has_this_address(bogus: Tables, text: str) -> None:
    address = ipaddress.ip_address(text)
    assert looked_up(bogus, address.version, int(address)) == BOGON


@pytest.mark.parametrize("text", KNOWN_GOOD)
def test_somebody_may_have_this_address(bogus: Tables, text: str) -> None:
    address = ipaddress.ip_address(text)
    assert looked_up(bogus, address.version, int(address)) == UNLISTED


def test_a_file_may_have_comments_blank_lines_and_both_families(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("# a feed\n\n198.51.100.0/24 ; SBL1\n203.0.113.7\n2001:db8::/32 # six\n  192.0.2.0/25  \n")
    assert [*prefixes.read(file)] == [
        Prefix(4, 0xC6336400, 24),
        Prefix(4, 0xCB007107, 32),
        Prefix(6, 0x20010DB8 << 96, 32),
        Prefix(4, 0xC0000200, 25),
    ]


REFUSED = (
    ("example.com", "is not an address or prefix"),
    ("1.2.3", "is not an address or prefix"),
    ("1.2.3.4.5", "is not an address or prefix"),
    ("01.2.3.4", "is not an address or prefix"),
    ("1.2.3.4 5.6.7.8", "is not an address or prefix"),
    ("1.2.3.0/33", "expected a prefix length from 1 to 32"),
    ("0.0.0.0/0", "expected a prefix length from 1 to 32"),
    ("::/0", "expected a prefix length from 1 to 128"),
    ("1.2.3.0/", "expected a prefix length"),
    ("1.2.3.0/24/24", "expected a prefix length"),
    ("1.2.3.0/-1", "expected a prefix length"),
    ("1.2.3.4/24", "has bits beyond its prefix length"),
    ("2001:db8::1/64", "has bits beyond its prefix length"),
)


@pytest.mark.parametrize(("line", "reason"), REFUSED)
def test_junk_is_refused_with_file_and_line_and_is_not_repeated(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(f"192.0.2.0/24\n\n{line}\n192.0.2.1\n")
    with pytest.raises(ConfigurationError, match=reason) as raised:
        list(prefixes.read(file))
    assert str(raised.value).startswith(f"{file}:3: ")
    assert line not in str(raised.value)


def test_a_file_that_is_missing_or_binary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.txt: blocklist: No such file"):
        list(prefixes.read(tmp_path / "gone.txt"))
    (tmp_path / "picture").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ConfigurationError, match="is not a text of addresses"):
        list(prefixes.read(tmp_path / "picture"))
