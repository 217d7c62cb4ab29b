/* SPDX-License-Identifier: GPL-2.0-only */
/* From the internet into a tunnel: arithmetic on the external port finds the binding. */
#ifndef JETPLANE_WAY_IN_H
#define JETPLANE_WAY_IN_H

#include "exits.h"
#include "fragments.h"
#include "held.h"
#include "icmp_error.h"
#include "mss.h"
#include "next_hop.h"
#include "rewrite.h"
#include "segment.h"
#include "skb.h"

/* Where a packet from outside belongs: a copy, for the binding may end while the packet is under way. */
struct way_in {
	struct address inner;
	__be16 inner_port;
	struct held held;
};

/* The live binding in a slot, or the reason why there is none. */
static __always_inline enum counter way_in_at(__u32 slot, __u8 protocol, __u32 tick, struct way_in *way)
{
	struct held *held = &way->held;
	__u32 generation;
	__u64 after;

	held->slot = slot;
	held->binding = binding_at(slot);
	if (!held->binding)
		return DROP_NO_BINDING;
	held->life = life_read(held->binding);
	if (!life_is_live(held->life, protocol, tick))
		return DROP_NO_BINDING;
	way->inner = held->binding->inner;
	way->inner_port = held->binding->inner_port;
	generation = held->binding->generation;
	held->peer = peer_at(held->binding->peer);
	compiler_barrier();
	/* Still the same holder: all that was read in between is one binding's. */
	after = life_read(held->binding);
	if (!life_is_taken(after) || life_sequence(after) != life_sequence(held->life))
		return DROP_NO_BINDING;
	return peer_stands_by(held->peer, generation) ? NO_REASON : DROP_STALE_PEER;
}

/* The same at an external port, for a packet from this remote. */
static __always_inline enum counter way_in_find(__u32 exit, __u8 protocol, __be16 port, const struct address *remote,
						__be16 remote_port, __u32 tick, struct way_in *way)
{
	__u32 slot = binding_slot(exit, protocol, from_be16(port)), *found;
	struct secret *secret;
	struct reuse_outer key = {};
	enum counter reason;

	if (port_is_reused(protocol, from_be16(port))) {
		secret = secret_get();
		if (!secret)
			return DROP_NO_BINDING;
		key = reuse_outer_key(exit, from_be16(port), reuse_remote(secret, remote, remote_port));
		found = reuse_outer_find(&key);
		slot = found ? *found : NO_SLOT;
	}
	reason = way_in_at(slot, protocol, tick, way);
	/* The entry may have become another's while it was read. */
	if (TCP_REUSE && reason == NO_REASON && key.port &&
	    (way->held.binding->remotes[0] != key.remote || way->held.binding->reused_port != key.port))
		return DROP_NO_BINDING;
	return reason;
}

static __always_inline bool is_let_in(struct held *held, const struct address *remote_address, __be16 port,
				      __u8 protocol)
{
	struct secret *secret;

	if (NAT_FILTERING == FILTER_ENDPOINT_INDEPENDENT || slot_is_reused(held->slot))
		return true;
	secret = secret_get();
	if (!secret)
		return false;
	return remote_is_known(held->binding, held->slot, held->life,
			       remote_of(secret, remote_address, port, protocol));
}

/* For the stack to answer: that the packet does not fit or has lived too long. Or it cuts the packet in pieces. */
static __always_inline int answer_by_stack(struct __sk_buff *skb)
{
	if (bpf_skb_change_type(skb, PACKET_HOST))
		return drop(DROP_HELPER);
	return hand_over(skb);
}

static __always_inline int sent_in(const struct peer *peer, long verdict, __u32 bytes)
{
	if (verdict != TC_ACT_REDIRECT)
		return drop(DROP_HELPER);
	forwarded_in(peer->statistics, bytes);
	return verdict;
}

static __always_inline int send_in(const struct peer *peer, __u32 ifindex, __u32 bytes)
{
	return sent_in(peer, TUNNEL_ETHERNET ? redirect_neigh(ifindex, NULL, 0, 0) : bpf_redirect(ifindex, 0), bytes);
}

/* The same for a whole packet, without asking for the neighbour each time. */
static __always_inline int send_session_in(struct __sk_buff *skb, const struct peer *peer, const struct address *inner,
					   __u8 family, __u32 ifindex, __u32 bytes, __u32 tick)
{
	if (TUNNEL_ETHERNET && next_hop_find(skb, ifindex, family, subscriber_key(inner, ifindex), tick))
		return sent_in(peer, bpf_redirect(ifindex, 0), bytes);
	return send_in(peer, ifindex, bytes);
}

