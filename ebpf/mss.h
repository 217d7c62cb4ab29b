/* SPDX-License-Identifier: GPL-2.0-only */
/* Lowers the maximum segment size that a SYN announces to what fits through the tunnel (RFC 6691). */
#ifndef JETPLANE_MSS_H
#define JETPLANE_MSS_H

#include "checksum.h"
#include "packet.h"

#define TCP_OPTIONS_SIZE 40
#define TCP_OPTION_END   0
#define TCP_OPTION_NONE  1
#define TCP_OPTION_MSS   2

/* The segment size that fits into the tunnel without options. */
static __always_inline __u16 mss_limit(__u8 family)
{
	return TUNNEL_MTU - sizeof(struct tcphdr) -
	       (family == FAMILY_V4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
}

/* Options with room to spare: a power of two, so that a mask shows the verifier that an index is inside. */
struct tcp_options {
	__u8 bytes[64];
};

static __always_inline __u8 option_byte(const struct tcp_options *options, __u32 at)
{
	return options->bytes[at % sizeof(options->bytes)];
}

/* Where in @size bytes of options the value of the MSS option lies, or 0. */
static __always_inline __u32 mss_find(const struct tcp_options *options, __u32 size)
{
	__u32 at = 0;
	int steps;

	for (steps = 0; steps < TCP_OPTIONS_SIZE; steps++) {
		__u64 kind = option_byte(options, at), length = option_byte(options, at + 1), none, step;

		if (at + 4 > size || kind == TCP_OPTION_END)
			return 0;
		if (kind == TCP_OPTION_MSS)
			return length == 4 ? at + 2 : 0;
		/* Without a branch, the verifier has one path through the loop instead of two to the power of its steps. */
		none = opaque(((kind ^ TCP_OPTION_NONE) - 1) >> 63);
		step = length * (1 - none) + none;
		if (!step)
			return 0;
		at += step;
	}
	return 0;
}

/* @offset is where the TCP header lies in the skb. A SYN that says too little to be read is left alone. */
static __always_inline void mss_clamp(struct __sk_buff *skb, __u32 offset, __u8 family)
{
	struct tcp_options options = {};
	__be16 announced, fitting = to_be16(mss_limit(family));
	__u32 size, at;
	__u8 doff;

	if (bpf_skb_load_bytes(skb, offset + 12, &doff, 1))
		return;
	size = (doff >> 4) * 4;
	if (size <= sizeof(struct tcphdr) || size > sizeof(struct tcphdr) + TCP_OPTIONS_SIZE)
		return;
	size -= sizeof(struct tcphdr);
	if (bpf_skb_load_bytes(skb, offset + sizeof(struct tcphdr), options.bytes, size))
		return;
	at = mss_find(&options, size);
	if (!at)
		return;
	announced = (__be16)(option_byte(&options, at) | option_byte(&options, at + 1) << 8);
	if (from_be16(announced) <= mss_limit(family))
		return;
	/* An odd offset in the segment swaps the bytes of the word; the sum takes them as they lie (RFC 1071). */
	if (at % 2) {
		announced = to_be16((__u16)announced);
		bpf_l4_csum_replace(skb, offset + 16, announced, mss_limit(family), sizeof(announced));
	} else {
		bpf_l4_csum_replace(skb, offset + 16, announced, fitting, sizeof(announced));
	}
	bpf_skb_store_bytes(skb, offset + sizeof(struct tcphdr) + at, &fitting, sizeof(fitting), 0);
}

#endif
