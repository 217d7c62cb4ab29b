/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From bytes to headers: a cursor that checks bounds in one place, and the parsers over it.
 * Pure: usable from XDP and tc, and natively. Pointers in `struct packet` die as soon as a helper changes the packet.
 */
#ifndef JETPLANE_PACKET_H
#define JETPLANE_PACKET_H

#include "types.h"
#include "abi.h"

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#define MAX_VLAN_TAGS        2     /* IEEE 802.1ad: a service tag and a customer tag */
#define MAX_IPV6_EXTENSIONS  6     /* RFC 8200, section 4.1 names no more that may stand before a transport header */
#define MAX_IP_HEADERS       16384 /* a power of two above 40 + 6 * 2048 */
#define IPV4_MORE_FRAGMENTS  BE16(0x2000)
#define IPV4_DONT_FRAGMENT   BE16(0x4000)
#define IPV4_FRAGMENT_OFFSET BE16(0x1fff)
#define IPV4_DONT_FRAGMENT   BE16(0x4000)
#define INTERNET_V4          2 /* AF_INET and AF_INET6, which only libc's headers have */
#define INTERNET_V6          10
#define LENGTH_UNKNOWN       0xffffffffu /* for packets embedded in an ICMP error, which are cut short */

#define NO_REASON COUNTERS /* where a drop reason may stand: none, the packet goes on */

/* What a parser found; the caller turns it into a verdict. */
enum parse {
	PARSE_OK,
	PARSE_NOT_IP,
	PARSE_MALFORMED,
};

enum fragment {
	FRAGMENT_NONE,
	FRAGMENT_FIRST, /* the transport header follows */
	FRAGMENT_LATER, /* payload follows */
};

struct cursor {
	void *position;
	void *end;
};

struct packet {
	void *network;   /* the IP header, known to be whole */
	void *transport; /* what follows the IP headers, not known to be there */
	void *end;
	__u32 length;        /* of the IP packet, as its header says */
	__u32 header_length; /* of the IP header with its options or extensions */
	__u8 family;         /* enum family */
	__u8 protocol;       /* what follows: an IPPROTO_ number */
	__u8 hop_limit;      /* IPv4: TTL */
	__u8 fragment;       /* enum fragment */
	__u8 options;        /* IPv4: has options */
};

struct ipv6_extension {
	__u8 next;
	__u8 length; /* 8-byte units after the first 8 bytes */
};

struct ipv6_fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* 13 bits offset, 2 reserved, 1 more fragments */
	__be32 identification;
};

struct vlan_tag {
	__be16 tag;
	__be16 type; /* of what follows */
};

/* ICMP (RFC 792) and ICMPv6 (RFC 4443) alike; the kernel's own headers would pull in libc's. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 identifier; /* of echo requests and replies */
	__be16 sequence;
};

/* The next @size bytes, or NULL when the packet ends before. */
static __always_inline void *cursor_take(struct cursor *cursor, __u32 size)
{
	void *header = cursor->position;

	if (header + size > cursor->end)
		return NULL;
	cursor->position = header + size;
	return header;
}

/* Read the Ethernet header and its VLAN tags; @type becomes the EtherType of what follows. */
static __always_inline enum parse parse_ethernet(struct cursor *cursor, __be16 *type)
{
	struct ethhdr *ethernet = cursor_take(cursor, sizeof(*ethernet));
	struct vlan_tag *vlan;
	int tags;

	if (!ethernet)
		return PARSE_MALFORMED;
	*type = ethernet->h_proto;
	for (tags = 0; tags < MAX_VLAN_TAGS; tags++) {
		if (*type != BE16(ETH_P_8021Q) && *type != BE16(ETH_P_8021AD))
			break;
		vlan = cursor_take(cursor, sizeof(*vlan));
		if (!vlan)
			return PARSE_MALFORMED;
		*type = vlan->type;
	}
	return PARSE_OK;
}

/*
 * Note where the IP headers end. The length goes through @length and not through what the parsers added up: to the
 * verifier a difference of pointers is a number it knows nothing of, so that all ways through the headers end in one
 * state, and what follows is verified once instead of once per way.
 */
