"""`jetplane audit` on a live node: everything is kept, and each promise that is broken on purpose is found, alone."""

from __future__ import annotations

import json

import pytest

from jetplane import audit, config
from jetplane.lab import namespaces
from jetplane.lab.topology import Lab
from jetplane.privacy.checks import QUESTIONS
from jetplane.privacy.facts import CONTROLLER, EXPORTER
from jetplane.privacy.question import Check
from tests.netns import audit_breaks as breaks

QUICK = audit.Limits(half_open_s=0.2)


def audited(lab: Lab) -> dict[str, Check]:
    settings = config.load(lab.node.config)
    return {check.name: check for check in namespaces.inside(lab.plan.node, lambda: audit.audit(settings, QUICK))}


def test_on_a_node_in_use_every_promise_is_kept(lab: Lab) -> None:
    breaks.wait_for_the_exporter(lab)
    told = audited(lab)
    assert {name: check.detail for name, check in told.items() if not check.ok} == {}
    assert list(told) == [question.name for question in QUESTIONS]
    assert "2 processes" in told["memory"].looked_at, "controller and exporter"


BREAKS: tuple[tuple[str, breaks.Break, str, str], ...] = (
    ("a map that nobody declared", breaks.pinned_map(2, 4, 8, 1), "bpf-maps", "not of the manifest"),
    ("a ring buffer", breaks.pinned_map(27, 0, 0, 4096), "bpf-maps", "is a ring buffer"),
    ("a program that prints", breaks.printing_program, "bpf-programs", "bpf_trace_printk"),
    ("a bpffs for everybody", breaks.open_bpffs, "bpf-pins", "others than root"),
    ("martians logged", breaks.changed_sysctl("ipv4/conf/uplink0/log_martians", "1"), "kernel-log", "uplink0"),
    ("paths remembered", breaks.changed_sysctl("ipv4/route/mtu_expires", "600"), "path-mtu-cache", "600 s"),
    ("a stateful firewall", breaks.stateful_firewall, "conntrack", " connections of this namespace"),
    ("a capture", breaks.capture, "captures", "every interface"),
    (
        "a process that may be dumped",
        breaks.other_exporter(
            "import ctypes; drop = privileges.drop\n"
            "privileges.drop = lambda *a, **k: (drop(*a, **k), ctypes.CDLL(None).prctl(4, 1, 0, 0, 0))"
        ),
        "core-dumps",
        "is dumpable",
    ),
    ("memory that is not locked", breaks.without_locked_memory, "swap", "no locked memory"),
    ("an endpoint remembered", breaks.remembered(CONTROLLER, breaks._endpoint), "memory", "an endpoint as text"),
    (
        "the private key remembered",
        breaks.remembered(CONTROLLER, lambda lab: breaks._device(lab).private_key),
        "memory",
        "the private key as binary",
    ),
    (
        "public keys in the exporter",
        breaks.remembered(EXPORTER, lambda lab: b"".join(breaks._device(lab).peers)),
        "memory",
        "a public key as binary",
    ),
    ("a key in the arguments", breaks.other_exporter("", breaks.CANARY), "arguments", "key in the arguments"),
    ("a key in the environment", breaks.other_exporter("", PEER=breaks.CANARY), "arguments", "environment"),
    (
        "an exporter as root",
        breaks.other_exporter("privileges.drop = lambda *_, **__: privileges.forbid_core_dumps()"),
        "exporter-rights",
        "runs as root",
    ),
    (
        "an exporter whose system calls nobody filters",
        breaks.other_exporter("from jetplane.metrics import seccomp; seccomp.confine = lambda: None"),
        "exporter-rights",
        "may make any system call",
    ),
    (
        "a netlink socket in the exporter",
        breaks.other_exporter("import socket; kept = socket.socket(16, 3, 0); kept.bind((0, 0))"),
        "exporter-descriptors",
        "a netlink socket",
    ),
    ("a file that is written", breaks.other_exporter("kept = open('{lab}/kept', 'w')"), "disk", "/kept"),
    (
        "epochs of a lab",
        breaks.run_file("metrics/exposition.txt", "jetplane_privacy_epsilon 187.5\n"),
        "privacy-budget",
        "epsilon is 187.5, not 1",
    ),
    (
        "answers that differ",
        breaks.other_exporter(
            "import itertools; n = itertools.count(); answer = exporter.Release.answer\n"
            "exporter.Release.answer = lambda self, request: answer(self, request) + b'# %d\\n' % next(n)"
        ),
        "metrics-cached",
        "differ",
    ),
    ("a key in the log", breaks.written_log(f"WARNING peer {breaks.CANARY} is away"), "logs", "key in 1"),
    ("an address in the log", breaks.written_log("WARNING 192.0.2.77 is away"), "logs", "address in 1"),
    ("a file of state", breaks.run_file("sessions.json", "{}"), "run-files", "sessions.json is not of the list"),
    ("a key in a file", breaks.run_file("status.json", f"\n{breaks.CANARY}\n"), "run-files", "holds a key"),
    (
        "a metric of a peer",
        breaks.run_file("metrics/exposition.txt", 'jetplane_peer_bytes{peer="7"} 1\n'),
        "metrics",
        "jetplane_peer_bytes is not of the manifest",
    ),
    (
        "another exporter",
        breaks.node_exporter,
        "co-exporters",
        "port 9100: node_network_transmit_bytes_total of uplink0",
    ),
    ("a half-open handshake", breaks.half_open_peer, "idle-peers", "1 half-open"),
)


@pytest.mark.parametrize(("what", "broken", "check", "says"), BREAKS, ids=[row[0] for row in BREAKS])
def test_a_broken_promise_is_found_and_only_that_one(
    lab: Lab, what: str, broken: breaks.Break, check: str, says: str
) -> None:
    with broken(lab):
        failed = {name: found for name, found in audited(lab).items() if not found.ok}
    assert {name: found.detail for name, found in failed.items()}.keys() == {check}, failed
    assert says in failed[check].detail
    assert failed[check].hint
    assert breaks.CANARY not in str(failed), "what is found is not repeated"


def test_every_check_that_can_be_broken_here_is_broken() -> None:
    """Dynamic debug is none of this kernel's: its judgement is tested by itself, and the real thing where it is."""
    assert {row[2] for row in BREAKS} == {question.name for question in QUESTIONS} - {"dynamic-debug"}


def test_the_command_says_it_to_people_and_to_programs(lab: Lab) -> None:
    done = lab.node.jetplane("audit", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert {row["name"]: row["detail"] for row in told["checks"] if not row["ok"]} == {}
    assert done.returncode == 0 and told["ok"]
    assert all(row.keys() == {"name", "ok", "promise", "looked_at", "detail", "hint"} for row in told["checks"])
    with breaks.written_log(f"WARNING peer {breaks.CANARY} is away")(lab):
        done = lab.node.jetplane("audit")
    assert done.returncode == 1
    assert b"1 of" in done.stdout and b"erase the log" in done.stdout
