"""Offloads and drivers: what ethtool(8) reads and changes, over the same ioctl (linux/ethtool.h)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool, NoSuchDevice

from jetplane.errors import KernelError
from jetplane.journal import Feature

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_GDRVINFO = 0x03  # linux/ethtool.h
_DRVINFO_SIZE = 196  # struct ethtool_drvinfo; the driver's name are the 32 bytes after the first word


@dataclass(frozen=True, slots=True)
class FeatureState:
    """One offload as it is."""

    on: bool
    changeable: bool  # false where ethtool(8) says [fixed]


@dataclass(frozen=True, slots=True)
class Channels:
    """Queues of an interface: as they are, and at most (ethtool -l)."""

    combined: int
    most_combined: int


def read_all(interface: str) -> dict[str, FeatureState]:
    """Every offload that this kernel knows, by its name in ethtool(8); empty when there is no such interface."""
    with _asking(interface, "reading its offloads") as ethtool:
        return {
            name: FeatureState(on=bool(on), changeable=bool(available))
            for name, on, available, _, _ in ethtool.get_features()
        }
    return {}


def read(feature: Feature) -> str | None:
    """on or off; None when the interface is gone or the kernel knows no such offload."""
    state = read_all(feature.interface).get(feature.name)
    return None if state is None else ("on" if state.on else "off")


def write(feature: Feature, value: str) -> None:
    """Switch an offload. A device that cannot, or that does not obey, raises KernelError."""
    with _asking(feature.interface, f"switching {feature.name} {value}") as ethtool:
        features = ethtool.get_features()
        features[feature.name] = value == "on"
        ethtool.set_features(features)


def driver(interface: str) -> str:
    """The name of the driver, like "virtio_net" or "veth"; empty when it does not say."""
    request = ctypes.create_string_buffer(struct.pack("=I", _GDRVINFO), _DRVINFO_SIZE)
    ifreq = struct.pack("16sP", interface.encode(), ctypes.addressof(request))
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as handle:
        try:
            fcntl.ioctl(handle, _SIOCETHTOOL, ifreq)
        except OSError:
            return ""
    return request.raw[4:36].split(b"\0")[0].decode("ascii", "replace")


def channels(interface: str) -> Channels | None:
    """Its queues; None when the driver does not say."""
    with closing(IoctlEthtool(interface)) as ethtool:
        try:
            found = ethtool.get_channels()
        except (EthtoolError, OSError):
            return None
        return Channels(found.combined_count, found.max_combined)


@contextmanager
def _asking(interface: str, doing: str) -> Iterator[IoctlEthtool]:
    """Turn what the ioctl raises into a KernelError; that the interface is gone ends the block in silence."""
    with closing(IoctlEthtool(interface)) as ethtool:
        try:
            yield ethtool
        except NoSuchDevice:
            return
        except EthtoolError:
            raise KernelError(f"{interface}: {doing}: the device does not follow", errno=errno.EOPNOTSUPP) from None
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            number = error.errno or 0
            hint = "run as root" if number == errno.EPERM else ""
            raise KernelError(f"{interface}: {doing}: {os.strerror(number)}", errno=number, hint=hint) from None
