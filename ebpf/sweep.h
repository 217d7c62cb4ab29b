/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The end of what has idled too long or has lost its peer: 64 slots a run, so that a run is bounded. It decides by
 * compare-and-swap, and so cannot end what a packet has just used.
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_SWEEP_H
#define JETPLANE_SWEEP_H

#include "held.h"

#define SWEPT_BLOCKS (EXITS * PROTOCOLS * BLOCKS_PER_POOL)
#define SWEPT_PLACES (SWEPT_BLOCKS + EXITS * REUSE_WORDS)

/* May what stands in the slot live on? */
static __always_inline bool slot_lives(__u32 slot, const struct binding *binding, __u64 life, __u32 tick)
{
	return life_is_live(life, held_protocol(slot), tick) && !slot_is_void(slot) &&
	       peer_stands_by(peer_at(binding->peer), binding->generation);
}

/* The slots from @first on whose bits are set in @used. */
static __always_inline void sweep_slots(struct sweep_cursor *cursor, __u32 first, __u64 used, __u32 tick)
{
	struct held held = {};
	__u32 bit;

	for (bit = 0; bit < 64; bit++) {
		if (!(used >> bit & 1))
			continue;
		held.slot = first + bit;
		held.binding = binding_at(held.slot);
		if (!held.binding)
			continue;
		held.life = life_read(held.binding);
		/* Free or dying with its bit still set: a CPU is at work on it. */
		if (!life_is_taken(held.life))
			continue;
		/* Counted in the map: a sum kept here would be another value on every way through the loop. */
		if (slot_lives(held.slot, held.binding, held.life, tick)) {
			cursor->live++;
		} else if (held_dissolve(&held)) {
			cursor->expired++;
			count(COUNT_BINDINGS_EXPIRED, 1);
		}
	}
}

/* What has its turn at @place: a block of ports or, behind the last one, a word of connections at reused ports. */
static __always_inline void sweep_place(struct sweep_cursor *cursor, __u32 place, __u32 tick)
{
	struct block *block = NULL;
	__u64 *word, used;

	if (TCP_REUSE && place >= SWEPT_BLOCKS) {
		word = reuse_used_at(place - SWEPT_BLOCKS);
		if (!word)
			return;
		used = *(volatile __u64 *)word;
	} else {
		block = block_at(place);
		if (!block)
			return;
		used = *(volatile __u64 *)&block->used;
	}
	/* The slots of both kinds lie in the order of the places. */
	sweep_slots(cursor, place * PORTS_PER_BLOCK, used, tick);
	if (block && block_release(place, block)) {
		cursor->released++;
		count(COUNT_BLOCKS_RELEASED, 1);
	}
}

/* Has the binding ended that addressed this remote? */
static __always_inline bool remote_is_due(const struct remote_key *key)
{
	struct binding *binding = binding_at(key->slot);
	__u64 life;

	if (!binding)
		return true;
	life = life_read(binding);
	return !life_is_taken(life) || life_sequence(life) != key->sequence;
}

#endif
