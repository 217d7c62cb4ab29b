"""Looking for subscribers in everything that a node leaves behind, after a life with all that can happen.

The numbers are those of tests/ATTACKS.md, which names the tests of all attacks. Each has a control: the same search
finds the same subscribers where a naive design would have put them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jetplane.admin import client
from jetplane.errors import JetplaneError
from jetplane.lab import namespaces, topology, traffic
from jetplane.lab.addresses import NODE_IPV4, NODE_IPV6, SITES_IPV4, LabOptions
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, wait_until
from tests.netns import canaries
from tests.netns.test_exporter_confined import get
from tests.netns.test_lifecycle import handshake_anew
from tests.netns.test_wireguard_secrets import found

pytestmark = pytest.mark.timeout(300)

DEBUGGING = """
import logging
_configure = logging.basicConfig
logging.basicConfig = lambda **options: _configure(**{**options, "level": logging.DEBUG})
"""
"""A sitecustomize module: whatever level a process asks for, it logs everything."""

NAIVE = """
import subprocess, sys
dump = subprocess.check_output(["wg", "show", "all", "dump"])
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Life:
    """A lab whose node has lived, and the records of every program that was started by it."""

    lab: Lab
    executed: tuple[Path, ...]
    dump: bytes  # what `wg show all dump` said while both subscribers were connected: all that is looked for


