/* SPDX-License-Identifier: GPL-2.0-only */
/* Who talks to whom: what the translation needs to know about a packet, alike for every protocol. Pure. */
#ifndef JETPLANE_FLOW_H
#define JETPLANE_FLOW_H

#include "icmp.h"
#include "packet.h"

enum side {
	SIDE_SOURCE,
	SIDE_DESTINATION,
};

enum flow_kind {
	FLOW_SESSION, /* TCP, UDP, or an ICMP query */
	FLOW_ERROR,   /* an ICMP error: the session it is about lies inside */
	FLOW_FOREIGN, /* nothing that can share an address */
	FLOW_MALFORMED,
};

struct flow {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port; /* ICMP: both are the query identifier */
	__u8 protocol;           /* enum protocol */
	__u8 tcp_flags;
};

/* The first eight bytes of a transport header: all that an ICMP error is bound to carry (RFC 792). */
struct transport_start {
	__be16 source_port;
	__be16 destination_port;
	__be32 rest;
};

#define TCP_FLAGS_OFFSET 13

/*
 * enum protocol of the four IP protocol numbers that are translated, and nothing of use for others. A table in a word
 * and not a choice: the verifier then follows one value through what comes after instead of three.
 */
static __always_inline __u8 session_protocol(__u8 number)
{
	const __u64 table = (__u64)PROTOCOL_TCP << 2 * IPPROTO_TCP | (__u64)PROTOCOL_UDP << 2 * IPPROTO_UDP |
			    (__u64)PROTOCOL_ICMP << 2 * IPPROTO_ICMP |
			    (__u64)PROTOCOL_ICMP << 2 * (IPPROTO_ICMPV6 % 32);

	return opaque(table >> 2 * (number % 32)) & 3;
}

/*
 * All other protocols are refused, both ways, with a counted reason:
 *  - ESP, AH: their only handle, the SPI, is chosen by each end for the other, so an answer shows no subscriber whose
 *    it is; AH signs the addresses as well. IPsec crosses in UDP (RFC 3948);
 *  - GRE, L2TP over IP, IPIP, IPv6 in IPv4: no ports, one tunnel per pair of addresses, and what lies inside would
 *    leave without any of the checks made here;
 *  - SCTP: its CRC32c covers the ports, so a new one means reading the whole packet, and its other addresses, told in
 *    chunks, would show the inner ones. It crosses in UDP (RFC 6951);
 *  - DCCP, UDP-Lite: could be translated, but hardly anybody uses them: a subscriber who did would be known by it;
 *  - IGMP, PIM, OSPF and others like them speak to the link, not beyond it;
 *  - a routing header, a seventh extension and what hides behind them: who reads no further must not let it pass.
 */

/* @query: whether an ICMP session is named by the request or by the reply. */
static __always_inline bool is_query(const struct packet *packet, __u8 type, enum side query)
{
	if (query == SIDE_SOURCE)
		return is_query_request(packet->family, type);
	return is_query_reply(packet->family, type);
}

/* Read the ports of a packet, or of its first fragment: later ones have none. @inner is the subscriber's end. */
static __always_inline enum flow_kind flow_read(const struct packet *packet, enum side inner, struct flow *flow)
{
	struct icmp_header *icmp;
	struct tcphdr *tcp;
	struct udphdr *udp;

	packet_source(packet, &flow->source);
	packet_destination(packet, &flow->destination);
	flow->protocol = session_protocol(packet->protocol);
	flow->tcp_flags = 0;
	if (packet->protocol == IPPROTO_TCP) {
		tcp = packet_tcp(packet);
		if (!tcp)
			return FLOW_MALFORMED;
		flow->source_port = tcp->source;
		flow->destination_port = tcp->dest;
		flow->tcp_flags = ((__u8 *)tcp)[TCP_FLAGS_OFFSET];
		return FLOW_SESSION;
	}
	if (packet->protocol == IPPROTO_UDP) {
		udp = packet_udp(packet);
		if (!udp)
			return FLOW_MALFORMED;
		flow->source_port = udp->source;
		flow->destination_port = udp->dest;
		return FLOW_SESSION;
	}
	if (!is_icmp(packet))
		return FLOW_FOREIGN;
	icmp = packet_icmp(packet);
	if (!icmp)
		return FLOW_MALFORMED;
	if (is_icmp_error(packet->family, icmp->type))
		return FLOW_ERROR;
	if (!is_query(packet, icmp->type, inner))
		return FLOW_FOREIGN;
	flow->source_port = icmp->identifier;
	flow->destination_port = icmp->identifier;
	return FLOW_SESSION;
}

/* The same for a packet inside an ICMP error, of which only the start may be there. */
static __always_inline enum flow_kind flow_read_embedded(const struct packet *packet, enum side inner,
							 struct flow *flow)
{
	struct transport_start *start = packet->transport;
	struct icmp_header *icmp = packet->transport;

	if ((void *)(start + 1) > packet->end || packet->fragment == FRAGMENT_LATER)
		return FLOW_MALFORMED;
	packet_source(packet, &flow->source);
	packet_destination(packet, &flow->destination);
	flow->protocol = session_protocol(packet->protocol);
	flow->tcp_flags = 0;
	if (is_icmp(packet)) {
		if (!is_query(packet, icmp->type, inner))
			return FLOW_FOREIGN;
		flow->source_port = icmp->identifier;
		flow->destination_port = icmp->identifier;
		return FLOW_SESSION;
	}
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP)
		return FLOW_FOREIGN;
	flow->source_port = start->source_port;
	flow->destination_port = start->destination_port;
	return FLOW_SESSION;
}

#endif
