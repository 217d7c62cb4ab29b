/* SPDX-License-Identifier: GPL-2.0-only */
/* What may leave the uplink, and what the node's own errors may say of a subscriber. */
#ifndef JETPLANE_LEAK_H
#define JETPLANE_LEAK_H

#include "exits.h"
#include "held.h"
#include "icmp_error.h"
#include "known_sources.h"
#include "local_ports.h"
#include "wireguard.h"

/*
 * The stack answers about IPv6's later fragments too. They have no port to find their binding by, and their first one,
 * of the same size, has been answered.
 */
static __always_inline bool tells_of_inner(const struct packet *embedded)
{
	struct address destination;

	if (embedded->fragment != FRAGMENT_LATER)
		return false;
	packet_destination(embedded, &destination);
	if (embedded->family == FAMILY_V4)
		return is_inner_v4(((const __be32 *)&destination)[3]);
	return is_inner_v6((const __be32 *)&destination);
}

/*
 * An ICMP error of the node's own stack about a packet that nat_in had translated and then handed over: to the site
 * it must speak of the exit address. NO_REASON also for everything that is no such error.
 */
static __always_inline enum counter unveil(struct packet *packet, __u32 tick)
{
	struct icmp_error error = {};
	struct inner_endpoint endpoint = {};
	struct change change = {};
	struct icmp_header *icmp;
	struct held held;
	bool inner;

	if (!is_icmp(packet) || packet->fragment)
		return NO_REASON;
	icmp = packet_icmp(packet);
	if (!icmp || !is_icmp_error(packet->family, icmp->type))
		return NO_REASON;
	if (!icmp_error_read(packet, SIDE_DESTINATION, &error))
		return tells_of_inner(&error.packet) ? DROP_STRAY_ERROR : NO_REASON;
	endpoint.address = error.flow.destination;
	endpoint.port = error.flow.destination_port;
	endpoint.protocol = error.flow.protocol;
	if (packet->family == FAMILY_V4)
		inner = is_inner_v4(((const __be32 *)&endpoint.address)[3]);
	else
		inner = is_inner_v6((const __be32 *)&endpoint.address);
	if (!inner)
		return NO_REASON;
	if (!held_look(&endpoint, &error.flow.source, error.flow.source_port, packet->family, tick, &held))
		return DROP_LEAK;
	change.from = endpoint.address;
	change.from_port = endpoint.port;
	change.to_port = to_be16(held_port(&held));
	exit_address(held_exit(held.slot), &change.to);
	if (!icmp_error_rewrite(packet, false, &error, SIDE_DESTINATION, &change))
		return DROP_LEAK;
	count(COUNT_ICMP_ERRORS, 1);
	return NO_REASON;
}

static __always_inline bool is_tcp_or_udp(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

/* Has the node itself made this? No interface has received it then; a socket's name may have come with it from tun. */
static __always_inline bool is_made_here(struct __sk_buff *skb)
{
	return !skb->ingress_ifindex;
}

/*
 * Nearly all that leaves: a subscriber's sound TCP or UDP packet from an exit address. Of such there is nothing more to
 * ask, and most of the cost of asking lies in finding that out.
 */
static __always_inline bool is_session_of_subscriber(struct __sk_buff *skb)
{
	const struct ipv6hdr *ip6 = skb_data(skb) + ETH_HLEN;
	const struct iphdr *ip4 = (const void *)ip6;
	__u32 available = skb->len - ETH_HLEN, length;

	if (is_made_here(skb))
		return false;
	if (skb->protocol == BE16(ETH_P_IP)) {
		if ((void *)(ip4 + 1) > skb_data_end(skb) || *(const __u8 *)ip4 != 0x45 /* no options */)
			return false;
		length = from_be16(ip4->tot_len);
		return length >= sizeof(*ip4) && length <= available && exit_index_v4(ip4->saddr) != NO_EXIT &&
		       is_tcp_or_udp(ip4->protocol);
	}
	if (skb->protocol != BE16(ETH_P_IPV6) || (void *)(ip6 + 1) > skb_data_end(skb) || ip6->version != 6)
		return false;
	length = sizeof(*ip6) + from_be16(ip6->payload_len);
	return length <= available && exit_index_v6((const __be32 *)&ip6->saddr) != NO_EXIT &&
	       is_tcp_or_udp(ip6->nexthdr);
}

static __always_inline bool is_source_ours(const struct packet *packet)
{
	struct address source;
	const __be32 *words;

	packet_source(packet, &source);
	words = (const __be32 *)&source;
	if (packet->family == FAMILY_V4) {
		if (exit_index_v4(words[3]) != NO_EXIT || !words[3])
			return true;
	} else {
		if (exit_index_v6(words) != NO_EXIT || !(words[0] | words[1] | words[2] | words[3]))
			return true;
		if (((__u32)words[0] & 0xc0ff) == 0x80fe)
			return true;
	}
	return address_is_own(&source);
}

static __always_inline void remember_known(__u32 half, __u32 number)
{
	__u64 *word = known_word_at(known_word(half, number));

	if (word && !(*word & known_bit(number)))
		__sync_fetch_and_or(word, known_bit(number));
}

/*
 * What the node sends from a port of WireGuard to somebody whose key it knows: a response or data, no cookie. The guard
 * lets that prefix's handshakes in when strangers' are too many.
 */
static __always_inline void remember_session(const struct packet *packet)
{
	struct address destination;
	struct secret *secret;
	struct udphdr *udp;
	__u32 type, half;
	__u64 hash;

	if (packet->protocol != IPPROTO_UDP || packet->fragment == FRAGMENT_LATER)
		return;
	udp = packet_udp(packet);
	if (!udp || !is_wireguard_port(udp->source))
		return;
	type = wireguard_type(packet, udp);
	secret = secret_get();
	if (!secret || (type != WIREGUARD_RESPONSE && type != WIREGUARD_DATA))
		return;
	packet_destination(packet, &destination);
	hash = source_prefix_hash(secret, &destination, packet->family == FAMILY_V4);
	half = half_of(HALF_KNOWN);
	remember_known(half, hash);
	remember_known(half, hash >> 32);
}

/* From which port the node itself sends, so that the guard looks for a socket there; WireGuard has no need of that. */
static __always_inline void remember_port(struct __sk_buff *skb, const struct packet *packet)
{
	const __be16 *source = packet->transport;
	struct local_ports *ports;
	__u32 place;

	if (!is_made_here(skb) || packet->fragment == FRAGMENT_LATER || !is_tcp_or_udp(packet->protocol) ||
	    (const void *)(source + 1) > packet->end)
		return;
	if (packet->protocol == IPPROTO_UDP && is_wireguard_port(*source))
		return;
	place = port_place(packet->protocol, *source);
	ports = local_ports_at(place);
	if (ports)
		port_remember(ports, half_of(HALF_PORTS), place);
}

#endif
