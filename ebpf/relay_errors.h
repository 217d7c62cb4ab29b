/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The path's MTU, for both ends of a relayed session. "Too big" from a router behind the entry is about the entry's own
 * addresses, and means nothing to whoever sent the packet: it is told again, in the words and the family of
 * the sender's side (RFC 5508, section 4; RFC 7915, section 4.2 and 5.2). Whoever sends what is too big for the entry's own
 * link, or grows beyond it from IPv4 to IPv6, is told by the entry itself, also where the packet does not say
 * "don't fragment", for XDP cannot cut it up. WireGuard's packets are cut up by the sender's own stack then.
 *
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_RELAY_ERRORS_H
#define JETPLANE_RELAY_ERRORS_H

#include "clock.h"
#include "icmp.h"
#include "relay_send.h"

#define ICMPV4_FRAGMENTATION_NEEDED 4    /* code of ICMPV4_UNREACHABLE */
#define RELAY_LEAST_MTU             1280 /* of IPv6 (RFC 8200, section 5); who forges less makes nobody cut up finer */
#define RELAY_ERROR_HOPS            64

/* The header and the first eight bytes of a datagram, as its sender knows it: what an error is about. */
struct relay_quoted {
	struct relay_path path;
	__be16 length; /* of the datagram, with its UDP header */
	__sum16 checksum;
};

struct icmp_too_big {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 upper; /* of the MTU; unused in IPv4 */
	__be16 mtu;
};

static __always_inline __u32 relay_error_length(bool v4)
{
	__u32 header = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	return 2 * header + sizeof(struct icmp_too_big) + sizeof(struct udphdr);
}

static __always_inline void relay_quote_udp(struct udphdr *udp, const struct relay_quoted *quoted)
{
	udp->source = quoted->path.source_port;
	udp->dest = quoted->path.destination_port;
	udp->len = quoted->length;
	udp->check = quoted->checksum;
}

static __always_inline void relay_error_write_v4(struct iphdr *ip, const struct relay_path *error,
						 const struct relay_quoted *quoted, __u16 mtu)
{
	struct icmp_too_big *icmp = (void *)(ip + 1);
	struct iphdr *inside = (void *)(icmp + 1);
	__u32 sum;

	relay_write_v4(ip, error, relay_error_length(true), 0, RELAY_ERROR_HOPS);
	ip->protocol = IPPROTO_ICMP;
	ip->check = 0;
	ip->check = relay_header_checksum(ip);
	icmp->type = ICMPV4_UNREACHABLE;
	icmp->code = ICMPV4_FRAGMENTATION_NEEDED;
	icmp->checksum = 0;
	icmp->upper = 0;
	icmp->mtu = to_be16(mtu);
	relay_write_v4(inside, &quoted->path, sizeof(*inside) + from_be16(quoted->length), 0, RELAY_ERROR_HOPS);
	relay_quote_udp((void *)(inside + 1), quoted);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)icmp, sizeof(*icmp) + sizeof(*inside) + sizeof(struct udphdr), 0);
	icmp->checksum = (__sum16)~sum_fold16(sum);
}

static __always_inline void relay_error_write_v6(struct ipv6hdr *ip, const struct relay_path *error,
						 const struct relay_quoted *quoted, __u16 mtu)
{
	struct icmp_too_big *icmp = (void *)(ip + 1);
	struct ipv6hdr *inside = (void *)(icmp + 1);
	__u32 length = sizeof(*icmp) + sizeof(*inside) + sizeof(struct udphdr);
	__u64 sum;

	relay_write_v6(ip, error, sizeof(*ip) + length, 0, RELAY_ERROR_HOPS);
	ip->nexthdr = IPPROTO_ICMPV6;
	icmp->type = ICMPV6_TOO_BIG;
	icmp->code = 0;
	icmp->checksum = 0;
	icmp->upper = 0;
	icmp->mtu = to_be16(mtu);
	relay_write_v6(inside, &quoted->path, sizeof(*inside) + from_be16(quoted->length), 0, RELAY_ERROR_HOPS);
	relay_quote_udp((void *)(inside + 1), quoted);
	/* With its pseudo-header: the addresses stand just before the message. */
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&ip->saddr, 2 * sizeof(ip->saddr) + length, 0);
	sum += to_be16(length) + BE16(IPPROTO_ICMPV6);
	icmp->checksum = (__sum16)~sum_fold16(sum);
}

