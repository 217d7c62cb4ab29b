/* SPDX-License-Identifier: GPL-2.0-only */
/* What kind of ICMP message a packet is, in either family. */
#ifndef JETPLANE_ICMP_H
#define JETPLANE_ICMP_H

#include "packet.h"

/* RFC 792 */
#define ICMPV4_ECHO_REPLY        0
#define ICMPV4_UNREACHABLE       3
#define ICMPV4_ECHO_REQUEST      8
#define ICMPV4_TIME_EXCEEDED     11
#define ICMPV4_PARAMETER_PROBLEM 12
#define ICMPV4_TIMESTAMP         13
#define ICMPV4_TIMESTAMP_REPLY   14

/* RFC 4443; errors are 1 to 4 */
#define ICMPV6_UNREACHABLE       1
#define ICMPV6_TOO_BIG           2
#define ICMPV6_TIME_EXCEEDED     3
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMPV6_ECHO_REQUEST      128
#define ICMPV6_ECHO_REPLY        129

/* RFC 3810, RFC 4861 */
#define ICMPV6_MULTICAST_QUERY         130
#define ICMPV6_ROUTER_ADVERTISEMENT    134
#define ICMPV6_NEIGHBOUR_SOLICITATION  135
#define ICMPV6_NEIGHBOUR_ADVERTISEMENT 136

#define LINK_HOP_LIMIT 255 /* no router has passed it on (RFC 4861, section 3.1) */

static __always_inline bool is_icmp(const struct packet *packet)
{
	return packet->protocol == (packet->family == FAMILY_V4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* Errors carry the packet they are about; "too big" is one of them. */
static __always_inline bool is_icmp_error(__u8 family, __u8 type)
{
	if (family == FAMILY_V4)
		return type == ICMPV4_UNREACHABLE || type == ICMPV4_TIME_EXCEEDED || type == ICMPV4_PARAMETER_PROBLEM;
	return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER_PROBLEM;
}

static __always_inline bool is_echo_request(__u8 family, __u8 type)
{
	return type == (family == FAMILY_V4 ? ICMPV4_ECHO_REQUEST : ICMPV6_ECHO_REQUEST);
}

static __always_inline bool is_echo_reply(__u8 family, __u8 type)
{
	return type == (family == FAMILY_V4 ? ICMPV4_ECHO_REPLY : ICMPV6_ECHO_REPLY);
}

/*
 * What begins a query session (RFC 5508, section 3). Of the other queries of IPv4, 15 to 18 are obsolete (RFC 6918),
 * and 10 asks the link for routers; ICMPv6 has echo alone.
 */
static __always_inline bool is_query_request(__u8 family, __u8 type)
{
	return is_echo_request(family, type) || (family == FAMILY_V4 && type == ICMPV4_TIMESTAMP);
}

static __always_inline bool is_query_reply(__u8 family, __u8 type)
{
	return is_echo_reply(family, type) || (family == FAMILY_V4 && type == ICMPV4_TIMESTAMP_REPLY);
}

/*
 * What keeps an IPv6 host on its link. The hop limit proves that the sender is a neighbour. Redirects and router
 * solicitations are not a host's to hear.
 */
static __always_inline bool is_neighbour_discovery(__u8 type, __u8 hop_limit)
{
	switch (type) {
	case ICMPV6_ROUTER_ADVERTISEMENT:
	case ICMPV6_NEIGHBOUR_SOLICITATION:
	case ICMPV6_NEIGHBOUR_ADVERTISEMENT:
		return hop_limit == LINK_HOP_LIMIT;
	case ICMPV6_MULTICAST_QUERY:
		return hop_limit == 1;
	}
	return false;
}

/* What neighbours on an Ethernet link need to find each other. */
static __always_inline bool is_link_talk(const struct packet *packet)
{
	const struct icmp_header *icmp;

	if (packet->family != FAMILY_V6 || !is_icmp(packet) || packet->fragment)
		return false;
	icmp = packet_icmp(packet);
	return icmp && is_neighbour_discovery(icmp->type, packet->hop_limit);
}

#endif
