"""Reads a device's dump and is gone: `python -m jetplane.wireguard.dump kernel|userspace NAME`, run by observe.

A dump always carries the private key, the preshared keys, and where and when each peer was last seen. The controller
must never hold those, so this short-lived process reads it and writes snapshot's compact form on its standard output.
Nobody can take a core of it or trace it meanwhile, and it says nothing on its standard error. It imports little beside
the standard library, because it starts often.
"""

from __future__ import annotations

import errno
import sys

from jetplane.privacy.process import forbid_core_dumps
from jetplane.wireguard import device, uapi
from jetplane.wireguard.decode import decode
from jetplane.wireguard.snapshot import pack, pack_failure


def main(kind: str, name: str) -> int:
    """Run in the child. Returns its exit status; 1 is a failure that has no errno."""
    try:
        forbid_core_dumps()  # or no dump is better than a leak
        answer = pack(device.read(kind, name, decode, uapi.decode))
    except OSError as error:
        answer = pack_failure(error.errno or errno.EIO)
    except Exception:  # its message might quote what was read
        return 1
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
