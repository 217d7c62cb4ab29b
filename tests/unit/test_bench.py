"""The arithmetic of the benches: frames, checksums, medians and spreads."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench import fairness, frames, results, scrapes
from jetplane.errors import JetplaneError

MAC = bytes.fromhex("020000000001")


def scapys_frame(version: int) -> bytes:
    """A datagram whose checksums an independent implementation has made."""
    frame = Ether(dst=MAC, src=MAC)
    if version == 4:
        frame /= IP(src="198.18.0.2", dst="192.0.2.10", ttl=63, flags="DF")
    else:
        frame /= IPv6(src="2001:db8:64::2", dst="2001:db8:1::10", hlim=63)
    return bytes(frame / UDP(sport=20_000, dport=9) / b"\x07\x00\xf8\xff\x00\x00")


@pytest.mark.parametrize("version", [4, 6])
def test_what_arrives_is_read_with_its_checksums_verified(version: int) -> None:
    arrived = frames.arrived(scapys_frame(version))
    assert (arrived.source_port, arrived.destination_port, arrived.ttl) == (20_000, 9, 63)
    assert arrived.source == ("198.18.0.2" if version == 4 else "2001:db8:64::2")
    assert arrived.destination == ("192.0.2.10" if version == 4 else "2001:db8:1::10")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_changed_bit_anywhere_from_the_addresses_on_is_noticed(version: int, bit: int) -> None:
    good = scapys_frame(version)
    for place in range(26 if version == 4 else 22, len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << bit
        with pytest.raises(JetplaneError, match="wrong"):
            frames.arrived(bytes(bad))


def test_a_whole_datagram_is_what_scapy_would_send() -> None:
    made = frames.datagram(MAC, "192.0.2.10", "203.0.113.10", 9, 1023, b"odd")
    again = Ether(made)
    del again[IP].chksum, again[UDP].chksum
    assert bytes(again) == made


def test_a_template_has_the_sums_of_all_that_is_in_it() -> None:
    made = frames.template(to_mac=MAC, from_mac=MAC, source="198.18.0.2", destination="192.0.2.10", destination_port=9)
    whole = bytearray(made.frame)
    ends = made.source_end.to_bytes(4) + made.destination_end.to_bytes(4)
    whole[26:34] = ends  # what traffic.bpf.c enters: the ends of addresses, TTL, source port, checksums
    whole[22] = 64
    whole[34:36] = (20_000).to_bytes(2, "big")
    entered = sum(int.from_bytes(ends[at : at + 2], "little") for at in range(0, 8, 2))
    port = int.from_bytes(whole[34:36], "little")
    for at, total in ((24, made.network_sum + entered + 64), (40, made.transport_sum + entered + port)):
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        whole[at : at + 2] = (0xFFFF - total).to_bytes(2, "little")
    assert len(whole) == 60
    arrived = frames.arrived(bytes(whole))
    assert (arrived.source, arrived.destination, arrived.source_port) == ("198.18.0.2", "192.0.2.10", 20_000)


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    row = results.compared("forwarding", "x", "Mpps", [1.0, 2.0, 9.0], "rival", [1.0, 4.0, 3.0])
    assert (row.ratio, row.rounds) == (1.0, 3)
    assert (row.jetplane, row.rival_value) == (2.0, 3.0)
    assert row.spread == 1.25  # of 0.5, 1 and 3: quartiles 0.75 and 2


def test_results_have_the_form_that_all_benches_share(tmp_path: Path) -> None:
    rows = [results.compared("a", "b", "Mpps", [1.0], "r", [2.0]), results.alone("c", "d", "ns", [5.0, 7.0])]
    results.write(tmp_path, results.header(quick=True) | {"notes": ["a note"]}, rows)
    content = json.loads((tmp_path / "latest.json").read_text())
    keys = ["bench", "metric", "unit", "jetplane", "rival", "rival_value", "ratio", "spread", "rounds"]
    assert [list(row) for row in content["rows"]] == [keys, keys]
    assert content["rows"][1]["rival"] is None
    assert {"cpu", "kernel", "bpf_jit", "commit", "date"} <= content["header"].keys()
    table = (tmp_path / "latest.md").read_text()
    assert "| a | b | Mpps | 1 | r | 2 | **0.50** | 0.00 | 1 |" in table
    assert "- a note" in table


def test_rows_of_one_bench_take_the_place_of_its_old_ones_and_say_when_they_were_made(tmp_path: Path) -> None:
    head = results.header(quick=False)
    kept, old = results.alone("kept", "x", "ns", [1.0]), results.alone("renewed", "gone", "ns", [2.0])
    results.write(tmp_path, head, [old, kept])
    fresh = [results.alone("renewed", "a", "ns", [3.0]), results.alone("renewed", "b", "ns", [4.0])]
    results.merge(tmp_path, head | {"commit": "later", "date": "today"}, fresh)
    content = json.loads((tmp_path / "latest.json").read_text())
    assert [(row["bench"], row["metric"]) for row in content["rows"]] == [
        ("kept", "x"), ("renewed", "a"), ("renewed", "b"),
    ]  # fmt: skip
    assert content["header"]["commit"] == head["commit"]
    assert content["header"]["apart"]["renewed"]["commit"] == "later"
    assert "- renewed: measured apart, Linux " in (tmp_path / "latest.md").read_text()


def test_rows_of_two_machines_are_never_put_together(tmp_path: Path) -> None:
    head = results.header(quick=False)
    results.write(tmp_path, head | {"cpu": "another"}, [])
    before = (tmp_path / "latest.json").read_bytes()
    with pytest.raises(JetplaneError, match="results of another machine"):
        results.merge(tmp_path, head, [results.alone("a", "b", "ns", [1.0])])
    assert (tmp_path / "latest.json").read_bytes() == before


def test_without_results_there_is_nothing_to_put_rows_into(tmp_path: Path) -> None:
    with pytest.raises(JetplaneError, match="no results to put rows into"):
        results.merge(tmp_path, results.header(quick=False), [])
    assert not list(tmp_path.iterdir())


def test_the_99th_percentile_is_what_one_in_a_hundred_exceeds() -> None:
    found = scrapes.latencies([float(number) for number in range(1000)])
    assert (found.median, found.p99) == (499.5, 990.0)
    assert scrapes.latencies([3.0, 1.0, 2.0]) == scrapes.Latencies(2.0, 3.0)


def test_a_sender_that_could_not_send_enough_is_noticed() -> None:
    enough = Counter(dict.fromkeys(range(fairness.PEERS), math.ceil(fairness.fair_datagrams(1))))
    assert fairness.Offered(enough, 1.0).is_meant(greedy=False)
    assert not fairness.Offered(enough, 1.0).is_meant(greedy=True), "the greedy one has sent no more than the others"
    greedy = enough + Counter({0: math.ceil(fairness.fair_datagrams(1) * fairness.LINE_KBIT / 1000)})
    assert fairness.Offered(greedy, 1.0).is_meant(greedy=True)
    assert not fairness.Offered(greedy, 1.1).is_meant(greedy=True)
    assert not fairness.Offered(greedy - Counter({17: 1}), 1.0).is_meant(greedy=True)


def test_the_line_carries_what_all_plans_add_up_to_and_not_two_more() -> None:
    share = fairness.FAIR_MBIT * 1000 * (1200 + 14) / 1200
    assert fairness.PEERS * share < fairness.LINE_KBIT < (fairness.PEERS + 2) * share