@pytest.fixture(scope="module")
def life(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    traces = tmp_path_factory.mktemp("traces")
    modules = tmp_path_factory.mktemp("modules")
    (modules / "sitecustomize.py").write_text(DEBUGGING)
    with pytest.MonkeyPatch.context() as patch, topology.lab(LabOptions(peers=10)) as lab:
        for address in canaries.SITES.values():
            command = ["ip", "address", "add", address, "dev", "lo"]
            assert namespaces.run(lab.plan.internet, command, lab=lab.name, timeout=patience(10)).returncode == 0
        patch.setenv("PYTHONPATH", str(modules))
        plain = lab.node._command

        def recorded(*arguments: str) -> list[str]:
            if arguments != ("run",):
                return plain(*arguments)
            file = traces / f"{len(list(traces.iterdir()))}"
            strace = ["strace", "-D", "-f", "--seccomp-bpf", "-e", "trace=execve,execveat", "-v", "-s", "65536"]
            return [*strace, "-o", str(file), *plain(*arguments)]

        patch.setattr(lab.node, "_command", recorded)
        lab.start()
        dump = b""

        def both_are_connected() -> bool:
            nonlocal dump
            command = ["wg", "show", "all", "dump"]
            dump = namespaces.run(lab.plan.node, command, lab=lab.name, timeout=patience(10)).stdout
            return canaries.in_text(dump, everything(lab)) >= connected(lab)

        wait_until("both subscribers", both_are_connected)
        live(lab)
        yield Life(lab, tuple(sorted(traces.iterdir())), dump)


def live(lab: Lab) -> None:
    """Traffic, records that are wrong, a peer that expires, one that is forgotten, a broken node, a crash."""
    use(lab)
    peers = lab.node.peers.read_text()
    wrong = peers.replace("[[peer]]", '[[peer]]\nplan = "gold"', 1)
    for text in ("[[peer]\n" + peers, wrong, peers + peers[peers.index("[[peer]]") :]):
        lab.node.peers.write_text(text)
        reload(lab)
    key = f'public_key = "{lab.public_keys[1]}"\n'
    lab.node.peers.write_text(peers.replace(key, f"{key}expires_at = 2001-01-01T00:00:00Z\n"))
    reload(lab)
    lab.node.peers.write_text(peers)
    reload(lab)
    name = lab.plan.tunnels[0].name
    config = lab.node.config.read_text()
    lab.node.config.write_text(config.replace("[nat]", "[nat]\nudp_timeout = 1"))
    reload(lab)
    lab.node.config.write_text(config)
    namespaces.run(lab.plan.node, ["ip", "link", "delete", name], lab=lab.name, timeout=patience(10))
    reload(lab)
    lab.node.kill()
    lab.node.start()
    handshake_anew(lab, 0)
    wait_until("traffic after it all", lambda: traffic.ping(visit(lab, 0, 4), 1, wait=1) == 1, seconds=60)
    use(lab, subscribers=(0,))
    client.ask(lab.node.run_directory, "POST", "/v1/forget", {"public_key": lab.public_keys[1]}, seconds=patience(30))


def reload(lab: Lab) -> None:
    with contextlib.suppress(JetplaneError):  # that it refuses is part of it
        client.ask(lab.node.run_directory, "POST", "/v1/reload", seconds=patience(30))


def visit(lab: Lab, subscriber: int, family: int) -> traffic.Visit:
    return traffic.Visit(lab.name, lab.plan.subscribers[subscriber].namespace, canaries.SITES[family])


def use(lab: Lab, subscribers: tuple[int, ...] = (0, 1)) -> None:
    for subscriber in subscribers:
        for family in (4, 6):
            assert traffic.ping(visit(lab, subscriber, family), 2) == 2


def everything(lab: Lab) -> dict[str, bytes]:
    return canaries.keys(lab) | canaries.inner(lab) | canaries.outer(lab) | canaries.sites()


def connected(lab: Lab) -> set[str]:
    """What a dump of WireGuard shows: subscriber 1 comes over IPv4, subscriber 2 over IPv6; no sites."""
    first, second = lab.plan.subscribers
    outer = {f"outer {first.outer_ipv4.ip}", f"outer {second.outer_ipv6.ip}"}
    return {*canaries.keys(lab), *outer}


def test_attack_14_the_log_names_nobody_even_when_all_fails_and_all_is_logged(life: Life) -> None:
    """Neither our subscribers nor anything that looks like a key or an address, but the node's own addresses."""
    lab = life.lab
    log = lab.node.log.read_bytes()
    assert b"is not TOML" in log and b"ERROR" in log, "files and the kernel have failed it"
    assert canaries.in_text(log, everything(lab)) == set()
    own = [*lab.plan.exit_ipv4, *lab.plan.exit_ipv6, str(NODE_IPV4.ip), str(NODE_IPV6.ip), "127.0.0.1"]
    assert canaries.patterns(log, own) == set()
    assert canaries.in_text(life.dump, everything(lab)) >= connected(lab), "the control: who logs what wg says"
    assert len(canaries.patterns(life.dump)) > 12


def test_attack_16_no_process_remembers_where_a_subscriber_comes_from_or_goes_to(life: Life) -> None:
    """As text, in binary and in base64, in the controller and in the exporter, which knows no key either.

    The control: a process that has read the device as a naive exporter does.
    """
    lab = life.lab
    places = canaries.in_memory(canaries.outer(lab) | canaries.sites())
    assert found(lab.node.pid, places) == set()
    (exporter,) = children(lab.node.pid, "jetplane.metrics.exporter")
    assert found(exporter, places | canaries.keys_in_memory(lab)) == set()
    assert found(lab.node.pid, canaries.keys_in_memory(lab)), "the controller wants these keys: the search works"
    pipe = subprocess.PIPE
    naive = namespaces.spawn(lab.plan.node, [sys.executable, "-c", NAIVE], lab=lab.name, stdin=pipe, stdout=pipe)
    try:
        assert naive.stdout is not None
        assert naive.stdout.readline() == b"ready\n"
        assert f"outer {lab.plan.subscribers[0].outer_ipv4.ip} as text" in found(naive.pid, places)
    finally:
        namespaces.kill(naive)
        naive.communicate()


def children(parent: int, module: str) -> list[int]:
    """Processes started by `parent` that run a module."""
    ids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in ids if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]


