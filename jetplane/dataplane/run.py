"""BPF_PROG_TEST_RUN: runs a loaded program on a packet without any interface. The sweep and the tests use it.

Source: net/bpf/test_run.c. A packet must be at least 14 bytes long (an Ethernet header), or the kernel says EINVAL.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from jetplane.dataplane.bpf import call, checked, pointer

_PROG_TEST_RUN = 10
_HEADROOM = 512  # a program may grow the packet by at most this

_u32, _u64 = ctypes.c_uint32, ctypes.c_uint64


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("prog_fd", _u32), ("retval", _u32), ("data_size_in", _u32), ("data_size_out", _u32),
        ("data_in", _u64), ("data_out", _u64), ("repeat", _u32), ("duration", _u32),
        ("ctx_size_in", _u32), ("ctx_size_out", _u32), ("ctx_in", _u64), ("ctx_out", _u64),
        ("flags", _u32), ("cpu", _u32), ("batch_size", _u32),
    )  # fmt: skip


class SkbContext(ctypes.Structure):
    """struct __sk_buff: the context of a tc program.

    The kernel takes mark, priority, ingress_ifindex, ifindex, cb, tstamp, gso_segs, gso_size, wire_len and hwtstamp
    from the caller; everything else must be zero.
    """

    _fields_ = (
        ("len", _u32), ("pkt_type", _u32), ("mark", _u32), ("queue_mapping", _u32), ("protocol", _u32),
        ("vlan_present", _u32), ("vlan_tci", _u32), ("vlan_proto", _u32), ("priority", _u32),
        ("ingress_ifindex", _u32), ("ifindex", _u32), ("tc_index", _u32), ("cb", _u32 * 5), ("hash", _u32),
        ("tc_classid", _u32), ("data", _u32), ("data_end", _u32), ("napi_id", _u32), ("family", _u32),
        ("remote_ip4", _u32), ("local_ip4", _u32), ("remote_ip6", _u32 * 4), ("local_ip6", _u32 * 4),
        ("remote_port", _u32), ("local_port", _u32), ("data_meta", _u32), ("flow_keys", _u64), ("tstamp", _u64),
        ("wire_len", _u32), ("gso_segs", _u32), ("sk", _u64), ("gso_size", _u32), ("tstamp_type", _u32),
        ("hwtstamp", _u64),
    )  # fmt: skip


class XdpContext(ctypes.Structure):
    """struct xdp_md: the context of an XDP program. `data_end` must be the length of the packet."""

    _fields_ = (
        ("data", _u32), ("data_end", _u32), ("data_meta", _u32),
        ("ingress_ifindex", _u32), ("rx_queue_index", _u32), ("egress_ifindex", _u32),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ran:
    """What the last of the repeated runs left behind."""

    verdict: int  # as an unsigned 32-bit number: TC_ACT_UNSPEC is 0xffffffff
    packet: bytes
    context: bytes
    nanoseconds: int  # mean of one run


def prog_test_run(
    fd: int,
    packet: bytes,
    context: SkbContext | XdpContext | None = None,
    *,
    repeat: int = 1,
    flags: int = 0,
) -> Ran:
    """Run the program `repeat` times on `packet`, each time on what the run before left of it.

    A changed context comes back in `Ran.context`; the one passed in stays as it was. Raises KernelError; EINTR when
    a signal came between two runs.
    """
    data, out = (
        ctypes.create_string_buffer(packet, len(packet)),
        ctypes.create_string_buffer(len(packet) + _HEADROOM),
    )
    attributes = _Attributes(
        prog_fd=fd, data_size_in=len(packet), data_in=pointer(data), data_size_out=len(out), data_out=pointer(out),
        repeat=repeat, flags=flags,
    )  # fmt: skip
    after = ctypes.create_string_buffer(0)
    if context is not None:
        size = ctypes.sizeof(context)
        after = ctypes.create_string_buffer(size)
        attributes.ctx_size_in, attributes.ctx_size_out = size, size
        attributes.ctx_in, attributes.ctx_out = pointer(context), pointer(after)
    checked(call(_PROG_TEST_RUN, attributes), "running a BPF program")
    return Ran(
        attributes.retval,
        out.raw[: attributes.data_size_out],
        after.raw,
        attributes.duration,
    )
