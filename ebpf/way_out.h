/* SPDX-License-Identifier: GPL-2.0-only */
/* From a tunnel to the internet, once it is clear that a packet may go there. */
#ifndef JETPLANE_WAY_OUT_H
#define JETPLANE_WAY_OUT_H

#include "destination.h"
#include "fragments.h"
#include "held.h"
#include "icmp_error.h"
#include "mss.h"
#include "next_hop.h"
#include "rewrite.h"
#include "segment.h"

#define IPV6_LEAST_MTU 1280 /* RFC 8200, section 5: what every link carries */

/* As numbers that the verifier knows nothing of: else it follows what comes after once for each exit address. */
static __always_inline void exit_address_of(struct __sk_buff *skb, __u32 exit, struct address *address)
{
	__be32 *words = (__be32 *)address;

	exit_address(exit, address);
	words[0] = forget(skb, words[0]);
	words[1] = forget(skb, words[1]);
	words[2] = forget(skb, words[2]);
	words[3] = forget(skb, words[3]);
}

/* Put an Ethernet header in front of a packet that has none. */
static __always_inline bool grow_head(struct __sk_buff *skb)
{
	__be16 type = skb->protocol;

	if (TUNNEL_ETHERNET)
		return true;
	if (bpf_skb_change_head(skb, ETH_HLEN, 0))
		return false;
	return !bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0);
}

/*
 * @hairpin: to another subscriber's exit address, so it comes in again as if from the uplink.
 * @route: what the way to the next hop is remembered by (next_hop.h); 0: it is not.
 */
static __always_inline int send_out(struct __sk_buff *skb, const struct peer *peer, __u32 bytes, bool hairpin,
				    __u8 family, __u64 route, __u32 tick)
{
	__u32 who = forget(skb, peer->statistics);
	long verdict;

	/* All paths are alike from here on; the verifier is to see it, too, or it follows what is counted once for each. */
	bytes = forget(skb, bytes);
	if (!grow_head(skb))
		return drop(DROP_HELPER);
	if (hairpin)
		verdict = bpf_redirect(UPLINK_IFINDEX, BPF_F_INGRESS);
	else if (route && next_hop_find(skb, UPLINK_IFINDEX, family, route, tick))
		verdict = bpf_redirect(UPLINK_IFINDEX, 0);
	else
		verdict = redirect_neigh(UPLINK_IFINDEX, NULL, 0, 0);
	if (verdict != TC_ACT_REDIRECT)
		return drop(DROP_HELPER);
	forwarded_out(who, bytes);
	return verdict;
}

/* A subscriber's ICMP error about a packet that was let in: it goes out from where that packet went. */
static __always_inline int error_out(struct __sk_buff *skb, struct packet *packet, bool hairpin, __u32 tick)
{
	struct icmp_error error = {};
	struct inner_endpoint inner = {};
	struct change change = {};
	struct address source;
	struct held held;
	__u32 bytes = packet->length;

	if (!icmp_error_read(packet, SIDE_DESTINATION, &error))
		return drop(DROP_STRAY_ERROR);
	packet_source(packet, &source);
	inner.address = error.flow.destination;
	inner.port = error.flow.destination_port;
	inner.protocol = error.flow.protocol;
	if (!addresses_equal(&source, &inner.address) ||
	    !held_look(&inner, &error.flow.source, error.flow.source_port, packet->family, tick, &held) ||
	    !peer_is_at(held.peer, skb->ifindex))
		return drop(DROP_STRAY_ERROR);
	change.from = inner.address;
	change.from_port = inner.port;
	change.to_port = to_be16(held_port(&held));
	exit_address_of(skb, held_exit(held.slot), &change.to);
	if (!icmp_error_rewrite(packet, true, &error, SIDE_DESTINATION, &change))
		return drop(DROP_MALFORMED);
	rewrite_network(packet, SIDE_SOURCE, &change, !hairpin);
	count(COUNT_ICMP_ERRORS, 1);
	return send_out(skb, held.peer, bytes, hairpin, packet->family, 0, tick);
}

