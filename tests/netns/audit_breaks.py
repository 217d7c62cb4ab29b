"""One promise broken on a live node, each in the way that somebody could break it; undone at the end of the block."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from pyroute2 import IPRoute, NFCTSocket

from jetplane import config, lock
from jetplane.admin import client
from jetplane.audit import listeners, processes
from jetplane.audit.sessions import tunnels
from jetplane.dataplane import bpf
from jetplane.lab import namespaces
from jetplane.lab.addresses import UPLINK
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, wait_until
from jetplane.privacy.facts import EXPORTER
from jetplane.wireguard import everything

Break = Callable[[Lab], AbstractContextManager[object]]

CANARY = b64encode(bytes(range(200, 232))).decode()
"""A key that nobody has."""

_MAP_CREATE, _PROG_LOAD, _ARRAY, _RING_BUFFER, _SCHED_CLS = 0, 5, 2, 27, 3  # linux/bpf.h


def inside(lab: Lab, *command: str) -> None:
    """Run a program in the node's namespace; it must succeed."""
    done = namespaces.run(lab.plan.node, command, lab=lab.name, timeout=patience(20))
    assert done.returncode == 0, done.stderr


class _MapCreate(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("type", "key", "value", "entries", "flags"))


def pinned_map(kind: int, key: int, value: int, entries: int) -> Break:
    """A map more among the pins."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        path = lab.node.run_directory / "bpf" / "more"
        fd = bpf.checked(bpf.call(_MAP_CREATE, _MapCreate(kind, key, value, entries)), "making a map")
        with bpf.opened(fd):
            bpf.obj_pin(fd, path)
        try:
            yield
        finally:
            path.unlink()

    return broken


class _ProgLoad(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32), ("count", ctypes.c_uint32), ("code", ctypes.c_uint64), ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32), ("log_size", ctypes.c_uint32), ("log", ctypes.c_uint64),
    )  # fmt: skip


def _printing() -> int:
    """Load a program that prints a word for each packet and lets everything pass to the next filter."""
    rows = (
        (0x18, 1, 0, 0x6F696D61), (0, 0, 0, 0),  # r1 = a text of four characters
        (0x7B, 0x1A, -8, 0), (0xBF, 0xA1, 0, 0), (0x07, 1, 0, -8), (0xB7, 2, 0, 8),  # on the stack; r1, r2: where
        (0x85, 0, 0, 6),  # bpf_trace_printk
        (0xB7, 0, 0, -1), (0x95, 0, 0, 0),  # TC_ACT_UNSPEC
    )  # fmt: skip
    code = b"".join(struct.pack("=BBhi", *row) for row in rows)
    buffer, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    load = _ProgLoad(_SCHED_CLS, len(rows), bpf.pointer(buffer), bpf.pointer(licence))
    return bpf.checked(bpf.call(_PROG_LOAD, load), "loading a program")


@contextmanager
def printing_program(lab: Lab) -> Iterator[None]:
    """Somebody's program behind jetplane's, which tells of every packet."""

    def change(how: str, **more: int) -> None:
        with IPRoute() as route:
            index = route.link_lookup(ifname=UPLINK)[0]
            route.tc(how, "bpf", index, parent=0xFFFFFFF2, prio=2, handle=1, **more)

    with bpf.opened(_printing()) as fd:
        namespaces.inside(lab.plan.node, lambda: change("add-filter", fd=fd, name="x", direct_action=True))  # type: ignore[arg-type]
    try:
        yield
    finally:
        namespaces.inside(lab.plan.node, lambda: change("del-filter"))


@contextmanager
def open_bpffs(lab: Lab) -> Iterator[None]:
    """Everybody may look at the maps."""
    root = lab.node.run_directory / "bpf"
    with lab.node.frozen():
        root.chmod(0o755)
        try:
            yield
        finally:
            root.chmod(0o700)


def changed_sysctl(name: str, value: str) -> Break:
    """A setting of the kernel, in the node's namespace."""
    path = Path("/proc/sys/net") / name

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        with lab.node.frozen():
            before = namespaces.inside(lab.plan.node, path.read_text)
            namespaces.inside(lab.plan.node, lambda: path.write_text(value))
            try:
                yield
            finally:
                namespaces.inside(lab.plan.node, lambda: path.write_text(before))

    return broken


@contextmanager
def stateful_firewall(lab: Lab) -> Iterator[None]:
    """A rule that knows of connections, and one connection."""
    rules = "table inet audit { chain out { type filter hook output priority 0; ct state new accept; }; }"
    inside(lab, "nft", rules)
    try:
        inside(lab, "ping", "-n", "-q", "-c", "1", "-W", "5", "198.51.100.1")
        yield
    finally:
        inside(lab, "nft", "delete", "table", "inet", "audit")
        namespaces.inside(lab.plan.node, _forget_connections)


def _forget_connections() -> None:
    with NFCTSocket() as conntrack:
        conntrack.flush()


@contextmanager
def capture(lab: Lab) -> Iterator[None]:
    """As tcpdump does."""

    def opened() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))

    with namespaces.inside(lab.plan.node, opened):
        yield


