/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The outside of WireGuard's messages (https://www.wireguard.com/protocol/): a type in one byte, three zero bytes,
 * and a length that the type fixes. Whoever gets it wrong is no peer, and learns nothing from being dropped.
 */
#ifndef JETPLANE_WIREGUARD_H
#define JETPLANE_WIREGUARD_H

#include "packet.h"
#include "node.h"

#define WIREGUARD_INITIATION 1
#define WIREGUARD_RESPONSE   2
#define WIREGUARD_COOKIE     3
#define WIREGUARD_DATA       4

/* The first four bytes, loaded as they are: the types above are little-endian words with their zero bytes. */
static __always_inline bool wireguard_shape(__u32 type, __u32 length)
{
	switch (type) {
	case WIREGUARD_INITIATION:
		return length == 148;
	case WIREGUARD_RESPONSE:
		return length == 92;
	case WIREGUARD_COOKIE:
		return length == 64;
	case WIREGUARD_DATA:
		/*
		 * 16 bytes of header, the payload, 16 bytes of tag. The payload is padded to 16, but never beyond
		 * the sender's MTU (calculate_skb_padding, drivers/net/wireguard/send.c): a full packet of a tunnel
		 * of 1420 makes 1452. Each client chooses its MTU; none is below 576 (RFC 791).
		 */
		return length >= 32 && (length % 16 == 0 || length >= 32 + 576);
	}
	return false;
}

static __always_inline bool is_wireguard_port(__be16 port)
{
	switch (port) {
#define X(number) case BE16(number):
		WIREGUARD_PORTS(X)
#undef X
		return true;
	}
	return false;
}

/* The type of a message as a little-endian word, or 0 when there is none. */
static __always_inline __u32 wireguard_type(const struct packet *packet, const struct udphdr *udp)
{
	const __u32 *type = (const void *)(udp + 1);

	return (const void *)(type + 1) > packet->end ? 0 : *type;
}

/* Only data can be longer than a link, so only data may come as the first of several fragments. */
static __always_inline bool is_wireguard_message(const struct packet *packet, const struct udphdr *udp)
{
	__u32 type = wireguard_type(packet, udp);

	if (packet->fragment && type != WIREGUARD_DATA)
		return false;
	return wireguard_shape(type, from_be16(udp->len) - sizeof(*udp));
}

#endif
