/* SPDX-License-Identifier: GPL-2.0-only */
/* What is relayed gets new headers, of either family, and the next hop that the kernel's routing table names. */
#ifndef JETPLANE_RELAY_SEND_H
#define JETPLANE_RELAY_SEND_H

#include "relay.h"

/* Ask the kernel's routing table for the next hop; the rules that discard what would be forwarded are not asked. */
static __always_inline enum counter relay_next_hop(struct xdp_md *ctx, struct relay_path *path, __u32 length,
						   __u8 class, struct bpf_fib_lookup *fib)
{
	const __be32 *source = (const __be32 *)&path->source, *destination = (const __be32 *)&path->destination;

	fib->ifindex = ctx->ingress_ifindex;
	fib->l4_protocol = IPPROTO_UDP;
	fib->sport = path->source_port;
	fib->dport = path->destination_port;
	fib->tot_len = length;
	if (address_is_v4(&path->destination)) {
		fib->family = INTERNET_V4;
		fib->tos = class;
		fib->ipv4_src = source[3];
		fib->ipv4_dst = destination[3];
	} else {
		fib->family = INTERNET_V6;
		__builtin_memcpy(fib->ipv6_src, source, sizeof(fib->ipv6_src));
		__builtin_memcpy(fib->ipv6_dst, destination, sizeof(fib->ipv6_dst));
	}
	switch (bpf_fib_lookup(ctx, fib, sizeof(*fib), BPF_FIB_LOOKUP_DIRECT)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return COUNT_GUARD_PASSED;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		path->mtu = fib->tot_len; /* from 5.12 on: mtu_result, in the same place */
		return DROP_RELAY_SIZE;
	}
	return DROP_UNROUTABLE;
}

/* The UDP checksum for other addresses and ports: lengths and protocol weigh the same in both families. */
static __always_inline __sum16 relay_checksum(const struct packet *packet, const struct udphdr *udp,
					      const struct relay_path *path)
{
	struct address old;
	__sum16 changed;
	__u64 sum;

	packet_source(packet, &old);
	sum = sum_change_address(0, &old, &path->source);
	packet_destination(packet, &old);
	sum = sum_change_address(sum, &old, &path->destination);
	sum = sum_change16(sum, udp->source, path->source_port);
	sum = sum_change16(sum, udp->dest, path->destination_port);
	changed = checksum_apply(udp->check, sum);
	return changed ? changed : (__sum16)0xffff;
}

