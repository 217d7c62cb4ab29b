/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ports that many TCP connections share, each to another remote (an "endpoint-dependent mapping", RFC 4787, section
 * 4.1): for who has no port of its own left, if the configuration allows it. The ports are in no pool, so whose a
 * packet is never depends on two tables. A connection stands in a slot like a binding's, with a bit that tells.
 * Knows the maps only by the verbs of the program that includes it.
 *
 * Invariants, whatever runs on other CPUs:
 *  - a slot belongs to who has set its bit in `reuse_used`, until the bit is cleared, which comes last;
 *  - both entries that name a slot are there before its life says so and are removed after it says DYING, by the one
 *    CPU that changed it; so neither ever names another's connection.
 */
#ifndef JETPLANE_REUSE_H
#define JETPLANE_REUSE_H

#include "allocate.h"
#include "binding.h"
#include "exits.h"
#include "hash.h"
#include "ports.h"

#define REUSE_WORDS (MAX_REUSES / 64) /* of one exit address in `reuse_used` */
#define REUSE_LOOKS 8                 /* words that may be full before the table counts as full */
#define REUSE_TRIES 16                /* ports that may have a connection to the same remote already */

static __always_inline __u32 reuse_index(__u32 slot)
{
	return slot - REUSE_SLOT;
}

static __always_inline __u32 reuse_exit(__u32 slot)
{
	return reuse_index(slot) / MAX_REUSES;
}

/* The remote of a connection: always with its port, whatever the filter asks. */
static __always_inline __u64 reuse_remote(const struct secret *secret, const struct address *address, __be16 port)
{
	return remote_hash(secret, address, port);
}

static __always_inline struct reuse_outer reuse_outer_key(__u32 exit, __u16 port, __u64 remote)
{
	struct reuse_outer key = {
		.remote = remote,
		.exit_index = exit,
		.port = port,
	};

	return key;
}

/* A free slot at the exit address, by chance, or NO_SLOT. */
static __always_inline __u32 reuse_take(__u32 exit)
{
	__u32 chance = bpf_get_prandom_u32(), at;

	for (at = 0; at < REUSE_LOOKS; at++) {
		__u32 word = exit * REUSE_WORDS + (chance + at) % REUSE_WORDS;
		__u64 *used = reuse_used_at(word);
		int bit;

		if (!used)
			return NO_SLOT;
		bit = bit_take(used, 0);
		if (bit != NO_PORT)
			return REUSE_SLOT + word * 64 + bit;
	}
	return NO_SLOT;
}

static __always_inline void reuse_give_back(__u32 slot)
{
	__u64 *used = reuse_used_at(reuse_index(slot) / 64);

	if (used)
		__sync_fetch_and_and(used, ~slot_bit(slot));
}

/* A port that no connection from this exit address to this remote has, entered for @slot; 0: none. */
static __always_inline __u16 reuse_enter(__u32 slot, __u64 remote)
{
	__u32 exit = reuse_exit(slot), chance = bpf_get_prandom_u32(), at;
	struct pool *pool = pool_at(pool_index(exit, PROTOCOL_TCP));
	struct reuse_outer key = reuse_outer_key(exit, 0, remote);

	if (!pool)
		return 0;
	for (at = 0; at < REUSE_TRIES; at++) {
		__u32 place = (chance >> 16) % REUSE_PORTS;

		/* As far from the last place as chance would be (Knuth, "Seminumerical Algorithms", section 3.3.4). */
		chance = chance * 1664525 + 1013904223;
		/* Taken: the node's own services are there. */
		if (pool->taken[REUSE_WORD] >> place / PORTS_PER_BLOCK & 1)
			continue;
		key.port = REUSE_FIRST_PORT + place;
		if (!reuse_outer_add(&key, slot))
			return key.port;
	}
	return 0;
}

static __always_inline void reuse_clear(struct binding *binding)
{
	__builtin_memset(&binding->inner, 0, sizeof(binding->inner));
	binding->remotes[0] = 0;
	binding->inner_port = 0;
	binding->reused_port = 0;
	binding->peer = 0;
	binding->generation = 0;
}

/* End the connection at @slot, if its life still is @life; only one CPU can. */
static __always_inline bool reuse_dissolve(__u32 slot, struct binding *binding, __u64 life)
{
	__u64 dying = life_make(life_sequence(life), BINDING_DYING, 0);
	__u32 exit = reuse_exit(slot);
	struct reuse_inner inner = {};
	struct reuse_outer outer;
	struct peer_blocks *held;

	if (__sync_val_compare_and_swap(&binding->life, life, dying) != life)
		return false;
	inner.address = binding->inner;
	inner.port = binding->inner_port;
	inner.remote = binding->remotes[0];
	outer = reuse_outer_key(exit, binding->reused_port, binding->remotes[0]);
	reuse_inner_remove(&inner);
	reuse_outer_remove(&outer);
	held = peer_blocks_at(peer_blocks_index(binding->peer, exit_family(exit), PROTOCOL_TCP));
	if (held)
		__sync_fetch_and_add(&held->reuses, -1ull);
	reuse_clear(binding);
	__sync_val_compare_and_swap(&binding->life, dying, life_make(life_sequence(life), BINDING_FREE, 0));
	reuse_give_back(slot);
	return true;
}

/*
 * Make the connection of @inner to @remote, which has none, in a slot that nobody else has. NO_REASON and its life at
 * @life, or why not.
 */
static __always_inline enum counter reuse_fill(__u32 slot, struct binding *binding, struct reuse_inner *inner,
					       __u32 peer, __u32 generation, __u32 tick, __u64 *life)
{
	__u64 before = *(const volatile __u64 *)&binding->life;
	int failed = reuse_inner_add(inner, slot);
	__u16 port;

	if (failed)
		return failed == -17 /* EEXIST */ ? DROP_BUSY : DROP_PORTS_EXHAUSTED;
	port = reuse_enter(slot, inner->remote);
	if (!port) {
		reuse_inner_remove(inner);
		return DROP_PORTS_EXHAUSTED;
	}
	binding->inner = inner->address;
	binding->inner_port = inner->port;
	binding->reused_port = port;
	binding->peer = peer;
	binding->generation = generation;
	binding->remotes[0] = inner->remote;
	*life = life_make(life_sequence(before) + 1, BINDING_OPENING, tick);
	/* A full barrier: who sees the slot taken sees what is in it. */
	__sync_val_compare_and_swap(&binding->life, before, *life);
	return NO_REASON;
}

/* The same from the beginning: a place in the peer's quota, a slot, then the rest; *slot is the slot. */
static __always_inline enum counter reuse_make(struct reuse_inner *inner, __u32 exit, struct peer_blocks *held,
					       __u32 peer, __u32 generation, __u32 tick, __u32 *slot, __u64 *life)
{
	enum counter reason = DROP_PORTS_EXHAUSTED;
	struct binding *binding;

	*slot = NO_SLOT;
	if (__sync_fetch_and_add(&held->reuses, 1) < REUSE_QUOTA)
		*slot = reuse_take(exit);
	if (*slot != NO_SLOT) {
		binding = binding_at(*slot);
		if (binding)
			reason = reuse_fill(*slot, binding, inner, peer, generation, tick, life);
		if (reason == NO_REASON)
			return reason;
		reuse_give_back(*slot);
	}
	__sync_fetch_and_add(&held->reuses, -1ull);
	return reason;
}

#endif