/* An exit address that is the node's own too: what has no binding is the stack's, the guard has judged it. */
static __always_inline int refuse_in(struct packet *packet, enum counter reason)
{
	struct address address;
	__u32 from;

	packet_destination(packet, &address);
	if (!address_is_own(&address))
		return drop(reason);
	/* But not what a subscriber sends round by the exit: the guard has not seen it. */
	if (packet->family == FAMILY_V4)
		from = exit_index_v4(((const struct iphdr *)packet->network)->saddr);
	else
		from = exit_index_v6((const __be32 *)&((const struct ipv6hdr *)packet->network)->saddr);
	return from == NO_EXIT ? TC_ACT_OK : drop(reason);
}

/* An ICMP error about a packet that went out. It ends no binding and refreshes none (RFC 4787, REQ-12). */
static __always_inline int error_in(struct __sk_buff *skb, struct packet *packet, __u32 exit, __u32 tick)
{
	__u32 bytes = packet->length, ifindex;
	struct icmp_error error = {};
	struct change change = {};
	struct address destination;
	enum counter reason;
	struct way_in way;

	packet_destination(packet, &destination);
	if (!icmp_error_read(packet, SIDE_SOURCE, &error) || !addresses_equal(&destination, &error.flow.source))
		return refuse_in(packet, DROP_STRAY_ERROR);
	reason = way_in_find(exit, error.flow.protocol, error.flow.source_port, &error.flow.destination,
			     error.flow.destination_port, tick, &way);
	if (reason != NO_REASON)
		return refuse_in(packet, reason == DROP_NO_BINDING ? DROP_STRAY_ERROR : reason);
	if (!is_let_in(&way.held, &error.flow.destination, error.flow.destination_port, error.flow.protocol))
		return drop(DROP_FILTERED);
	ifindex = peer_interface(way.held.peer);
	change.from = destination;
	change.from_port = error.flow.source_port;
	change.to = way.inner;
	change.to_port = way.inner_port;
	if (packet->hop_limit <= 1)
		return drop(DROP_STRAY_ERROR);
	if (!icmp_error_rewrite(packet, true, &error, SIDE_SOURCE, &change))
		return drop(DROP_MALFORMED);
	rewrite_network(packet, SIDE_DESTINATION, &change, true);
	count(COUNT_ICMP_ERRORS, 1);
	return send_in(way.held.peer, ifindex, bytes);
}

/* A first fragment has been let in: the later ones may follow. */
static __always_inline void first_in(const struct packet *packet, const struct held *held, __u32 tick)
{
	__u32 peer = *(const volatile __u32 *)&held->binding->peer;
	struct piece piece;
	__u64 key;

	if (fragment_read(packet, &piece) != NO_REASON || !fragment_key(packet, &piece, held_exit(held->slot), &key))
		return;
	/* The binding has not ended since, so the peer is its. */
	if (life_sequence(life_read(held->binding)) == life_sequence(held->life))
		fragment_remember(key, &piece, peer, held->slot, life_sequence(held->life), tick);
}

static __always_inline int session_in(struct __sk_buff *skb, struct packet *packet, struct flow *flow, __u32 exit,
				      __u64 now_ns)
{
	__u32 offset = ETH_HLEN + packet->header_length, bytes = packet->length, ifindex;
	__u32 tick = tick_of(now_ns);
	enum binding_state state;
	__u8 family = packet->family;
	struct change change;
	enum counter reason;
	struct way_in way;
	bool passes, refreshes;

	reason =
		way_in_find(exit, flow->protocol, flow->destination_port, &flow->source, flow->source_port, tick, &way);
	if (reason != NO_REASON)
		return refuse_in(packet, reason);
	if (!is_let_in(&way.held, &flow->source, flow->source_port, flow->protocol))
		return drop(DROP_FILTERED);
	if (!is_within_rate(&way.held.peer->down, way.held.peer->rate_down, bytes, now_ns))
		return drop(DROP_RATE);
	state = life_state(way.held.life);
	if (flow->protocol == PROTOCOL_TCP)
		state = tcp_after_in(state, flow->tcp_flags, binding_is_shared(way.held.binding));
	refreshes = INBOUND_REFRESH && (flow->protocol != PROTOCOL_TCP || tcp_in_refreshes(state, flow->tcp_flags));
	if (!life_update(&way.held, state, refreshes ? tick : life_tick(way.held.life)))
		return drop(DROP_BUSY);
	if (unlikely(packet->fragment))
		first_in(packet, &way.held, tick);
	ifindex = peer_interface(way.held.peer);
	change.from = flow->destination;
	change.from_port = flow->destination_port;
	change.to = way.inner;
	change.to_port = way.inner_port;
	passes = packet->hop_limit > 1 && segment_length(skb, packet, flow) <= TUNNEL_MTU;
	if (!rewrite_session(skb, packet, offset, SIDE_DESTINATION, flow, &change, passes))
		return drop(DROP_HELPER);
	if (!passes)
		return answer_by_stack(skb);
	if (flow->tcp_flags & TCP_SYN)
		mss_clamp(skb, offset, family);
	return send_session_in(skb, way.held.peer, &change.to, family, ifindex, bytes, tick);
}

