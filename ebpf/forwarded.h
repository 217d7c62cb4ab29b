/* SPDX-License-Identifier: GPL-2.0-only */
/* What is counted of a packet that has been forwarded. Knows the maps only by the verbs of the program that includes it. */
#ifndef JETPLANE_FORWARDED_H
#define JETPLANE_FORWARDED_H

#include "statistics.h"

/*
 * What its peer may still add to the sums that figures are released from. @who: its `statistics`, read before: so many
 * paths of the verifier lead here that none may know more than the others.
 */
static __always_inline void aggregate_out(__u32 who, __u32 bytes)
{
	struct peer_statistics *used = peer_statistics_at(who - 1);
	struct epochs *now = epochs_get();
	__u64 active, volume, part;
	bool clipped;

	if (!used || !now)
		return;
	/* Read once: what is claimed of an epoch goes into that epoch's sum. */
	active = *(volatile __u64 *)&now->active;
	volume = *(volatile __u64 *)&now->volume;
	if (is_first_in(&used->active, active))
		aggregate(QUANTITY_ACTIVE_PEERS, active, 1);
	part = claim(&used->up, volume, bytes, UP_CLIP, &clipped);
	if (part)
		aggregate(QUANTITY_UP_BYTES, volume, part);
	if (unlikely(clipped))
		aggregate(QUANTITY_UP_CLIPPED_PEERS, volume, 1);
}

static __always_inline void aggregate_in(__u32 who, __u32 bytes)
{
	struct peer_statistics *used = peer_statistics_at(who - 1);
	struct epochs *now = epochs_get();
	__u64 volume, part;
	bool clipped;

	if (!used || !now)
		return;
	volume = *(volatile __u64 *)&now->volume;
	part = claim(&used->down, volume, bytes, DOWN_CLIP, &clipped);
	if (part)
		aggregate(QUANTITY_DOWN_BYTES, volume, part);
	if (unlikely(clipped))
		aggregate(QUANTITY_DOWN_CLIPPED_PEERS, volume, 1);
}

/* A peer that was active in the last epoch is like one that never was. */
static __always_inline void statistics_sweep(__u32 index)
{
	struct peer_statistics *used = peer_statistics_at(index);
	struct epochs *now = epochs_get();

	if (!used || !now)
		return;
	forget_used(&used->active, *(volatile __u64 *)&now->active - (1ull << EPOCH_SHIFT));
	forget_used(&used->up, *(volatile __u64 *)&now->volume);
	forget_used(&used->down, *(volatile __u64 *)&now->volume);
}

static __always_inline void forwarded_out(__u32 who, __u32 bytes)
{
	count(COUNT_OUT_PACKETS, 1);
	count(COUNT_OUT_BYTES, bytes);
	if (unlikely(!who))
		count(COUNT_OBJECTED_OUT_BYTES, bytes);
	else if (STATISTICS)
		aggregate_out(who, bytes);
}

static __always_inline void forwarded_in(__u32 who, __u32 bytes)
{
	count(COUNT_IN_PACKETS, 1);
	count(COUNT_IN_BYTES, bytes);
	if (unlikely(!who))
		count(COUNT_OBJECTED_IN_BYTES, bytes);
	else if (STATISTICS)
		aggregate_in(who, bytes);
}

#endif
