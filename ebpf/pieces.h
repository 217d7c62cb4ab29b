/* SPDX-License-Identifier: GPL-2.0-only */
/* What makes a packet a fragment, in either family (RFC 791, RFC 8200, section 4.5). Pure. */
#ifndef JETPLANE_PIECES_H
#define JETPLANE_PIECES_H

#include "hash.h"
#include "icmp.h"
#include "packet.h"

#define FRAGMENT_UNIT 8     /* bytes: what offsets count */
#define MAX_DATAGRAM  65535 /* bytes, of what is cut up */

/* Where a fragment belongs in its datagram. */
struct piece {
	__u32 identification; /* as it lies in the packet */
	__u32 offset;         /* bytes */
	__u32 length;         /* bytes */
	bool last;
};

/* The fragment header, which ends the headers of an IPv6 fragment. */
static __always_inline struct ipv6_fragment *fragment_header(const struct packet *packet)
{
	__u64 at = opaque(packet->header_length - sizeof(struct ipv6_fragment)) % MAX_IP_HEADERS;
	struct ipv6_fragment *header = packet->network + at;

	return (void *)(header + 1) <= packet->end ? header : NULL;
}

/* Read what makes the packet a fragment. A reason to drop it when it is none that an honest sender makes. */
static __always_inline enum counter fragment_read(const struct packet *packet, struct piece *piece)
{
	__u32 ports = packet->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
	const struct iphdr *ip4 = packet->network;
	const struct ipv6_fragment *header;

	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP && !is_icmp(packet))
		return DROP_PROTOCOL;
	if (packet->family == FAMILY_V4) {
		piece->identification = (__u16)ip4->id;
		piece->offset = (from_be16(ip4->frag_off) & 0x1fff) * FRAGMENT_UNIT;
		piece->last = !(ip4->frag_off & IPV4_MORE_FRAGMENTS);
	} else {
		header = fragment_header(packet);
		if (!header)
			return DROP_MALFORMED;
		piece->identification = (__u32)header->identification;
		piece->offset = from_be16(header->offset) & 0xfff8;
		piece->last = !(header->offset & BE16(0x0001));
	}
	piece->length = packet->length - packet->header_length;
	if (!piece->length || piece->offset + piece->length > MAX_DATAGRAM)
		return DROP_MALFORMED;
	if (!piece->last && piece->length % FRAGMENT_UNIT)
		return DROP_MALFORMED;
	/* What is judged in the first fragment must be there, and no later one may put something else in its place. */
	if ((piece->offset ? piece->offset : piece->length) < ports)
		return DROP_FRAGMENT_TINY;
	return NO_REASON;
}

static __always_inline void sip_take_address(struct sip *sip, const struct address *address)
{
	const __be32 *words = (const __be32 *)address;

	sip_take(sip, (__u64)(__u32)words[1] << 32 | (__u32)words[0]);
	sip_take(sip, (__u64)(__u32)words[3] << 32 | (__u32)words[2]);
}

#endif
