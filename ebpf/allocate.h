/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * External ports: by chance among the peer's own blocks, else in a block drawn from the pool by chance.
 * Knows the maps only by the verbs of the program that includes it.
 *
 * Invariants, whatever runs on other CPUs:
 *  - a port belongs to who has set its bit in `used`, with an atomic or that found it clear;
 *  - a block belongs to who has set its bit in `taken`; then comes a port in it, then the owner, then the entry in
 *    `peer_blocks`, so that a block that can be found holds a port, and one with a port in it is never released.
 */
#ifndef JETPLANE_ALLOCATE_H
#define JETPLANE_ALLOCATE_H

#include "ports.h"

#define NO_BLOCK   0xffffffffu
#define EVEN_PORTS 0x5555555555555555ull /* of a block */
#define BIT_TRIES  3                     /* another CPU may take the same bit first; three times over, hardly */

/* A bit of the word that was clear and now is set, by chance; NO_PORT when there is none. */
static __always_inline int bit_take(__u64 *word, __u64 excluded)
{
	__u32 chance = bpf_get_prandom_u32(), tries;

	for (tries = 0; tries < BIT_TRIES; tries++) {
		int bit = choose_clear_bit(*(volatile __u64 *)word | excluded, chance >> 6 * tries);

		if (bit == NO_PORT)
			return NO_PORT;
		if (!(__sync_fetch_and_or(word, 1ull << bit) >> bit & 1))
			return bit;
	}
	return NO_PORT;
}

/*
 * A port of the block, if @owner still has it and one is free; none of @disliked, if there are others (RFC 4787, REQ-4:
 * as even or as odd as the inner port).
 */
static __always_inline __u32 port_take(__u32 index, __u64 owner, __u64 disliked)
{
	struct block *block = block_at(index);
	__u64 excluded, liked;
	int bit;

	if (!block || block->owner != owner)
		return NO_SLOT;
	excluded = unusable_ports(index);
	if (PORT_PARITY) {
		liked = opaque(~(block->used | excluded | disliked));
		/* All ones if there are any; a choice here would be two ways to verify. */
		excluded |= disliked & -((liked | -liked) >> 63);
	}
	bit = bit_take(&block->used, excluded);
	if (bit == NO_PORT)
		return NO_SLOT;
	/* The sweep may have given the block away in between; from here on it cannot. */
	if (*(volatile __u64 *)&block->owner == owner)
		return index * PORTS_PER_BLOCK + bit;
	__sync_fetch_and_and(&block->used, ~(1ull << bit));
	return NO_SLOT;
}

/* One of the shared system blocks with a free port, by chance, or NO_BLOCK. */
static __always_inline __u32 block_find_system(__u32 pool)
{
	__u32 chance = bpf_get_prandom_u32(), at;
	struct pool *taken = pool_at(pool);

	if (!taken)
		return NO_BLOCK;
	for (at = 0; at < SYSTEM_BLOCKS; at++) {
		__u64 place = (chance + at) % SYSTEM_BLOCKS;
		__u32 index = pool * BLOCKS_PER_POOL + place;
		struct block *block = block_at(index);

		/* Taken: the node's own services are in it. */
		if (block && ~(block->used | unusable_ports(index)) && !(taken->taken[0] >> place & 1))
			return index;
	}
	return NO_BLOCK;
}

/* One of the peer's blocks in this pool that has a free port, by chance, or NO_BLOCK. */
static __always_inline __u32 block_find(__u32 pool, const struct peer_blocks *held)
{
	__u32 chance = bpf_get_prandom_u32(), at;

	for (at = 0; at < BLOCK_QUOTA; at++) {
		__u64 place = opaque((chance + at) % BLOCK_QUOTA) % MAX_BLOCK_QUOTA;
		__u32 index = held->slot[place] - 1; /* no block: an index of no pool */
		struct block *block;

		/* Blocks of an exit address that the peer no longer uses run dry and are swept. */
		if (block_pool(index) != pool)
			continue;
		block = block_at(index);
		if (block && ~block->used)
			return index;
	}
	return NO_BLOCK;
}

