/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Handshake budgets of source prefixes. A keyed hash says in which line the word of a prefix is, and by which tag it is
 * known there, so that prefixes share no budget by chance: a flood of many would spend everybody's. When a line is full,
 * the word that has been idle for longest gives way.
 *
 * A word is a token bucket as one point in time (bucket.h): 16 bits of tag, and 48 bits of 2^10 ns: nine years. 0: free.
 * Pure.
 */
#ifndef JETPLANE_PREFIX_BUDGETS_H
#define JETPLANE_PREFIX_BUDGETS_H

#include "bucket.h"

#define BUDGET_TICK_BITS    10 /* of nanoseconds */
#define BUDGET_TICK_MASK    0xffffffffffffull
#define BUDGET_TICKS(ns)    ((ns) >> BUDGET_TICK_BITS)
#define BUDGET_BURST_NS     1000000000ull
/*
 * A client that gets no answer begins again after five seconds, and none begins sooner (REKEY_TIMEOUT, section 6.1 of the
 * WireGuard paper). So a prefix that has said nothing for four may be an honest one, and a flood that comes round to each
 * of its prefixes more often is none.
 */
#define BUDGET_FRESH_NS     4000000000ull
/* After so long a word says nothing that its absence would not. */
#define BUDGET_FORGOTTEN_NS (2 * BUDGET_FRESH_NS)

static __always_inline __u32 budget_line_of(__u64 hash)
{
	return (__u32)hash % BUDGET_LINES;
}

/* Never 0, which a free word has. */
static __always_inline __u64 budget_tag(__u64 hash)
{
	return hash >> 48 | 1;
}

/* Where in its line the word of @tag is, or the one that it may take. */
static __always_inline __u32 budget_way(const struct budget_line *line, __u64 tag)
{
	__u64 oldest = ~0ull, word;
	__u32 way, found = 0;

	for (way = 0; way < BUDGET_WAYS; way++) {
		word = line->word[way];
		if (word >> 48 == tag)
			return way;
		if ((word & BUDGET_TICK_MASK) < oldest) {
			oldest = word & BUDGET_TICK_MASK;
			found = way;
		}
	}
	return found;
}

/*
 * The word after one handshake more, at @per_second, or 0 when the budget of @tag is spent. @fresh: has it been silent
 * long enough to be somebody honest? The caller puts the word in place with a compare-and-swap.
 */
static __always_inline __u64 budget_spend(__u64 word, __u64 tag, __u64 per_second, __u64 now_ns, bool *fresh)
{
	__u64 now = BUDGET_TICKS(now_ns), paid_until = word >> 48 == tag ? word & BUDGET_TICK_MASK : 0;

	*fresh = paid_until + BUDGET_TICKS(BUDGET_FRESH_NS) <= now || !paid_until;
	if (paid_until < now)
		paid_until = now;
	if (paid_until - now > BUDGET_TICKS(BUDGET_BURST_NS))
		return 0;
	return tag << 48 | (paid_until + BUDGET_TICKS(NS_PER_S / per_second));
}

static __always_inline bool budget_is_forgotten(__u64 word, __u64 now_ns)
{
	return word && (word & BUDGET_TICK_MASK) + BUDGET_TICKS(BUDGET_FORGOTTEN_NS) < BUDGET_TICKS(now_ns);
}

#endif
