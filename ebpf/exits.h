/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Exit addresses and the addresses inside, as constants of the node's configuration: whose a packet is takes
 * compares and no look-up. Addresses are words as loaded from the packet.
 */
#ifndef JETPLANE_EXITS_H
#define JETPLANE_EXITS_H

#include "types.h"
#include "abi.h"
#include "node.h"

static __always_inline bool words_equal(const __be32 *words, __u32 a, __u32 b, __u32 c, __u32 d)
{
	/* The last word first: addresses of one site differ there. */
	return (__u32)words[3] == d && (__u32)words[2] == c && (__u32)words[1] == b && (__u32)words[0] == a;
}

/* Index of an exit address, or NO_EXIT. */
static __always_inline __u32 exit_index_v4(__be32 word)
{
	__u32 found = NO_EXIT;

	switch ((__u32)word) {
#define X(index, exit)         \
	case exit:             \
		found = index; \
		break;
		EXIT_V4(X)
#undef X
	}
	return found;
}

static __always_inline __u32 exit_index_v6(const __be32 *words)
{
	__u32 found = NO_EXIT;

	(void)words;
#define X(index, a, b, c, d)                \
	if (words_equal(words, a, b, c, d)) \
		found = index;
	EXIT_V6(X)
#undef X
	return found;
}

/* Indices count IPv4 addresses first. */
static __always_inline enum family exit_family(__u32 index)
{
#define X(i, exit) +1
	return index < (0 EXIT_V4(X)) ? FAMILY_V4 : FAMILY_V6;
#undef X
}

/* The exit address at @index, in its 16-byte form; unspecified when there is none. */
static __always_inline void exit_address(__u32 index, struct address *address)
{
	__be32 *words = (__be32 *)address;

	words[0] = words[1] = words[2] = words[3] = 0;
	switch (index) {
#define X(i, exit)                         \
	case i:                            \
		words[2] = BE32(0xffff);   \
		words[3] = (__be32)(exit); \
		break;
		EXIT_V4(X)
#undef X
#define X(i, a, b, c, d)                \
	case i:                         \
		words[0] = (__be32)(a); \
		words[1] = (__be32)(b); \
		words[2] = (__be32)(c); \
		words[3] = (__be32)(d); \
		break;
		EXIT_V6(X)
#undef X
	}
}

/* Within one of the tunnels' networks. */
static __always_inline bool is_inner_v4(__be32 word)
{
	bool found = false;

	(void)word;
#define X(net, mask) found |= ((__u32)word & (mask)) == (net);
	INNER_V4(X)
#undef X
	return found;
}

static __always_inline bool is_inner_v6(const __be32 *words)
{
	bool found = false;

	(void)words;
#define X(a, b, c, d, ma, mb, mc, md)                                                    \
	found |= !((((__u32)words[0] & (ma)) ^ (a)) | (((__u32)words[1] & (mb)) ^ (b)) | \
		   (((__u32)words[2] & (mc)) ^ (c)) | (((__u32)words[3] & (md)) ^ (d)));
	INNER_V6(X)
#undef X
	return found;
}

/* One of the node's own addresses on its tunnels. */
static __always_inline bool is_tunnel_v4(__be32 word)
{
	bool found = false;

	(void)word;
#define X(own) found |= (__u32)word == (own);
	TUNNEL_V4(X)
#undef X
	return found;
}

static __always_inline bool is_tunnel_v6(const __be32 *words)
{
	bool found = false;

	(void)words;
#define X(a, b, c, d) found |= words_equal(words, a, b, c, d);
	TUNNEL_V6(X)
#undef X
	return found;
}

#endif
