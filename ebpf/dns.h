/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * DNS by the node's own resolver: port 53 of its addresses on the tunnels, and, where the node steers, port 53 of every
 * other address as well.
 *
 * What a subscriber asks of the resolver itself passes as it is and leaves nothing behind. A steered flow comes to the
 * resolver from a port that stands for it alone, one of DNS_PORTS that are kept for this at each peer: so the answer
 * names its flow, whatever ports the subscriber uses, and leaves with the address that was asked. An entry ends with
 * the last answer; who has no place left for one more hears nothing, and nothing leaves the node instead.
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_DNS_H
#define JETPLANE_DNS_H

#include "destination.h"
#include "fragments.h"
#include "held.h"
#include "icmp_error.h"
#include "rewrite.h"

#define DNS_PORT      53
#define DNS_PROBES    8  /* one for each byte of a hash */
#define DNS_UDP_TICKS 10 /* resolvers and clients give up after five to ten seconds */
#define DNS_TCP_TICKS 60 /* RFC 7766, section 6.2.3: servers close what idles for some seconds */

#define DNS_HASH 3 /* keeps this apart from what else is hashed (fragments.h) */

#define DNS_CLOSED_OUT 1
#define DNS_CLOSED_IN  2
#define DNS_CLOSED     (DNS_CLOSED_OUT | DNS_CLOSED_IN)

/* What `what` of a key is made of: a port that stands for a flow, with its kind, or a datagram's identification. */
#define DNS_KIND_SHIFT 16
#define DNS_DATAGRAM   (1u << 31)

/* One of the addresses at which subscribers reach the resolver. */
static __always_inline bool is_resolver_v4(__be32 word)
{
	bool found = false;

	(void)word;
#define X(own) found |= (__u32)word == (own);
	DNS_V4(X)
#undef X
	return found;
}

static __always_inline bool is_resolver_v6(const __be32 *words)
{
	bool found = false;

	(void)words;
#define X(a, b, c, d) found |= words_equal(words, a, b, c, d);
	DNS_V6(X)
#undef X
	return found;
}

static __always_inline bool is_for_resolver(const struct packet *packet)
{
	if (packet->family == FAMILY_V4)
		return is_resolver_v4(((const struct iphdr *)packet->network)->daddr);
	return is_resolver_v6((const __be32 *)&((const struct ipv6hdr *)packet->network)->daddr);
}

static __always_inline bool is_from_resolver(const struct packet *packet)
{
	if (packet->family == FAMILY_V4)
		return is_resolver_v4(((const struct iphdr *)packet->network)->saddr);
	return is_resolver_v6((const __be32 *)&((const struct ipv6hdr *)packet->network)->saddr);
}

/* Where steered packets go. */
static __always_inline void resolver_address(__u8 family, struct address *address)
{
	__be32 *words = (__be32 *)address;

	if (family == FAMILY_V4) {
		address_from_v4(address, (__be32)DNS_STEER_V4);
		return;
	}
	words[0] = (__be32)DNS_STEER_V6_0;
	words[1] = (__be32)DNS_STEER_V6_1;
	words[2] = (__be32)DNS_STEER_V6_2;
	words[3] = (__be32)DNS_STEER_V6_3;
}

/* Is it for the node's resolver, by itself or because the node steers? What is too short for ports is not. */
static __always_inline bool is_question(const struct packet *packet, enum destination destination)
{
	struct transport_start *start;

	if ((packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP) || packet->fragment == FRAGMENT_LATER)
		return false;
	start = packet_transport(packet, sizeof(*start));
	if (!start || start->destination_port != BE16(DNS_PORT))
		return false;
	if (DNS_STEER)
		return destination != DESTINATION_UNROUTABLE;
	return destination == DESTINATION_NODE && is_for_resolver(packet);
}

/* Does this port of a subscriber's address stand for a steered flow? */
static __always_inline bool port_stands_in(__be16 port)
{
	return (__u16)(from_be16(port) - DNS_FIRST_PORT) < DNS_PORTS;
}

static __always_inline struct steered_key steered_key_of(__u32 peer, __u8 family, __u8 protocol, __u16 port)
{
	struct steered_key key = {
		.peer = peer,
		.what = port | (__u32)(protocol << 1 | family) << DNS_KIND_SHIFT,
	};

	return key;
}

/* Every fragment of an answer has the datagram's identification, only the first one its ports. */
static __always_inline struct steered_key datagram_key_of(__u32 peer, __u8 family, __u32 identification)
{
	struct steered_key key = {
		.peer = peer,
		.what = DNS_DATAGRAM | (__u32)family << 30 | (identification & 0x3fffffff),
	};

	return key;
}

