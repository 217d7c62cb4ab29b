"""Where packets go: a host and a port, as an operator writes them and wg(8) reads them."""

from __future__ import annotations

from dataclasses import dataclass

from jetplane.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the outer packets go: a host name or address, and a UDP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, default_port: int = 0) -> Endpoint:
        """Read `host:port`, `[v6]:port`, or with a `default_port` also `host` and a bare IPv6 address.

        Raises ConfigurationError.
        """
        host, port = _split(text)
        number = int(port) if port.isascii() and port.isdigit() else 0 if port else default_port
        if not 1 <= number <= 65535 or not host or any(c.isspace() or c in "[]#/" for c in host):
            raise ConfigurationError(f"endpoint {text!r}: expected host:port, 192.0.2.1:51820 or [2001:db8::1]:51820")
        return cls(host, number)

    def text(self) -> str:
        """As wg(8) reads it, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _split(text: str) -> tuple[str, str]:
    """Host and port as they stand in the text; port is empty when there is none."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest[1:] if rest.startswith(":") else rest
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port
