/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ICMP errors and the packet inside them (RFC 5508, section 4). The checksum of an ICMP message is never left to a
 * device, so all of it is written straight into the packet. Pure.
 */
#ifndef JETPLANE_ICMP_ERROR_H
#define JETPLANE_ICMP_ERROR_H

#include "rewrite.h"

/* An error about a session: the packet inside it, and whose it is. */
struct icmp_error {
	struct packet packet;
	struct flow flow;
};

/*
 * Are the first @size bytes of the embedded transport part of the error, as its length says? What follows the IP packet
 * in the frame is padding: it is in no checksum.
 */
static __always_inline bool is_quoted(const struct packet *outer, const struct packet *embedded, __u32 size)
{
	return outer->header_length + sizeof(struct icmp_header) + embedded->header_length + size <= outer->length;
}

/*
 * Read what the error in @outer is about. @inner is the subscriber's end of the embedded packet: its source in an
 * error about something a subscriber has sent.
 */
static __always_inline bool icmp_error_read(const struct packet *outer, enum side inner, struct icmp_error *error)
{
	struct cursor cursor = {
		.position = outer->transport + sizeof(struct icmp_header),
		.end = outer->end,
	};
	__be16 type = outer->family == FAMILY_V4 ? BE16(ETH_P_IP) : BE16(ETH_P_IPV6);

	if (parse_ip(&cursor, type, LENGTH_UNKNOWN, &error->packet) != PARSE_OK)
		return false;
	if (!is_quoted(outer, &error->packet, sizeof(struct transport_start)))
		return false;
	return flow_read_embedded(&error->packet, inner, &error->flow) == FLOW_SESSION;
}

/* The transport checksum inside, if so much of the packet is there; its change is added to @sum. */
static __always_inline __u64 icmp_error_change_checksum(__u64 sum, const struct packet *outer,
							const struct icmp_error *error, const struct change *change)
{
	__u64 covered = change_of_address(change, error->packet.family);
	__sum16 *field, before;

	field = error->packet.transport + UDP_CHECKSUM_OFFSET;
	if (error->flow.protocol == PROTOCOL_TCP) {
		if (!is_quoted(outer, &error->packet, TCP_CHECKSUM_OFFSET + sizeof(*field)))
			return sum;
		field = error->packet.transport + TCP_CHECKSUM_OFFSET;
	} else if (error->flow.protocol == PROTOCOL_ICMP) {
		field = &((struct icmp_header *)error->packet.transport)->checksum;
		if (error->packet.family == FAMILY_V4)
			covered = 0;
	}
	if ((void *)(field + 1) > error->packet.end)
		return sum;
	before = *field;
	if (error->flow.protocol == PROTOCOL_UDP && !before)
		return sum;
	*field = checksum_apply(before, sum_change16(covered, change->from_port, change->to_port));
	return sum_change16(sum, (__be16)before, (__be16)*field);
}

/*
 * Rewrite the subscriber's end of the embedded packet, and with it the checksum of the error itself. The end
 * of @outer, if it is to change as well, is for rewrite_network.
 */
static __always_inline bool icmp_error_rewrite(const struct packet *outer, bool outer_changes,
					       const struct icmp_error *error, enum side inner,
					       const struct change *change)
{
	struct transport_start *start = error->packet.transport;
	struct icmp_header *embedded = error->packet.transport;
	struct icmp_header *icmp = outer->transport;
	__u64 sum = 0;

	if ((void *)(icmp + 1) > outer->end || (void *)(start + 1) > error->packet.end)
		return false;
	if (outer->family == FAMILY_V6) {
		/* An IPv4 header's own checksum cancels out what its address adds; IPv6 has none, but a pseudo-header. */
		sum = change_of_address(change, FAMILY_V6);
		if (outer_changes)
			sum += change_of_address(change, FAMILY_V6);
	}
	rewrite_network(&error->packet, inner, change, false);
	sum = icmp_error_change_checksum(sum, outer, error, change);
	sum = sum_change16(sum, change->from_port, change->to_port);
	if (error->flow.protocol == PROTOCOL_ICMP)
		embedded->identifier = change->to_port;
	else if (inner == SIDE_SOURCE)
		start->source_port = change->to_port;
	else
		start->destination_port = change->to_port;
	icmp->checksum = checksum_apply(icmp->checksum, sum);
	return true;
}

#endif
