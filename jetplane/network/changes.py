"""Makes the network what is wanted, remembering how it was, and puts it back."""

from __future__ import annotations

from ipaddress import ip_address

from jetplane.config import Config
from jetplane.errors import KernelError
from jetplane.journal import Added, Changed, Feature, Journal, Link, Record, Rule, Setting, Sysctl, Thing, Tunnel
from jetplane.model import V4_MAPPED
from jetplane.network import features, sysctl
from jetplane.network.netlink import Netlink, interface_index
from jetplane.network.wanted import Facts, Item, Value, wanted

_OFFLOADS = ("rx-udp-gro-forwarding", "rx-gro-list", "rx-lro", "rx-gro-hw")


def ensure(config: Config, journal: Journal) -> tuple[str, ...]:
    """Bring the network of this namespace in line with the configuration; return what was changed, a line each.

    The uplink and the tunnels must be there. What an earlier configuration needed and this one does not is put back.
    Nothing changes, and nothing is returned, when all is as it should be. Raises KernelError; what was changed until
    then is in the journal, so another `ensure` goes on from there, and `restore` takes it back.
    """
    for interface in (config.uplink.interface, *(tunnel.name for tunnel in config.tunnel)):
        interface_index(interface)
    with Netlink() as netlink:
        items = wanted(config, _facts(config, netlink))
        done = _put_back_unwanted(config, journal, netlink, items)
        present = netlink.things()
        for item in items:
            if isinstance(item, Value):
                done += _ensure_value(journal, netlink, item)
            elif item not in present:
                done += _make(journal, netlink, item)
    return tuple(done)


def restore(journal: Journal) -> tuple[str, ...]:
    """Put back everything in the journal, the latest change first; return what was done, a line each.

    Whatever cannot be put back has a line that begins with "not put back" and says why, and stays in the journal. A
    setting that somebody else has changed since is theirs and left alone, with a line.
    """
    with Netlink() as netlink:
        done = _undo_all(journal, netlink, journal.records())
    done += journal.damaged()
    if journal.damaged():
        journal.forget(())
    return tuple(done)


def fails_closed(config: Config) -> bool:
    """Whether every routing rule stands that discards what comes out of a tunnel untranslated. Raises KernelError."""
    with Netlink() as netlink:
        rules = {item for item in wanted(config, _facts(config, netlink)) if isinstance(item, Rule)}
        return rules <= netlink.things()


def uplink_addresses(config: Config) -> tuple[bytes, ...]:
    """The addresses at which others reach the node itself through its uplink, 16 bytes each in network order, IPv4 as
    ::ffff:a.b.c.d: those of the uplink, and those that routing daemons put on the loopback interface."""
    places = (config.uplink.interface, "lo")
    with Netlink() as netlink:
        found = {interface.ip for name, interface in netlink.addresses() if name in places}
    forms = (ip.packed if ip.version == 6 else V4_MAPPED + ip.packed for ip in found if not ip.is_loopback)
    return tuple(sorted(forms))


def owner(address: str) -> str:
    """The interface to which this address is assigned; "" for none."""
    with Netlink() as netlink:
        return next((name for name, own in netlink.addresses() if own.ip == ip_address(address)), "")


def _facts(config: Config, netlink: Netlink) -> Facts:
    uplink = config.uplink.interface
    changeable = {
        Feature(interface, name)
        for interface in (uplink, *(tunnel.name for tunnel in config.tunnel))
        for name, state in features.read_all(interface).items()
        if name in _OFFLOADS and state.changeable
    }
    return Facts(
        addresses=netlink.addresses(),
        ipv6=sysctl.read(sysctl.IPV6_FORWARDING) is not None,
        uplink_accept_ra=sysctl.read(f"net/ipv6/conf/{uplink}/accept_ra"),
        changeable=frozenset(changeable),
    )


def _make(journal: Journal, netlink: Netlink, thing: Thing) -> list[str]:
    assert not isinstance(thing, Tunnel)  # made by WireGuard's side
    journal.add(Added(thing))
    netlink.add(thing)
    return [f"added {thing}"]


def _ensure_value(journal: Journal, netlink: Netlink, wanted: Value) -> list[str]:
    old = _read(netlink, wanted.setting)
    if old == wanted.value:
        return []
    if old is None:
        raise KernelError(f"{wanted.setting}: is not there, and should be {wanted.value}")
    journal.add(Changed(wanted.setting, old, wanted.value))
    _write(netlink, wanted.setting, wanted.value)
    return [f"set {wanted.setting} to {wanted.value}, it was {old}"]


def _put_back_unwanted(config: Config, journal: Journal, netlink: Netlink, items: tuple[Item, ...]) -> list[str]:
    needed = {item.setting if isinstance(item, Value) else item for item in items}
    tunnels = {tunnel.name for tunnel in config.tunnel}

    def is_unwanted(record: Record) -> bool:
        if isinstance(record.what, Tunnel):  # WireGuard's side removes it; only what is gone is forgotten here
            return record.what.interface not in tunnels and not netlink.link(record.what.interface)
        return record.what not in needed

    return _undo_all(journal, netlink, tuple(filter(is_unwanted, journal.records())))


def _undo_all(journal: Journal, netlink: Netlink, records: tuple[Record, ...]) -> list[str]:
    done, undone = [], []
    for record in reversed(records):
        try:
            line = _undo(netlink, record)
        except KernelError as error:
            done.append(f"not put back: {record.what}: {error}")
            continue
        undone.append(record.what)
        done += [line] if line else []
    if undone:
        journal.forget(undone)
    return done


def _undo(netlink: Netlink, record: Record) -> str:
    """Put one thing back; return what was done, nothing if it was so already or its interface is gone."""
    match record:
        case Added(what):
            return f"removed {what}" if netlink.remove(what) else ""
        case Changed(setting, old, new):
            now = _read(netlink, setting)
            if now in (None, old):
                return ""
            if now != new:
                return f"left alone: {setting} is {now} by now, which is not what jetplane had set ({new})"
            _write(netlink, setting, old)
            return f"set {setting} back to {old}"


def _read(netlink: Netlink, setting: Setting) -> str | None:
    match setting:
        case Sysctl(name):
            return sysctl.read(name)
        case Link():
            return netlink.read(setting)
        case Feature():
            return features.read(setting)


def _write(netlink: Netlink, setting: Setting, value: str) -> None:
    match setting:
        case Sysctl(name):
            sysctl.write(name, value)
        case Link():
            netlink.write(setting, value)
        case Feature():
            features.write(setting, value)
