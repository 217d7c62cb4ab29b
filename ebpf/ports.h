/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Arithmetic of external ports. One numbering serves all: pool = exit index and protocol, block = 64 ports of a pool,
 * slot = one port; each is a part of the next, so the way from any to any other is a shift.
 */
#ifndef JETPLANE_PORTS_H
#define JETPLANE_PORTS_H

#include "types.h"
#include "abi.h"
#include "node.h"

#define NO_PORT (-1)
#define NO_SLOT 0xffffffffu

static __always_inline __u32 pool_index(__u32 exit_index, __u32 protocol)
{
	return exit_index * PROTOCOLS + protocol;
}

/* Index of the binding at @port (host order). */
static __always_inline __u32 binding_slot(__u32 exit_index, __u32 protocol, __u16 port)
{
	return pool_index(exit_index, protocol) * BLOCKS_PER_POOL * PORTS_PER_BLOCK + port;
}

static __always_inline __u16 slot_port(__u32 slot)
{
	return slot & 0xffff;
}

static __always_inline __u32 slot_pool(__u32 slot)
{
	return slot >> 16;
}

static __always_inline __u32 slot_exit(__u32 slot)
{
	return slot_pool(slot) / PROTOCOLS;
}

static __always_inline __u32 slot_block(__u32 slot)
{
	return slot / PORTS_PER_BLOCK;
}

static __always_inline __u64 slot_bit(__u32 slot)
{
	return 1ull << (slot % PORTS_PER_BLOCK);
}

static __always_inline __u32 block_pool(__u32 block)
{
	return block / BLOCKS_PER_POOL;
}

static __always_inline bool block_is_system(__u32 block)
{
	return block % BLOCKS_PER_POOL < SYSTEM_BLOCKS;
}

/* Bits of a block that are no ports: port 0 means none. */
static __always_inline __u64 unusable_ports(__u32 block)
{
	return block % BLOCKS_PER_POOL == 0;
}

static __always_inline __u32 peer_blocks_index(__u32 peer, __u32 family, __u32 protocol)
{
	return (peer * FAMILIES + family) * PROTOCOLS + protocol;
}

/* Ports 0-1023 are translated to such ports again (RFC 4787, REQ-3a); ICMP identifiers know no such class. */
static __always_inline bool port_is_system(__u32 protocol, __be16 port)
{
	return protocol != PROTOCOL_ICMP && from_be16(port) < SYSTEM_BLOCKS * PORTS_PER_BLOCK;
}

/* Behind the slots of ports lie those of connections at reused ports. */
#define REUSE_SLOT (EXITS * PROTOCOLS * BLOCKS_PER_POOL * PORTS_PER_BLOCK)

static __always_inline bool slot_is_reused(__u32 slot)
{
	return TCP_REUSE && slot >= REUSE_SLOT;
}

/* Does this external port (host order) belong to many connections, and so to no binding? */
static __always_inline bool port_is_reused(__u32 protocol, __u16 port)
{
	return TCP_REUSE && protocol == PROTOCOL_TCP && port / REUSE_PORTS == REUSE_FIRST_PORT / REUSE_PORTS;
}

/* A binding from before the configuration put its port aside; nothing can find its way back to it any more. */
static __always_inline bool slot_is_void(__u32 slot)
{
	return !slot_is_reused(slot) && port_is_reused(slot_pool(slot) % PROTOCOLS, slot_port(slot));
}

/* How many bits of @word are set; no table and no branch, either of which bcc or the verifier would mind. */
static __always_inline __u32 count_bits(__u64 word)
{
	word -= (word >> 1) & 0x5555555555555555ull;
	word = (word & 0x3333333333333333ull) + ((word >> 2) & 0x3333333333333333ull);
	word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0full;
	return (word * 0x0101010101010101ull) >> 56;
}

/* A bit that is clear in @used, by chance (RFC 6056, section 3.3.1); NO_PORT when all are set. */
static __always_inline int choose_clear_bit(__u64 used, __u32 chance)
{
	__u64 clear = ~used;
	__u32 turn = chance & 63;
	__u64 turned = clear >> turn | clear << ((64 - turn) & 63);

	if (!clear)
		return NO_PORT;
	return (count_bits((turned & -turned) - 1) + turn) & 63;
}

#endif