/* Of a header without options, whose checksum is 0 so far. */
static __always_inline __sum16 relay_header_checksum(const struct iphdr *ip)
{
	const __u32 *words = (const __u32 *)ip;

	return (__sum16)~sum_fold16((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
}

static __always_inline void relay_write_v4(struct iphdr *ip, const struct relay_path *path, __u32 length, __u8 class,
					   __u8 hop_limit)
{
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = class;
	ip->tot_len = to_be16(length);
	/* May be cut up on its way, as WireGuard's own packets may: the id tells its pieces apart. */
	ip->id = to_be16(path->piece.length ? path->piece.identification : bpf_get_prandom_u32());
	ip->frag_off = 0;
	if (path->piece.length)
		ip->frag_off = to_be16(path->piece.offset / FRAGMENT_UNIT | (path->piece.last ? 0 : 0x2000));
	ip->ttl = hop_limit;
	ip->protocol = IPPROTO_UDP;
	ip->saddr = ((const __be32 *)&path->source)[3];
	ip->daddr = ((const __be32 *)&path->destination)[3];
	ip->check = 0;
	ip->check = relay_header_checksum(ip);
}

static __always_inline void relay_write_v6(struct ipv6hdr *ip, const struct relay_path *path, __u32 length, __u8 class,
					   __u8 hop_limit)
{
	__be32 *first = (__be32 *)ip;

	*first = (__be32)__builtin_bswap32(6u << 28 | (__u32) class << 20); /* no flow label */
	ip->payload_len = to_be16(length - sizeof(*ip));
	ip->nexthdr = path->piece.length ? IPPROTO_FRAGMENT : IPPROTO_UDP;
	ip->hop_limit = hop_limit;
	__builtin_memcpy(&ip->saddr, &path->source, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &path->destination, sizeof(ip->daddr));
}

static __always_inline void relay_write_piece(struct ipv6_fragment *fragment, const struct relay_path *path)
{
	fragment->next = IPPROTO_UDP;
	fragment->reserved = 0;
	fragment->offset = to_be16(path->piece.offset | !path->piece.last);
	fragment->identification = (__be32)__builtin_bswap32(path->piece.identification);
}

static __always_inline __u32 relay_header_length(const struct relay_path *path)
{
	if (address_is_v4(&path->destination))
		return sizeof(struct iphdr);
	return sizeof(struct ipv6hdr) + (path->piece.length ? sizeof(struct ipv6_fragment) : 0);
}

/*
 * Give the packet new headers and a next hop. @udp is NULL in a later fragment. XDP_TX or XDP_REDIRECT goes
 * to @verdict.
 */
static __always_inline enum counter relay_send(struct xdp_md *ctx, const struct packet *packet,
					       const struct udphdr *udp, struct relay_path *path, int *verdict)
{
	bool to_v4 = address_is_v4(&path->destination), from_v4 = packet->family == FAMILY_V4;
	__u32 header = relay_header_length(path), length = header + path->payload;
	__u8 class = packet_class(packet), hop_limit = packet->hop_limit;
	struct bpf_fib_lookup fib = {};
	struct ipv6_fragment *piece;
	struct ethhdr *ethernet;
	struct udphdr *written;
	enum counter judgement;
	__sum16 checksum = 0;
	void *data, *end;

	if (hop_limit <= 1)
		return DROP_RELAY_HOPS;
	if (udp && udp->check)
		checksum = relay_checksum(packet, udp, path);
	else if (udp && (!from_v4 || !to_v4))
		return DROP_MALFORMED; /* IPv6 has no datagrams without a checksum (RFC 8200, section 8.1) */
	judgement = relay_next_hop(ctx, path, length, class, &fib);
	if (judgement != COUNT_GUARD_PASSED)
		return judgement;
	if (packet->header_length != header && bpf_xdp_adjust_head(ctx, (int)packet->header_length - (int)header))
		return DROP_HELPER;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ethernet = data;
	if (to_v4)
		written = data + sizeof(*ethernet) + sizeof(struct iphdr);
	else if (path->piece.length)
		written = data + sizeof(*ethernet) + sizeof(struct ipv6hdr) + sizeof(struct ipv6_fragment);
	else
		written = data + sizeof(*ethernet) + sizeof(struct ipv6hdr);
	if ((void *)written > end)
		return DROP_HELPER;
	__builtin_memcpy(ethernet->h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, fib.smac, ETH_ALEN);
	ethernet->h_proto = to_v4 ? BE16(ETH_P_IP) : BE16(ETH_P_IPV6);
	if (to_v4)
		relay_write_v4(data + sizeof(*ethernet), path, length, class, hop_limit - 1);
	else
		relay_write_v6(data + sizeof(*ethernet), path, length, class, hop_limit - 1);
	if (!to_v4 && path->piece.length) {
		piece = data + sizeof(*ethernet) + sizeof(struct ipv6hdr);
		/* Known above, but not to the verifier of Linux 6.1, which forgets what it learned of a spilled number. */
		if ((void *)opaque((__u64)(piece + 1)) > end)
			return DROP_HELPER;
		relay_write_piece(piece, path);
	}
	if (udp) {
		if ((void *)(written + 1) > end)
			return DROP_HELPER;
		written->source = path->source_port;
		written->dest = path->destination_port;
		written->check = checksum;
	}
	*verdict = fib.ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(fib.ifindex, 0);
	return COUNT_GUARD_PASSED;
}

#endif
