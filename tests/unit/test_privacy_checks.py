"""Judgements of the audit by themselves: on facts that a test cannot bring about on the machine it runs on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jetplane.audit.kernel import prints
from jetplane.audit.listeners import read
from jetplane.metrics import noise
from jetplane.privacy import facts as f
from jetplane.privacy.checks import judge
from jetplane.privacy.release import PROMISED_EPSILON
from jetplane.privacy.traces import kinds

CONTROLLER = f.Process(
    pid=1, role=f.CONTROLLER, uids=frozenset({0}), locked_kb=9, swapped_kb=0, may_swap=True, core_limit="0",
    dumpable=False, capabilities=1, no_new_privileges=True, seccomp=0,
)  # fmt: skip
EXPORTER = replace(CONTROLLER, pid=2, role=f.EXPORTER, uids=frozenset({99}), locked_kb=0, capabilities=0, seccomp=2)
WIREGUARD_GO = replace(CONTROLLER, pid=3, role=f.WIREGUARD_GO, locked_kb=0, dumpable=True)
MAP = f.Map(7, "peers", 2, 0, pinned=True)
PROGRAM = f.Program(8, "guard", "eth0 xdp", True, frozenset({7}), frozenset({"bpf_ktime_get_ns"}))

WELL = f.Facts(
    dataplane=f.DataPlane(
        declared={"peers": f.DeclaredMap(2, 0)}, programs_declared=frozenset({"guard"}), maps=(MAP,),
        programs=(PROGRAM,), sharing=(), mount_private=True, pins=(f.Pin("maps/peers", 0o600, 0, "bpf-map"),),
    ),
    kernel=f.Kernel(
        log_martians={"all": "0"}, dynamic_debug=0, tracked=None, path_mtu_expires={"a": 180}, swap=False,
        core_pattern="core", crash_kernel=False, captures=(),
    ),
    processes=(CONTROLLER, EXPORTER, WIREGUARD_GO),
    memory=f.Memory(frozenset({1, 2}), 10, 5),
    idle=(f.Idle("jet0", 5, 0, 0),),
    logs=(f.Log("the journal", 3),),
    run_files=(f.RunFile("status.json", 0o644, 0),),
    run_directory="/run/jetplane",
    run_file_system="tmpfs",
    release=f.Release(
        manifest=dict.fromkeys(("jetplane_ready", "jetplane_privacy_epsilon"), f.Metric("", lambda _: False)),
        scrapes=(f.Scrape("text", b"# HELP x\njetplane_ready 1\n", b"# HELP x\njetplane_ready 1\n", False),),
    ),
)  # fmt: skip


def broken(facts: f.Facts) -> dict[str, str]:
    return {check.name: check.detail for check in judge(facts) if not check.ok}


def kernel(**changes: Any) -> f.Facts:
    return replace(WELL, kernel=replace(WELL.kernel, **changes))


def plane(**changes: Any) -> f.Facts:
    return replace(WELL, dataplane=replace(WELL.dataplane, **changes))


def processes(*ones: f.Process, **of_the_kernel: Any) -> f.Facts:
    return replace(kernel(**of_the_kernel), processes=ones)


def served(body: bytes) -> f.Facts:
    return replace(WELL, release=replace(WELL.release, scrapes=(f.Scrape("text", body, body, False),)))


def test_a_node_on_which_all_is_well() -> None:
    assert broken(WELL) == {}


ROWS = (
    ("dynamic debug", kernel(dynamic_debug=3), "dynamic-debug", "3 messages of the wireguard module"),
    ("kdump", kernel(crash_kernel=True), "core-dumps", "kdump"),
    ("a pipe for cores", kernel(core_pattern="|/usr/bin/apport"), "core-dumps", "wireguard-go (pid 3) is dumpable"),
    ("a core limit", processes(replace(CONTROLLER, core_limit="unlimited")), "core-dumps", "limit unlimited"),
    ("swapped pages", processes(replace(CONTROLLER, swapped_kb=4)), "swap", "4 KiB of the controller"),
    ("swap for wireguard-go", processes(WIREGUARD_GO, swap=True), "swap", "may be swapped out"),
    ("capabilities", processes(replace(EXPORTER, capabilities=0x1000)), "exporter-rights", "0x1000"),
    ("no filter", processes(replace(EXPORTER, seccomp=0)), "exporter-rights", "no seccomp filter"),
    ("a missing map", plane(maps=()), "bpf-maps", "map peers is not pinned"),
    ("other flags", plane(maps=(replace(MAP, flags=4),)), "bpf-maps", "flags 0x4"),
    ("a perf buffer in use", plane(maps=(MAP, f.Map(9, "events", 4, 0))), "bpf-maps", "a perf buffer"),
    (
        "a program that shares a map",
        plane(sharing=(f.Program(9, "spy", "", False, frozenset({7})),)),
        "bpf-programs",
        "uses a map of the node",
    ),
    (
        "one of ours that streams",
        plane(programs=(replace(PROGRAM, calls=frozenset({"bpf_ringbuf_output"})),)),
        "bpf-programs",
        "program guard at eth0 xdp calls bpf_ringbuf_output",
    ),
    ("a pin for everybody", plane(pins=(f.Pin("maps/peers", 0o644, 0, "bpf-map"),)), "bpf-pins", "mode 0644"),
    ("a pinned link", plane(pins=(f.Pin("x", 0o600, 0, "bpf_link"),)), "bpf-pins", "x is a bpf_link"),
    ("a timestamp", served(b"jetplane_ready 1 1700000000\n"), "metrics", "no sample of one label"),
    ("a label more", served(b'jetplane_ready{peer="1"} 1\n'), "metrics", "does not allow"),
    ("no number", served(b"jetplane_ready one\n"), "metrics", "is no number"),
    ("not finite", served(b"jetplane_ready NaN\n"), "metrics", "no finite number"),
    ("epochs of a lab", served(b"jetplane_privacy_epsilon 1.0001\n"), "privacy-budget", "epsilon is 1.0001, not 1"),
    ("old handshakes", replace(WELL, idle=(f.Idle("jet0", 5, 2, 0),)), "idle-peers", "jet0: 2 peers"),
    ("unreadable peers", replace(WELL, idle=(f.Idle("jet0", 0, 0, 0, "jet0: no"),)), "idle-peers", "jet0: no"),
    ("no search", replace(WELL, memory=f.Memory(trouble="jet0: no search")), "memory", "no search"),
    (
        "a disk",
        replace(WELL, run_directory="/var/lib/jetplane", run_file_system="ext4"),
        "disk",
        "/var/lib/jetplane is on ext4",
    ),
    ("a socket for all", replace(WELL, run_files=(f.RunFile("admin.sock", 0o666, 0),)), "run-files", "mode 0666"),
)


@pytest.mark.parametrize(("what", "facts", "check", "says"), ROWS, ids=[row[0] for row in ROWS])
def test_what_cannot_be_broken_on_this_kernel_is_judged(what: str, facts: f.Facts, check: str, says: str) -> None:
    found = broken(facts)
    assert found.keys() == {check}
    assert says in found[check]


def test_without_an_answer_of_the_exporter_nothing_is_believed() -> None:
    facts = replace(WELL, release=replace(WELL.release, scrapes=(), trouble="no answer"))
    assert broken(facts).keys() == {"metrics", "metrics-cached", "privacy-budget"}


def test_what_is_promised_is_what_the_noise_is_made_for() -> None:
    assert (PROMISED_EPSILON, 1e-9) == (noise.EPSILON, noise.DELTA)


def test_long_findings_are_cut_and_counted() -> None:
    logs = tuple(f.Log(f"log{number}", 1, {"key": 1}) for number in range(9))
    assert broken(replace(WELL, logs=logs))["logs"].endswith("and 4 more")


CONTROL = """# filename:lineno [module]function flags format
drivers/net/wireguard/receive.c:142 [wireguard]wg_receive_handshake_packet =p "%s: Receiving handshake from %pISpfsc"
drivers/net/wireguard/send.c:36 [wireguard]wg_packet_send_handshake_initiation =_ "%s: Sending handshake =p initiation"
drivers/net/wireguard/send.c:72 [wireguard]wg_packet_send =pmf "%s: x"
drivers/usb/core.c:1 [usbcore]usb_probe =p "probe"
"""


def test_dynamic_debug_is_read_as_the_kernel_writes_it() -> None:
    assert prints(CONTROL) == 2
    assert prints("") == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("stopped; the data plane goes on", []),
        ("peer mJ5bXWAZ1h2oCqkK1oXGzc3yJ6VSFqIvxRCLvGGtO0Y= is away", ["key"]),
        ("hash " + "ab" * 32, ["key"]),
        ("from 192.0.2.77:4567", ["address"]),
        ("from [2001:db8::7]:4567", ["address"]),
        ("version 1.2.3.4.5, at 12:30:45, 127.0.0.1 and ::1", []),
        ("exit 203.0.113.10", []),
    ],
)
def test_identifiers_are_told_from_other_words(text: str, found: list[str]) -> None:
    assert list(kinds(text, known={"203.0.113.10"})) == found


def test_listeners_are_read_as_the_kernel_writes_them() -> None:
    assert read("0100007F:2572", 5).reachable_at == "127.0.0.1"
    assert read("00000000:0050", 5).reachable_at == "127.0.0.1"
    assert read("00000000000000000000000001000000:2572", 5).reachable_at == "::1"
    assert read("00000000000000000000000000000000:2572", 5).port == 9586