/*
 * A new session that cannot be had for want of means: the subscriber's programs shall hear of it at once instead of
 * waiting (RFC 5508, REQ-8). The drop is counted, answered or not.
 */
static __always_inline int refuse_out(struct __sk_buff *skb, struct peer *peer, enum counter reason, __u64 now_ns)
{
	bool lacks = reason == DROP_PORTS_EXHAUSTED || reason == DROP_TABLE_FULL || reason == DROP_NO_EXIT;

	if (!lacks || !peer || !is_within_rate(&peer->answers, ANSWERS_PER_SECOND, 1, now_ns))
		return drop(reason);
	count(reason, 1);
	return prohibit(skb);
}

/*
 * What the policy denies: the subscriber's programs hear of it at once, at the rate of all such answers, or never, as
 * configured. The stack answers about whole packets.
 */
static __always_inline int deny(struct __sk_buff *skb, const struct packet *packet, enum counter reason, __u64 now_ns)
{
	struct address source;
	struct peer *peer;
	__u32 *index;

	if (!POLICY_ANSWERS || packet->fragment || packet->options)
		return drop(reason);
	packet_source(packet, &source);
	index = address_find(&source);
	peer = index ? peer_at(*index) : NULL;
	if (!peer || !peer_is_at(peer, skb->ifindex) || !is_within_rate(&peer->answers, ANSWERS_PER_SECOND, 1, now_ns))
		return drop(reason);
	count(reason, 1);
	return prohibit(skb);
}

static __always_inline int session_out(struct __sk_buff *skb, struct packet *packet, struct flow *flow, bool hairpin,
				       __u64 now_ns)
{
	__u32 offset = TUNNEL_HEADER + packet->header_length, bytes = packet->length;
	__u8 family = packet->family;
	struct inner_endpoint inner = {
		.address = flow->source,
		.port = flow->source_port,
		.protocol = flow->protocol,
	};
	struct held held = {};
	struct change change;
	enum counter reason;
	__u64 route;

	reason = binding_hold(skb, &inner, flow, family, tick_of(now_ns), &held);
	if (reason != NO_REASON)
		return refuse_out(skb, held.peer, reason, now_ns);
	/* Bindings and connections at reused ports are the same from here on; the verifier is to see it, too. */
	if (TCP_REUSE) {
		held.slot = forget(skb, held.slot);
		held.life = forget64(skb, held.life);
	}
	if (!is_within_rate(&held.peer->up, held.peer->rate_up, bytes, now_ns))
		return drop(DROP_RATE);
	reason = binding_use_out(&held, flow, tick_of(now_ns));
	if (reason != NO_REASON)
		return drop(reason);
	/* Opaque: done before the exit address is chosen, or the verifier would know it differently for each. */
	route = opaque(route_key(held.remote, held_exit(held.slot), packet));
	change.from = flow->source;
	change.from_port = flow->source_port;
	change.to_port = to_be16(held_port(&held));
	exit_address_of(skb, held_exit(held.slot), &change.to);
	/* A packet that turns round here is one hop away from the other subscriber: nat_in counts it. */
	if (!rewrite_session(skb, packet, offset, SIDE_SOURCE, flow, &change, !hairpin))
		return drop(DROP_HELPER);
	if (flow->tcp_flags & TCP_SYN)
		mss_clamp(skb, offset, family);
	return send_out(skb, held.peer, bytes, hairpin, family, route, tick_of(now_ns));
}

/* What every fragment needs before it goes its way: a look at its sanity, and another identification. */
static __always_inline enum counter fragment_out(const struct packet *packet)
{
	struct piece piece;
	enum counter reason = fragment_read(packet, &piece);

	if (reason == NO_REASON && !fragment_shift(packet))
		return DROP_HELPER;
	return reason;
}

