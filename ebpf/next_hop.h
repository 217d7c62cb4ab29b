/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The way to a destination's next hop, remembered: a look at routes and neighbours costs as much as the rest of a
 * packet's translation. What the kernel says is believed for the rest of a tick, so that a new route or another
 * hardware address is followed within a second. A neighbour that is used behind the kernel's back would never be
 * asked again whether it is still there, so each one gets a packet through the kernel in every tick, and all of them
 * while it is not known to be there.
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_NEXT_HOP_H
#define JETPLANE_NEXT_HOP_H

#include "exits.h"
#include "held.h"
#include "packet.h"
#include "skb.h"

#include <linux/if_ether.h>

#define LOOPBACK_IFINDEX 1 /* in every namespace (include/net/flow.h) */

/* bcc's own declaration takes pointers of other types. */
static long (*fib_lookup)(void *context, struct bpf_fib_lookup *route, int size,
			  __u32 flags) = (void *)BPF_FUNC_fib_lookup;

/*
 * What routing decides by: the destination, by its keyed hash, the exit address, and the class of service. 0 stands
 * for nothing known.
 */
static __always_inline __u64 route_key(__u64 remote, __u32 exit, const struct packet *packet)
{
	return remote ^ (__u64)exit << 8 ^ (packet_class(packet) & 0xfc);
}

/* The same towards a subscriber on an Ethernet link, who is known by his address and the link alone. */
static __always_inline __u64 subscriber_key(const struct address *inner, __u32 ifindex)
{
	const __u64 *words = (const __u64 *)inner;

	return (words[0] * 0x9e3779b97f4a7c15ull ^ words[1]) + ((__u64)ifindex << 32);
}

/* The Ethernet header at the packet's start; its type is there already. */
static __always_inline bool next_hop_write(struct __sk_buff *skb, const struct next_hop *hop)
{
	__u32 *words = skb_data(skb);

	if ((void *)words + ETH_HLEN > skb_data_end(skb))
		return false;
	words[0] = hop->header[0];
	words[1] = hop->header[1];
	words[2] = hop->header[2];
	return true;
}

/* Ask the kernel where the packet goes next. The packet has its Ethernet header and is translated. */
static __always_inline bool next_hop_ask(struct __sk_buff *skb, __u32 ifindex, __u8 family, __u32 header[3])
{
	struct bpf_fib_lookup route = {};
	struct iphdr *ip4 = skb_data(skb) + ETH_HLEN;
	struct ipv6hdr *ip6 = (void *)ip4;
	__u16 *halves = (__u16 *)header;
	__u16 *to = (__u16 *)route.dmac, *from = (__u16 *)route.smac;
	__u32 flags = 0;

	if (family == FAMILY_V4) {
		if ((void *)(ip4 + 1) > skb_data_end(skb))
			return false;
		route.family = INTERNET_V4;
		route.ifindex = ifindex;
		flags = BPF_FIB_LOOKUP_OUTPUT;
		route.tos = ip4->tos;
		route.ipv4_src = ip4->saddr;
		route.ipv4_dst = ip4->daddr;
	} else {
		if ((void *)(ip6 + 1) > skb_data_end(skb))
			return false;
		/* As if it came from the node: for "output" the kernel skips rules about sources (bpf_ipv6_fib_lookup). */
		route.family = INTERNET_V6;
		route.ifindex = LOOPBACK_IFINDEX;
		route.flowinfo = *(__be32 *)ip6 & BE32(0x0fffffff);
		__builtin_memcpy(route.ipv6_src, &ip6->saddr, sizeof(route.ipv6_src));
		__builtin_memcpy(route.ipv6_dst, &ip6->daddr, sizeof(route.ipv6_dst));
	}
	if (fib_lookup(skb, &route, sizeof(route), flags) != BPF_FIB_LKUP_RET_SUCCESS)
		return false;
	if (route.ifindex != ifindex)
		return false;
	halves[0] = to[0];
	halves[1] = to[1];
	halves[2] = to[2];
	halves[3] = from[0];
	halves[4] = from[1];
	halves[5] = from[2];
	return true;
}

/* Has the kernel itself sent this neighbour a packet in this tick? From now on it has. */
static __always_inline bool neighbour_is_kept(const __u32 header[3], __u32 tick)
{
	struct neighbour *neighbour = neighbour_at((header[0] ^ header[1]) % NEIGHBOURS);
	bool kept;

	if (!neighbour)
		return false;
	kept = neighbour->tick == tick && neighbour->address[0] == header[0] &&
	       neighbour->address[1] == (header[1] & 0xffff);
	neighbour->tick = tick;
	neighbour->address[0] = header[0];
	neighbour->address[1] = header[1] & 0xffff;
	return kept;
}

/*
 * Write the Ethernet header of a packet that is to leave by this interface. False: the kernel has to find the way, and
 * its neighbour.
 */
static __always_inline bool next_hop_find(struct __sk_buff *skb, __u32 ifindex, __u8 family, __u64 key, __u32 tick)
{
	__u32 place = key * 0x9e3779b97f4a7c15ull >> 32; /* Knuth's multiplicative hash */
	struct next_hops *hops = next_hops_at(place % NEXT_HOP_TABLES);
	struct next_hop *hop;

	if (!hops)
		return false;
	hop = &hops->hop[place / NEXT_HOP_TABLES % NEXT_HOPS];
	if (hop->key == key && hop->tick == tick)
		return next_hop_write(skb, hop);
	hop->key = 0;
	if (!next_hop_ask(skb, ifindex, family, hop->header))
		return false;
	hop->key = key;
	hop->tick = tick;
	return neighbour_is_kept(hop->header, tick) && next_hop_write(skb, hop);
}

#endif
