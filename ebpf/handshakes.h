/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who may have WireGuard spend a Diffie-Hellman on it: a budget for each source prefix, and one for all strangers
 * together. Of the latter, half a burst is for prefixes that have been silent for as long as an honest client is between
 * two attempts: so who comes for the first time gets in while others, ever the same, flood the node. Knows the maps only
 * by the verbs of the program that includes it.
 */
#ifndef JETPLANE_HANDSHAKES_H
#define JETPLANE_HANDSHAKES_H

#include "bucket.h"
#include "clock.h"
#include "known_sources.h"
#include "packet.h"
#include "prefix_budgets.h"

/*
 * How many handshakes of strangers come at once: what they take at their rate in this time. WireGuard asks everybody for
 * a cookie, which costs a client five seconds, once 512 wait for it (wireguard-go: 128), so fewer than that are let in.
 */
#define STRANGERS_BURST_NS 50000000ull

/* Take one of @per_second from the strangers' bucket, which is this CPU's own. */
static __always_inline bool take_handshake(struct bucket *bucket, __u64 per_second, __u64 now_ns, __u64 burst_ns)
{
	__u64 spent = bucket_spend_within(bucket->paid_until_ns, per_second, 1, now_ns, burst_ns);

	if (spent)
		bucket->paid_until_ns = spent;
	return spent;
}

/* Take one from the prefix with this hash; one that loses a race for it has taken nothing. */
static __always_inline bool take_prefix_handshake(__u64 hash, __u64 per_second, __u64 now_ns, bool *fresh)
{
	struct budget_line *line = budget_line_at(budget_line_of(hash));
	__u64 tag = budget_tag(hash), old, spent;
	__u32 way;

	if (!line)
		return false;
	way = budget_way(line, tag) % BUDGET_WAYS;
	old = *(volatile __u64 *)&line->word[way];
	spent = budget_spend(old, tag, per_second, now_ns, fresh);
	return spent && __sync_val_compare_and_swap(&line->word[way], old, spent) == old;
}

static __always_inline bool is_known_at(__u32 half, __u64 hash)
{
	__u32 first = known_word(half, hash), second = known_word(half, hash >> 32);
	__u64 *one = known_word_at(first), *two = known_word_at(second);

	return one && two && *one & known_bit(hash) && *two & known_bit(hash >> 32);
}

/*
 * May this handshake initiation go to WireGuard, which spends a Diffie-Hellman on it? The budget of its prefix comes
 * first. Then the budget of all strangers, which those who lately had a session need not share. COUNT_GUARD_PASSED, or
 * the reason why not.
 */
static __always_inline enum counter judge_initiation(const struct packet *packet)
{
#if HANDSHAKES_PER_SECOND
	__u64 now_ns = clock_ns(), hash;
	struct secret *secret;
	struct address source;
	struct bucket *bucket;
	bool fresh = false;

	secret = secret_get();
	if (!secret)
		return DROP_HANDSHAKE_BUDGET;
	packet_source(packet, &source);
	hash = source_prefix_hash(secret, &source, packet->family == FAMILY_V4);
	if (!take_prefix_handshake(hash, HANDSHAKES_PER_SECOND, now_ns, &fresh))
		return DROP_HANDSHAKE_BUDGET;
	if (is_known_at(0, hash) || is_known_at(1, hash))
		return COUNT_GUARD_PASSED;
	bucket = strangers_bucket();
	if (!bucket || !take_handshake(bucket, STRANGER_HANDSHAKES_PER_SECOND, now_ns,
				       fresh ? STRANGERS_BURST_NS : STRANGERS_BURST_NS / 2))
		return DROP_HANDSHAKE_FLOOD;
#endif
	return COUNT_GUARD_PASSED;
}

/* Forget the prefixes of a line that say nothing any more. */
static __always_inline void budgets_forget(struct budget_line *line, __u64 now_ns)
{
	__u64 word;
	__u32 way;

#pragma unroll
	for (way = 0; way < BUDGET_WAYS; way++) {
		word = *(volatile __u64 *)&line->word[way];
		if (budget_is_forgotten(word, now_ns))
			__sync_val_compare_and_swap(&line->word[way], word, 0);
	}
}

#endif
