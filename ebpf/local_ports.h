/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is known of a local port: whether a service may be open there, and whether the node itself has lately sent from
 * it, or a socket was lately found there. To look for a socket costs more than all else that the guard asks of a packet,
 * so a flood at other ports is to get few looks. What was used has two halves, of which the controller empties the
 * older every OWN_PORTS_S; a bit that is lost costs a look. Pure.
 */
#ifndef JETPLANE_LOCAL_PORTS_H
#define JETPLANE_LOCAL_PORTS_H

#include "types.h"
#include "abi.h"

#include <linux/in.h>

/* Its place among all ports of TCP, then all of UDP: PORTS_PER_WORD of them share an element. */
static __always_inline __u32 port_place(__u8 protocol, __be16 port)
{
	return (protocol == IPPROTO_UDP) << 16 | from_be16(port);
}

static __always_inline __u64 port_bit(__u32 place)
{
	return 1ull << place % PORTS_PER_WORD;
}

static __always_inline bool port_is_used(const struct local_ports *ports, __u32 place)
{
	return (ports->used[0] | ports->used[1]) & port_bit(place);
}

static __always_inline void port_remember(struct local_ports *ports, __u32 half, __u32 place)
{
	__u64 *used = &ports->used[half & 1];

	if (!(*used & port_bit(place)))
		__sync_fetch_and_or(used, port_bit(place));
}

/*
 * Take one of the looks that these ports have for what is not known to be used. @tick is the kernel's own clock, which
 * costs next to nothing to read; to ask for nanoseconds costs as much as all else here. CPUs that meet may take too many.
 */
static __always_inline bool look_take(struct local_ports *ports, __u64 tick)
{
	__u64 paid_until = ports->paid_until;

	if (paid_until < tick)
		paid_until = tick;
	if (paid_until - tick >= LOOKS_AT_ONCE * TICKS_PER_LOOK)
		return false;
	ports->paid_until = paid_until + TICKS_PER_LOOK;
	return true;
}

#endif
