"""Gathers the facts: looks at the machine and asks the other parts, changing nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from jetplane import lock, wireguard
from jetplane.config import DNS_PORT, Config, Metrics
from jetplane.dataplane import attach, pins, programs, toolchain
from jetplane.dataplane.links import Links
from jetplane.dataplane.lists import prefixes
from jetplane.errors import JetplaneError
from jetplane.journal import Journal
from jetplane.metrics import exporter, privileges, tls
from jetplane.network import features, sysctl
from jetplane.network.messages import LinkState
from jetplane.network.netlink import Netlink
from jetplane.preflight import listening, probe
from jetplane.preflight.facts import Answer, Facts
from jetplane.sources import access, files, formats, records, whole
from jetplane.wireguard import keys, ports

_EXPORTER_ENDS_S = 2.0
_CLOCK_UNSYNCHRONISED = 5  # adjtimex(2), TIME_ERROR
_SIZE_OF_TIMEX = 208


def gather(config: Config) -> Facts:
    """Look at this machine, in this network namespace. What cannot be asked is left out; another fact says why."""
    uplink = config.uplink.interface
    with Netlink() as netlink:
        links, addresses, routes = netlink.links(), netlink.addresses(), netlink.host_routes()
    bpf, jit = _bpf()
    own_tunnels = _own_tunnels(config)
    serves = config.metrics.enabled and lock.holder(config.run_directory) is None
    return Facts(
        capabilities=_capabilities(),
        release=os.uname().release,
        bpf=bpf,
        jit=jit,
        bpffs="\tbpf\n" in Path("/proc/filesystems").read_text(encoding="ascii"),
        compiler=_ask(lambda: f"bcc {toolchain.bcc_version()}"),
        headers=_ask(lambda: f"with {toolchain.find_headers()}"),
        wireguard=None if config.transport == "veth" else _ask(lambda: _wireguard(config)),
        links=links,
        addresses=addresses,
        routes=routes,
        driver=features.driver(uplink),
        offloads=features.read_all(uplink) if uplink in links else {},
        channels=features.channels(uplink) if uplink in links else None,
        programs=_foreign_programs(config, links),
        ipv6=sysctl.read(sysctl.IPV6_FORWARDING) is not None,
        ipv6_forwarding=sysctl.read(sysctl.IPV6_FORWARDING) == "1",
        own_tunnels=own_tunnels,
        listen_ports=dict(_listen_ports(config, own_tunnels & links.keys())),
        private_keys=dict(_private_keys(config)),
        peers=(peers := _ask(lambda: _peers(config))),
        peer_records=_ask(lambda: _peer_records(config)) if peers.ok else None,
        blocklists=_ask(lambda: _blocklists(config)) if config.guard.blocklists else None,
        silent_resolvers=listening.silent(config.dns.addresses, DNS_PORT) if config.dns.service else (),
        metrics_port=_ask(lambda: _metrics_port(config.metrics)) if serves else None,
        metrics_user=_ask(lambda: _metrics_user(config.metrics)) if config.metrics.enabled else None,
        metrics_tls=_ask(lambda: _metrics_tls(config.metrics)) if config.metrics.enabled else None,
        tracked=None if (count := sysctl.read("net/netfilter/nf_conntrack_count")) is None else int(count),
        log_martians=frozenset(
            name for name in ("all", uplink) if sysctl.read(f"net/ipv4/conf/{name}/log_martians") == "1"
        ),
        swap=len(Path("/proc/swaps").read_text(encoding="utf-8").splitlines()) > 1,
        crash_kernel=_text("/sys/kernel/kexec_crash_loaded") == "1",
        now=time.time(),
        clock_synchronised=_is_clock_synchronised(),
    )


def _ask(question: Callable[[], str]) -> Answer:
    """Have another part of jetplane say what it finds, or what is wrong."""
    try:
        return Answer(True, question())
    except JetplaneError as error:
        return Answer(False, str(error), error.hint)
    except PermissionError as error:
        return Answer(False, f"{error.filename}: {error.strerror}", "run as root")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _capabilities() -> int:
    """The effective set of this process (proc(5), CapEff)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))


def _own_tunnels(config: Config) -> frozenset[str]:
    with contextlib.suppress(JetplaneError):  # only root may read the journal
        return frozenset(dict(Journal(config.run_directory / "journal.json").tunnels()))
    return frozenset()