static __always_inline __u32 steered_ticks(__u32 what, __u64 closed)
{
	bool tcp = what >> DNS_KIND_SHIFT >> 1 == PROTOCOL_TCP;

	return tcp && closed != DNS_CLOSED ? DNS_TCP_TICKS : DNS_UDP_TICKS;
}

static __always_inline bool steered_lives(const struct steered *entry, __u32 what, __u32 generation, __u32 tick)
{
	return entry->generation == generation &&
	       (__s32)(tick - entry->tick) < (__s32)steered_ticks(what, entry->closed);
}

/* The eight places that a flow may have, a byte each. */
static __always_inline __u64 steered_places(const struct secret *secret, const struct flow *flow)
{
	struct sip sip;

	sip_begin(&sip, secret);
	sip_take(&sip, DNS_HASH | (__u64)flow->protocol << 32 | (__u64)(__u16)flow->source_port << 40);
	sip_take_address(&sip, &flow->source);
	sip_take_address(&sip, &flow->destination);
	return sip_end(&sip);
}

static __always_inline bool steered_is_of(const struct steered *entry, const struct flow *flow)
{
	return entry->port == flow->source_port && addresses_equal(&entry->inner, &flow->source) &&
	       addresses_equal(&entry->asked, &flow->destination);
}

/* A packet of the subscriber's in a flow that there is. */
static __always_inline void steered_use(struct steered *entry, const struct flow *flow, __u32 questions, __u32 tick)
{
	entry->tick = tick;
	if (flow->protocol == PROTOCOL_UDP) {
		__sync_fetch_and_add(&entry->waiting, questions);
		return;
	}
	if (flow->tcp_flags & TCP_SYN)
		entry->closed = 0;
	else if (flow->tcp_flags & TCP_RST)
		entry->closed = DNS_CLOSED;
	else if (flow->tcp_flags & TCP_FIN)
		__sync_fetch_and_or(&entry->closed, DNS_CLOSED_OUT);
}

/*
 * The port that stands for a flow, found or taken. 0: @reason says why there is none. @questions: datagrams that the
 * kernel has joined into this packet. @opens: it may begin a flow.
 */
static __always_inline __u32 steered_port(__u32 peer, __u32 generation, __u8 family, const struct flow *flow,
					  bool opens, __u32 questions, __u32 tick, enum counter *reason)
{
	struct steered fresh = {
		.inner = flow->source,
		.asked = flow->destination,
		.port = flow->source_port,
		.waiting = questions,
		.generation = generation,
		.tick = tick,
	};
	struct secret *secret = secret_get();
	struct steered_key key;
	struct steered *entry;
	__u32 port, spare = 0;
	__u64 places;
	int probe;

	*reason = DROP_HELPER;
	if (!secret)
		return 0;
	places = steered_places(secret, flow);
	for (probe = 0; probe < DNS_PROBES; probe++, places >>= 8) {
		port = DNS_FIRST_PORT + (places & (DNS_PORTS - 1));
		key = steered_key_of(peer, family, flow->protocol, port);
		entry = steered_find(&key);
		if (!entry || !steered_lives(entry, key.what, generation, tick)) {
			spare = port;
			continue;
		}
		if (!steered_is_of(entry, flow))
			continue;
		steered_use(entry, flow, questions, tick);
		return port;
	}
	*reason = DROP_DNS_SESSION;
	if (!opens)
		return 0;
	*reason = DROP_DNS_FULL;
	if (!spare)
		return 0;
	key = steered_key_of(peer, family, flow->protocol, spare);
	steered_remove(&key);
	/* Another CPU may have been faster; else there are as many entries as there is room for. */
	return steered_add(&key, &fresh) ? 0 : spare;
}

/* To the resolver in the place of whom the subscriber asked. No hop is taken: it is delivered here, not forwarded. */
static __always_inline int steer(struct __sk_buff *skb, struct packet *packet, struct flow *flow, __u32 peer,
				 __u32 generation, bool opens, __u32 tick)
{
	__u32 offset = TUNNEL_HEADER + packet->header_length, port;
	__u32 questions = skb->gso_segs ? skb->gso_segs : 1;
	struct change change;
	enum counter reason;

	port = steered_port(peer, generation, packet->family, flow, opens, questions, tick, &reason);
	if (!port)
		return drop(reason);
	change.from = flow->destination;
	resolver_address(packet->family, &change.to);
	change.from_port = flow->source_port;
	change.to_port = to_be16(port);
	if (!rewrite_across(skb, packet, offset, SIDE_DESTINATION, flow->protocol, &change))
		return drop(DROP_HELPER);
	count(COUNT_DNS_QUESTIONS, 1);
	count(COUNT_DNS_STEERED, 1);
	return TC_ACT_OK;
}