/* Make of the frame an error to whoever sent what is quoted. @mtu is of the sender's side. */
static __always_inline enum counter relay_tell(struct xdp_md *ctx, struct relay_path *error,
					       const struct relay_quoted *quoted, __u32 mtu, int *verdict)
{
	bool v4 = address_is_v4(&error->destination);
	__u32 length = relay_error_length(v4);
	struct bpf_fib_lookup fib = {};
	struct ethhdr *ethernet;
	enum counter judgement;
	void *data, *end;
	__u32 before;

	judgement = relay_next_hop(ctx, error, length, 0, &fib);
	if (judgement != COUNT_GUARD_PASSED)
		return judgement;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	before = opaque(end - data);
	if (bpf_xdp_adjust_tail(ctx, (int)(sizeof(*ethernet) + length) - (int)before))
		return DROP_HELPER;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ethernet = data;
	if (v4) {
		if (data + sizeof(*ethernet) + relay_error_length(true) > end)
			return DROP_HELPER;
		ethernet->h_proto = BE16(ETH_P_IP);
		relay_error_write_v4(data + sizeof(*ethernet), error, quoted, mtu);
	} else {
		if (data + sizeof(*ethernet) + relay_error_length(false) > end)
			return DROP_HELPER;
		ethernet->h_proto = BE16(ETH_P_IPV6);
		relay_error_write_v6(data + sizeof(*ethernet), error, quoted, mtu);
	}
	__builtin_memcpy(ethernet->h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, fib.smac, ETH_ALEN);
	*verdict = fib.ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(fib.ifindex, 0);
	return COUNT_GUARD_PASSED;
}

/*
 * The MTU on the other side of the entry. Headers of the two families differ in length; what has to be cut up in IPv4
 * gets a fragment header, too, on its way into IPv6 (RFC 7915, section 4).
 */
static __always_inline __u32 relay_mtu_across(__u32 mtu, bool from_v4, bool to_v4)
{
	__u32 grows = sizeof(struct ipv6hdr) - sizeof(struct iphdr);

	if (mtu < RELAY_LEAST_MTU)
		mtu = RELAY_LEAST_MTU;
	if (from_v4 == to_v4)
		return mtu;
	return to_v4 ? mtu - grows - sizeof(struct ipv6_fragment) : mtu + grows;
}

/* @packet is too big for @path: tell its sender. */
static __always_inline void relay_tell_too_big(struct xdp_md *ctx, const struct packet *packet,
					       const struct udphdr *udp, const struct relay_path *path, int *verdict)
{
	struct relay_quoted quoted = { .length = udp->len, .checksum = udp->check };
	struct relay_path told = {};
	bool to_v4 = packet->family == FAMILY_V4;

	packet_source(packet, &quoted.path.source);
	packet_destination(packet, &quoted.path.destination);
	quoted.path.source_port = udp->source;
	quoted.path.destination_port = udp->dest;
	told.source = quoted.path.destination;
	told.destination = quoted.path.source;
	relay_tell(ctx, &told, &quoted, relay_mtu_across(path->mtu, address_is_v4(&path->destination), to_v4), verdict);
}

