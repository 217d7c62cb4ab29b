"""Who listens, seen in proc(5)."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from jetplane.preflight.listening import silent

HERE = {socket.AF_INET: ("127.0.0.1", "0.0.0.0"), socket.AF_INET6: ("::1", "::")}


@pytest.mark.parametrize("family", HERE)
@pytest.mark.parametrize("wildcard", [False, True])
def test_an_address_is_silent_until_somebody_listens_there(family: socket.AddressFamily, wildcard: bool) -> None:
    own, everywhere = HERE[family]
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        tcp.bind((everywhere if wildcard else own, 0))
        port = tcp.getsockname()[1]
        udp = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        assert silent([own], port) == (f"{own} (udp)", f"{own} (tcp)"), "bound, but it does not listen"
        tcp.listen()
        assert silent([own], port) == (f"{own} (udp)",)
        udp.bind((everywhere if wildcard else own, port))
        assert silent([own], port) == ()