static __always_inline enum parse packet_set_transport(struct packet *packet, const struct cursor *cursor)
{
	__u64 length = opaque(cursor->position - packet->network) % MAX_IP_HEADERS;

	packet->header_length = length;
	packet->transport = packet->network + length;
	return length <= packet->length ? PARSE_OK : PARSE_MALFORMED;
}

static __always_inline enum parse parse_ipv4(struct cursor *cursor, __u32 available, struct packet *packet)
{
	struct iphdr *ip = cursor_take(cursor, sizeof(*ip));
	__u32 options;

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return PARSE_MALFORMED;
	options = ip->ihl * 4 - sizeof(*ip);
	packet->length = from_be16(ip->tot_len);
	if (packet->length > available)
		return PARSE_MALFORMED;
	packet->network = ip;
	packet->family = FAMILY_V4;
	packet->protocol = ip->protocol;
	packet->hop_limit = ip->ttl;
	packet->options = options > 0;
	packet->fragment = FRAGMENT_NONE;
	if (ip->frag_off & (IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS))
		packet->fragment = ip->frag_off & IPV4_FRAGMENT_OFFSET ? FRAGMENT_LATER : FRAGMENT_FIRST;
	if (!cursor_take(cursor, options))
		return PARSE_MALFORMED;
	return packet_set_transport(packet, cursor);
}

/*
 * Hop-by-hop and destination options are walked over. A routing header stays in `protocol`: it changes which
 * destination the transport checksum covers, so nothing behind it is believed.
 */
static __always_inline enum parse parse_ipv6_extensions(struct cursor *cursor, struct packet *packet)
{
	struct ipv6_extension *extension;
	struct ipv6_fragment *fragment;
	__u32 size;
	int count;

	for (count = 0; count < MAX_IPV6_EXTENSIONS; count++) {
		if (packet->protocol == IPPROTO_FRAGMENT) {
			fragment = cursor_take(cursor, sizeof(*fragment));
			if (!fragment)
				return PARSE_MALFORMED;
			packet->protocol = fragment->next;
			if (fragment->offset & BE16(0xfff8)) {
				packet->fragment = FRAGMENT_LATER;
				return PARSE_OK;
			}
			/* Where more headers follow before the ports, they stay in `protocol`: nobody cuts such a packet. */
			if (fragment->offset & BE16(0x0001)) {
				packet->fragment = FRAGMENT_FIRST;
				return PARSE_OK;
			}
			/* An atomic fragment (RFC 6946) is a whole packet. */
			continue;
		}
		if (packet->protocol != IPPROTO_HOPOPTS && packet->protocol != IPPROTO_DSTOPTS)
			return PARSE_OK;
		extension = cursor_take(cursor, sizeof(*extension));
		if (!extension)
			return PARSE_MALFORMED;
		packet->protocol = extension->next;
		size = (extension->length + 1) * 8;
		if (!cursor_take(cursor, size - sizeof(*extension)))
			return PARSE_MALFORMED;
	}
	return PARSE_OK;
}

static __always_inline enum parse parse_ipv6(struct cursor *cursor, __u32 available, struct packet *packet)
{
	struct ipv6hdr *ip = cursor_take(cursor, sizeof(*ip));

	if (!ip || ip->version != 6)
		return PARSE_MALFORMED;
	packet->length = sizeof(*ip) + from_be16(ip->payload_len);
	if (packet->length > available)
		return PARSE_MALFORMED;
	packet->network = ip;
	packet->family = FAMILY_V6;
	packet->protocol = ip->nexthdr;
	packet->hop_limit = ip->hop_limit;
	packet->options = false;
	packet->fragment = FRAGMENT_NONE;
	if (parse_ipv6_extensions(cursor, packet) != PARSE_OK)
		return PARSE_MALFORMED;
	return packet_set_transport(packet, cursor);
}

