"""The alarm about dynamic debug: with it on, the WireGuard module writes endpoints into the kernel's log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jetplane.audit.kernel import prints
from jetplane.privacy.checks import QUESTIONS

OFF = 'drivers/net/wireguard/receive.c:231 [wireguard]wg_receive =_ "%s: Packet has unallowed src IP (%pISc)\\n"'
ON = OFF.replace("=_", "=pmf")
OTHER = 'drivers/net/tun.c:94 [tun]tun_show =p "%s: a packet\\n"'

CASES = (
    (None, True, "this kernel has none"),
    (f"{OFF}\n{OTHER}\n", True, "off"),
    (f"{OFF}\n{ON}\n{ON}\n{OTHER}\n", False, "2 messages of the wireguard module are on: they name endpoints"),
)


@pytest.mark.parametrize(("control", "ok", "says"), CASES)
def test_attack_21_messages_that_name_endpoints_raise_an_alarm(control: str | None, ok: bool, says: str) -> None:
    """The control is in the rows: the same lines with the printing flag, and of another module."""
    facts: Any = SimpleNamespace(kernel=SimpleNamespace(dynamic_debug=None if control is None else prints(control)))
    found = next(question for question in QUESTIONS if question.name == "dynamic-debug").judge(facts)
    assert (found.ok, found.detail) == (ok, says)