/*
 * A packet to the resolver. Each datagram costs as much as the beginning of a flow, and so does each connection: nobody
 * asks faster than he may begin flows, whoever he asks.
 */
static __always_inline int question_out(struct __sk_buff *skb, struct packet *packet, __u64 now_ns)
{
	struct flow flow = {};
	struct peer *peer;
	__u32 *index;
	bool opens;

	if (packet->options)
		return drop(DROP_OPTIONS);
	if (packet->fragment)
		return drop(DROP_FRAGMENT);
	if (flow_read(packet, SIDE_SOURCE, &flow) != FLOW_SESSION)
		return drop(DROP_MALFORMED);
	index = address_find(&flow.source);
	peer = index ? peer_at(*index) : NULL;
	if (!peer || !peer_is_at(peer, skb->ifindex))
		return drop(DROP_UNKNOWN_SOURCE);
	opens = flow.protocol == PROTOCOL_UDP || (flow.tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	if (opens && !flow_may_begin(*index))
		return drop(DROP_NEW_FLOWS);
	if (!is_within_rate(&peer->up, peer->rate_up, packet->length, now_ns))
		return drop(DROP_RATE);
	if (DNS_STEER && (!is_for_resolver(packet) || port_stands_in(flow.source_port)))
		return steer(skb, packet, &flow, *index, peer->generation, opens, tick_of(now_ns));
	count(COUNT_DNS_QUESTIONS, 1);
	return TC_ACT_OK;
}

/* While the node's key changes, what the stack sends goes by the interface that has the addresses, and the peer may not. */
static __always_inline int to_peer(struct __sk_buff *skb, const struct peer *peer)
{
	if (KEY_ROTATION && peer_interface(peer) != skb->ifindex)
		return bpf_redirect(peer_interface(peer), 0);
	return TC_ACT_OK;
}

/* One answer less to wait for; with the last one the entry ends. */
static __always_inline void steered_answered(const struct steered_key *key, struct steered *entry)
{
	if (__sync_fetch_and_sub(&entry->waiting, 1) == 1)
		steered_remove(key);
}

/* The same of a packet of TCP, which may be its last. */
static __always_inline void steered_heard(struct steered *entry, __u8 tcp_flags, __u32 tick)
{
	entry->tick = tick;
	if (tcp_flags & TCP_RST)
		entry->closed = DNS_CLOSED;
	else if (tcp_flags & TCP_FIN)
		__sync_fetch_and_or(&entry->closed, DNS_CLOSED_IN);
}

/* What stands in a port's place, if it waits for something that is sent to @inner. */
static __always_inline struct steered *steered_at(const struct steered_key *key, const struct address *inner,
						  __u32 generation, __u32 tick)
{
	struct steered *entry = steered_find(key);

	if (!entry || !steered_lives(entry, key->what, generation, tick) || !addresses_equal(&entry->inner, inner))
		return NULL;
	return entry;
}

/*
 * The stack's own error about a steered packet, that nobody listens above all: the subscriber is to hear of it as if
 * whom he asked had told him.
 */
static __always_inline int error_back(struct __sk_buff *skb, struct packet *packet, __u32 tick)
{
	struct change asked = {}, port = {};
	struct icmp_error error = {};
	struct icmp_header *icmp;
	struct steered_key key;
	struct address inner;
	struct steered *entry;
	struct peer *peer;
	__u32 *index;

	icmp = packet_icmp(packet);
	if (!icmp || packet->fragment || !is_icmp_error(packet->family, icmp->type) ||
	    !icmp_error_read(packet, SIDE_SOURCE, &error))
		return TC_ACT_OK;
	if (error.flow.protocol == PROTOCOL_ICMP || error.flow.destination_port != BE16(DNS_PORT) ||
	    !port_stands_in(error.flow.source_port))
		return TC_ACT_OK;
	packet_destination(packet, &inner);
	index = address_find(&inner);
	peer = index ? peer_at(*index) : NULL;
	if (!peer || !addresses_equal(&inner, &error.flow.source))
		return drop(DROP_STRAY_ERROR);
	key = steered_key_of(*index, packet->family, error.flow.protocol, from_be16(error.flow.source_port));
	entry = steered_at(&key, &inner, peer->generation, tick);
	if (!entry)
		return drop(DROP_STRAY_ERROR);
	asked.from = error.flow.destination;
	asked.to = entry->asked;
	asked.from_port = asked.to_port = BE16(DNS_PORT);
	port.from = port.to = inner;
	port.from_port = error.flow.source_port;
	port.to_port = entry->port;
	if (error.flow.protocol == PROTOCOL_UDP)
		steered_answered(&key, entry);
	else
		steered_heard(entry, TCP_RST, tick);
	if (!icmp_error_rewrite(packet, true, &error, SIDE_DESTINATION, &asked) ||
	    !icmp_error_rewrite(packet, false, &error, SIDE_SOURCE, &port))
		return drop(DROP_MALFORMED);
	rewrite_network(packet, SIDE_SOURCE, &asked, false);
	count(COUNT_ICMP_ERRORS, 1);
	return to_peer(skb, peer);
}

/* The address that the later fragments of an answer must leave with, noted by the first one. */
static __always_inline bool piece_remember(const struct packet *packet, __u32 peer, const struct steered *entry,
					   __u32 tick)
{
	struct steered fresh = {
		.inner = entry->inner,
		.asked = entry->asked,
		.generation = entry->generation,
		.tick = tick,
	};
	struct steered_key key;
	struct piece piece;

	if (fragment_read(packet, &piece) != NO_REASON)
		return false;
	key = datagram_key_of(peer, packet->family, piece.identification);
	steered_remove(&key);
	return !steered_add(&key, &fresh);
}

/* A later fragment of an answer; the stack cuts them in order. Answers that are not steered have no entry. */
static __always_inline int piece_back(struct __sk_buff *skb, struct packet *packet, const struct address *inner,
				      __u32 index, const struct peer *peer, __u32 tick)
{
	struct change change = {};
	struct steered_key key;
	struct steered *entry;
	struct piece piece;

	if (fragment_read(packet, &piece) != NO_REASON)
		return drop(DROP_MALFORMED);
	key = datagram_key_of(index, packet->family, piece.identification);
	entry = steered_at(&key, inner, peer->generation, tick);
	if (!entry)
		return to_peer(skb, peer);
	packet_source(packet, &change.from);
	change.to = entry->asked;
	rewrite_network(packet, SIDE_SOURCE, &change, false);
	if (piece.last)
		steered_remove(&key);
	return to_peer(skb, peer);
}

/* What the resolver says to a subscriber: with the address and to the port of the question, or as it is. */
static __always_inline int answer_back(struct __sk_buff *skb, struct packet *packet, __u32 tick)
{
	__u32 offset = TUNNEL_HEADER + packet->header_length;
	struct steered_key key;
	struct change change = {};
	struct flow flow = {};
	struct steered *entry;
	struct address inner;
	struct peer *peer;
	__u32 *index;

	packet_destination(packet, &inner);
	index = address_find(&inner);
	peer = index ? peer_at(*index) : NULL;
	if (!peer)
		return TC_ACT_OK;
	if (DNS_STEER && packet->fragment == FRAGMENT_LATER)
		return piece_back(skb, packet, &inner, *index, peer, tick);
	if (!DNS_STEER || packet->fragment == FRAGMENT_LATER ||
	    flow_read(packet, SIDE_DESTINATION, &flow) != FLOW_SESSION || flow.source_port != BE16(DNS_PORT) ||
	    !port_stands_in(flow.destination_port))
		return to_peer(skb, peer);
	key = steered_key_of(*index, packet->family, flow.protocol, from_be16(flow.destination_port));
	entry = steered_at(&key, &inner, peer->generation, tick);
	if (!entry)
		return drop(DROP_DNS_SESSION);
	if (packet->fragment && !piece_remember(packet, *index, entry, tick))
		return drop(DROP_DNS_FULL);
	change.from = flow.source;
	change.to = entry->asked;
	change.from_port = flow.destination_port;
	change.to_port = entry->port;
	if (flow.protocol == PROTOCOL_UDP)
		steered_answered(&key, entry);
	else
		steered_heard(entry, flow.tcp_flags, tick);
	if (!rewrite_across(skb, packet, offset, SIDE_SOURCE, flow.protocol, &change))
		return drop(DROP_HELPER);
	return to_peer(skb, peer);
}

/* Has this entry's time come? The sweep's. */
static __always_inline bool steered_is_due(const struct steered_key *key, __u32 tick)
{
	struct steered *entry = steered_find(key);
	struct peer *peer = peer_at(key->peer);

	return !entry || !peer_stands_by(peer, entry->generation) ||
	       !steered_lives(entry, key->what, entry->generation, tick);
}

#endif
