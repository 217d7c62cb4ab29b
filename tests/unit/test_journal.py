"""The journal survives whatever ends its writer, and never forgets an original value."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetplane.errors import JetplaneError
from jetplane.journal import (
    Added,
    Address,
    Changed,
    Feature,
    Journal,
    Link,
    Proxy,
    Record,
    Route,
    Rule,
    Sysctl,
    Tunnel,
)

RECORDS: tuple[Record, ...] = (
    Added(Tunnel("jet0", "kernel")),
    Added(Address("jet0", "10.64.0.1/16")),
    Added(Route("203.0.113.7/32", 254)),
    Added(Route("2001:db8::7/128", 27237, "jet0")),
    Added(Rule(4, 61, table=254, mark=0x6A657401)),
    Added(Rule(6, 65, destination="fd64::/64")),
    Added(Proxy("eth0", "2001:db8::7")),
    Changed(Sysctl("net/ipv4/conf/eth0.100/forwarding"), "0", "1"),
    Changed(Link("jet0", "mtu"), "1500", "1420"),
    Changed(Feature("eth0", "rx-gro-hw"), "on", "off"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.json"


def filled(path: Path) -> Journal:
    journal = Journal(path)
    for record in RECORDS:
        journal.add(record)
    return journal


def test_every_kind_of_record_is_read_back_as_it_was_written_in_order(path: Path) -> None:
    filled(path)
    assert Journal(path).records() == RECORDS


def test_a_record_is_on_disk_as_soon_as_it_is_added(path: Path) -> None:
    journal = Journal(path)
    for number, record in enumerate(RECORDS, 1):
        journal.add(record)
        assert Journal(path).records() == RECORDS[:number]


def test_only_root_may_read_it(path: Path) -> None:
    filled(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_that_was_never_written_is_empty(path: Path) -> None:
    assert Journal(path).is_empty()
    assert not path.exists(), "looking makes no file"


def test_the_first_old_value_stays_the_original(path: Path) -> None:
    journal = filled(path)
    journal.add(Changed(Link("jet0", "mtu"), "1420", "1300"))
    expected = Changed(Link("jet0", "mtu"), "1500", "1300")
    assert expected in journal.records()
    assert expected in Journal(path).records()
    assert len(Journal(path).records()) == len(RECORDS)


def test_what_is_recorded_already_is_not_written_again(path: Path) -> None:
    journal = filled(path)
    before = path.read_bytes()
    for record in RECORDS:
        journal.add(record)
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_line_cut_off_was_never_a_record_and_the_next_one_is_whole(path: Path, cut: int) -> None:
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    journal = Journal(path)
    assert journal.records() == RECORDS[:-1] and not journal.damaged()
    journal.add(RECORDS[-1])
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"{}",
        b'{"sysctl": {"name": "x"}}',
        b'{"planet": {"name": "x"}}',
        b'{"link": {"name": "x"}}',
        b"[1]",
    ],
)
def test_a_damaged_line_is_named_and_the_others_count(path: Path, line: bytes) -> None:
    filled(path)
    lines = path.read_bytes().splitlines()
    lines[2] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    journal = Journal(path)
    assert journal.records() == RECORDS[:2] + RECORDS[3:]
    assert journal.damaged() == (f"{path}:3: cannot be read, so what it recorded is not put back",)


def test_what_was_put_back_is_forgotten_for_good(path: Path) -> None:
    journal = filled(path)
    journal.forget([RECORDS[1].what, RECORDS[3].what, Sysctl("never/recorded")])
    expected = (RECORDS[0], RECORDS[2], *RECORDS[4:])
    assert journal.records() == expected
    assert Journal(path).records() == expected


def test_the_last_record_takes_the_file_with_it(path: Path) -> None:
    journal = filled(path)
    journal.forget([record.what for record in RECORDS])
    assert journal.is_empty()
    assert list(path.parent.iterdir()) == []


def test_tunnels_are_known_with_their_backend_and_a_stand_in_is_none(path: Path) -> None:
    journal = Journal(path)
    journal.record_tunnel("jet0", "kernel")
    journal.record_tunnel("jet1", "userspace")
    journal.record_tunnel("jet2", "veth")
    assert Journal(path).tunnels() == (("jet0", "kernel"), ("jet1", "userspace"))


def test_a_journal_that_cannot_be_written_stops_the_change(tmp_path: Path) -> None:
    with pytest.raises(JetplaneError, match="cannot be written, so nothing may be changed: No such file or directory"):
        Journal(tmp_path / "missing" / "journal.json").add(RECORDS[0])


def test_a_record_reads_like_a_sentence() -> None:
    assert [str(record.what) for record in RECORDS] == [
        "tunnel jet0",
        "address 10.64.0.1/16 on jet0",
        "route to 203.0.113.7/32 to nowhere in table 254",
        "route to 2001:db8::7/128 through jet0 in table 27237",
        "IPv4 routing rule 61: with mark 0x6a657401 is looked up in table 254",
        "IPv6 routing rule 65: to fd64::/64 is discarded",
        "proxy for 2001:db8::7 on eth0",
        "sysctl net/ipv4/conf/eth0.100/forwarding",
        "mtu of jet0",
        "offload rx-gro-hw of eth0",
    ]
