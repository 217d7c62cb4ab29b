"""What an operator can get wrong: one clear line, an exit status other than 0, and a machine that is as it was."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jetplane.lab import namespaces, topology
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, wait_until
from tests.netns import snapshot

Edit = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong, and the words that the one line must have."""

    name: str
    says: tuple[str, ...]
    config: Edit | None = None
    peers: Edit | None = None
    without: str = ""  # capabilities taken away, as setpriv(1) writes them
    environment: tuple[tuple[str, str], ...] = ()


def _swap(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text, f"the lab's file has no {old!r}"
        return text.replace(old, new, 1)

    return edit


def _again(text: str) -> str:
    """The first peer once more, under another key."""
    address = next(line for line in text.splitlines() if line.startswith("allowed_ips"))
    return f'{text}\n[[peer]]\npublic_key = "{base64.b64encode(bytes(32)).decode()}"\n{address}\n'


MISTAKES = (
    Mistake("broken TOML", ("jetplane.toml: is not TOML", "line"), config=_swap("[uplink]", "[uplink")),
    Mistake("an unknown key", ("uplink.interfase: unknown key",), config=_swap("interface", "interfase")),
    Mistake("broken peers", ("peers.toml: is not TOML",), peers=_swap("[[peer]]", "[[peer]")),
    Mistake("an exit address that is not here", ("203.0.113.10",), config=_swap("routed = true", "routed = false")),
    Mistake(
        "an uplink that does not exist", ("nosuch0",), config=_swap('interface = "uplink0"', 'interface = "nosuch0"')
    ),
    Mistake("a private key that is not there", ("none.key",), config=_swap('"node.key"', '"none.key"')),
    Mistake("no root", ("root",), without="-all"),
    Mistake("no BPF", ("BPF",), without="-bpf,-sys_admin,-perfmon"),
    Mistake(
        "no WireGuard",
        ("wireguard-go",),
        config=_swap('backend = "auto"', 'backend = "userspace"'),
        environment=(("PATH", "/nowhere"),),
    ),
)


@pytest.fixture(scope="module")
def stopped(root: None) -> Iterator[Lab]:
    """A lab whose node is not started: every start must fail."""
    with topology.lab() as built:
        yield built


def _run(lab: Lab, mistake: Mistake) -> subprocess.CompletedProcess[bytes]:
    command: list[str | Path] = [sys.executable, "-m", "jetplane", "run", "--config", lab.node.config]
    if mistake.without:
        dropped = ["--bounding-set", mistake.without, "--inh-caps", mistake.without]
        command = ["/usr/bin/setpriv", *dropped, *command]
    process = namespaces.spawn(
        lab.plan.node,
        command,
        lab=lab.name,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(mistake.environment),
    )
    try:
        out, err = process.communicate(timeout=patience(30))
    finally:
        namespaces.kill(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _refused(lab: Lab, mistake: Mistake) -> None:
    """The start fails with one line that has the words, and nothing in the namespace has changed."""
    before = snapshot.take(lab.plan.node)
    done = _run(lab, mistake)
    lines = done.stderr.decode().strip().splitlines()
    assert done.returncode == 1, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("jetplane: ")
    assert "unforeseen" not in lines[0]
    for words in mistake.says:
        assert words in lines[0]
    assert snapshot.compare(before, snapshot.take(lab.plan.node)) == []
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(lab.node.run_directory) not in mounts


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_one_clear_line_and_changes_nothing(stopped: Lab, mistake: Mistake) -> None:
    files = {stopped.node.config: mistake.config, stopped.node.peers: mistake.peers}
    good = {path: path.read_text() for path in files}
    try:
        for path, edit in files.items():
            if edit:
                path.write_text(edit(good[path]))
        _refused(stopped, mistake)
    finally:
        for path, text in good.items():
            path.write_text(text)


def test_a_listen_port_in_use_is_one_clear_line_and_changes_nothing(stopped: Lab) -> None:
    port = stopped.plan.tunnels[0].listen_port

    def occupy() -> socket.socket:
        taken = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        taken.bind(("::", port))
        return taken

    with namespaces.inside(stopped.plan.node, occupy):
        _refused(stopped, Mistake("port in use", (str(port),)))


def test_the_wrong_bcc_is_told_apart(stopped: Lab, tmp_path: Path) -> None:
    """A package of that name on PyPI is an unrelated library; it hides the right one where it is installed."""
    package = tmp_path / "bcc"
    package.mkdir()
    (package / "__init__.py").write_text("def bcc_lattice():\n    return 'body-centred cubic'\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    _refused(stopped, Mistake("wrong bcc", ("python3-bpfcc",), environment=(("PYTHONPATH", path),)))


def test_after_all_mistakes_the_node_still_starts_and_one_bad_record_does_not_stop_it(stopped: Lab) -> None:
    good = stopped.node.peers.read_text()
    stopped.node.peers.write_text(_again(good))
    stopped.start()
    status = stopped.node.status()
    assert not status["healthy"]
    assert status["refused"] == {"duplicate": 1}
    assert "peer[2]: allowed_ips: also owned by" in status["refused_first"][0]
    stopped.node.peers.write_text(good)
    wait_until("the node is well", lambda: stopped.node.status()["healthy"], seconds=10)
