/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the binding of an inner endpoint was found last. A hint is one word, and the binding that it leads to says
 * whether it is the endpoint's: so a wrong one costs a look and nothing else, and none has to be kept right. It spares a
 * packet the table of endpoints, two or three lines of memory that are seldom in a cache when there are many flows.
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_HINTS_H
#define JETPLANE_HINTS_H

#include "binding.h"
#include "packet.h"
#include "ports.h"

/* Keyed, so that what a place is used for tells nothing. Ports in a row lie far apart (Knuth's multiplicative hash). */
static __always_inline __u32 hint_place(const struct secret *secret, const struct inner_endpoint *inner)
{
	const __u64 *words = (const __u64 *)&inner->address;
	__u64 mixed = (words[0] ^ secret->key[0]) * 0xff51afd7ed558ccdull;

	mixed ^= words[1] ^ secret->key[1] ^ (__u16)inner->port ^ (__u64)inner->protocol << 32;
	return (mixed * 0x9e3779b97f4a7c15ull >> 32) % HINTS;
}

static __always_inline __u32 *hint_of(const struct inner_endpoint *inner)
{
	struct secret *secret = secret_get();

	return secret ? hint_at(hint_place(secret, inner)) : NULL;
}

static __always_inline bool hint_leads_to(__u32 slot, const struct inner_endpoint *inner)
{
	const struct binding *binding = binding_at(slot);

	return binding && binding->inner_port == inner->port && addresses_equal(&binding->inner, &inner->address) &&
	       slot_pool(slot) % PROTOCOLS == inner->protocol && life_is_taken(life_read(binding));
}

/* The slot of the endpoint's binding, as far as the tables say, or NO_SLOT. */
static __always_inline __u32 endpoint_slot(struct inner_endpoint *inner)
{
	__u32 *hint = hint_of(inner), *found, slot;

	if (!hint)
		return NO_SLOT;
	slot = *(volatile __u32 *)hint - 1;
	if (hint_leads_to(slot, inner))
		return slot;
	found = endpoint_find(inner);
	if (!found)
		return NO_SLOT;
	slot = *found;
	*(volatile __u32 *)hint = slot + 1;
	return slot;
}

/* The binding in the slot is ending: nothing shall be left of it. */
static __always_inline void hint_forget(const struct inner_endpoint *inner, __u32 slot)
{
	__u32 *hint = hint_of(inner);

	if (hint && *(volatile __u32 *)hint == slot + 1)
		*(volatile __u32 *)hint = 0;
}

#endif
