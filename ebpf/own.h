/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The node's own addresses by a hash of their last word. Almost every slot is about one address or none, and then a
 * comparison says what a look into the map would, for a tenth of the price. Pure.
 */
#ifndef JETPLANE_OWN_H
#define JETPLANE_OWN_H

#include "types.h"
#include "abi.h"

/* Multiplicative hashing (Knuth, volume 3, 6.4). */
static __always_inline __u32 own_slot_of(const struct address *address)
{
	return from_be32(((const __be32 *)address)[3]) * 2654435769u >> 24;
}

_Static_assert(OWN_SLOTS == 1 << (32 - 24), "the upper bits of the product");

#endif
