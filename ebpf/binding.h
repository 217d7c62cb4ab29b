/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The life of a binding in one word: when it was last used, its state, and which holder of the slot it belongs to.
 * Because all three change together by compare-and-swap, a refresh and an expiry can never both succeed, and neither
 * can touch the next holder of the slot.
 */
#ifndef JETPLANE_BINDING_H
#define JETPLANE_BINDING_H

#include "types.h"
#include "abi.h"
#include "node.h"

#define TICK_SHIFT    30 /* a tick is 2^30 ns, 1.07 s: a shift where seconds would take a division */
#define SEQUENCE_MASK 0xffffffu

/* Rounded up: a timer never runs short of what the RFCs ask. */
#define TICKS(seconds) ((__u32)(((seconds)*1000000000ull >> TICK_SHIFT) + 1))

static __always_inline __u32 tick_of(__u64 monotonic_ns)
{
	return monotonic_ns >> TICK_SHIFT;
}

static __always_inline __u64 life_make(__u32 sequence, enum binding_state state, __u32 tick)
{
	return (__u64)(sequence & SEQUENCE_MASK) << 40 | (__u64)state << 32 | tick;
}

static __always_inline __u64 life_read(const struct binding *binding)
{
	return *(const volatile __u64 *)&binding->life;
}

static __always_inline __u32 life_sequence(__u64 life)
{
	return life >> 40;
}

static __always_inline enum binding_state life_state(__u64 life)
{
	return life >> 32 & 0xff;
}

static __always_inline __u32 life_tick(__u64 life)
{
	return (__u32)life;
}

/* How long a binding may idle, in ticks. */
static __always_inline __u32 state_timeout(enum binding_state state, __u32 protocol)
{
	if (protocol == PROTOCOL_UDP)
		return TICKS(UDP_TIMEOUT_S);
	if (protocol == PROTOCOL_ICMP)
		return TICKS(ICMP_TIMEOUT_S);
	if (state == BINDING_ESTABLISHED || state == BINDING_FIN_OUT || state == BINDING_FIN_IN)
		return TICKS(TCP_ESTABLISHED_TIMEOUT_S);
	/* Opening and closing apart: RFC 7857, section 2.1. */
	if (state == BINDING_CLOSING || state == BINDING_RESET)
		return TICKS(TCP_CLOSING_TIMEOUT_S);
	return TICKS(TCP_TRANSITORY_TIMEOUT_S);
}

static __always_inline bool life_is_taken(__u64 life)
{
	return life_state(life) > BINDING_DYING;
}

/* Taken, and not idle for too long. The clock may lag behind the last use by another CPU's tick. */
static __always_inline bool life_is_live(__u64 life, __u32 protocol, __u32 tick)
{
	__s32 idle = (__s32)(tick - life_tick(life));

	return life_is_taken(life) && idle <= (__s32)state_timeout(life_state(life), protocol);
}

#endif
