"""A third subscriber who has nothing but the file that the operator sent, and wg-quick(8)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetplane.lab import clients, links, namespaces, traffic
from jetplane.lab.addresses import NODE_IPV4, SITES_IPV4, SITES_IPV6
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience

pytestmark = pytest.mark.timeout(300)

INNER_IPV4, INNER_IPV6 = "198.18.77.77", "2001:db8:64::7777"


@pytest.fixture
def newcomer(lab: Lab) -> Iterator[str]:
    """A namespace behind a provider of its own, with a default route and nothing else."""
    namespace = f"{lab.name}-new"
    namespaces.create(namespace)
    try:
        links.pair(
            links.End(namespace, "outer0", ("100.64.9.2/30",)),
            links.End(lab.plan.internet, "provider9", ("100.64.9.1/30",)),
        )
        links.add_routes(namespace, [("0.0.0.0/0", "100.64.9.1", "outer0")])
        yield namespace
    finally:
        namespaces.remove(namespace)


@contextlib.contextmanager
def wg_quick(lab: Lab, namespace: str, file: Path) -> Iterator[None]:
    """The tunnel of this file, up as long as the block runs."""
    environment = {"WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}

    def run(verb: str) -> None:
        process = namespaces.spawn(
            namespace, ["wg-quick", verb, file], lab=lab.name, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = process.communicate(timeout=patience(60))
        assert process.returncode == 0, said.decode()

    run("up")
    try:
        yield
    finally:
        run("down")


def test_what_the_operator_sends_is_all_that_a_subscriber_needs(lab: Lab, newcomer: str, tmp_path: Path) -> None:
    private = clients.generate_private_key()
    public = clients.public_key(private)
    key_file = tmp_path / "newcomer.key"
    key_file.touch(mode=0o600)
    key_file.write_text(private)
    added = lab.node.jetplane("peers", "add", public, "--allowed-ip", INNER_IPV4, "--allowed-ip", INNER_IPV6, "--json")
    assert added.returncode == 0, added.stderr
    try:
        answer = lab.node.jetplane(
            "peers", "client-config", public, "--private-key-file", str(key_file),
            "--endpoint", str(NODE_IPV4.ip), "--json",
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        file = tmp_path / f"jetn{os.getpid() % 100000}.conf"  # wireguard-go's sockets are the whole machine's
        file.touch(mode=0o600)
        file.write_text(json.loads(answer.stdout)["config"])
        with wg_quick(lab, newcomer, file):
            for site in (SITES_IPV4[0], SITES_IPV6[0]):
                visit = traffic.Visit(lab.name, newcomer, site)
                assert traffic.ping(visit, 3) == 3
                assert traffic.download(visit, 1 << 20, tmp_path).whole
    finally:
        assert lab.node.jetplane("peers", "remove", public).returncode == 0
