"""Runs in every guest before all else: this is the machine that the other tests count on."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jetplane.audit import kernel
from jetplane.wireguard import choose

pytestmark = pytest.mark.usefixtures("root")


def test_the_kernel_is_debians() -> None:
    assert re.search(r"-amd64$", platform.release())
    assert "Debian" in platform.version()


def test_the_kernel_carries_wireguard_and_jetplane_chooses_it() -> None:
    assert choose("auto").kind == "kernel"


def test_a_namespace_holds_a_tunnel_a_veth_and_clsact(unique: Callable[[str], str]) -> None:
    name = unique("m")
    _run("ip", "netns", "add", name)
    try:
        for link in ("wg0 type wireguard", "up0 type veth peer name down0"):
            _run("ip", "-n", name, "link", "add", *link.split())
        _run("tc", "-n", name, "qdisc", "add", "dev", "wg0", "clsact")
    finally:
        _run("ip", "netns", "delete", name)


def test_the_audit_sees_what_the_wireguard_module_is_told_to_print() -> None:
    control = Path("/proc/dynamic_debug/control")
    assert kernel.prints(control.read_text()) == 0
    try:
        control.write_text("module wireguard +p\n")
        assert kernel.prints(control.read_text()) > 0
    finally:
        control.write_text("module wireguard -p\n")
    assert kernel.prints(control.read_text()) == 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