def test_attack_18_nothing_of_the_controller_can_be_swapped(life: Life) -> None:
    """Every region that can be written is locked (proc(5), VmFlags lo). The control: this very process is not."""

    def unlocked(pid: int) -> int:
        regions = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.MULTILINE)
        writable = [region for region in regions if re.match(r"\S+ .w.p ", region)]
        assert writable
        return sum(" lo" not in region[region.index("VmFlags:") :] for region in writable)

    assert unlocked(life.lab.node.pid) == 0
    assert unlocked(os.getpid()) > 0


def executions(life: Life) -> list[str]:
    lines = [line for file in life.executed for line in file.read_text(errors="replace").splitlines()]
    return [line for line in lines if "execve" in line]


def test_attack_20_no_program_was_ever_started_with_a_name_of_anybody(life: Life) -> None:
    """Every exec of every process of the node, with arguments and environment. The control: `wg set` as one would."""
    lines = executions(life)
    said = "\n".join(lines).encode()
    assert len(life.executed) == 2 and len(lines) > 10, "both runs of the controller and their children"
    assert b"jetplane.metrics.exporter" in said
    assert canaries.in_text(said, everything(life.lab)) == set()
    naive = f'execve("/usr/bin/wg", ["wg", "set", "jet0", "peer", "{life.lab.public_keys[0]}", "allowed-ips", '
    assert canaries.in_text(naive.encode(), everything(life.lab)) == {"key of subscriber 0"}


AS_NOBODY = """
import ctypes, errno, json, os, struct, sys
from pathlib import Path
from jetplane.dataplane import bpf  # what is needed is read before the rights are gone

directory, pin = sys.argv[1:3]
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]

def call(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\\0"), 128)
    result = libc.syscall(ctypes.c_long(number), command, buffer, 128)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "ok"

def listing():
    try:
        os.listdir(directory)
        return "ok"
    except PermissionError as error:
        return errno.errorcode[error.errno]

if sys.argv[3] == "nobody":
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
path = ctypes.create_string_buffer(pin.encode())
print(json.dumps({
    "list the pins": listing(),
    "open a pin": call(7, struct.pack("=QII", ctypes.addressof(path), 0, 0)),
    "next map": call(12, struct.pack("=II", 0, 0)),
    "map by id": call(14, struct.pack("=I", int(sys.argv[4]))),
    "next program": call(11, struct.pack("=II", 0, 0)),
}))
"""


def test_attack_19_another_user_gets_at_no_map(life: Life) -> None:
    """Neither by its pin nor by its id (bpf(2): OBJ_GET, MAP_GET_NEXT_ID, MAP_GET_FD_BY_ID). The control: root does."""
    lab = life.lab
    pins = lab.node.run_directory / "bpf"
    pin = next(path for path in pins.rglob("*") if path.name == "endpoints")
    shown = namespaces.run(lab.plan.node, [sys.executable, "-c", MAP_ID, str(pin)], lab="", timeout=patience(30))
    assert shown.returncode == 0, shown.stderr.decode()

    def tried(user: str) -> dict[str, str]:
        command = [sys.executable, "-c", AS_NOBODY, str(pins), str(pin), user, shown.stdout.decode().strip()]
        done = namespaces.run(lab.plan.node, command, lab=lab.name, timeout=patience(30))
        assert done.returncode == 0, done.stderr.decode()
        said: dict[str, str] = json.loads(done.stdout)
        return said

    as_root = tried("root")
    assert as_root == dict.fromkeys(as_root, "ok")
    refused = tried("nobody")
    assert set(refused.values()) <= {"EPERM", "EACCES"}, refused


MAP_ID = """
import ctypes, re, struct, sys
from pathlib import Path
from jetplane.dataplane import bpf
path = ctypes.create_string_buffer(sys.argv[1].encode())
class Get(ctypes.Structure):
    _fields_ = (("path", ctypes.c_uint64), ("fd", ctypes.c_uint32), ("flags", ctypes.c_uint32))
fd = bpf.checked(bpf.call(7, Get(ctypes.addressof(path), 0, 0)), "opening a pin")
print(re.search(r"map_id:\\s+(\\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text())[1])
"""


