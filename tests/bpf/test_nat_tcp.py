"""TCP through the translation: the states of a binding, and the segment size in a SYN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.bpf.harness import Node
from tests.bpf.nat_world import (
    CLOSING,
    ESTABLISHED,
    EXIT,
    FAMILIES,
    FIN_IN,
    FIN_OUT,
    INNER,
    OPENING,
    OTHER,
    RESET,
    SITE,
    Life,
    answer,
    changed,
    out_packet,
    prepare,
    send_in,
    send_out,
    slot_of,
)
from tests.bpf.packets import wire

every_family = pytest.mark.parametrize("version", FAMILIES)
MTU = 1420
INTO_TUNNEL = {4: MTU - 40, 6: MTU - 60}


@pytest.fixture
def world(node: Node) -> Node:
    return prepare(node)


@dataclass(frozen=True, slots=True)
class Story:
    """Segments by turns: `>S` goes out with these flags, `<SA` comes in; and the state after the last."""

    segments: str
    state: int

    def __str__(self) -> str:
        return self.segments.replace(" ", "")


STORIES = (
    Story(">S", OPENING),
    Story(">S >S", OPENING),
    Story(">S <SA", ESTABLISHED),
    Story(">S <S", ESTABLISHED),  # simultaneous open (RFC 5382, REQ-2)
    Story(">S <RA", OPENING),
    Story(">A", OPENING),
    Story(">S <SA >A", ESTABLISHED),
    Story(">S <SA >A >FA", FIN_OUT),
    Story(">S <SA >A >FA >FA", FIN_OUT),
    Story(">S <SA >A >FA <A", FIN_OUT),
    Story(">S <SA >A <FA", FIN_IN),
    Story(">S <SA >A <FA >A", FIN_IN),
    Story(">S <SA >A <FA >FA", CLOSING),
    Story(">S <SA >A >FA <FA", CLOSING),
    Story(">S <SA >A >FA <FA >A", CLOSING),
    Story(">S <SA >A >FA <FA >S", OPENING),
    Story(">S <SA >A >FA <FA >S <SA", ESTABLISHED),
    Story(">S <SA >A >R", RESET),
    Story(">S <SA >A <R", RESET),
    Story(">S <SA >A <R >A", ESTABLISHED),  # a forged RST: the connection goes on (RFC 7857, section 2)
    Story(">S <SA >A <R <A", RESET),
    Story(">S <SA >A <R >S", OPENING),
)


@every_family
@pytest.mark.parametrize("story", STORIES, ids=str)
def test_a_binding_follows_its_connection(world: Node, version: int, story: Story) -> None:
    port = 0
    for segment in story.segments.split():
        if segment[0] == ">":
            port = send_out(world, out_packet(version, "tcp", flags=segment[1:]))
        else:
            send_in(world, answer(version, "tcp", port, flags=segment[1:]), (INNER[version], 40000))

    assert Life.of(world, slot_of(version, "tcp", port)).state == story.state


@every_family
def test_the_end_of_one_of_several_connections_is_not_the_end_of_the_binding(world: Node, version: int) -> None:
    port = send_out(world, out_packet(version, "tcp"))
    send_in(world, answer(version, "tcp", port), (INNER[version], 40000))
    send_out(world, out_packet(version, "tcp", destination=OTHER[version]))

    send_out(world, out_packet(version, "tcp", flags="FA"))
    send_in(world, answer(version, "tcp", port, flags="FA"), (INNER[version], 40000))
    send_in(world, answer(version, "tcp", port, flags="R"), (INNER[version], 40000))

    assert Life.of(world, slot_of(version, "tcp", port)).state == ESTABLISHED


@every_family
def test_a_reopened_binding_is_about_its_new_remote_alone(world: Node, version: int) -> None:
    for site in (SITE, OTHER):
        port = send_out(world, out_packet(version, "tcp", destination=site[version]))
        send_in(world, answer(version, "tcp", port, source=site[version]), (INNER[version], 40000))
        send_out(world, out_packet(version, "tcp", destination=site[version], flags="FA"))
        send_in(world, answer(version, "tcp", port, source=site[version], flags="FA"), (INNER[version], 40000))

        assert Life.of(world, slot_of(version, "tcp", port)).state == CLOSING


Options = list[tuple[str | int, Any]]
Place = tuple[str, Callable[[int], Options]]


def mss(value: int) -> tuple[str, int]:
    return "MSS", value


OPTIONS: tuple[Place, ...] = (
    ("first", lambda size: [mss(size), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]),
    ("alone", lambda size: [mss(size)]),
    ("after one byte of nothing", lambda size: [("NOP", None), mss(size), ("NOP", None), ("WScale", 7)]),
    ("after two", lambda size: [("NOP", None), ("NOP", None), mss(size)]),
    ("at an odd place", lambda size: [("WScale", 7), mss(size), ("SAckOK", b"")]),
    ("after 33 bytes of nothing", lambda size: [("NOP", None)] * 33 + [mss(size)]),
    ("last of forty bytes", lambda size: [("Timestamp", (1, 0))] * 3 + [("NOP", None)] * 6 + [mss(size)]),
)


@every_family
@pytest.mark.parametrize("place", OPTIONS, ids=lambda place: place[0].replace(" ", "-"))
@pytest.mark.parametrize("announced", [536, 1220, 1360, 1380, 1381, 1460, 8960, 65535])
def test_a_syn_announces_no_more_than_fits_the_tunnel(world: Node, version: int, place: Place, announced: int) -> None:
    """RFC 6691; both ways, wherever the option stands."""
    options = place[1]
    fitting = min(announced, INTO_TUNNEL[version])
    port = send_out(world, out_packet(version, "tcp"))

    out = world.run("nat_out", wire(out_packet(version, "tcp", options=options(announced)))).output
    back = world.run("nat_in", wire(answer(version, "tcp", port, options=options(announced)))).output

    expected = changed(out_packet(version, "tcp", options=options(fitting)), source=(EXIT[version], port))
    assert out == wire(expected)
    expected = changed(answer(version, "tcp", port, options=options(fitting)), destination=(INNER[version], 40000))
    assert back == wire(expected)


@every_family
@pytest.mark.parametrize(
    "options",
    [
        [],
        [("NOP", None)] * 40,
        [("EOL", None), mss(1460)],
        [(2, b"\x05")],
        [(2, b"\x05\xb4\x00\x00")],
        [(30, bytes(34)), ("NOP", None)],
    ],
    ids=["none", "nothing", "after-the-end", "short", "long", "unknown"],
)
def test_a_syn_without_a_sound_segment_size_is_left_alone(world: Node, version: int, options: Options) -> None:
    send_out(world, out_packet(version, "tcp", options=options))


@every_family
def test_only_a_syn_is_clamped(world: Node, version: int) -> None:
    send_out(world, out_packet(version, "tcp", flags="A", options=[mss(9000)]))