/*
 * A later fragment has no ports and needs none. Nothing asks for its first one, so that order does not matter: where
 * the first was refused, the site has pieces of a datagram without a beginning, which it forgets, and whoever wants to
 * send it such pieces may as well send a beginning. Where to, whose and how much is judged as for a whole packet.
 */
static __always_inline int later_out(struct __sk_buff *skb, struct packet *packet, bool hairpin, __u64 now_ns)
{
	__u32 bytes = packet->length, exit, *index;
	struct address destination;
	struct change change = {};
	struct peer *peer;

	packet_source(packet, &change.from);
	packet_destination(packet, &destination);
	index = address_find(&change.from);
	peer = index ? peer_at(*index) : NULL;
	if (!peer || !peer_is_at(peer, skb->ifindex))
		return drop(DROP_UNKNOWN_SOURCE);
	if (address_is_own(&destination))
		return drop(DROP_TUNNEL_DESTINATION);
	exit = packet->family == FAMILY_V4 ? peer->exit_index[FAMILY_V4] : peer->exit_index[FAMILY_V6];
	if (exit >= EXITS)
		return drop(DROP_NO_EXIT);
	if (!is_within_rate(&peer->up, peer->rate_up, bytes, now_ns))
		return drop(DROP_RATE);
	exit_address_of(skb, exit, &change.to);
	rewrite_network(packet, SIDE_SOURCE, &change, !hairpin);
	return send_out(skb, peer, bytes, hairpin, packet->family, 0, tick_of(now_ns));
}

static __always_inline enum destination judge_destination(const struct packet *packet)
{
	if (packet->family == FAMILY_V4)
		return destination_v4(((const struct iphdr *)packet->network)->daddr);
	return destination_v6((const __be32 *)&((const struct ipv6hdr *)packet->network)->daddr);
}

/* To the node's own address on a tunnel: an echo is answered, so that a subscriber can tell where a fault lies. */
static __always_inline int deliver_to_node(const struct packet *packet)
{
	struct icmp_header *icmp;

	if (!is_icmp(packet) || packet->fragment)
		return drop(DROP_TUNNEL_DESTINATION);
	icmp = packet_icmp(packet);
	if (!icmp)
		return drop(DROP_MALFORMED);
	if (!is_echo_request(packet->family, icmp->type))
		return drop(DROP_TUNNEL_DESTINATION);
	return TC_ACT_OK;
}

/*
 * Whether each segment is short enough for the uplink. What every link carries is not asked about: that is quicker.
 * The helper's own verdict on super-packets relies on offsets that not every way here has set; it tells the MTU anyway.
 */
static __always_inline bool fits_uplink(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	__u32 mtu = 0;

	if (packet->length <= IPV6_LEAST_MTU || bpf_check_mtu(skb, UPLINK_IFINDEX, &mtu, 0, 0) < 0)
		return true;
	return segment_length(skb, packet, flow) <= mtu;
}

/*
 * The stack tells the subscriber what fits (RFC 4787, REQ-13), unless the packet asks to be cut in pieces: it would
 * cut an untranslated one.
 */
static __always_inline int answer_too_big(struct __sk_buff *skb, const struct packet *packet)
{
	if (packet->family == FAMILY_V4 && !(((const struct iphdr *)packet->network)->frag_off & IPV4_DONT_FRAGMENT))
		return drop(DROP_TOO_BIG);
	return hand_over(skb);
}

/*
 * The stack answers that the packet has lived too long; a routing rule keeps it from forwarding others. What is for
 * the node's own address it would take in, however few hops are left.
 */
static __always_inline int answer_spent(struct __sk_buff *skb, const struct packet *packet)
{
	struct address destination;

	packet_destination(packet, &destination);
	return address_is_own(&destination) ? drop(DROP_TUNNEL_DESTINATION) : hand_over(skb);
}

#endif
