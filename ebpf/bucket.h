/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A token bucket as one point in time (the generic cell rate algorithm, ITU-T I.371): a packet moves `paid_until`
 * ahead by what it costs at the rate; packets pass while it lies at most the burst ahead of now.
 */
#ifndef JETPLANE_BUCKET_H
#define JETPLANE_BUCKET_H

#include "types.h"
#include "abi.h"

#define NS_PER_S 1000000000ull

/* How far a packet moves the bucket's word, in nanoseconds. */
static __always_inline __u64 bucket_cost(__u64 rate, __u32 bytes)
{
	return bytes * NS_PER_S / rate;
}

/*
 * The bucket's word after @bytes at @rate (bytes per second, not 0), or 0 when they exceed it by more than @burst_ns.
 * The caller puts it in place with a compare-and-swap.
 */
static __always_inline __u64 bucket_spend_within(__u64 paid_until_ns, __u64 rate, __u32 bytes, __u64 now_ns,
						 __u64 burst_ns)
{
	if (paid_until_ns < now_ns)
		paid_until_ns = now_ns;
	if (paid_until_ns - now_ns > burst_ns)
		return 0;
	return paid_until_ns + bucket_cost(rate, bytes);
}

/* The same with the burst that a peer has. */
static __always_inline __u64 bucket_spend(__u64 paid_until_ns, __u64 rate, __u32 bytes, __u64 now_ns)
{
	return bucket_spend_within(paid_until_ns, rate, bytes, now_ns, BURST_NS);
}

#endif
