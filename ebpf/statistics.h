/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How much of a peer may still count in the running epoch. A word packs the number of an epoch (24 bits) and what was
 * used of the clip in it (40 bits), so that one atomic operation does both and nobody has to sweep peers when an epoch
 * changes. In no order of events does more than the clip of one peer count in one epoch:
 *
 * - within an epoch a word only grows, and each packet counts what its own addition has covered below the clip;
 * - a word only moves to a later epoch, and starts there once.
 *
 * A packet that has read the number of an epoch that is over by now counts nothing where a later one has begun.
 */
#ifndef JETPLANE_STATISTICS_H
#define JETPLANE_STATISTICS_H

#include "types.h"
#include "abi.h"

#define USED_MASK ((1ull << EPOCH_SHIFT) - 1)

static __always_inline bool is_of_epoch(__u64 word, __u64 epoch)
{
	return !((word ^ epoch) >> EPOCH_SHIFT);
}

/* Whether @epoch is later than the word's; numbers wrap. */
static __always_inline bool is_before_epoch(__u64 word, __u64 epoch)
{
	return (__s64)(epoch - (word & ~USED_MASK)) > 0;
}

/* What of the clip is used, as far as the number in the word tells; more than any clip when nothing may count. */
static __always_inline __u64 used_in(__u64 *word, __u64 epoch)
{
	__u64 seen = *(volatile __u64 *)word, found;

	if (is_of_epoch(seen, epoch))
		return seen & USED_MASK;
	if (!is_before_epoch(seen, epoch))
		return USED_UP;
	found = __sync_val_compare_and_swap(word, seen, epoch);
	if (found == seen)
		return 0;
	return is_of_epoch(found, epoch) ? found & USED_MASK : USED_UP;
}

/* Is this the first time in the epoch? Says so once. */
static __always_inline bool is_first_in(__u64 *word, __u64 epoch)
{
	__u64 seen = *(volatile __u64 *)word;

	return is_before_epoch(seen, epoch) && __sync_val_compare_and_swap(word, seen, epoch) == seen;
}

/* What was used in an epoch that is over is of no more use: let the word say @epoch, as if nothing had been used. */
static __always_inline void forget_used(__u64 *word, __u64 epoch)
{
	__u64 seen = *(volatile __u64 *)word;

	if (is_before_epoch(seen, epoch))
		__sync_val_compare_and_swap(word, seen, epoch);
}

/* How much of @amount counts. @clipped: the first that does not count in full says so, once in an epoch. */
static __always_inline __u64 claim(__u64 *word, __u64 epoch, __u64 amount, __u64 clip, bool *clipped)
{
	__u64 before;

	*clipped = false;
	if (used_in(word, epoch) > clip)
		return 0; /* and adds nothing, so that it never runs into the number */
	before = __sync_fetch_and_add(word, amount);
	if (!is_of_epoch(before, epoch) || (before & USED_MASK) > clip)
		return 0;
	before &= USED_MASK;
	if (before + amount <= clip)
		return amount;
	*clipped = true;
	return clip - before;
}

#endif
