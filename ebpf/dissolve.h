/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The end of bindings and blocks. Knows the maps only by the verbs of the program that includes it.
 *
 * Invariants, whatever runs on other CPUs:
 *  - who changes a life from taken to DYING, by compare-and-swap, owns the slot until it says FREE; nobody else does;
 *  - an entry of `endpoints` stands from before its binding is taken until it is DYING, so it is there to be removed by
 *    who ends that, and nobody else; then the slot's port is free for another;
 *  - a port's bit in `used` is cleared last.
 */
#ifndef JETPLANE_DISSOLVE_H
#define JETPLANE_DISSOLVE_H

#include "binding.h"
#include "exits.h"
#include "hints.h"
#include "ports.h"

static __always_inline void port_give_back(__u32 slot, __u32 peer)
{
	__u32 pool = slot_pool(slot);
	struct block *block = block_at(slot_block(slot));
	struct peer_blocks *held;

	if (block_is_system(slot_block(slot))) {
		held = peer_blocks_at(peer_blocks_index(peer, exit_family(slot_exit(slot)), pool % PROTOCOLS));
		if (held)
			__sync_fetch_and_add(&held->system_ports, -1ull);
	}
	if (block)
		__sync_fetch_and_and(&block->used, ~slot_bit(slot));
}

/* What a slot of another peer's must not show. */
static __always_inline void binding_clear(struct binding *binding)
{
	__builtin_memset(&binding->inner, 0, sizeof(binding->inner));
	__builtin_memset(binding->remotes, 0, sizeof(binding->remotes));
	binding->inner_port = 0;
	binding->peer = 0;
	binding->generation = 0;
}

/* End the binding at @slot, if its life still is @life; only one CPU can. Its remotes are forgotten with it. */
static __always_inline bool binding_dissolve(__u32 slot, struct binding *binding, __u64 life)
{
	__u64 dying = life_make(life_sequence(life), BINDING_DYING, 0);
	struct inner_endpoint inner = {
		.protocol = slot_pool(slot) % PROTOCOLS,
	};
	__u32 peer;

	if (__sync_val_compare_and_swap(&binding->life, life, dying) != life)
		return false;
	inner.address = binding->inner;
	inner.port = binding->inner_port;
	peer = binding->peer;
	endpoint_remove(&inner);
	hint_forget(&inner, slot);
	binding_clear(binding);
	__sync_val_compare_and_swap(&binding->life, dying, life_make(life_sequence(life), BINDING_FREE, 0));
	port_give_back(slot, peer);
	return true;
}

/*
 * Return a block without bindings to its pool. Filling `used` first keeps everybody out: a port is taken from the block
 * either before, and then the block stays, or after it has gone to another owner, which who takes it notices.
 */
static __always_inline bool block_release(__u32 index, struct block *block)
{
	__u64 owner = block->owner;
	__u32 pool = block_pool(index), in_pool = index % BLOCKS_PER_POOL;
	struct peer_blocks *held;
	struct pool *taken;
	__u32 at;

	if (!owner || __sync_val_compare_and_swap(&block->used, 0, ~0ull) != 0)
		return false;
	held = peer_blocks_at(peer_blocks_index(owner - 1, exit_family(pool / PROTOCOLS), pool % PROTOCOLS));
	if (held) {
		for (at = 0; at < MAX_BLOCK_QUOTA; at++)
			if (held->slot[at] == index + 1ull)
				__sync_val_compare_and_swap(&held->slot[at], index + 1ull, 0);
	}
	block->owner = 0;
	__sync_val_compare_and_swap(&block->used, ~0ull, 0);
	taken = pool_at(pool);
	if (taken)
		__sync_fetch_and_and(&taken->taken[in_pool / 64], ~(1ull << in_pool % 64));
	return true;
}

#endif
