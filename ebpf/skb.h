/* SPDX-License-Identifier: GPL-2.0-only */
/* Reading packets in tc: their headers made linear, their bounds read where the compiler cannot mix them up. */
#ifndef JETPLANE_SKB_H
#define JETPLANE_SKB_H

#include "packet.h"

#define PULL_SIZE 256 /* an ICMP error with the headers inside it, or IPv6 extensions */

/*
 * The bounds of the linear part. In assembler, or the compiler merges these reads with older ones and does arithmetic
 * on what to the verifier is a pointer.
 */
static __always_inline void *skb_data(struct __sk_buff *skb)
{
	void *data;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(data) : "r"(skb), "i"(offsetof(struct __sk_buff, data)));
	return data;
}

static __always_inline void *skb_data_end(struct __sk_buff *skb)
{
	void *end;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(end) : "r"(skb), "i"(offsetof(struct __sk_buff, data_end)));
	return end;
}

/*
 * @value, by way of the skb's scratch space, from where the verifier reads it as a number it knows nothing of. What
 * has a few values would otherwise have all that follows verified once for each. In assembler, or the compiler keeps
 * the address of the scratch space, which the verifier wants to see as an offset.
 */
static __always_inline __u32 forget(struct __sk_buff *skb, __u32 value)
{
	__u32 forgotten;

	asm volatile("*(u32 *)(%0 + %1) = %2" : : "r"(skb), "i"(offsetof(struct __sk_buff, cb[0])), "r"(value));
	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(forgotten) : "r"(skb), "i"(offsetof(struct __sk_buff, cb[0])));
	return forgotten;
}

static __always_inline __u64 forget64(struct __sk_buff *skb, __u64 value)
{
	__u64 forgotten;

	asm volatile("*(u64 *)(%0 + %1) = %2" : : "r"(skb), "i"(offsetof(struct __sk_buff, cb[2])), "r"(value));
	asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(forgotten) : "r"(skb), "i"(offsetof(struct __sk_buff, cb[2])));
	return forgotten;
}

/* The same for a value that is asked for several times, each time as if for the first. */
static __always_inline void keep(struct __sk_buff *skb, __u32 value)
{
	asm volatile("*(u32 *)(%0 + %1) = %2" : : "r"(skb), "i"(offsetof(struct __sk_buff, cb[1])), "r"(value));
}

static __always_inline __u32 kept(struct __sk_buff *skb)
{
	__u32 value;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(value) : "r"(skb), "i"(offsetof(struct __sk_buff, cb[1])));
	return value;
}

/* See that the headers that will be read and written are in the linear part. */
static __always_inline bool linearise(struct __sk_buff *skb, __u32 network)
{
	bool v4 = skb->protocol == BE16(ETH_P_IP);
	__u32 size = network + sizeof(struct tcphdr) + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	void *data = skb_data(skb), *end = skb_data_end(skb);
	__u8 *protocol;

	if (size > skb->len)
		size = skb->len;
	if (data + size > end) {
		if (bpf_skb_pull_data(skb, size))
			return false;
		data = skb_data(skb);
		end = skb_data_end(skb);
	}
	protocol = data + network + (v4 ? offsetof(struct iphdr, protocol) : offsetof(struct ipv6hdr, nexthdr));
	if ((void *)(protocol + 1) > end || *protocol == IPPROTO_TCP || *protocol == IPPROTO_UDP)
		return true;
	size = PULL_SIZE;
	if (size > skb->len)
		size = skb->len;
	return data + size <= end || !bpf_skb_pull_data(skb, size);
}

static __always_inline enum parse read_packet(struct __sk_buff *skb, __u32 network, struct packet *packet)
{
	struct cursor cursor;

	if (skb->protocol != BE16(ETH_P_IP) && skb->protocol != BE16(ETH_P_IPV6))
		return PARSE_NOT_IP;
	if (!linearise(skb, network))
		return PARSE_MALFORMED;
	cursor.position = skb_data(skb) + network;
	cursor.end = skb_data_end(skb);
	return parse_ip(&cursor, skb->protocol, skb->len - network, packet);
}

#endif
