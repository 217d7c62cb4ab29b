"""Asks a device for its dump and hands it to a reader, for the short-lived processes that may see one.

No importing beyond the standard library and what reads: these processes start often.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from jetplane.privacy.process import forbid_core_dumps
from jetplane.wireguard import uapi
from jetplane.wireguard.attributes import HEADROOM, name_attribute
from jetplane.wireguard.genl import open_plain

DEADLINE_S: Final = 60.0

T = TypeVar("T")


def read(
    kind: str,
    name: str,
    of_kernel: Callable[[Iterable[memoryview]], T],
    of_userspace: Callable[[Iterable[bytes]], tuple[int, T]],
) -> T:
    """Return what one of the two readers makes of the dump: of the messages of WG_CMD_GET_DEVICE, each given as its
    attributes, or of the lines that answer `get=1`, with their errno. Raises OSError as the device refuses.
    """
    if kind == "kernel":
        with open_plain() as netlink:
            return netlink.dump(bytearray(HEADROOM) + name_attribute(name), of_kernel)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(uapi.socket_path(name)))
        connection.sendall(b"get=1\n\n")
        with connection.makefile("rb") as lines:
            code, found = of_userspace(lines)
    if code:
        raise OSError(code, os.strerror(code))
    return found


def tell_number(count: Callable[[], int]) -> int:
    """Write what was counted, or `-` and an errno, on standard output, and nothing else: the whole work of a child that
    counts. Returns its exit status; 1 is a failure that has no errno.
    """
    try:
        forbid_core_dumps()  # or no count is better than a leak
        answer = count()
    except OSError as error:
        answer = -(error.errno or errno.EIO)
    except Exception:  # its message might quote what was read
        return 1
    print(answer)
    return 0