/* What a "too big" says; 0 when the message is none, or from a router that does not say it. */
static __always_inline __u32 relay_too_big(const struct packet *packet)
{
	const struct icmp_too_big *icmp = packet->transport;

	if ((const void *)(icmp + 1) > packet->end)
		return 0;
	if (packet->family == FAMILY_V4)
		return icmp->type == ICMPV4_UNREACHABLE && icmp->code == ICMPV4_FRAGMENTATION_NEEDED ?
			       from_be16(icmp->mtu) :
			       0;
	return icmp->type == ICMPV6_TOO_BIG && !icmp->upper ? from_be16(icmp->mtu) : 0;
}

/*
 * Whose datagram is quoted in an error to this node: @told becomes the way of the error, @quoted the datagram as its
 * sender knows it. False when it is of no session.
 */
static __always_inline bool relay_error_concerns(const struct packet *embedded, const struct udphdr *udp, __u32 tick,
						 struct relay_path *told, struct relay_quoted *quoted)
{
	__u32 relay = relay_at(udp->source, tick), slot = from_be16(udp->source) - RELAY_FIRST_PORT, *found;
	struct relay_client client = { .port = udp->dest, .relay = relay };
	struct relay_session *session;
	struct address source, exit;
	__be16 exit_port;

	packet_source(embedded, &source);
	packet_destination(embedded, &client.address);
	if (relay != NO_RELAY) {
		/* What has been sent back to a subscriber: the exit node wants to know. */
		found = relay_client_find(&client);
		if (!found)
			return false;
		slot = *found;
	}
	session = slot < RELAY_SESSIONS ? relay_session_at(slot) : NULL;
	if (!session || !relay_is_live(*(volatile __u64 *)&session->life, tick))
		return false;
	if (relay_towards_exit(session->relay, slot, tick, told) != COUNT_GUARD_PASSED)
		return false;
	exit = told->destination;
	exit_port = told->destination_port;
	if (relay != NO_RELAY) {
		quoted->path.source = exit;
		quoted->path.source_port = exit_port;
		quoted->path.destination = told->source;
		quoted->path.destination_port = told->source_port;
		return addresses_equal(&session->own, &source);
	}
	quoted->path.source = session->client;
	quoted->path.source_port = session->client_port;
	quoted->path.destination = session->own;
	quoted->path.destination_port = to_be16(session->relay);
	if (!addresses_equal(&client.address, &exit) || client.port != exit_port ||
	    !addresses_equal(&source, &told->source))
		return false;
	told->source = session->own;
	told->destination = session->client;
	return true;
}

/* Is this a router's "too big" about something relayed? Then it is told to whoever sent that. */
static __always_inline bool judge_relayed_error(struct xdp_md *ctx, const struct packet *packet, int *verdict)
{
	struct cursor cursor = {
		.position = packet->transport + sizeof(struct icmp_too_big),
		.end = packet->end,
	};
	__be16 type = packet->family == FAMILY_V4 ? BE16(ETH_P_IP) : BE16(ETH_P_IPV6);
	__u32 tick = tick_of(clock_ns()), mtu = relay_too_big(packet);
	struct relay_quoted quoted = {};
	struct relay_path told = {};
	struct packet embedded = {};
	const struct udphdr *udp;
	enum counter judgement;

	if (!mtu || parse_ip(&cursor, type, LENGTH_UNKNOWN, &embedded) != PARSE_OK)
		return false;
	if (embedded.protocol != IPPROTO_UDP || embedded.fragment == FRAGMENT_LATER)
		return false;
	udp = packet_transport(&embedded, sizeof(*udp));
	if (!udp || !relay_error_concerns(&embedded, udp, tick, &told, &quoted))
		return false;
	quoted.length = udp->len;
	quoted.checksum = udp->check ? relay_checksum(&embedded, udp, &quoted.path) : 0;
	mtu = relay_mtu_across(mtu, packet->family == FAMILY_V4, address_is_v4(&told.destination));
	judgement = relay_tell(ctx, &told, &quoted, mtu, verdict);
	if (judgement == COUNT_GUARD_PASSED)
		count(COUNT_ICMP_ERRORS);
	else
		*verdict = drop(judgement);
	return true;
}

#endif
