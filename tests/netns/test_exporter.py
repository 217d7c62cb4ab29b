"""The exporter as it really runs: in a network namespace, started by root, serving as nobody."""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jetplane.errors import JetplaneError
from jetplane.lab import namespaces
from jetplane.metrics.exporter import CONNECTIONS, DEADLINE_S, HEADER_BYTES
from jetplane.metrics.process import Exporter, start
from jetplane.metrics.publish import OPENMETRICS, TEXT, Exposition, publish
from jetplane.readable import readable

PORT = 9586
FIRST = Exposition(b"jetplane_ready 1\n", b"jetplane_ready 1\n# EOF\n")
SECOND = Exposition(b"jetplane_ready 0\n", b"jetplane_ready 0\n# EOF\n")
OPENMETRICS_ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Below directories that only root may enter, as pytest makes them."""
    return tmp_path / "metrics"


@pytest.fixture
def exporter(namespace: str, directory: Path) -> Iterator[Exporter]:
    publish(directory, FIRST)
    started = namespaces.inside(namespace, lambda: start(directory, "127.0.0.1", PORT, "nobody"))
    yield started
    started.stop()


def connect(namespace: str, timeout: float = 20.0) -> socket.socket:
    return namespaces.inside(namespace, lambda: socket.create_connection(("127.0.0.1", PORT), timeout))


def ask(namespace: str, request: bytes) -> bytes:
    """Send bytes, return every byte that comes back until the exporter closes."""
    with connect(namespace) as client:
        client.sendall(request)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            answer += part
    return answer


def scrape(namespace: str, path: str = "/metrics", **headers: str) -> tuple[int, str | None, bytes]:
    def work() -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read()

    return namespaces.inside(namespace, work)


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_serves_the_release_in_the_format_that_is_asked_for(namespace: str, exporter: Exporter) -> None:
    assert scrape(namespace) == (200, "text/plain; version=0.0.4; charset=utf-8", FIRST.text)
    status, kind, body = scrape(namespace, Accept=OPENMETRICS_ACCEPT)
    assert (status, body) == (200, FIRST.openmetrics)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"


def test_240_scrapes_of_one_release_are_the_same_bytes(namespace: str, exporter: Exporter) -> None:
    """Head and body: no date, no counter, nothing to average."""
    request = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n"
    assert len({ask(namespace, request) for _ in range(240)}) == 1


def test_a_new_release_is_served_soon(namespace: str, exporter: Exporter, directory: Path) -> None:
    publish(directory, SECOND)
    assert eventually(lambda: scrape(namespace)[2] == SECOND.text)
    assert scrape(namespace, Accept=OPENMETRICS_ACCEPT)[2] == SECOND.openmetrics


@pytest.mark.parametrize("pause", [0.0, 0.2], ids=["at once", "in pieces"])
def test_an_answer_that_does_not_fit_into_a_socket_arrives_whole(
    namespace: str, exporter: Exporter, directory: Path, pause: float
) -> None:
    """However the request comes: with its connection, or later and in pieces."""
    large = Exposition(b"".join(b"x%d 1\n" % number for number in range(1 << 20)), b"# EOF\n")
    publish(directory, large)
    assert eventually(lambda: len(scrape(namespace)[2]) == len(large.text))
    with connect(namespace) as client:
        for piece in (b"GET /metrics HT", b"TP/1.1\r\n\r\n") if pause else (b"GET /metrics HTTP/1.1\r\n\r\n",):
            time.sleep(pause)
            client.sendall(piece)
        time.sleep(0.2)  # until its buffer and ours are full
        assert read_all(client).partition(b"\r\n\r\n")[2] == large.text


def test_no_release_is_said_so(namespace: str, exporter: Exporter, directory: Path) -> None:
    (directory / TEXT).unlink()
    assert eventually(lambda: scrape(namespace)[0] == 503)


def test_it_runs_as_its_user_with_no_right_left(exporter: Exporter) -> None:
    nobody = pwd.getpwnam("nobody")
    status = status_of(exporter.pid)
    assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert status["Groups"] == ""
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0, capabilities
    assert status["NoNewPrivs"] == "1"
    limits = Path(f"/proc/{exporter.pid}/limits").read_text()
    for limit in ("Max core file size", "Max processes", "Max file size"):
        line = next(line for line in limits.splitlines() if line.startswith(limit))
        assert line.removeprefix(limit).split()[:2] == ["0", "0"], line
    # A process that cannot be dumped belongs to root in /proc.
    assert Path(f"/proc/{exporter.pid}/environ").stat().st_uid == 0


ATTEMPTS = (
    ("change a route", "import pyroute2; pyroute2.IPRoute().route('add', dst='192.0.2.0/24', oif=1)"),
    ("change an interface", "import pyroute2; pyroute2.IPRoute().link('set', index=1, mtu=65000)"),
    (
        "make a BPF map",
        "import ctypes, os, struct; c = ctypes.CDLL(None, use_errno=True);"
        "a = struct.pack('=IIII', 2, 4, 8, 1).ljust(128, b'\\0');"
        "c.syscall(321, 0, a, 128) >= 0 or (_ for _ in ()).throw(OSError(ctypes.get_errno(), 'bpf'))",
    ),
    ("become root again", "import os; os.setuid(0)"),
    ("write a file", "import os; os.write(os.memfd_create('file'), b'x')"),
    ("start a process", "import os; os.fork() or os._exit(0)"),
    ("open a raw socket", "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300)"),
)


@pytest.mark.parametrize(("what", "attempt"), ATTEMPTS, ids=[row[0] for row in ATTEMPTS])
def test_after_the_drop_nobody_can(namespace: str, what: str, attempt: str) -> None:
    """The same drop in a process that then tries; without the drop the attempt succeeds."""
    drop = "from jetplane.metrics import privileges as p; p.drop(*p.account('nobody'), open_files=64);"

    def tried(program: str) -> subprocess.CompletedProcess[bytes]:
        # What is needed is imported first: afterwards a library may lie where only root can read.
        return namespaces.run(
            namespace, [sys.executable, "-c", "import pyroute2, encodings.idna;" + program], lab="", timeout=60
        )

    if what != "become root again":
        assert tried(attempt).returncode == 0, "the control: root can"
    refused = tried(drop + attempt)
    assert refused.returncode != 0
    words = ("PermissionError", "Operation not permitted", "BlockingIOError", "File too large")
    assert any(word in refused.stderr.decode() for word in words)


def test_it_listens_on_loopback_only(namespace: str, exporter: Exporter) -> None:
    def listeners() -> list[str]:
        found = []
        for table in ("tcp", "tcp6"):
            rows = [line.split() for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]]
            found += [row[1] for row in rows if row[3] == "0A"]
        return found

    assert namespaces.inside(namespace, listeners) == [f"0100007F:{PORT:04X}"]


def test_it_holds_no_socket_but_its_listener(exporter: Exporter) -> None:
    """No netlink, no BPF, no packet socket: only what it serves with."""
    opened = [str(entry.readlink()) for entry in Path(f"/proc/{exporter.pid}/fd").iterdir()]
    assert not [name for name in opened if "bpf" in name]
    inodes = {name.removeprefix("socket:[").rstrip("]") for name in opened if name.startswith("socket:")}
    netlink = {line.split()[9] for line in Path(f"/proc/{exporter.pid}/net/netlink").read_text().splitlines()[1:]}
    packet = {line.split()[8] for line in Path(f"/proc/{exporter.pid}/net/packet").read_text().splitlines()[1:]}
    assert not inodes & (netlink | packet)


REQUESTS = (
    ("another path", b"GET / HTTP/1.1\r\n\r\n", b"404"),
    ("a path below", b"GET /metrics/peers HTTP/1.1\r\n\r\n", b"404"),
    ("a path with dots", b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
    ("a query", b"GET /metrics?name[]=x HTTP/1.1\r\n\r\n", b"200"),
    ("another method", b"DELETE /metrics HTTP/1.1\r\n\r\n", b"405"),
    ("a body", b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"413"),
    ("a chunked body", b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"413"),
    ("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
    ("another protocol", b"GET /metrics SPDY/3\r\n\r\n", b"400"),
    ("an endless header", b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 2 * HEADER_BYTES, b"431"),
)


@pytest.mark.parametrize(("what", "request_bytes", "status"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_it_answers_shortly_to(
    what: str, request_bytes: bytes, status: bytes, namespace: str, exporter: Exporter
) -> None:
    assert ask(namespace, request_bytes).split(b" ")[1:2] == [status]
    assert scrape(namespace)[0] == 200


def test_head_has_the_head_only(namespace: str, exporter: Exporter) -> None:
    get = ask(namespace, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert ask(namespace, b"HEAD /metrics HTTP/1.1\r\n\r\n") == get.removesuffix(FIRST.text)


def test_slow_clients_neither_block_it_nor_stay(namespace: str, exporter: Exporter) -> None:
    with contextlib.ExitStack() as clients:
        slow = [clients.enter_context(connect(namespace)) for _ in range(CONNECTIONS - 1)]
        for client in slow:
            client.sendall(b"GET /metr")
        assert scrape(namespace)[0] == 200, "one place is left"
        began = time.monotonic()
        assert [read_all(client) for client in slow] == [b""] * len(slow)
        assert time.monotonic() - began < DEADLINE_S + 10
        assert scrape(namespace)[0] == 200


def test_it_ends_with_whoever_started_it_even_by_sigkill(namespace: str, directory: Path) -> None:
    publish(directory, FIRST)
    program = (
        "import sys, pathlib; from jetplane.metrics.process import start;"
        f"e = start(pathlib.Path({str(directory)!r}), '127.0.0.1', {PORT}, 'nobody');"
        "print(e.pid, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    parent = namespaces.spawn(namespace, [sys.executable, "-c", program], lab="", stdin=pipe, stdout=pipe)
    assert parent.stdout is not None
    handle = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    assert readable(handle, 20), "the exporter outlived its controller"
    os.close(handle)


REFUSALS = (
    ("an unknown user", "127.0.0.1", PORT, "no-such-user", "there is no such user"),
    ("root", "127.0.0.1", PORT, "root", "does not run as root"),
    (
        "an address of another machine",
        "192.0.2.1",
        PORT,
        "nobody",
        "cannot listen on 192.0.2.1 port 9586: Cannot assign",
    ),
)


@pytest.mark.parametrize(("what", "listen", "port", "user", "message"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_a_start_is_refused_in_one_line_for(
    what: str, listen: str, port: int, user: str, message: str, namespace: str, directory: Path
) -> None:
    with pytest.raises(JetplaneError, match=message) as refusal:
        namespaces.inside(namespace, lambda: start(directory, listen, port, user))
    assert "\n" not in str(refusal.value)


def test_a_port_in_use_is_named(namespace: str, exporter: Exporter, directory: Path) -> None:
    with pytest.raises(JetplaneError, match=f"cannot listen on 127.0.0.1 port {PORT}: Address already in use"):
        namespaces.inside(namespace, lambda: start(directory, "127.0.0.1", PORT, "nobody"))


def test_stopping_twice_is_harmless_and_frees_the_port(namespace: str, directory: Path) -> None:
    for _ in range(2):
        started = namespaces.inside(namespace, lambda: start(directory, "127.0.0.1", PORT, "nobody"))
        assert started.running()
        started.stop()
        started.stop()
        assert not started.running()


def test_a_release_is_whole_readable_by_all_and_left_alone_when_nothing_changed(directory: Path) -> None:
    before = os.umask(0o077)
    try:
        publish(directory, FIRST)
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == 0o755
    marks = {}
    for name in (TEXT, OPENMETRICS):
        found = (directory / name).stat()
        assert found.st_mode & 0o777 == 0o644
        marks[name] = found.st_ino
    publish(directory, FIRST)
    assert {name: (directory / name).stat().st_ino for name in marks} == marks
    assert sorted(path.name for path in directory.iterdir()) == sorted(marks)