def _bpf() -> tuple[Answer, bool | None]:
    try:
        return Answer(True, ""), probe.is_compiled()
    except JetplaneError as error:
        return Answer(False, str(error), error.hint), None


def _wireguard(config: Config) -> str:
    kind = wireguard.choose(config.wireguard.backend).kind
    return {"kernel": "in the kernel", "userspace": "in user space (wireguard-go): slower"}.get(kind, kind)


def _foreign_programs(config: Config, links: dict[str, LinkState]) -> Answer | None:
    """Whether another's program stands where one of ours belongs; asked of the interfaces that are there.

    One that is to be replaced is a warning.
    """
    names = {True: [tunnel.name for tunnel in config.tunnel], False: [config.uplink.interface]}
    places = [
        attach.Place(program, name, links[name].index)
        for program in programs.attached(config)
        for name in names[program.tunnel]
        if name in links
    ]
    if not places:
        return None

    replaced: list[str] = []

    def look() -> str:
        with Links() as tc, pins.Owned(config.run_directory / "bpf") as owned:
            for place in places:
                if there := attach.refuse_foreign(tc, place, owned, replace=config.uplink.replace_foreign_xdp):
                    replaced.append(f"{place.interface}: {there} gives way to the guard")
        return "; ".join(replaced) or "none in the way"

    answer = _ask(look)
    return replace(answer, ok="warn", hint="`jetplane down` puts it back") if answer.ok and replaced else answer


def _listen_ports(config: Config, taken_by_us: frozenset[str]) -> Iterator[tuple[str, Answer]]:
    """A tunnel that is there has its port, and the kernel does not say whose a port is."""
    if config.transport == "veth":
        return
    for tunnel in config.tunnel:
        if tunnel.name not in taken_by_us:

            def look(name: str = tunnel.name, port: int = tunnel.listen_port) -> str:
                ports.check_free(name, port)
                return f"{name}: {port} is free"

            yield tunnel.name, _ask(look)


def _private_keys(config: Config) -> Iterator[tuple[str, Answer]]:
    if config.transport == "veth":
        return
    for tunnel in config.tunnel:

        def look(path: Path = tunnel.private_key_file) -> str:
            with keys.private_key(path):
                return f"{path}"

        yield tunnel.name, _ask(look)


def _blocklists(config: Config) -> str:
    count = sum(1 for file in config.guard.blocklists for _ in prefixes.read(file))
    return f"{count} prefixes in {', '.join(map(str, config.guard.blocklists))}"


def _peers(config: Config) -> str:
    """Whether the place that peers come from can be read. A NATS that is away stops no node, so it is not asked."""
    if config.peers.source == "nats":
        access.check_files(config.nats)
        return f"from nats bucket {config.nats.bucket}"
    for file in files.paths(config.peers.path):
        formats.decode(file, whole.read(file))
    return f"in {config.peers.path}"


def _peer_records(config: Config) -> str:
    """Whether a running node would refuse one of them."""
    if config.peers.source == "nats":
        return "judged one by one as they come"
    wanted = records.wanted_by_tunnel(files.read(config.peers.path), config)
    return f"{sum(map(len, wanted.values()))}, none to refuse"


def _metrics_port(metrics: Metrics) -> str:
    """Try the exporter's place. One whose controller was killed takes a moment to notice."""
    deadline = time.monotonic() + _EXPORTER_ENDS_S
    while True:
        try:
            exporter.listen(metrics.listen, metrics.port).close()
        except JetplaneError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return f"{metrics.listen} port {metrics.port} is free"


def _metrics_user(metrics: Metrics) -> str:
    privileges.account(metrics.user)
    return f"served by {metrics.user}"


def _metrics_tls(metrics: Metrics) -> str:
    if not metrics.tls_cert_file:
        return f"plain HTTP, on {metrics.listen} only"
    tls.server_context(tls.Files(*map(Path, (metrics.tls_cert_file, metrics.tls_key_file, metrics.tls_client_ca_file))))
    return f"with {metrics.tls_cert_file}, for clients signed by {metrics.tls_client_ca_file}"


def _is_clock_synchronised() -> bool:
    """Ask adjtimex(2), changing nothing: no modes are set in the zeroed structure."""
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        return int(libc.adjtimex(ctypes.create_string_buffer(_SIZE_OF_TIMEX))) != _CLOCK_UNSYNCHRONISED
    return True
