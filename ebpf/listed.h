/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the lists of sources say of a packet (source_list.h). Knows the maps only by the verbs of the program that
 * includes it.
 */
#ifndef JETPLANE_LISTED_H
#define JETPLANE_LISTED_H

#include "packet.h"
#include "source_list.h"

/* What the lists say of an IPv4 source. */
static __always_inline __u32 list_v4(__u32 half, __be32 source)
{
	__u32 index = source_word_index(half, source), field;
	__u64 *word = source_word_at(index);
	struct source_leaf *leaf;

	if (!word)
		return SOURCE_UNLISTED;
	field = source_field(*word, source);
	if (field != SOURCE_IN_PART)
		return field;
	leaf = source_leaf_at(source_leaf_key(half, source));
	return leaf && source_leaf_has(leaf, source) ? SOURCE_BLOCKED : SOURCE_UNLISTED;
}

static __always_inline __u32 list_v6(__u32 half, const struct packet *packet)
{
	struct source_prefix key = {
		.prefix_bits = 8 * (sizeof(key) - sizeof(key.prefix_bits)),
		.half = half,
	};
	__u32 bit, index, *listed;
	__u64 *word;

	packet_source(packet, &key.source);
	bit = source_filter_bit(*(__be32 *)&key.source);
	index = (half & 1) * SOURCE_FILTER_WORDS + bit / 64;
	word = source_filter_at(index);
	if (word && !(*word >> bit % 64 & 1) && is_global_unicast(*(__be32 *)&key.source))
		return SOURCE_UNLISTED;
	listed = source_prefix_find(&key);
	return listed ? *listed : SOURCE_UNLISTED;
}

/* SOURCE_UNLISTED, SOURCE_BLOCKED or SOURCE_BOGON. */
static __always_inline __u32 listed_as(const struct packet *packet)
{
#if SOURCE_LISTS
	__u32 half = half_of(HALF_SOURCES);

	if (packet->family == FAMILY_V4)
		return list_v4(half, ((const struct iphdr *)packet->network)->saddr);
	return list_v6(half, packet);
#else
	return SOURCE_UNLISTED;
#endif
}

#endif
