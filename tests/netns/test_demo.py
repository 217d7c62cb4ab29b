"""The demo, run as anybody would: the command, its last line, its exit status, and nothing left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from jetplane.lab import leftovers, namespaces
from jetplane.lab.waiting import patience, slowness, wait_until

COMMAND = [sys.executable, "-m", "jetplane", "demo", "--json"]

# The same with downloads that suit an emulated machine.
SMALL = [sys.executable, "-c", "from jetplane.lab import demo; raise SystemExit(demo.run(as_json=True, size=1 << 20))"]


@pytest.mark.timeout(900)
def test_every_check_of_the_demo_holds_and_it_leaves_nothing(root: None, wireguard_kind: str) -> None:
    before = leftovers.labs()
    command = COMMAND if slowness() < 3 else SMALL
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(120))
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"ok", "wireguard", "checks", "seconds"}
    assert [check for check in result["checks"] if not check["ok"]] == []
    assert all(set(check) == {"name", "ok", "detail"} for check in result["checks"])
    assert len(result["checks"]) > 30
    assert result["ok"]
    assert done.returncode == 0
    assert result["wireguard"] == wireguard_kind
    assert leftovers.labs() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.timeout(300)
def test_an_interrupted_demo_leaves_nothing(root: None, number: signal.Signals) -> None:
    process = subprocess.Popen(SMALL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until("the node of the demo", lambda: _starts_node(process), seconds=60)
    process.send_signal(number)
    _, errors = process.communicate(timeout=patience(60))
    assert process.returncode == 130, errors
    assert namespaces.names(f"jetlab-{process.pid}-") == []
    assert str(process.pid) not in leftovers.labs()
    assert list(leftovers.processes(str(process.pid), set())) == []


@pytest.mark.timeout(300)
def test_a_killed_demo_is_cleared_away_by_the_next(root: None) -> None:
    process = subprocess.Popen(SMALL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until("the node of the demo", lambda: _starts_node(process), seconds=60)
    process.kill()
    process.wait()
    name = str(process.pid)
    assert name in leftovers.labs()
    assert len(list(leftovers.processes(name, set()))) > 3
    assert name in leftovers.remove_abandoned()
    assert name not in leftovers.labs()
    assert list(leftovers.processes(name, set())) == []


def _starts_node(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> bool:
    """Whether the node of a running demo has begun to compile its programs."""
    return (leftovers.DIRECTORY / str(process.pid) / "run/bpf").exists()