/*
 * A later fragment without an entry. Its first one may be right behind it, in the same burst: so it goes to the end of
 * what this CPU has received, once. Then it is a stray. Only UDP is left to the stack where the address is the node's
 * too: the node takes nothing else in fragments.
 */
static __always_inline int fragment_wait(struct __sk_buff *skb, struct packet *packet, __u64 now_ns)
{
	struct bucket *bucket = fragments_again_bucket();
	__u64 paid_until_ns = 0;

	if (bucket && skb->mark != FRAGMENT_AGAIN_MARK)
		paid_until_ns = bucket_spend(bucket->paid_until_ns, FRAGMENTS_AGAIN_PER_SECOND, 1, now_ns);
	if (paid_until_ns) {
		bucket->paid_until_ns = paid_until_ns;
		skb->mark = FRAGMENT_AGAIN_MARK;
		count(COUNT_FRAGMENTS_AGAIN, 1);
		return bpf_redirect(UPLINK_IFINDEX, BPF_F_INGRESS);
	}
	skb->mark = 0;
	if (packet->protocol == IPPROTO_UDP)
		return refuse_in(packet, DROP_FRAGMENT_STRAY);
	return drop(DROP_FRAGMENT_STRAY);
}

/* A later fragment follows its first one. It is policed and judged by its own size, and refreshes nothing. */
static __always_inline int later_in(struct __sk_buff *skb, struct packet *packet, const struct piece *piece, __u32 exit,
				    __u64 now_ns)
{
	__u32 tick = tick_of(now_ns), bytes = packet->length, ifindex, sequence = 0, slot;
	struct change change = {};
	struct way_in way;
	bool passes;
	__u64 key;

	if (!fragment_key(packet, piece, exit, &key))
		return drop(DROP_HELPER);
	slot = fragment_follow(key, piece, tick, &sequence);
	if (slot == NO_SLOT || held_exit(slot) != exit ||
	    way_in_at(slot, held_protocol(slot), tick, &way) != NO_REASON || life_sequence(way.held.life) != sequence)
		return fragment_wait(skb, packet, now_ns);
	if (!is_within_rate(&way.held.peer->down, way.held.peer->rate_down, bytes, now_ns))
		return drop(DROP_RATE);
	ifindex = peer_interface(way.held.peer);
	packet_destination(packet, &change.from);
	change.to = way.inner;
	passes = packet->hop_limit > 1 && bytes <= TUNNEL_MTU;
	rewrite_network(packet, SIDE_DESTINATION, &change, passes);
	return passes ? send_in(way.held.peer, ifindex, bytes) : answer_by_stack(skb);
}

/* Index of the exit address the packet is for; @inner: it is for an inner address. Reads no more than the IP header. */
static __always_inline __u32 exit_of(struct __sk_buff *skb, bool *inner)
{
	__u32 size = skb->protocol == BE16(ETH_P_IP) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	*inner = false;
	/* Too short for its header: nobody's, and the stack drops it. */
	if (skb_data(skb) + ETH_HLEN + size > skb_data_end(skb) && bpf_skb_pull_data(skb, ETH_HLEN + size))
		return NO_EXIT;
	ip4 = skb_data(skb) + ETH_HLEN;
	ip6 = (void *)ip4;
	if (skb->protocol == BE16(ETH_P_IP) && (void *)(ip4 + 1) <= skb_data_end(skb)) {
		*inner = is_inner_v4(ip4->daddr);
		return exit_index_v4(ip4->daddr);
	}
	if (skb->protocol == BE16(ETH_P_IPV6) && (void *)(ip6 + 1) <= skb_data_end(skb)) {
		*inner = is_inner_v6((__be32 *)&ip6->daddr);
		return exit_index_v6((__be32 *)&ip6->daddr);
	}
	return NO_EXIT;
}

/* Who asks on the link for an exit address is answered if routing leads there, which it does for the mark only. */
static __always_inline int answer_neighbour(struct __sk_buff *skb)
{
	skb->mark = HANDOVER_MARK;
	return TC_ACT_OK;
}

#endif
