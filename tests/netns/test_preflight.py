"""The pre-flight on a real machine: what is wrong is said in one line, `run` refuses, and nothing has changed."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyroute2
import pytest
import tomlkit

from jetplane import preflight
from jetplane.cli.main import main
from jetplane.config import load
from jetplane.dataplane import bpf
from jetplane.dataplane.programs import ProgramType
from jetplane.lab import links, namespaces
from jetplane.lab.links import End
from jetplane.lab.waiting import patience
from jetplane.network import features
from jetplane.preflight import Check, probe
from tests.netns import snapshot

OWN, GATEWAY = "198.51.100.2", "198.51.100.1"


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    status: int
    output: str
    errors: str


@dataclass
class Machine:
    """A namespace that would make a node, and the files an operator would write for it."""

    namespace: str
    directory: Path
    tree: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.directory / "jetplane.toml"

    def check(self) -> tuple[Check, ...]:
        self.write()
        return namespaces.inside(self.namespace, lambda: preflight.check(load(self.path)))

    def failed(self) -> list[Check]:
        return [row for row in self.check() if row.failed]

    def write(self) -> None:
        self.path.write_text(tomlkit.dumps(self.tree))

    def jetplane(self, *arguments: str) -> Said:
        """Run a command as a process of its own; what is imported here already need not be imported again there."""
        self.write()
        output = self.directory.with_name("stdout"), self.directory.with_name("stderr")

        def start() -> int:
            pid = os.fork()
            if pid == 0:
                for number, path in enumerate(output, 1):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
                status = 70
                try:
                    status = _status_of([*arguments, "--config", str(self.path)])
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(status)
            return pid

        _, status = os.waitpid(namespaces.inside(self.namespace, start), 0)
        return Said(os.waitstatus_to_exitcode(status), *(path.read_text().strip() for path in output))

    def execute(self, *arguments: str, before: tuple[str, ...] = (), **environment: str) -> Said:
        """Run a command from the start, with another environment."""
        self.write()
        command = [*before, sys.executable, "-m", "jetplane", *arguments, "--config", str(self.path)]
        environ = {**os.environ, **environment}
        done = namespaces.inside(
            self.namespace,
            lambda: subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=patience(30), env=environ
            ),
        )
        return Said(done.returncode, done.stdout.strip(), done.stderr.strip())


def _status_of(arguments: list[str]) -> int:
    for handler in logging.getLogger().handlers[:]:  # pytest's
        logging.getLogger().removeHandler(handler)
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def machine(root: None, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Machine]:
    node, router = unique("n"), unique("r")
    key, peers = tmp_path / "node.key", tmp_path / "peers.toml"
    key.touch(mode=0o600)
    key.write_text(base64.b64encode(bytes(range(32))).decode())
    peers.write_text("")
    tree = {
        "run_directory": str(tmp_path / "run"),
        "uplink": {"interface": "up0"},
        "exit": {"ipv4": ["198.51.100.9"]},
        "tunnel": [
            {
                "name": node.replace("n", "t"),
                "listen_port": 51820,
                "private_key_file": str(key),
                "addresses": ["10.64.0.1/16"],
            }
        ],
        "peers": {"path": str(peers)},
    }
    try:
        for name in (node, router):
            namespaces.create(name)
            # Fresh IPv6 addresses are usable at once.
            namespaces.write_sysctls(name, {"ipv6/conf/default/accept_dad": 0, "ipv6/conf/default/dad_transmits": 0})
        links.pair(End(node, "up0", (f"{OWN}/24",)), End(router, "net0", (f"{GATEWAY}/24",)))
        links.add_routes(node, [("0.0.0.0/0", GATEWAY, "up0")])
        snapshot.wait_for_links(node, "up0")
        yield Machine(node, tmp_path, tree)
    finally:
        for name in (node, router):
            namespaces.remove(name)


def test_a_machine_that_is_fit_passes_and_is_left_as_it_was(machine: Machine) -> None:
    before = snapshot.take(machine.namespace)
    files = sorted(machine.directory.iterdir())
    machine.write()
    assert machine.failed() == []
    assert snapshot.compare(before, snapshot.take(machine.namespace)) == []
    assert sorted(machine.directory.iterdir()) == sorted({*files, machine.path})


def test_the_command_shows_the_same_and_its_exit_status_tells(machine: Machine) -> None:
    good = machine.jetplane("check", "--json")
    assert good.status == 0 and json.loads(good.output)["ok"] is True
    machine.tree["uplink"]["interface"] = "eth9"
    bad = machine.jetplane("check", "--json")
    rows = {row["name"]: row for row in json.loads(bad.output)["checks"]}
    assert bad.status == 1 and rows["uplink"]["state"] == "failed"
    assert "eth9: there is no such interface" in machine.jetplane("check").output


def _take_port(
    kind: socket.SocketKind, address: tuple[str, int]
) -> Callable[[Machine], contextlib.AbstractContextManager[Any]]:
    def take(machine: Machine) -> contextlib.AbstractContextManager[Any]:
        def bind() -> socket.socket:
            taken = socket.socket(socket.AF_INET, kind)
            taken.bind(address)
            if kind == socket.SOCK_STREAM:
                taken.listen()
            return taken

        return contextlib.closing(namespaces.inside(machine.namespace, bind))

    return take


def _change(*path: str | int, to: Any) -> Callable[[Machine], contextlib.AbstractContextManager[Any]]:
    def change(machine: Machine) -> contextlib.AbstractContextManager[Any]:
        table: Any = machine.tree
        for step in path[:-1]:
            table = table.setdefault(step, {}) if isinstance(step, str) else table[step]
        table[path[-1]] = to
        return contextlib.nullcontext()

    return change


def _run_ip(*arguments: str) -> Callable[[Machine], contextlib.AbstractContextManager[Any]]:
    def run(machine: Machine) -> contextlib.AbstractContextManager[Any]:
        words = [machine.tree["tunnel"][0]["name"] if word == "TUNNEL" else word for word in arguments]
        namespaces.inside(machine.namespace, lambda: subprocess.run(["ip", *words], check=True))
        return contextlib.nullcontext()

    return run


def _peers(text: str) -> Callable[[Machine], contextlib.AbstractContextManager[Any]]:
    def write(machine: Machine) -> contextlib.AbstractContextManager[Any]:
        (machine.directory / "peers.toml").write_text(text)
        return contextlib.nullcontext()

    return write


def _open_key(machine: Machine) -> contextlib.AbstractContextManager[Any]:
    (machine.directory / "node.key").chmod(0o644)
    return contextlib.nullcontext()


def _foreign_xdp(machine: Machine) -> contextlib.AbstractContextManager[Any]:
    """Attach a program that passes everything, as another tool would have left it."""

    def attach() -> None:
        with bpf.opened(probe.load(ProgramType.XDP, returns=2)) as fd, pyroute2.IPRoute() as route:
            route.link("set", index=socket.if_nametoindex("up0"), xdp_fd=fd)

    namespaces.inside(machine.namespace, attach)
    return contextlib.nullcontext()


BAD = {
    "an uplink that does not exist": (
        _change("uplink", "interface", to="eth9"),
        "eth9: there is no such interface",
        "up0",
    ),
    "an uplink that is down": (_run_ip("link", "set", "up0", "down"), "up0: is down", "ip link set up0 up"),
    "an exit address missing on the host": (
        _change("exit", "ipv4", to=["203.0.113.7"]),
        "203.0.113.7: neither assigned to this machine nor in a prefix of up0",
        "exit.routed = true",
    ),
    "the WireGuard port in use": (
        _take_port(socket.SOCK_DGRAM, ("", 51820)),
        "listen_port 51820: Address already in use",
        "ss -ulnp",
    ),
    "the metrics port in use": (
        _take_port(socket.SOCK_STREAM, ("127.0.0.1", 9586)),
        "port 9586: Address already in use",
        "metrics.port",
    ),
    "a metrics user who does not exist": (
        _change("metrics", "user", to="nobodyatall"),
        "there is no such user",
        "nobody",
    ),
    "a certificate of the exporter that is not there": (
        _change("metrics", to=dict.fromkeys(("tls_cert_file", "tls_key_file", "tls_client_ca_file"), "/nowhere")),
        "metrics.tls_client_ca_file: /nowhere: cannot be read: No such file",
        "",
    ),
    "a tunnel's name that is taken": (
        _run_ip("link", "add", "TUNNEL", "type", "veth", "peer", "name", "far0"),
        "is not jetplane's",
        "another name",
    ),
    "peers' addresses that are somebody else's": (
        _run_ip("addr", "add", "10.64.3.1/24", "dev", "up0"),
        "10.64.0.0/16 holds 10.64.3.1",
        "of its own",
    ),
    "a route to peers' addresses": (
        _run_ip("route", "add", "10.64.3.0/24", "via", GATEWAY),
        "clashes with 10.64.3.0/24",
        "of its own",
    ),
    "no private key": (
        _change("tunnel", 0, "private_key_file", to="/nowhere"),
        "/nowhere: private key cannot be read",
        "wg genkey",
    ),
    "a private key for all to read": (_open_key, "is open to every user", "chmod 600"),
    "no peers file": (_change("peers", "path", to="/nowhere.toml"), "/nowhere.toml: is not there", "peers.path"),
    "another's XDP program": (_foreign_xdp, "an XDP program that is not jetplane's", "xdp off"),
}


def test_a_record_that_cannot_be_used_is_named_by_its_place(machine: Machine) -> None:
    """A node that runs leaves it out and says so; `check` is asked before, and so it fails."""
    with _peers('[[peer]]\npublic_key = "AAAA"\nallowed_ips = ["10.64.0.2/32"]\n')(machine):
        [row] = machine.failed()
    assert "peer[0]" in row.detail
    assert "AAAA" not in row.detail


@pytest.mark.parametrize("title", BAD)
def test_what_is_bad_is_one_line_with_what_to_do_and_run_changes_nothing(machine: Machine, title: str) -> None:
    spoil, says, hint = BAD[title]
    with spoil(machine):
        before = snapshot.take(machine.namespace)
        [row] = machine.failed()
        assert says in row.detail and hint in row.hint
        refused = machine.jetplane("run")
        assert refused.status == 1
        assert says in refused.errors and hint in refused.errors and "\n" not in refused.errors
        assert snapshot.compare(before, snapshot.take(machine.namespace)) == []
    assert not (machine.directory / "run").exists()


def test_an_xdp_program_that_is_to_give_way_is_a_warning(machine: Machine) -> None:
    machine.tree["uplink"]["replace_foreign_xdp"] = True
    with _foreign_xdp(machine):
        [row] = [row for row in machine.check() if row.name == "other programs"]
    assert row.ok == "warn"
    assert re.fullmatch(r"up0: probe \(id \d+\) gives way to the guard", row.detail)
    assert "puts it back" in row.hint


def test_the_wrong_bcc_is_named(machine: Machine, tmp_path: Path) -> None:
    unrelated = tmp_path / "site" / "bcc"
    unrelated.mkdir(parents=True)
    (unrelated / "__init__.py").write_text("")
    refused = machine.execute("run", PYTHONPATH=str(unrelated.parent))
    assert refused.status == 1 and "\n" not in refused.errors
    assert "is not the BPF Compiler Collection" in refused.errors and "python3-bpfcc" in refused.errors


def test_no_wireguard_is_named(machine: Machine) -> None:
    machine.tree["wireguard"] = {"backend": "userspace"}
    refused = machine.execute("run", PATH="/nowhere")
    assert refused.status == 1 and "\n" not in refused.errors
    assert "wireguard-go is not on PATH" in refused.errors and "apt install wireguard-go" in refused.errors


def test_without_root_that_is_said_and_nothing_else(machine: Machine) -> None:
    refused = machine.execute("run", before=("setpriv", "--bounding-set", "-all", "--inh-caps", "-all"))
    assert refused.status == 1
    assert refused.errors == (
        "jetplane: rights: missing: CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF (run as root)"
    )


def test_a_driver_says_its_name_and_a_missing_interface_none(machine: Machine) -> None:
    assert namespaces.inside(machine.namespace, lambda: features.driver("up0")) == "veth"
    assert namespaces.inside(machine.namespace, lambda: features.driver("eth9")) == ""


def test_connections_that_the_kernel_tracks_are_warned_of(machine: Machine) -> None:
    rules = "table ip t { chain c { type filter hook output priority 0; ct state new accept; }; }"

    def track() -> None:
        subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
            udp.sendto(b"x", (GATEWAY, 9))

    namespaces.inside(machine.namespace, track)
    [row] = [row for row in machine.check() if row.name == "conntrack"]
    assert row.ok == "warn"