@contextmanager
def without_locked_memory(lab: Lab) -> Iterator[None]:
    """A controller that was started where memory may not be locked."""
    command = lab.node._command
    poorer = ("prlimit", "--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock")
    lab.node.stop()
    try:
        lab.node._command = lambda *arguments: [*poorer, *command(*arguments)]  # type: ignore[method-assign]
        _start(lab)
        yield
    finally:
        lab.node._command = command  # type: ignore[method-assign]
        lab.node.stop()
        _start(lab)


def _start(lab: Lab) -> None:
    lab.node.start()
    wait_for_the_exporter(lab)


def wait_for_the_exporter(lab: Lab) -> None:
    """It comes after the node has said that it is ready."""
    wait_until("the exporter", lambda: any(one.port == lab.options.metrics_port for one in _listening(lab)))


def _listening(lab: Lab) -> tuple[listeners.Listener, ...]:
    return namespaces.inside(lab.plan.node, listeners.listening)


def _role(lab: Lab, role: str) -> int:
    """The process of that role."""
    settings = config.load(lab.node.config)
    listening = namespaces.inside(lab.plan.node, listeners.listening)
    controller = lock.holder(settings.run_directory)
    found = namespaces.inside(lab.plan.node, lambda: processes.find(settings, controller, listening))
    return next(pid for pid, its in found.items() if its == role)


def _device(lab: Lab) -> everything.Device:
    settings = config.load(lab.node.config)
    kind, name = tunnels(settings)[0]
    return namespaces.inside(lab.plan.node, lambda: everything.read(kind, name))


def _endpoint(lab: Lab) -> bytes:
    peer = next(peer for peer in _device(lab).peers.values() if peer.host)
    return f"{peer.host}:{peer.port}".encode()


def remembered(role: str, what: Callable[[Lab], bytes]) -> Break:
    """Something in the memory of a process: below its stack, where nothing else is."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        pid, secret = _role(lab, role), what(lab)
        line = next(line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if line.endswith("[stack]"))
        start = int(line.partition("-")[0], 16)
        with lab.node.frozen(), Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            before = memory.read(len(secret))
            memory.seek(start)
            memory.write(secret)
            try:
                yield
            finally:
                memory.seek(start)
                memory.write(before)

    return broken


_SERVE = """
import sys
from jetplane.metrics import exporter, privileges
{first}
sys.exit(exporter.main(["--directory", sys.argv[1], "--port", sys.argv[2]]))
"""


def other_exporter(first: str, *arguments: str, **environment: str) -> Break:
    """Another one in the exporter's place, with a fault."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        directory, port = lab.node.run_directory / "metrics", lab.options.metrics_port
        program = _SERVE.format(first=first.format(lab=lab.directory))
        command = [sys.executable, "-c", program, str(directory), str(port), *arguments]
        with ExitStack() as undo:
            undo.callback(lambda: client.ask(lab.node.run_directory, "POST", "/v1/undrain"))  # publishes
            with lab.node.frozen():
                os.kill(_role(lab, EXPORTER), signal.SIGKILL)
                pipe = subprocess.DEVNULL
                process = namespaces.spawn(
                    lab.plan.node, command, lab=lab.name, env=environment, cwd=Path.cwd(), stdout=pipe, stderr=pipe
                )
                undo.callback(namespaces.kill, process)
                wait_until("the other exporter", lambda: _listens(lab, process.pid), process)
                yield

    return broken


def _listens(lab: Lab, pid: int) -> bool:
    try:
        return _role(lab, EXPORTER) == pid
    except StopIteration:
        return False


def written_log(line: str) -> Break:
    """A line in the node's log."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        size = lab.node.log.stat().st_size
        with lab.node.log.open("a") as log:
            log.write(line + "\n")
        try:
            yield
        finally:
            os.truncate(lab.node.log, size)

    return broken


def run_file(name: str, text: str) -> Break:
    """A file in the run directory, new or changed."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        path = lab.node.run_directory / name
        before = path.read_text() if path.exists() else None
        with lab.node.frozen():
            path.write_text((before or "") + text)
            try:
                yield
            finally:
                path.unlink() if before is None else path.write_text(before)

    return broken


_NODE_EXPORTER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'node_network_transmit_bytes_total{device="uplink0"} 5\\n')
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", 9100), Handler).serve_forever()
"""


@contextmanager
def node_exporter(lab: Lab) -> Iterator[None]:
    """One that tells exact bytes of the uplink."""
    process = namespaces.spawn(lab.plan.node, [sys.executable, "-c", _NODE_EXPORTER], lab=lab.name)
    try:
        wait_until(
            "the other exporter",
            lambda: any(one.port == 9100 for one in namespaces.inside(lab.plan.node, listeners.listening)),
            process,
        )
        yield
    finally:
        namespaces.kill(process)


@contextmanager
def half_open_peer(lab: Lab) -> Iterator[None]:
    """An endpoint of an idle peer that nobody evicts."""
    _, name = tunnels(config.load(lab.node.config))[0]
    key = b64encode(next(peer.public_key for peer in _device(lab).peers.values() if not peer.host)).decode()
    with lab.node.frozen():
        inside(lab, "wg", "set", name, "peer", key, "endpoint", "192.0.2.77:4567")
        yield
        inside(lab, "wg", "set", name, "peer", key, "endpoint", "[::1]:9")