def test_attack_24_no_file_that_the_node_wrote_names_anybody(life: Life) -> None:
    """Below the node's directory: the run directory with status, journal, ledger and releases, and releases.

    The control: the operator's own file of peers.
    """
    lab = life.lab
    below = (path for path in lab.node.run_directory.rglob("*") if "bpf" not in path.parts and path.is_file())
    files = {path: path.read_bytes() for path in below}
    assert {"status.json", "exposition.txt"} <= {path.name for path in files}
    for path, content in files.items():
        assert canaries.in_text(content, everything(lab)) == set(), path.name
    assert canaries.in_text(lab.node.peers.read_bytes(), everything(lab))


def test_attack_01_240_scrapes_are_of_one_release(life: Life) -> None:
    """While a subscriber is busy: every answer is a release as it lies there, whole; averaging gains nothing.

    The control: counters of the tunnel, asked for each time, are others each time.
    """
    lab, file = life.lab, life.lab.node.run_directory / "metrics" / "exposition.txt"
    releases, bodies, counters = {file.read_bytes()}, set(), set()
    with traffic.Stream(traffic.Visit(lab.name, lab.plan.subscribers[0].namespace, SITES_IPV4[0])) as stream:
        stream.wait_for_more(10_000, seconds=30)
        for number in range(240):
            bodies.add(get(lab.plan.node, lab.options.metrics_port))
            if number % 24 == 0:
                counters.add(_bytes_of_tunnels(lab))
                releases.add(file.read_bytes())
        releases.add(file.read_bytes())
    assert bodies <= releases
    assert len(bodies) < 5 < len(counters)


def _bytes_of_tunnels(lab: Lab) -> str:
    return namespaces.inside(lab.plan.node, lambda: Path("/proc/thread-self/net/dev").read_text())


def test_attack_03_a_node_with_one_active_peer_tells_nothing_of_it(life: Life) -> None:
    """Body and size before and after its traffic are the same bytes, of the same series. And the time that an answer
    takes: no call to the kernel depends on peers (attack 6). The control: the tunnel's counters tell all."""
    lab = life.lab
    before, counters = _released(lab), _bytes_of_tunnels(lab)
    use(lab, subscribers=(0,))
    assert _released(lab) == before
    assert _bytes_of_tunnels(lab) != counters


def _released(lab: Lab) -> bytes:
    """What the exporter tells once the controller has published anew, which ending a drain makes it do."""
    client.ask(lab.node.run_directory, "POST", "/v1/undrain", {"tunnels": []}, seconds=patience(30))
    file = lab.node.run_directory / "metrics" / "exposition.txt"
    wait_until("the release", lambda: get(lab.plan.node, lab.options.metrics_port) == file.read_bytes(), seconds=20)
    return file.read_bytes()


CRASH = """
import os, resource, signal
resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_attack_17_a_crash_leaves_no_core(life: Life, tmp_path: Path) -> None:
    """A segmentation fault ends it without a dump (waitid(2)). Last, for it ends the controller."""
    pid = life.lab.node.pid
    os.kill(pid, signal.SIGSEGV)
    assert _how_it_ended(pid) == (os.CLD_KILLED, signal.SIGSEGV)
    ordinary = subprocess.Popen([sys.executable, "-c", CRASH], cwd=tmp_path)
    assert _how_it_ended(ordinary.pid) == (os.CLD_DUMPED, signal.SIGSEGV), "the control: an ordinary process is dumped"
    ordinary.wait()


def _how_it_ended(pid: int) -> tuple[int, int]:
    """Whether it was killed or dumped, and by which signal; it stays for its parent to wait for."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_code, ended.si_status
