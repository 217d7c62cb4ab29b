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
	struct source_line *line;
	struct source_leaf *leaf;

	if (!word)
		return SOURCE_UNLISTED;
	field = source_field(*word, source);
	if (field != SOURCE_IN_PART)
		return field;
	line = source_line_at(source_line_index(half, source_v4_key(source)));
	field = line ? source_v4_field(line, source) : SOURCE_IN_PART;
	if (field != SOURCE_IN_PART)
		return field;
	leaf = source_leaf_at(source_leaf_key(half, source));
	return leaf && source_leaf_has(leaf, source) ? SOURCE_BLOCKED : SOURCE_UNLISTED;
}

/* What lines and filter say of a source that is global unicast: SOURCE_IN_PART when the trie must be asked. */
static __always_inline __u32 list_unicast_v6(__u32 half, const struct address *source)
{
	__u32 place = source_filter_place(*(const __be32 *)source), where, field;
	__u64 *word = source_filter_at((half & 1) * SOURCE_FILTER_WORDS + place / 32), key;
	struct source_line *line;

	if (!word)
		return SOURCE_IN_PART;
	where = source_filter_field(*word, place);
	if (where & SOURCE_IN_LINES) {
		key = source_v6_key(source);
		line = source_line_at(source_line_index(half, key));
		field = line ? source_v6_field(line, key) : SOURCE_IN_PART;
		if (field != SOURCE_UNLISTED)
			return field;
	}
	return where & SOURCE_IN_TRIE ? SOURCE_IN_PART : SOURCE_UNLISTED;
}

static __always_inline __u32 list_v6(__u32 half, const struct packet *packet)
{
	struct source_prefix key = {
		.prefix_bits = 8 * (sizeof(key) - sizeof(key.prefix_bits)),
		.half = half,
	};
	__u32 field, *listed;

	packet_source(packet, &key.source);
	if (is_global_unicast(*(__be32 *)&key.source)) {
		field = list_unicast_v6(half, &key.source);
		if (field != SOURCE_IN_PART)
			return field;
	}
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