/*
 * Read the IP headers at the cursor. @type is an EtherType, @available the bytes that follow the cursor in the whole
 * packet (an skb may hold more than lies between the cursor's ends), or LENGTH_UNKNOWN.
 */
static __always_inline enum parse parse_ip(struct cursor *cursor, __be16 type, __u32 available, struct packet *packet)
{
	packet->end = cursor->end;
	if (type == BE16(ETH_P_IP))
		return parse_ipv4(cursor, available, packet);
	if (type == BE16(ETH_P_IPV6))
		return parse_ipv6(cursor, available, packet);
	return PARSE_NOT_IP;
}

/*
 * The first @size bytes after the IP headers, from a pointer made anew: what is known about the old one differs from
 * way to way through the code, and would keep the verifier from seeing that they have met.
 */
static __always_inline void *packet_transport(const struct packet *packet, __u32 size)
{
	void *transport = packet->network + opaque(packet->header_length) % MAX_IP_HEADERS;

	return transport + size <= packet->end ? transport : NULL;
}

/* The transport headers: NULL when the packet ends before they do. Later fragments have none: the caller knows. */

static __always_inline struct tcphdr *packet_tcp(const struct packet *packet)
{
	struct tcphdr *tcp = packet->transport;

	if ((void *)(tcp + 1) > packet->end || tcp->doff < 5)
		return NULL;
	/* With its options: they are changed too, and beyond the packet's length lies padding. */
	return packet->length - packet->header_length < tcp->doff * 4 ? NULL : tcp;
}

static __always_inline struct udphdr *packet_udp(const struct packet *packet)
{
	struct udphdr *udp = packet->transport;

	if ((void *)(udp + 1) > packet->end || packet->length - packet->header_length < sizeof(*udp))
		return NULL;
	return udp;
}

/* The same with a length of its own that fits into the packet. */
static __always_inline struct udphdr *sound_udp(const struct packet *packet)
{
	struct udphdr *udp = packet_udp(packet);
	__u32 length;

	if (!udp)
		return NULL;
	length = from_be16(udp->len);
	if (length < sizeof(*udp))
		return NULL;
	/* A first fragment announces the whole datagram. */
	if (!packet->fragment && length > packet->length - packet->header_length)
		return NULL;
	return udp;
}

static __always_inline struct icmp_header *packet_icmp(const struct packet *packet)
{
	struct icmp_header *icmp = packet->transport;

	if ((void *)(icmp + 1) > packet->end || packet->length - packet->header_length < sizeof(*icmp))
		return NULL;
	return icmp;
}

static __always_inline bool addresses_equal(const struct address *a, const struct address *b)
{
	const __u64 *left = (const __u64 *)a, *right = (const __u64 *)b;

	return left[0] == right[0] && left[1] == right[1];
}

static __always_inline void address_from_v4(struct address *address, __be32 word)
{
	__be32 *words = (__be32 *)address;

	words[0] = 0;
	words[1] = 0;
	words[2] = BE32(0xffff);
	words[3] = word;
}

static __always_inline void address_from_v6(struct address *address, const void *source)
{
	__builtin_memcpy(address, source, sizeof(*address));
}

static __always_inline void packet_source(const struct packet *packet, struct address *address)
{
	if (packet->family == FAMILY_V4)
		address_from_v4(address, ((struct iphdr *)packet->network)->saddr);
	else
		address_from_v6(address, &((struct ipv6hdr *)packet->network)->saddr);
}

static __always_inline void packet_destination(const struct packet *packet, struct address *address)
{
	if (packet->family == FAMILY_V4)
		address_from_v4(address, ((struct iphdr *)packet->network)->daddr);
	else
		address_from_v6(address, &((struct ipv6hdr *)packet->network)->daddr);
}

/* Traffic class: DSCP and ECN (RFC 2474, RFC 3168). */
static __always_inline __u8 packet_class(const struct packet *packet)
{
	__u32 first = *(const __u32 *)packet->network;

	return packet->family == FAMILY_V4 ? first >> 8 : (first << 4 | (first >> 12 & 0xf));
}

#endif
