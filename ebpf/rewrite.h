/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Changes one end of a packet. What the IP header's own checksum covers is written straight into the packet; the
 * transport checksum only through helpers, because it may be a partial one that a device will finish. ICMP is never
 * left to a device.
 */
#ifndef JETPLANE_REWRITE_H
#define JETPLANE_REWRITE_H

#include "checksum.h"
#include "flow.h"

#define TCP_CHECKSUM_OFFSET 16
#define UDP_CHECKSUM_OFFSET 6

/* What one end was and what it becomes. */
struct change {
	struct address from;
	struct address to;
	__be16 from_port;
	__be16 to_port;
};

/* Sum of what the new address adds to a checksum that covers it. */
static __always_inline __u64 change_of_address(const struct change *change, __u8 family)
{
	const __be32 *from = (const __be32 *)&change->from, *to = (const __be32 *)&change->to;

	if (family == FAMILY_V4)
		return sum_change32(0, from[3], to[3]);
	return sum_change_address(0, &change->from, &change->to);
}

/* The IP header: the address, and one hop less if @hop. */
static __always_inline void rewrite_network(const struct packet *packet, enum side side, const struct change *change,
					    bool hop)
{
	__u64 sum = change_of_address(change, packet->family);
	struct ipv6hdr *ip6 = packet->network;
	struct iphdr *ip4 = packet->network;

	if (packet->family == FAMILY_V6) {
		__builtin_memcpy(side == SIDE_SOURCE ? &ip6->saddr : &ip6->daddr, &change->to, sizeof(change->to));
		ip6->hop_limit -= hop;
		return;
	}
	if (side == SIDE_SOURCE)
		ip4->saddr = ((const __be32 *)&change->to)[3];
	else
		ip4->daddr = ((const __be32 *)&change->to)[3];
	if (hop) {
		ip4->ttl--;
		/* TTL is the first byte of its 16-bit word. */
		sum += (__u16)~0x0001;
	}
	ip4->check = checksum_apply(ip4->check, sum);
}

/* The checksum of TCP or UDP at @offset, given what the new address adds to it and how a port changes. */
static __always_inline bool rewrite_checksum(struct __sk_buff *skb, __u32 offset, __u8 protocol, __u64 sum,
					     const struct change *change)
{
	__u64 flags = 0;

	if (protocol == PROTOCOL_UDP) {
		/* No checksum stays none, and one that comes out as zero is written as all ones (RFC 768). */
		flags = BPF_F_MARK_MANGLED_0;
		offset += UDP_CHECKSUM_OFFSET;
	} else {
		offset += TCP_CHECKSUM_OFFSET;
	}
	if (bpf_l4_csum_replace(skb, offset, 0, sum_fold32(sum), flags | BPF_F_PSEUDO_HDR))
		return false;
	return !bpf_l4_csum_replace(skb, offset, change->from_port, change->to_port, flags | sizeof(__be16));
}

/* A TCP, UDP or ICMP query packet; @offset is where its transport header lies in the skb. False: not changed wholly. */
static __always_inline bool rewrite_session(struct __sk_buff *skb, const struct packet *packet, __u32 offset,
					    enum side side, const struct flow *flow, const struct change *change,
					    bool hop)
{
	__u64 sum = change_of_address(change, packet->family);
	struct transport_start *start = packet_transport(packet, sizeof(*start));
	struct icmp_header *icmp = (void *)start;

	if (!start)
		return false;
	rewrite_network(packet, side, change, hop);
	if (flow->protocol == PROTOCOL_ICMP) {
		if (packet->family == FAMILY_V4)
			sum = 0; /* no pseudo-header */
		icmp->identifier = change->to_port;
		icmp->checksum = checksum_apply(icmp->checksum, sum_change16(sum, change->from_port, change->to_port));
		return true;
	}
	if (side == SIDE_SOURCE)
		start->source_port = change->to_port;
	else
		start->destination_port = change->to_port;
	return rewrite_checksum(skb, offset, flow->protocol, sum, change);
}

/* A TCP or UDP packet of which the address of one end changes, @side, and the port of the other. */
static __always_inline bool rewrite_across(struct __sk_buff *skb, const struct packet *packet, __u32 offset,
					   enum side side, __u8 protocol, const struct change *change)
{
	__u64 sum = change_of_address(change, packet->family);
	struct transport_start *start = packet_transport(packet, sizeof(*start));

	if (!start)
		return false;
	rewrite_network(packet, side, change, false);
	if (side == SIDE_DESTINATION)
		start->source_port = change->to_port;
	else
		start->destination_port = change->to_port;
	return rewrite_checksum(skb, offset, protocol, sum, change);
}

#endif
