/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a packet from a tunnel may go. Compares with constants only: this is asked for every packet, so that what the
 * configuration denies is denied from the next packet on, to sessions that are there too, under every filter.
 */
#ifndef JETPLANE_DESTINATION_H
#define JETPLANE_DESTINATION_H

#include "exits.h"
#include "packet.h"

enum destination {
	DESTINATION_INTERNET,
	DESTINATION_EXIT,       /* another subscriber, as the internet sees it */
	DESTINATION_INNER,      /* another subscriber, or the node itself beside its tunnels */
	DESTINATION_NODE,       /* the node's own address on a tunnel */
	DESTINATION_UNROUTABLE, /* unspecified, loopback, link-local, multicast, reserved */
	DESTINATION_DENIED,     /* by the node's policy */
};

/* RFC 6890; RFC 1812, section 5.3.7 */
static __always_inline bool is_unroutable_v4(__be32 word)
{
	__u8 first = (__u32)word & 0xff;

	return first == 0 || first == 127 || first >= 224 || ((__u32)word & 0xffff) == 0xfea9 /* 169.254 */;
}

/* RFC 4291: ::/96 with loopback, fe80::/10, ff00::/8; IPv4-mapped addresses mean another family here. */
static __always_inline bool is_unroutable_v6(const __be32 *words)
{
	__u32 first = (__u32)words[0];

	if (!first && !words[1])
		return !words[2] || words[2] == BE32(0xffff);
	return (first & 0xff) == 0xff || (first & 0xc0ff) == 0x80fe;
}

/*
 * 1 when all bits that count are the prefix's. Arithmetic without a branch, which the compiler is not to see through:
 * the verifier would follow what comes after it both ways, once more for each prefix.
 */
static __always_inline __u64 is_nought(__u32 different)
{
	return opaque((__u64)different - 1) >> 63;
}

/* What the policy says of an address that is nothing else. The node itself is nowhere, whatever the policy allows. */
static __always_inline enum destination policy_v4(__be32 word)
{
	__u64 denied = 0, allowed = 0, own = 0;

	(void)word;
#define X(net, mask) denied |= is_nought(((__u32)word & (mask)) ^ (net));
	DENIED_V4(X)
#undef X
	if (!unlikely(denied))
		return DESTINATION_INTERNET;
#define X(address) own |= is_nought((__u32)word ^ (address));
	OWN_V4(X)
#undef X
#define X(net, mask) allowed |= is_nought(((__u32)word & (mask)) ^ (net));
	ALLOWED_V4(X)
#undef X
	if (own)
		return DESTINATION_INNER;
	return allowed ? DESTINATION_INTERNET : DESTINATION_DENIED;
}

/* An IPv4 address that a gateway elsewhere makes of an IPv6 one: 6to4 (RFC 3056), NAT64 (RFC 6052). False: it is none. */
static __always_inline bool embedded_v4(const __be32 *words, __be32 *word)
{
	if (((__u32)words[0] & 0xffff) == 0x0220 /* 2002::/16 */) {
		*word = (__be32)((__u32)words[0] >> 16 | (__u32)words[1] << 16);
		return true;
	}
	if (words[0] != BE32(0x0064ff9b) || words[1] || words[2])
		return false;
	*word = words[3];
	return true;
}

#define IS_IN(a, b, c, d, ma, mb, mc, md)                                               \
	is_nought((((__u32)words[0] & (ma)) ^ (a)) | (((__u32)words[1] & (mb)) ^ (b)) | \
		  (((__u32)words[2] & (mc)) ^ (c)) | (((__u32)words[3] & (md)) ^ (d)))

static __always_inline enum destination policy_v6(const __be32 *words)
{
	__u64 denied = 0, allowed = 0, own = 0;
	__be32 word;

	if (unlikely(embedded_v4(words, &word)) && (is_tunnel_v4(word) || is_inner_v4(word) || is_unroutable_v4(word) ||
						    policy_v4(word) != DESTINATION_INTERNET))
		return DESTINATION_DENIED;
#define X(...) denied |= IS_IN(__VA_ARGS__);
	DENIED_V6(X)
#undef X
	if (!unlikely(denied))
		return DESTINATION_INTERNET;
#define X(a, b, c, d) own |= words_equal(words, a, b, c, d);
	OWN_V6(X)
#undef X
#define X(...) allowed |= IS_IN(__VA_ARGS__);
	ALLOWED_V6(X)
#undef X
	if (own)
		return DESTINATION_INNER;
	return allowed ? DESTINATION_INTERNET : DESTINATION_DENIED;
}

#undef IS_IN

/* Does the policy deny this port of every site? @port is in host order. */
static __always_inline bool is_denied_port(__u8 protocol, __u16 port)
{
	bool denied = false;

	(void)protocol;
	(void)port;
#define X(which, first, last) denied |= protocol == (which) && port >= (first) && port <= (last);
	DENIED_PORTS(X)
#undef X
	return denied;
}

static __always_inline enum destination destination_v4(__be32 word)
{
	if (is_tunnel_v4(word))
		return DESTINATION_NODE;
	if (is_inner_v4(word))
		return DESTINATION_INNER;
	if (is_unroutable_v4(word))
		return DESTINATION_UNROUTABLE;
	if (exit_index_v4(word) != NO_EXIT)
		return DESTINATION_EXIT;
	return policy_v4(word);
}

static __always_inline enum destination destination_v6(const __be32 *words)
{
	if (is_tunnel_v6(words))
		return DESTINATION_NODE;
	if (is_inner_v6(words))
		return DESTINATION_INNER;
	if (is_unroutable_v6(words))
		return DESTINATION_UNROUTABLE;
	if (exit_index_v6(words) != NO_EXIT)
		return DESTINATION_EXIT;
	return policy_v6(words);
}

#endif
