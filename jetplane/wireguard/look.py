"""Looks for idle peers and is gone: `python -m jetplane.wireguard.look kernel|userspace NAME STALE GRACE MOST`.

It sees what no other process of the node may: endpoints, handshake times, volumes. On its standard output it writes a
u32 errno (0 for success) and then the public keys of peers to evict, 32 bytes each: no endpoint, no time, no volume,
and not even whether a peer is stale or half-open. It looks twice, so that no handshake under way is cut.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time
from typing import Final

from jetplane.privacy.process import forbid_core_dumps
from jetplane.wireguard import device, idle

_FRONT: Final = struct.Struct("=I")


def _idle(kind: str, name: str, stale_s: float) -> dict[bytes, int]:
    return device.read(
        kind,
        name,
        lambda messages: idle.of_kernel(messages, now_s=time.time(), stale_s=stale_s),
        lambda lines: idle.of_userspace(lines, now_s=time.time(), stale_s=stale_s),
    )


def look(kind: str, name: str, limits: idle.Limits) -> list[bytes]:
    """Return the public keys of peers to evict. Raises OSError as the device does."""
    first = _idle(kind, name, limits.stale_s)
    if not first:
        return []
    time.sleep(limits.grace_s)
    return idle.confirmed(first, _idle(kind, name, limits.stale_s), limits.most)


def unpack(data: bytes) -> list[bytes]:
    """The keys in what this process wrote. Raises OSError for a refused dump, ValueError for half an answer."""
    if len(data) < _FRONT.size or (len(data) - _FRONT.size) % 32:
        raise ValueError("the answer is cut short")
    (code,) = _FRONT.unpack_from(data)
    if code:
        raise OSError(code, os.strerror(code))
    return [data[at : at + 32] for at in range(_FRONT.size, len(data), 32)]


def main(kind: str, name: str, stale_s: str, grace_s: str, most: str) -> int:
    """Run in the child. Returns its exit status; 1 is a failure that has no errno."""
    try:
        forbid_core_dumps()  # or no dump is better than a leak
        os.nice(5)  # forwarding first
        keys = look(kind, name, idle.Limits(float(stale_s), float(grace_s), most=int(most)))
        answer = _FRONT.pack(0) + b"".join(keys)
    except OSError as error:
        answer = _FRONT.pack(error.errno or errno.EIO)
    except Exception:  # its message might quote what was read
        return 1
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
