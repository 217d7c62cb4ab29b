/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sources that are turned away: blocklists, and addresses that nobody on the internet has. What a lookup costs must not
 * depend on how many prefixes there are, so IPv4 is a flat array with two bits for each /24, one load for almost
 * everybody; of a /24 that is listed in part, each 32 addresses have an entry in a line, which a hash finds. IPv6 asks a
 * filter with two bits for the hash of the first 32 bits. Where these say that something of the /32 is listed, the /48
 * has its entry in such a line; a trie is asked only when the /48 is listed in part, and for short prefixes. What finds
 * its line full is in the trie, or in a leaf with a bit for each address of the /24.
 *
 * Every list is there twice. The programs read one half; the controller fills the other and then changes which is read,
 * so that a packet meets the old lists or the new ones. Pure.
 */
#ifndef JETPLANE_SOURCE_LIST_H
#define JETPLANE_SOURCE_LIST_H

#include "types.h"
#include "abi.h"

/* Where in the array of words the field of an IPv4 address is; @half is 0 or 1. */
static __always_inline __u32 source_word_index(__u32 half, __be32 source)
{
	return (half & 1) * SOURCE_WORDS + (from_be32(source) >> 13);
}

/* The field of an address in its word: what holds for its whole /24, or SOURCE_IN_PART. */
static __always_inline __u32 source_field(__u64 word, __be32 source)
{
	return word >> (from_be32(source) >> 8 & 31) * 2 & 3;
}

static __always_inline __u64 source_leaf_key(__u32 half, __be32 source)
{
	return (__u64)(half & 1) << 32 | from_be32(source) >> 8;
}

/* Is this address of a /24 that is listed in part? */
static __always_inline bool source_leaf_has(const struct source_leaf *leaf, __be32 source)
{
	__u32 last = from_be32(source) & 0xff;

	return leaf->listed[last >> 6] >> (last & 63) & 1;
}

/* Which field of the filter stands for the /32 of an IPv6 address (multiplicative hashing, Knuth, volume 3, 6.4). */
static __always_inline __u32 source_filter_place(__be32 first)
{
	return from_be32(first) * 2654435769u >> (32 - SOURCE_FILTER_BITS);
}

/* SOURCE_IN_LINES, SOURCE_IN_TRIE, both or neither. */
static __always_inline __u32 source_filter_field(__u64 word, __u32 place)
{
	return word >> (place & 31) * 2 & 3;
}

/* What tells the entry of 32 IPv4 addresses from others: its lower half. */
static __always_inline __u32 source_v4_key(__be32 source)
{
	return from_be32(source) >> 5 << 4 | SOURCE_ENTRY_V4;
}

/* What tells the entry of an IPv6 /48 from others: all but its last 16 bits. */
static __always_inline __u64 source_v6_key(const struct address *source)
{
	return __builtin_bswap64(*(const __u64 *)source) & ~0xffffull;
}

/* Which line has the entry of a key; @half is 0 or 1. */
static __always_inline __u32 source_line_index(__u32 half, __u64 key)
{
	return (half & 1) * SOURCE_LINES + ((key * 0x9e3779b97f4a7c15ull >> 32) * SOURCE_LINES >> 32);
}

/* What is left to say where no entry is: SOURCE_IN_PART when the line is full, for then something else may know more. */
static __always_inline __u32 source_line_rest(const struct source_line *line)
{
	return line->entry[SOURCE_LINE_ENTRIES - 1] ? SOURCE_IN_PART : SOURCE_UNLISTED;
}

/* What its line says of an IPv4 address, or SOURCE_IN_PART when the leaves must be asked. */
static __always_inline __u32 source_v4_field(const struct source_line *line, __be32 source)
{
	__u32 key = source_v4_key(source), n;

	for (n = 0; n < SOURCE_LINE_ENTRIES; n++) {
		if ((__u32)line->entry[n] == key)
			return line->entry[n] >> 32 >> (from_be32(source) & 31) & 1 ? SOURCE_BLOCKED : SOURCE_UNLISTED;
	}
	return source_line_rest(line);
}

/* What its line says of an IPv6 /48, or SOURCE_IN_PART when the trie must be asked. */
static __always_inline __u32 source_v6_field(const struct source_line *line, __u64 key)
{
	__u64 field;
	__u32 n;

	for (n = 0; n < SOURCE_LINE_ENTRIES; n++) {
		field = line->entry[n] ^ key;
		if (field <= SOURCE_IN_PART)
			return field;
	}
	return source_line_rest(line);
}

/* Global unicast (RFC 4291, section 2.5.4); everything else is for the tries to say. */
static __always_inline bool is_global_unicast(__be32 first)
{
	return from_be32(first) >> 29 == 1;
}

#endif
