"""A node of small programs: the real maps and headers, and programs that only count, so that they compile quickly."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jetplane import abi
from jetplane.config import Config, parse
from jetplane.dataplane import bpf, bpffs, load
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.maps import possible_cpus
from jetplane.dataplane.node import DataPlane
from jetplane.dataplane.programs import PROGRAMS
from tests.bpf.harness import inside, new_namespace

GUARD = """
int guard(struct xdp_md *context)
{
	u32 key = COUNT_GUARD_PASSED;
	u64 *total = counters.lookup(&key);

	if (total)
		*total += 1;
	return XDP_PASS;
}

int sweep_relays(struct xdp_md *context)
{
	return XDP_PASS;
}

int sweep_budgets(struct xdp_md *context)
{
	return XDP_PASS;
}
"""

NAT = """
#include <linux/pkt_cls.h>

static __always_inline int count(u32 key)
{
	u64 *total = counters.lookup(&key);
	/* what a real nat_out holds: these must live as long as it does */
	u32 zero = 0, *index = bindings.lookup(&zero) ? (u32 *)peers.lookup(&zero) : 0;

	if (total)
		*total += 1;
	return index ? TC_ACT_OK : TC_ACT_SHOT;
}

int nat_out(struct __sk_buff *skb)
{
	return count(COUNT_OUT_PACKETS);
}

int nat_in(struct __sk_buff *skb)
{
	return count(COUNT_IN_PACKETS);
}

int leak_guard(struct __sk_buff *skb)
{
	return count(COUNT_HANDED_TO_STACK);
}

int sweep(struct __sk_buff *skb)
{
	u32 key = 0;
	struct sweep_cursor *cursor = sweep_cursor.lookup(&key);

	if (!cursor)
		return TC_ACT_OK;
	cursor->next_block++;
	cursor->live++;
	return TC_ACT_OK;
}

int sweep_remotes(struct __sk_buff *skb)
{
	return (skb->len - SWEPT_HEADER) / sizeof(struct remote_key);
}

int dns_answer(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

int sweep_steered(struct __sk_buff *skb)
{
	return (skb->len - SWEPT_HEADER) / sizeof(struct steered_key);
}
"""

# What the compiler says is the same on every kernel, and it is slow in the guests of tests/vm.
collect_ignore = ["test_load.py"] if "JETPLANE_REPORTS" in os.environ else []


def ip(arguments: str) -> str:
    """ip(8), or tc(8), in this thread's network namespace."""
    words = arguments.split()
    command = words if words[0] in ("tc", "bpftool") else ["ip", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout


def xdp_id(name: str) -> int:
    """The id of an interface's XDP program; 0 for none."""
    with Links() as links:
        attached = links.xdp(interface_index(name))
    return attached.prog_id if attached else 0


@contextmanager
def namespace_of_a_node() -> Iterator[None]:
    """A network namespace without a name: it goes when it is left. `up0` and `jet0` are veths in it."""
    node = new_namespace()
    try:
        with inside(node):
            ip("link set lo up")
            for name in ("up0", "jet0"):
                ip(f"link add {name} type veth peer name far-{name}")
                for end in (name, f"far-{name}"):
                    # Without an address the stack has nothing to say: what is counted, the test sent.
                    ip(f"link set {end} addrgenmode none")
                    ip(f"link set {end} up")
            yield
    finally:
        os.close(node)


@pytest.fixture
def namespace(root: None) -> Iterator[None]:
    """The namespace of a test's own node."""
    with namespace_of_a_node():
        yield


def copy_headers(directory: Path) -> Path:
    """The real maps and layouts, beside which a test writes programs of its own."""
    directory.mkdir()
    for path in abi.EBPF.iterdir():
        if path.suffix in (".h", ".def"):
            shutil.copy(path, directory)
    return directory


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small programs in the place of the real ones, all in one file: half of a compilation is the compiler's start."""
    directory = copy_headers(tmp_path / "ebpf")
    (directory / "small.bpf.c").write_text('#include "maps.h"\n' + GUARD + NAT)
    monkeypatch.setattr(abi, "EBPF", directory)
    monkeypatch.setattr(load, "PROGRAMS", [replace(program, source="small.bpf.c") for program in PROGRAMS])
    return directory


ConfigFactory = Callable[..., Config]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, root: None) -> Iterator[Path]:
    """The run directory of all these tests: a build that one leaves behind is the next one's, and saves a second."""
    path = tmp_path_factory.mktemp("dataplane") / "run"
    yield path
    bpffs.unmount(path / "bpf")


@pytest.fixture
def configure(run: Path) -> ConfigFactory:
    """configure(nat={"udp_timeout": 200}): the tests' configuration with these settings changed."""
    return configuration_in(run)


def configuration_in(run: Path) -> ConfigFactory:
    """The same for another run directory."""

    def make(**changes: Any) -> Config:
        tree: dict[str, Any] = {
            "uplink": {"interface": "up0"},
            "exit": {"ipv4": ["203.0.113.10", "203.0.113.11"], "ipv6": ["2001:db8::10"]},
            "tunnel": [
                {
                    "name": "jet0",
                    "listen_port": 51820,
                    "private_key_file": "/key",
                    "addresses": ["10.64.0.1/16", "fd64::1/64"],
                }
            ],
            "peers": {"path": "/peers", "max": 256},
            "nat": {"max_bindings": 1024, "max_remotes": 1024},
            "run_directory": str(run),
        }
        for name, value in changes.items():
            tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
        return parse(tree, Path("/etc/jetplane.toml"))

    return make


@pytest.fixture
def dataplane(namespace: None, sources: Path, configure: ConfigFactory) -> Iterator[DataPlane]:
    """A data plane that is up, with empty maps."""
    made = DataPlane(configure())
    made.ensure()
    for name in ("addresses", "services", "own_addresses"):
        made._map(name).delete_many([key for key, _ in made._map(name).items()])
    for name in ("peers", "pools", "sweep_cursor"):
        opened = made._map(name)
        opened.update_many((key, opened.value()) for key in range(opened.info.max_entries))
    counters = made._map("counters")
    for index in range(counters.info.max_entries):
        bpf.update(counters.fd, index.to_bytes(4, "little"), bytes(8 * possible_cpus()))
    yield made
    made.close()


@pytest.fixture
def pristine(namespace: None, sources: Path, configure: ConfigFactory) -> ConfigFactory:
    """`configure`, on a machine where nothing is pinned or mounted."""
    DataPlane(configure()).detach()
    return configure
