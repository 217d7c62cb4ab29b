/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who has lately been spoken to in a session of WireGuard, as a Bloom filter with two bits for each: such a prefix may
 * come back while strangers flood the node. The node sends handshake responses and data to none but those who hold a
 * key, so a bit cannot be had by asking. There are two filters, of which the controller empties the older every
 * KNOWN_SOURCES_S: a bit says nothing about whom, and lives for twice that time at most. Pure.
 */
#ifndef JETPLANE_KNOWN_SOURCES_H
#define JETPLANE_KNOWN_SOURCES_H

#include "hash.h"
#include "node.h"

/* The word and the bit of one of the two numbers that a hash makes. */
static __always_inline __u32 known_word(__u32 half, __u32 number)
{
	return (half & 1) * KNOWN_WORDS + number % (KNOWN_WORDS * 64) / 64;
}

static __always_inline __u64 known_bit(__u32 number)
{
	return 1ull << number % 64;
}

/* Keyed hash of the prefix that shares a handshake budget; the masks come from the configuration. */
static __always_inline __u64 source_prefix_hash(const struct secret *secret, const struct address *source, bool v4)
{
	struct address prefix = *source;
	__be32 *words = (__be32 *)&prefix;

	if (v4) {
		words[3] &= (__be32)(HANDSHAKE_MASK_V4);
	} else {
		words[0] &= (__be32)(HANDSHAKE_MASK_V6_0);
		words[1] &= (__be32)(HANDSHAKE_MASK_V6_1);
		words[2] &= (__be32)(HANDSHAKE_MASK_V6_2);
		words[3] &= (__be32)(HANDSHAKE_MASK_V6_3);
	}
	return remote_hash(secret, &prefix, 0);
}

#endif
