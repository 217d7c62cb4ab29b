"""What an exporter could do if somebody took it over: nothing but read and answer. And what a scrape makes it do."""

from __future__ import annotations

import errno
import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetplane.lab import namespaces
from jetplane.lab.waiting import patience
from jetplane.metrics.process import Exporter, start
from jetplane.metrics.publish import Exposition, publish

PORT, NAIVE_PORT = 9588, 9589
OPENMETRICS = "application/openmetrics-text"
RELEASE = Exposition(b"jetplane_ready 1\n", b"jetplane_ready 1\n# EOF\n")

TRY = """
import ctypes, json, mmap, os, socket, struct, sys, tempfile
from jetplane.metrics import seccomp

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

def bpf():
    call({"x86_64": 321, "aarch64": 280}[os.uname().machine],
         0, struct.pack("=IIII", 2, 4, 8, 1).ljust(128, b"\\0"), 128)

def execute():
    if (child := os.fork()) == 0:
        os.execv("/bin/true", ["true"])
    assert os.waitpid(child, 0)[1] == 0

def trace():
    call({"x86_64": 101, "aarch64": 117}[os.uname().machine], 0, 0, 0, 0)

def write():
    os.close(os.open(directory + "/file", os.O_WRONLY | os.O_CREAT))

def udp():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

directory = sys.argv[2]
ATTEMPTS = {
    "a TCP socket": socket.socket,
    "a UDP socket": udp,
    "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300),
    "bpf(2)": bpf,
    "another program": execute,
    "ptrace(2)": trace,
    "a file to write": write,
    "a file in memory": lambda: os.memfd_create("x"),
    "memory to run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "another user": lambda: os.setuid(65534),
}
if sys.argv[1] == "confined":
    seccomp.confine()
said = {}
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        said[name] = 0
    except OSError as error:
        said[name] = error.errno
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def exporter(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    directory = tmp_path_factory.mktemp("release") / "metrics"
    publish(directory, RELEASE)
    started = namespaces.inside(namespace, lambda: start(directory, "127.0.0.1", PORT, "nobody"))
    yield started
    started.stop()


def test_the_filter_alone_refuses_even_root(namespace: str, tmp_path: Path) -> None:
    """Without the drop of rights; the control: without the filter, root can do each of these."""

    def tried(how: str) -> dict[str, int]:
        done = namespaces.run(namespace, [sys.executable, "-c", TRY, how, tmp_path], lab="", timeout=patience(60))
        assert done.returncode == 0, done.stderr.decode()
        said: dict[str, int] = json.loads(done.stdout)
        return said

    free = tried("free")
    assert free == dict.fromkeys(free, 0)
    assert tried("confined") == dict.fromkeys(free, errno.EPERM)


def test_the_running_exporter_is_filtered(exporter: Exporter) -> None:
    """Mode 2 of proc(5): a filter, on every thread."""
    for task in Path(f"/proc/{exporter.pid}/task").iterdir():
        assert "\nSeccomp:\t2\n" in (task / "status").read_text()


SIGMA, TRUTH = 6, 1000

NAIVE = """
import random, subprocess, sys
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import GaugeMetricFamily

class Peers:
    def collect(self):
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, check=True).stdout
        yield GaugeMetricFamily("links", "Asked at every scrape.", value=len(links.splitlines()))
        yield GaugeMetricFamily("peers", "Noise for every scrape.", value=round(random.gauss(TRUTH, SIGMA)))

REGISTRY.register(Peers())
start_http_server(PORT, addr="127.0.0.1")
print("ready", flush=True)
sys.stdin.read()
"""

SCRAPES = 20


@pytest.fixture(scope="module")
def naive(namespace: str) -> Iterator[subprocess.Popen[bytes]]:
    """An exporter as one would write it."""
    pipe, program = subprocess.PIPE, NAIVE
    for name, value in {"PORT": NAIVE_PORT, "TRUTH": TRUTH, "SIGMA": SIGMA}.items():
        program = program.replace(name, str(value))
    process = namespaces.spawn(namespace, [sys.executable, "-c", program], lab="", stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process
    namespaces.kill(process)
    process.communicate()


def calls_of_a_scrape(namespace: str, pid: int, port: int, directory: Path) -> dict[str, str]:
    """Name of each system call of a process and its children while it is scraped → its last arguments."""
    trace = directory / f"trace.{pid}"
    pipe = subprocess.PIPE
    tracing = subprocess.Popen(["strace", "-f", "-o", trace, "-p", str(pid)], stderr=pipe)
    try:
        assert tracing.stderr is not None
        assert b"attached" in tracing.stderr.readline()
        for _ in range(SCRAPES):
            get(namespace, port)
    finally:
        tracing.terminate()
        tracing.communicate()
    found = re.finditer(r"^\d+ +(?P<name>\w+)\((?P<arguments>.*)$", trace.read_text(errors="replace"), re.MULTILINE)
    return {call["name"]: call["arguments"] for call in found}


def get(namespace: str, port: int, accept: str = "") -> bytes:
    def work() -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience(20))
        try:
            connection.request("GET", "/metrics", headers={"Accept": accept} if accept else {})
            return connection.getresponse().read()
        finally:
            connection.close()

    return namespaces.inside(namespace, work)


ANSWERING = {
    "epoll_wait", "epoll_pwait", "epoll_ctl", "accept4", "ioctl", "setsockopt", "getsockname", "getpeername",
    "getsockopt", "recvfrom", "sendto", "shutdown", "close", "newfstatat", "getpid", "futex", "brk", "munmap", "mmap",
    "madvise", "mremap", "mprotect", "clock_gettime", "restart_syscall",
}  # fmt: skip


def test_attack_06_a_scrape_asks_the_kernel_nothing_about_the_node(
    namespace: str, exporter: Exporter, naive: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Neither netlink nor bpf(2), nor a process that would: read, answer, and look whether there is a new release.

    The control: an exporter as one would write it asks at every scrape, and is caught.
    """
    calls = calls_of_a_scrape(namespace, exporter.pid, PORT, tmp_path)
    assert {"recvfrom", "sendto"} <= set(calls) <= ANSWERING
    caught = calls_of_a_scrape(namespace, naive.pid, NAIVE_PORT, tmp_path)
    assert "execve" in caught and "AF_NETLINK" in caught["socket"]


def test_attack_10_a_second_scraper_port_or_format_learns_nothing_new(
    namespace: str, exporter: Exporter, naive: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Two exporters of one node, both formats, many scrapers at once: one release, the same figures in the same bytes.

    The control: figures made for each scrape differ, and their mean is the truth.
    """
    publish(tmp_path / "metrics", RELEASE)
    second = namespaces.inside(namespace, lambda: start(tmp_path / "metrics", "127.0.0.1", PORT + 2, "nobody"))
    try:
        bodies = {(accept, get(namespace, port, accept)) for port in (PORT, PORT + 2) for accept in ("", OPENMETRICS)}
        bodies |= {("", get(namespace, PORT)) for _ in range(20)}
    finally:
        second.stop()
    assert bodies == {("", RELEASE.text), (OPENMETRICS, RELEASE.openmetrics)}
    drawn = [int(float(re.findall(rb"^peers (.*)$", get(namespace, NAIVE_PORT), re.MULTILINE)[0])) for _ in range(100)]
    assert len(set(drawn)) > 5 and abs(sum(drawn) / len(drawn) - TRUTH) < 5 * SIGMA / 10
