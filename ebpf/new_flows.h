/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How many flows a peer may begin. A scan begins thousands a second, from many ports or to many remotes; a person's
 * programs do not for long. One word for each peer tells them apart, without a destination: a bucket from which a new
 * binding takes one token, and so does a new remote of a binding that has had one, or a SYN to a known one.
 *
 * Under endpoint-independent filtering nobody remembers UDP's remotes: there bindings count alone.
 * Knows the map only by the verb of the program that includes it.
 */
#ifndef JETPLANE_NEW_FLOWS_H
#define JETPLANE_NEW_FLOWS_H

#include "bucket.h"
#include "node.h"

#if FLOWS_PER_SECOND
#include "clock.h"

/* How far a peer may run ahead of the rate. */
#define FLOW_BURST_NS (FLOW_BURST * (NS_PER_S / FLOWS_PER_SECOND))
#endif

/* May this peer begin one more? */
static __always_inline bool flow_may_begin(__u32 peer)
{
#if FLOWS_PER_SECOND
	struct bucket *bucket = flow_bucket_at(peer);
	__u64 before, after;

	if (!bucket)
		return false;
	before = *(volatile __u64 *)&bucket->paid_until_ns;
	after = bucket_spend_within(before, FLOWS_PER_SECOND, 1, clock_ns(), FLOW_BURST_NS);
	if (!after)
		return false;
	/* Another CPU was faster: enter the cost without a look at the rest. */
	if (__sync_val_compare_and_swap(&bucket->paid_until_ns, before, after) != before)
		__sync_fetch_and_add(&bucket->paid_until_ns, bucket_cost(FLOWS_PER_SECOND, 1));
#endif
	(void)peer;
	return true;
}

/* A bucket that has filled up again says when its peer began a flow: nobody needs that. The sweep's. */
static __always_inline void flows_sweep(__u32 peer)
{
#if FLOWS_PER_SECOND
	struct bucket *bucket = flow_bucket_at(peer);
	__u64 before;

	if (!bucket)
		return;
	before = *(volatile __u64 *)&bucket->paid_until_ns;
	if (before && before < clock_ns())
		__sync_val_compare_and_swap(&bucket->paid_until_ns, before, 0);
#endif
	(void)peer;
}

#endif