static __always_inline __u32 block_claim(__u32 pool, struct pool *blocks)
{
	__u32 chance = bpf_get_prandom_u32(), at;

	for (at = 0; at < BLOCK_WORDS; at++) {
		__u32 word = (chance + at) % BLOCK_WORDS;
		__u64 system = word ? 0 : (1ull << SYSTEM_BLOCKS) - 1;
		int bit;

		if (!~(blocks->taken[word] | system))
			continue;
		if (TCP_REUSE && pool % PROTOCOLS == PROTOCOL_TCP && word == REUSE_WORD)
			continue;
		bit = bit_take(&blocks->taken[word], system);
		if (bit != NO_PORT)
			return pool * BLOCKS_PER_POOL + word * 64 + bit;
	}
	return NO_BLOCK;
}

/* Enter the block into the peer's list; false when the quota is spent. */
static __always_inline bool block_enter(struct peer_blocks *held, __u32 block)
{
	__u32 at;

	for (at = 0; at < BLOCK_QUOTA; at++)
		if (!held->slot[at] && !__sync_val_compare_and_swap(&held->slot[at], 0, block + 1ull))
			return true;
	return false;
}

static __always_inline bool quota_is_spent(const struct peer_blocks *held)
{
	__u32 at;

	for (at = 0; at < BLOCK_QUOTA; at++)
		if (!held->slot[at])
			return false;
	return true;
}

static __always_inline __u32 port_take_in_new_block(__u32 pool, struct peer_blocks *held, __u64 owner, __u64 disliked)
{
	struct pool *blocks = pool_at(pool);
	struct block *block;
	__u32 index, slot, in_pool;

	if (!blocks || quota_is_spent(held))
		return NO_SLOT;
	index = block_claim(pool, blocks);
	if (index == NO_BLOCK)
		return NO_SLOT;
	slot = port_take(index, 0, disliked);
	block = block_at(index);
	if (block && slot != NO_SLOT) {
		/* Nobody else writes it while the block is out of the pool for us; it is the order that counts. */
		__sync_val_compare_and_swap(&block->owner, 0, owner);
		if (block_enter(held, index)) {
			count(COUNT_BLOCKS_CLAIMED, 1);
			return slot;
		}
		/* Another CPU has just spent the rest of the quota. */
		__sync_val_compare_and_swap(&block->owner, owner, 0);
		__sync_fetch_and_and(&block->used, ~slot_bit(slot));
	}
	in_pool = index % BLOCKS_PER_POOL;
	__sync_fetch_and_and(&blocks->taken[in_pool / 64], ~(1ull << in_pool % 64));
	return NO_SLOT;
}

static __always_inline __u32 port_take_system(__u32 pool, struct peer_blocks *held, __u64 disliked)
{
	__u32 block, slot = NO_SLOT;

	if (held->system_ports >= SYSTEM_PORT_QUOTA)
		return NO_SLOT;
	__sync_fetch_and_add(&held->system_ports, 1);
	block = block_find_system(pool);
	if (block != NO_BLOCK)
		slot = port_take(block, 0, disliked);
	if (slot == NO_SLOT)
		__sync_fetch_and_add(&held->system_ports, -1ull);
	return slot;
}

static __always_inline __u32 port_take_own(__u32 pool, struct peer_blocks *held, __u64 owner, __u64 disliked)
{
	__u32 block = block_find(pool, held), slot = NO_SLOT;

	if (block != NO_BLOCK)
		slot = port_take(block, owner, disliked);
	/* None is free, or another CPU has taken the last one. */
	if (slot == NO_SLOT)
		slot = port_take_in_new_block(pool, held, owner, disliked);
	return slot;
}

/* An external port for @inner_port. */
static __always_inline __u32 port_allocate(__u32 pool, struct peer_blocks *held, __u32 peer, __be16 inner_port)
{
	__u32 protocol = pool % PROTOCOLS;
	__u64 disliked = 0;

	if (PORT_PARITY && protocol != PROTOCOL_ICMP)
		disliked = EVEN_PORTS << opaque(~from_be16(inner_port) & 1);
	if (port_is_system(protocol, inner_port))
		return port_take_system(pool, held, disliked);
	return port_take_own(pool, held, peer + 1ull, disliked);
}

#endif
